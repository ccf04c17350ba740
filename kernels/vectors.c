#include "vectors.h"

#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* ---- numbers ---- */

/* 1.5 * 2^23: a float there has no digits below one, and an integer in its last bits. */
static const float ROUND = 12582912;

INLINE int32_t bits_of(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* e^x as 2^n 2^f with f from -1/2 to 1/2, within 2e-7 of it; above 44 it stays at e^44, below -44 at e^-44. */
INLINE float exponential(float x) {
    float y = MIN(MAX(x * 1.44269504f, -64), 64);
    float n = y + ROUND;
    float f = y - (n - ROUND);
    float power = 1.54035304e-4f;
    power = power * f + 1.33335581e-3f;
    power = power * f + 9.61812911e-3f;
    power = power * f + 5.55041087e-2f;
    power = power * f + 2.40226507e-1f;
    power = power * f + 6.93147181e-1f;
    power = power * f + 1;
    return power * float_of(((uint32_t)bits_of(n) << 23) + 0x3f800000u);
}

/* x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), the GELU of Hendrycks and Gimpel (2016) */
INLINE float gelu(float x) { return x / (1 + exponential(x * (-1.59576912f - 0.0713548163f * x * x))); }

/* ---- rows ---- */

/* Where the 256 integers lie: training/fused.py. */
static const float SYMMETRIC_ZERO = 128, SYMMETRIC_ABOVE = 127;
static const float GELU_ZERO = 32, GELU_ABOVE = 223, LEAST_GELU = 0.17f;

INLINE void to_integers(const float *values, float scale, float zero, uint8_t *integers, size_t width) {
    float inverse = scale > 0 ? 1 / scale : 0;
#pragma omp simd
    for (size_t i = 0; i < width; i++) integers[i] = (uint8_t)bits_of(values[i] * inverse + (ROUND + zero));
}

static void rescale(const Rows *rows, const float *product, size_t row) {
    const float scale = rows->in[1][row], *bias = rows->in[2];
    float *values = (float *)rows->out[0] + row * rows->width;
#pragma omp simd
    for (size_t i = 0; i < rows->width; i++) values[i] = product[i] * scale + bias[i];
}

static void quantize(const Rows *rows, const float *product, size_t row) {
    float largest = 0;
#pragma omp simd reduction(max : largest)
    for (size_t i = 0; i < rows->width; i++) largest = MAX(largest, fabsf(product[i]));
    float step = ((float *)rows->out[1])[row] = largest * (1 / SYMMETRIC_ABOVE);
    to_integers(product, step, SYMMETRIC_ZERO, (uint8_t *)rows->out[0] + row * rows->width, rows->width);
}

static void add_norm_quantize(const Rows *rows, const float *product, size_t row) {
    size_t width = rows->width, at = row * width;
    const float scale = rows->in[1][row], *residual = rows->in[2] + at;
    const float *gain = rows->in[3], *shift = rows->in[4], *smoothing = rows->in[5];
    float *hidden = (float *)rows->out[0] + at, smooth[width];
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
    float step = ((float *)rows->out[2])[row] = largest * (1 / SYMMETRIC_ABOVE);
    to_integers(smooth, step, SYMMETRIC_ZERO, (uint8_t *)rows->out[1] + at, width);
}

static void gelu_quantize(const Rows *rows, const float *product, size_t row) {
    size_t width = rows->width;
    const float scale = rows->in[1][row], *bias = rows->in[2];
    float values[width], largest = 0;
#pragma omp simd reduction(max : largest)
    for (size_t i = 0; i < width; i++) {
        values[i] = gelu(product[i] * scale + bias[i]);
        largest = MAX(largest, values[i]);
    }
    float step = ((float *)rows->out[1])[row] = MAX(largest * (1 / GELU_ABOVE), LEAST_GELU / GELU_ZERO);
    to_integers(values, step, GELU_ZERO, (uint8_t *)rows->out[0] + row * width, width);
}

/* ---- attention ---- */

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum { QUERIES = 8 }; /* whose sums stay in registers */

typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));

INLINE size_t whole(size_t count) { return (count + LANES - 1) / LANES * LANES; }

