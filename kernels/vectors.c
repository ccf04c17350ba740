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
/* Sums of ROWS rows by WIDE vectors stay in registers. */
#if defined(__AVX512F__)
enum { ROWS = 8, WIDE = 3 };
#else
enum { ROWS = 4, WIDE = 2 };
#endif

typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));
typedef float Four __attribute__((vector_size(4 * sizeof(float)), aligned(4)));

#if defined(__clang__)
#define SHUFFLE(A, B, ...) __builtin_shufflevector(A, B, __VA_ARGS__)
#else
typedef int32_t Order __attribute__((vector_size(4 * sizeof(int32_t))));
#define SHUFFLE(A, B, ...) __builtin_shuffle(A, B, (Order){__VA_ARGS__})
#endif

/* to[columns][rows] = from[rows][columns], where each row from `last` on is that. */
INLINE void transpose(const float *from, size_t step, size_t rows, size_t last, size_t columns, float *to,
                      size_t to_step) {
    size_t row = 0, column;
    for (; row + 4 <= rows; row += 4) {
        const float *at[4];
        float *out = to + row;
        for (size_t i = 0; i < 4; i++) at[i] = from + MIN(row + i, last) * step;
        for (column = 0; column + 4 <= columns; column += 4, out += 4 * to_step) {
            Four a = *(const Four *)(at[0] + column), b = *(const Four *)(at[1] + column);
            Four c = *(const Four *)(at[2] + column), d = *(const Four *)(at[3] + column);
            Four first_ac = SHUFFLE(a, c, 0, 4, 1, 5), first_bd = SHUFFLE(b, d, 0, 4, 1, 5);
            Four second_ac = SHUFFLE(a, c, 2, 6, 3, 7), second_bd = SHUFFLE(b, d, 2, 6, 3, 7);
            *(Four *)out = SHUFFLE(first_ac, first_bd, 0, 4, 1, 5);
            *(Four *)(out + to_step) = SHUFFLE(first_ac, first_bd, 2, 6, 3, 7);
            *(Four *)(out + 2 * to_step) = SHUFFLE(second_ac, second_bd, 0, 4, 1, 5);
            *(Four *)(out + 3 * to_step) = SHUFFLE(second_ac, second_bd, 2, 6, 3, 7);
        }
        for (; column < columns; column++, out += to_step)
            for (size_t i = 0; i < 4; i++) out[i] = at[i][column];
    }
    for (; row < rows; row++)
        for (column = 0; column < columns; column++) to[column * to_step + row] = from[MIN(row, last) * step + column];
}

typedef struct {
    const float *values;
    size_t rows, row_step, depth, depth_step;
} Left;

/* sums[rows][wide vectors] of left times right[depth][wide vectors]; there is room for whole ROWS. */
INLINE void multiply(Left left, const float *right, size_t wide, float *sums) {
    size_t lanes = wide * LANES;
    for (size_t first = 0; first < left.rows; first += ROWS) {
        const float *of[ROWS];
        Vector sum[ROWS][WIDE];
        for (size_t i = 0; i < ROWS; i++) of[i] = left.values + MIN(first + i, left.rows - 1) * left.row_step;
#pragma GCC unroll 8
        for (size_t i = 0; i < ROWS; i++)
#pragma GCC unroll 3
            for (size_t w = 0; w < wide; w++) sum[i][w] = (Vector){0};
        for (size_t k = 0; k < left.depth; k++)
#pragma GCC unroll 8
            for (size_t i = 0; i < ROWS; i++)
#pragma GCC unroll 3
                for (size_t w = 0; w < wide; w++)
                    sum[i][w] += of[i][k * left.depth_step] * *(const Vector *)(right + k * lanes + w * LANES);
#pragma GCC unroll 8
        for (size_t i = 0; i < ROWS; i++)
#pragma GCC unroll 3
            for (size_t w = 0; w < wide; w++) *(Vector *)(sums + (first + i) * lanes + w * LANES) = sum[i][w];
    }
}

/* scores[count][lanes] become e^(scale * (score - largest of the lane)), inverse[lanes] that of their sum. */
INLINE void soften_lanes(float *scores, size_t count, size_t lanes, float scale, float *inverse) {
    float largest[lanes];
    memcpy(largest, scores, sizeof largest);
    for (size_t j = 1; j < count; j++)
#pragma omp simd
        for (size_t i = 0; i < lanes; i++) largest[i] = MAX(largest[i], scores[j * lanes + i]);
    memset(inverse, 0, sizeof largest);
    for (size_t j = 0; j < count; j++) {
        float *score = scores + j * lanes;
#pragma omp simd
        for (size_t i = 0; i < lanes; i++) inverse[i] += score[i] = exponential((score[i] - largest[i]) * scale);
    }
#pragma omp simd
    for (size_t i = 0; i < lanes; i++) inverse[i] = 1 / inverse[i];
}

typedef struct {
    float *queries; /* [size][lanes] */
    float *scores;  /* [keys][lanes] */
    float *mixed;   /* [size][lanes] */
} Room;

/* Queries lie in the lanes: all that is done for one stays in its own, and no key is laid out anew or padded. */
INLINE void attend_wide(const Heads *heads, size_t at, size_t count, size_t first, size_t wide, Room room) {
    size_t size = heads->size, hidden = heads->heads * size, lanes = wide * LANES, here = MIN(count - first, lanes);
    size_t from = at + first * hidden;
    float inverse[lanes];
    if (here < lanes) memset(room.queries, 0, size * lanes * sizeof(float));
    transpose(heads->query + from, hidden, (here + 3) / 4 * 4, here - 1, size, room.queries, lanes);
    multiply((Left){heads->key + at, count, hidden, size, 1}, room.queries, wide, room.scores);
    soften_lanes(room.scores, count, lanes, 1 / sqrtf((float)size), inverse);
    multiply((Left){heads->value + at, size, 1, count, hidden}, room.scores, wide, room.mixed);
    for (size_t k = 0; k < size; k++)
#pragma omp simd
        for (size_t i = 0; i < lanes; i++) room.mixed[k * lanes + i] *= inverse[i];
    transpose(room.mixed, lanes, size, size - 1, here, heads->out + from, hidden);
}

static void attend(const Heads *heads, size_t row, size_t head) {
    enum { LINE = 64 }; /* of the cache, in bytes */
    size_t size = heads->size, at = row * heads->length * heads->heads * size + head * size;
    size_t count = (size_t)heads->lengths[row], lanes = WIDE * LANES, first = 0;
    float memory[LINE / sizeof(float) + lanes * (size + count + ROWS + size + ROWS)];
    Room room = {.queries = (float *)(((uintptr_t)memory + LINE - 1) / LINE * LINE)};
    room.scores = room.queries + lanes * size;
    room.mixed = room.scores + lanes * (count + ROWS);
    for (; count > first + (WIDE - 1) * LANES; first += lanes) attend_wide(heads, at, count, first, WIDE, room);
    if (WIDE > 2 && count > first + LANES)
        attend_wide(heads, at, count, first, 2, room);
    else if (count > first)
        attend_wide(heads, at, count, first, 1, room);
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

static void shorten(const float *values, float scale, uint16_t *rounded, size_t count) {
#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)bits_of(values[i] * scale);
        rounded[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* half to even */
    }
}

const Vectors LEVEL = {{rescale, quantize, add_norm_quantize, gelu_quantize}, attend, soften, shorten};
