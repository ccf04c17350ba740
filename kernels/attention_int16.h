/* Attention in int16. Two values share a 32-bit word, called a pair. An AVX-512 VNNI instruction multiplies 16 pairs
   and adds both products of each to a 32-bit sum. In the same time, floats make 16 products. Values have 11 bits and a
   sign, so no sum overflows. There is one scale per query, one for all keys of a head, and one per channel of its
   values. The rounding error is about a tenth of that of bf16. */

#ifndef ATTENTION_INT16_H
#define ATTENTION_INT16_H

#include "attention_float.h"

#if defined(__AVX512VNNI__)

#include <immintrin.h>

enum { MAX_IN_SUM = 256 }; /* channels of a head: 256 * 2047^2 is below 2^31 */
static const float MAX_INTEGER = 2047, TINY = 1e-30f;
/* Maximum of a weight, and of the sum of the weights of a query: 2047 times this sum is below 2^31 too. */
static const float MAX_WEIGHT = 32767, MAX_WEIGHTS = 1e6f;

INLINE uint32_t pair(float low, float high) {
    return ((uint32_t)bits_of(low + ROUND) & 0xffff) | (uint32_t)bits_of(high + ROUND) << 16;
}

/* Like Left in attention_float.h, for pairs. */
typedef struct {
    const uint32_t *values;
    size_t rows, row_step, depth, depth_step;
} LeftPairs;

INLINE void multiply_pairs(LeftPairs left, const uint32_t *right, size_t wide, float *sums) {
    size_t lanes = wide * LANES;
    for (size_t first = 0; first < left.rows; first += ROWS) {
        const uint32_t *of[ROWS];
        __m512i sum[ROWS][WIDE];
        for (size_t i = 0; i < ROWS; i++) of[i] = left.values + MIN(first + i, left.rows - 1) * left.row_step;
        EACH (i, ROWS)
            EACH (w, wide) sum[i][w] = _mm512_setzero_si512();
        for (size_t k = 0; k < left.depth; k++) {
            __m512i pairs[WIDE];
            EACH (w, wide) pairs[w] = _mm512_loadu_si512(right + k * lanes + w * LANES);
            EACH (i, ROWS) {
                __m512i word = _mm512_set1_epi32((int)of[i][k * left.depth_step]);
                EACH (w, wide) /* no intrinsic: matmul_vnni.c */
                    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum[i][w]) : "v"(word), "v"(pairs[w]));
            }
        }
        EACH (i, ROWS)
            EACH (w, wide) _mm512_storeu_ps(sums + (first + i) * lanes + w * LANES, _mm512_cvtepi32_ps(sum[i][w]));
    }
}

/* The arrays of one head of one row. Keys and queries pair channels; values and weights pair tokens. */
typedef struct {
    size_t count, channels /* in pairs */, keys /* in pairs */;
    uint32_t *key, *value;          /* [count][channels], [keys][size] */
    float key_scale, *value_scales; /* of all keys, and of each channel of the values */
    uint32_t *query, *weight;       /* [channels][lanes], [keys][lanes] */
    float *queries, *scores, *mixed;
} Pairs;

INLINE void find_absmax(const float *rows, size_t step, size_t count, size_t size, float *absmax) {
    memset(absmax, 0, size * sizeof *absmax);
    for (size_t j = 0; j < count; j++)
#pragma omp simd
        for (size_t k = 0; k < size; k++) absmax[k] = MAX(absmax[k], fabsf(rows[j * step + k]));
}

INLINE void pack_keys(const float *key, size_t step, size_t size, Pairs *pairs) {
    float absmax[MAX_IN_SUM], largest = TINY;
    find_absmax(key, step, pairs->count, size, absmax);
    for (size_t k = 0; k < size; k++) largest = MAX(largest, absmax[k]);
    pairs->key_scale = largest / MAX_INTEGER;
    float inverse = MAX_INTEGER / largest;
    for (size_t j = 0; j < pairs->count; j++) {
        int16_t *shorts = (int16_t *)(pairs->key + j * pairs->channels);
#pragma omp simd
        for (size_t k = 0; k < size; k++) shorts[k] = (int16_t)bits_of(key[j * step + k] * inverse + ROUND);
        if (size % 2) shorts[size] = 0;
    }
}

INLINE void pack_values(const float *value, size_t step, size_t size, Pairs *pairs) {
    float inverse[MAX_IN_SUM];
    find_absmax(value, step, pairs->count, size, pairs->value_scales);
    for (size_t k = 0; k < size; k++) {
        inverse[k] = MAX_INTEGER / MAX(pairs->value_scales[k], TINY);
        pairs->value_scales[k] *= 1 / MAX_INTEGER;
    }
    for (size_t j = 0; j < pairs->keys; j++) {
        const float *low = value + 2 * j * step, *high = 2 * j + 1 < pairs->count ? low + step : low;
#pragma omp simd
        for (size_t k = 0; k < size; k++) pairs->value[j * size + k] = pair(low[k] * inverse[k], high[k] * inverse[k]);
    }
}