/* sums[QUERIES][columns] of left[QUERIES][depth] times right[depth][columns], with columns in whole vectors */
INLINE void multiply(const float *left, size_t step, const float *right, size_t depth, size_t columns, float *sums) {
    for (size_t column = 0; column < columns; column += LANES) {
        Vector sum[QUERIES] = {{0}};
        for (size_t k = 0; k < depth; k++) {
            Vector values = *(const Vector *)(right + k * columns + column);
            for (size_t i = 0; i < QUERIES; i++) sum[i] += left[i * step + k] * values;
        }
        for (size_t i = 0; i < QUERIES; i++) *(Vector *)(sums + i * columns + column) = sum[i];
    }
}

/* As in vectors.h: what `penalty` takes away becomes e^-44 of the largest. */
static float soften(float *scores, const float *penalty, size_t wide) {
    float largest = -1e30f, sum = 0;
#pragma omp simd reduction(max : largest)
    for (size_t j = 0; j < wide; j++) largest = MAX(largest, scores[j] + penalty[j]);
#pragma omp simd reduction(+ : sum)
    for (size_t j = 0; j < wide; j++) sum += scores[j] = exponential(scores[j] + penalty[j] - largest);
    return 1 / sum;
}

/* Keys are laid out by column, eight at a time, values with whole vectors a row. */
INLINE void lay_out(const Heads *heads, size_t at, size_t count, float *keys, float *values) {
    size_t hidden = heads->heads * heads->size, wide = whole(count), padded = whole(heads->size);
    const float *key = heads->key + at, *value = heads->value + at;
    memset(keys, 0, heads->size * wide * sizeof(float));
    for (size_t j = 0; j < count; j += 8)
        for (size_t k = 0; k < heads->size; k++)
            for (size_t i = j; i < MIN(j + 8, count); i++) keys[k * wide + i] = key[i * hidden + k];
    for (size_t j = 0; j < count; j++)
        for (size_t k = 0; k < padded; k++) values[j * padded + k] = k < heads->size ? value[j * hidden + k] : 0;
}

static void attend(const Heads *heads, size_t row, size_t head) {
    size_t size = heads->size, hidden = heads->heads * size, at = row * heads->length * hidden + head * size;
    size_t count = (size_t)heads->lengths[row], wide = whole(count), padded = whole(size);
    enum { LINE = 64 }; /* of the cache, in bytes */
    float room[LINE / sizeof(float) + size * wide + count * padded + QUERIES * (wide + padded + size) + wide],
        inverse[QUERIES];
    float *keys = (float *)(((uintptr_t)room + LINE - 1) / LINE * LINE), *values = keys + size * wide;
    float *scores = values + count * padded, *mixed = scores + QUERIES * wide;
    float *penalty = mixed + QUERIES * padded, *queries = penalty + wide;
    float scale = 1 / sqrtf((float)size);
    lay_out(heads, at, count, keys, values);
    for (size_t j = 0; j < wide; j++) penalty[j] = j < count ? 0 : -1e30f;
    for (size_t first = 0; first < count; first += QUERIES) {
        size_t here = MIN(count - first, QUERIES);
        for (size_t i = 0; i < QUERIES; i++) /* what the last block lacks is its last query once more */
            for (size_t k = 0; k < size; k++)
                queries[i * size + k] = heads->query[at + (first + MIN(i, here - 1)) * hidden + k] * scale;
        multiply(queries, size, keys, size, wide, scores);
        for (size_t i = 0; i < QUERIES; i++) inverse[i] = soften(scores + i * wide, penalty, wide);
        multiply(scores, wide, values, count, padded, mixed);
        for (size_t i = 0; i < here; i++)
            for (size_t k = 0; k < size; k++)
                heads->out[at + (first + i) * hidden + k] = mixed[i * padded + k] * inverse[i];
    }
}

static void shorten(const float *values, float scale, uint16_t *rounded, size_t count) {
#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)bits_of(values[i] * scale);
        rounded[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* half to even */
    }
}

const Vectors LEVEL = {{rescale, quantize, add_norm_quantize, gelu_quantize}, attend, soften, shorten};
