/* Attention in floats. Each lane of a vector computes one query, so no sum crosses lanes. Keys are read in place,
   without padding. */

#ifndef ATTENTION_FLOAT_H
#define ATTENTION_FLOAT_H

#include <math.h>

#include "scalar_math.h"
#include "scratch.h"

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
/* A block of sums that fits into the registers: ROWS rows by WIDE vectors. */
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

/* to[columns][rows] = from[rows][columns]. Rows beyond `last` repeat row `last`. */
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

/* sums[rows][wide vectors] = left times right[depth][wide vectors]. `sums` has room for a multiple of ROWS rows. */
INLINE void multiply(Left left, const float *right, size_t wide, float *sums) {
    size_t lanes = wide * LANES;
    for (size_t first = 0; first < left.rows; first += ROWS) {
        const float *of[ROWS];
        Vector sum[ROWS][WIDE];
        for (size_t i = 0; i < ROWS; i++) of[i] = left.values + MIN(first + i, left.rows - 1) * left.row_step;
        EACH (i, ROWS)
            EACH (w, wide) sum[i][w] = (Vector){0};
        for (size_t k = 0; k < left.depth; k++)
            EACH (i, ROWS)
                EACH (w, wide)
                    sum[i][w] += of[i][k * left.depth_step] * *(const Vector *)(right + k * lanes + w * LANES);
        EACH (i, ROWS)
            EACH (w, wide) *(Vector *)(sums + (first + i) * lanes + w * LANES) = sum[i][w];
    }
}

/* largest[lane] = the maximum of scores[:][lane] */
INLINE void find_largest(const float *scores, size_t count, size_t lanes, float *largest) {
    memcpy(largest, scores, lanes * sizeof *largest);
    for (size_t j = 1; j < count; j++)
#pragma omp simd
        for (size_t i = 0; i < lanes; i++) largest[i] = MAX(largest[i], scores[j * lanes + i]);
}

/* Replace scores[count][lanes] by e^(scale * (score - maximum of its lane)); sum[lane] is their sum. */
INLINE void softmax_lanes(float *scores, size_t count, size_t lanes, float scale, float *sum) {
    float largest[WIDE * LANES];
    find_largest(scores, count, lanes, largest);
    scale *= LOG2_E;
    memset(sum, 0, lanes * sizeof *sum);
    for (size_t j = 0; j < count; j++) {
        float *score = scores + j * lanes;
#pragma omp simd
        for (size_t i = 0; i < lanes; i++) sum[i] += score[i] = power_of_two((score[i] - largest[i]) * scale);
    }
}

/* Divide mixed[size][lanes] by sum[lane]; write it to `out` as `here` rows of `size` channels, `step` apart. */
INLINE void write_mixed(float *mixed, size_t size, size_t lanes, float *sum, size_t here, float *out, size_t step) {
#pragma omp simd
    for (size_t i = 0; i < lanes; i++) sum[i] = 1 / sum[i];
    for (size_t k = 0; k < size; k++)
#pragma omp simd
        for (size_t i = 0; i < lanes; i++) mixed[k * lanes + i] *= sum[i];
    transpose(mixed, lanes, size, size - 1, here, out, step);
}

typedef struct {
    float *queries; /* [size][lanes] */
    float *scores;  /* [keys][lanes] */
    float *mixed;   /* [size][lanes], values weighted by scores */
} Scratch;

INLINE void attend_wide(const Attention *attention, size_t at, size_t count, size_t first, size_t wide,
                        Scratch scratch) {
    size_t size = attention->size, hidden = attention->heads * size, lanes = wide * LANES,
           here = MIN(count - first, lanes);
    size_t from = at + first * hidden;
    float sum[WIDE * LANES];
    if (here < lanes) memset(scratch.queries, 0, size * lanes * sizeof(float));
    transpose(attention->query + from, hidden, (here + 3) / 4 * 4, here - 1, size, scratch.queries, lanes);
    multiply((Left){attention->key + at, count, hidden, size, 1}, scratch.queries, wide, scratch.scores);
    softmax_lanes(scratch.scores, count, lanes, 1 / sqrtf((float)size), sum);
    multiply((Left){attention->value + at, size, 1, count, hidden}, scratch.scores, wide, scratch.mixed);
    write_mixed(scratch.mixed, size, lanes, sum, here, attention->out + from, hidden);
}

static int attend(const Attention *attention, size_t row, size_t head) {
    size_t size = attention->size, at = attention->starts[row] * attention->heads * size + head * size;
    size_t count = (size_t)attention->lengths[row], first = 0;
    size_t lanes = MIN((count + LANES - 1) / LANES, WIDE) * LANES; /* of the widest call below */
    float *memory = take_scratch(lanes * (size + count + ROWS + size + ROWS) * sizeof *memory);
    if (!memory) return 0;
    Scratch scratch = {.queries = memory};
    scratch.scores = scratch.queries + lanes * size;
    scratch.mixed = scratch.scores + lanes * (count + ROWS);
    for (; count > first + (WIDE - 1) * LANES; first += lanes) attend_wide(attention, at, count, first, WIDE, scratch);
    if (WIDE > 2 && count > first + LANES)
        attend_wide(attention, at, count, first, 2, scratch);
    else if (count > first)
        attend_wide(attention, at, count, first, 1, scratch);
    give_back_scratch(memory);
    return 1;
}

#endif
