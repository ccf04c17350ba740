#include <math.h>

#include "attention_float.h"
#include "attention_int16.h"
#include "scalar_math.h"

/* ---- rows ---- */

/* Zero points, and the largest integers above them; see training/exporting/int8_operators.py. */
static const float SYMMETRIC_ZERO = 128, SYMMETRIC_MAX = 127;
static const float GELU_ZERO = 32, GELU_MAX = 223, MIN_GELU = 0.17f;

INLINE void quantize_row(const Float *values, float scale, float zero, uint8_t *integers, size_t width) {
    float inverse = scale > 0 ? 1 / scale : 0;
#pragma omp simd
    for (size_t i = 0; i < width; i++) integers[i] = (uint8_t)bits_of(values[i] * inverse + (ROUND + zero));
}

static void rescale(const Rows *rows, const Float *product, size_t row, float *scratch) {
    (void)scratch;
    const float scale = rows->in[1][row];
    const Float *bias = rows->in[2];
    float *values = (float *)rows->out[0] + row * rows->width;
#pragma omp simd
    for (size_t i = 0; i < rows->width; i++) values[i] = product[i] * scale + bias[i];
}

static void quantize(const Rows *rows, const Float *product, size_t row, float *scratch) {
    (void)scratch;
    float largest = 0;
#pragma omp simd reduction(max : largest)
    for (size_t i = 0; i < rows->width; i++) largest = MAX(largest, fabsf(product[i]));
    float step = ((float *)rows->out[1])[row] = largest * (1 / SYMMETRIC_MAX);
    quantize_row(product, step, SYMMETRIC_ZERO, (uint8_t *)rows->out[0] + row * rows->width, rows->width);
}

static void add_norm_quantize(const Rows *rows, const Float *product, size_t row, float *smooth) {
    size_t width = rows->width, at = row * width;
    const float scale = rows->in[1][row];
    const Float *residual = rows->in[2] + at, *gain = rows->in[3], *shift = rows->in[4], *smoothing = rows->in[5];
    float *hidden = (float *)rows->out[0] + at;
    float sum = 0, squares = 0, largest = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < width; i++) sum += hidden[i] = product[i] * scale + residual[i];
    float mean = sum / (float)width;
#pragma omp simd reduction(+ : squares)
    for (size_t i = 0; i < width; i++) squares += (hidden[i] - mean) * (hidden[i] - mean);
    float inverse = 1 / sqrtf(squares / (float)width + rows->epsilon);
#pragma omp simd reduction(max : largest)
    for (size_t i = 0; i < width; i++) {
        hidden[i] = (hidden[i] - mean) * inverse * gain[i] + shift[i];
        smooth[i] = hidden[i] * smoothing[i];
        largest = MAX(largest, fabsf(smooth[i]));
    }
    float step = ((float *)rows->out[2])[row] = largest * (1 / SYMMETRIC_MAX);
    quantize_row(smooth, step, SYMMETRIC_ZERO, (uint8_t *)rows->out[1] + at, width);
}

static void gelu_quantize(const Rows *rows, const Float *product, size_t row, float *values) {
    size_t width = rows->width;
    const float scale = rows->in[1][row];
    const Float *bias = rows->in[2];
    float largest = 0;
#pragma omp simd reduction(max : largest)
    for (size_t i = 0; i < width; i++) {
        values[i] = gelu(product[i] * scale + bias[i]);
        largest = MAX(largest, values[i]);
    }
    float step = ((float *)rows->out[1])[row] = MAX(largest * (1 / GELU_MAX), MIN_GELU / GELU_ZERO);
    quantize_row(values, step, GELU_ZERO, (uint8_t *)rows->out[0] + row * width, width);
}

/* ---- attention ---- */

/* See vectors.h; what `penalty` masks becomes 2^-64 of the largest. */
static float softmax_row(float *scores, const float *penalty, size_t wide) {
    float largest = -1e30f, sum = 0;
#pragma omp simd reduction(max : largest)
    for (size_t j = 0; j < wide; j++) largest = MAX(largest, scores[j] + penalty[j]);
#pragma omp simd reduction(+ : sum)
    for (size_t j = 0; j < wide; j++) sum += scores[j] = power_of_two((scores[j] + penalty[j] - largest) * LOG2_E);
    return 1 / sum;
}

static void to_bf16(const float *values, float scale, uint16_t *rounded, size_t count) {
#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)bits_of(values[i] * scale);
        rounded[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* round half to even */
    }
}

const Vectors LEVEL = {
    {rescale, quantize, add_norm_quantize, gelu_quantize}, attend, attend_long, softmax_row, to_bf16};