/* Quantize queries [size][lanes]; scale[lane] becomes the factor from integer products to scores. */
INLINE void quantize_queries(const Pairs *pairs, size_t size, size_t lanes, float *scale) {
    float inverse[WIDE * LANES], unit = pairs->key_scale / MAX_INTEGER / sqrtf((float)size);
    const float *query = pairs->queries;
    memset(scale, 0, lanes * sizeof *scale);
    for (size_t k = 0; k < size; k++)
#pragma omp simd
        for (size_t i = 0; i < lanes; i++) scale[i] = MAX(scale[i], fabsf(query[k * lanes + i]));
#pragma omp simd
    for (size_t i = 0; i < lanes; i++) {
        inverse[i] = MAX_INTEGER / MAX(scale[i], TINY);
        scale[i] *= unit;
    }
    for (size_t k = 0; k < pairs->channels; k++, query += 2 * lanes)
#pragma omp simd
        for (size_t i = 0; i < lanes; i++)
            pairs->query[k * lanes + i] = pair(query[i] * inverse[i], query[lanes + i] * inverse[i]);
}

/* Quantize the softmax numerators of scores [count][lanes]; `scale` is that of each lane, `sum` their sum per lane. */
INLINE void softmax_pairs(const Pairs *pairs, size_t lanes, float *scale, float *sum) {
    float *score = pairs->scores, shift[WIDE * LANES], most = MIN(MAX_WEIGHT, MAX_WEIGHTS / (float)pairs->count);
    find_largest(score, pairs->count, lanes, shift);
    float above = log2f(most);
#pragma omp simd
    for (size_t i = 0; i < lanes; i++) {
        scale[i] *= LOG2_E;
        shift[i] = above - shift[i] * scale[i];
        sum[i] = 0;
    }
    for (size_t j = 0; j < pairs->count / 2; j++, score += 2 * lanes)
#pragma omp simd
        for (size_t i = 0; i < lanes; i++) {
            float low = power_of_two(score[i] * scale[i] + shift[i]);
            float high = power_of_two(score[lanes + i] * scale[i] + shift[i]);
            sum[i] += low + high;
            pairs->weight[j * lanes + i] = pair(low, high);
        }
    if (pairs->count % 2)
#pragma omp simd
        for (size_t i = 0; i < lanes; i++) {
            float low = power_of_two(score[i] * scale[i] + shift[i]);
            sum[i] += low;
            pairs->weight[pairs->count / 2 * lanes + i] = pair(low, 0);
        }
}

INLINE void attend_pairs_wide(const Attention *attention, size_t at, size_t first, size_t wide, const Pairs *pairs) {
    size_t size = attention->size, hidden = attention->heads * size, lanes = wide * LANES;
    size_t here = MIN(pairs->count - first, lanes), from = at + first * hidden;
    float scale[WIDE * LANES], sum[WIDE * LANES];
    memset(pairs->queries, 0, 2 * pairs->channels * lanes * sizeof(float));
    transpose(attention->query + from, hidden, (here + 3) / 4 * 4, here - 1, size, pairs->queries, lanes);
    quantize_queries(pairs, size, lanes, scale);
    LeftPairs keys = {pairs->key, pairs->count, pairs->channels, pairs->channels, 1};
    LeftPairs values = {pairs->value, size, 1, pairs->keys, size};
    multiply_pairs(keys, pairs->query, wide, pairs->scores);
    softmax_pairs(pairs, lanes, scale, sum);
    multiply_pairs(values, pairs->weight, wide, pairs->mixed);
    for (size_t k = 0; k < size; k++)
#pragma omp simd
        for (size_t i = 0; i < lanes; i++) pairs->mixed[k * lanes + i] *= pairs->value_scales[k];
    write_mixed(pairs->mixed, size, lanes, sum, here, attention->out + from, hidden);
}

static int attend_long(const Attention *attention, size_t row, size_t head) {
    size_t size = attention->size, hidden = attention->heads * size, at = attention->starts[row] * hidden + head * size;
    size_t count = (size_t)attention->lengths[row], lanes = WIDE * LANES, first = 0;
    if (size > MAX_IN_SUM) return attend(attention, row, head);
    Pairs pairs = {.count = count, .channels = (size + 1) / 2, .keys = (count + 1) / 2};
    size_t query_size = lanes * pairs.channels, weight_size = lanes * pairs.keys, mixed_size = lanes * (size + ROWS);
    size_t scores_size = lanes * (count + ROWS), key_size = whole(count * pairs.channels, 16);
    size_t all = 3 * query_size + weight_size + mixed_size + scores_size + key_size + pairs.keys * size + size;
    if (!(pairs.query = take_scratch(all * sizeof *pairs.query))) return 0;
    pairs.queries = (float *)(pairs.query + query_size);
    pairs.weight = (uint32_t *)pairs.queries + 2 * query_size;
    pairs.mixed = (float *)(pairs.weight + weight_size);
    pairs.scores = pairs.mixed + mixed_size;
    pairs.key = (uint32_t *)(pairs.scores + scores_size);
    pairs.value = pairs.key + key_size;
    pairs.value_scales = (float *)(pairs.value + pairs.keys * size);
    pack_keys(attention->key + at, hidden, size, &pairs);
    pack_values(attention->value + at, hidden, size, &pairs);
    for (; count > first + (WIDE - 1) * LANES; first += lanes) attend_pairs_wide(attention, at, first, WIDE, &pairs);
    if (count > first + LANES)
        attend_pairs_wide(attention, at, first, 2, &pairs);
    else if (count > first)
        attend_pairs_wide(attention, at, first, 1, &pairs);
    give_back_scratch(pairs.query);
    return 1;
}

#else

static int attend_long(const Attention *attention, size_t row, size_t head) { return attend(attention, row, head); }

#endif
#endif
