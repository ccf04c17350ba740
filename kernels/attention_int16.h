/* Attention in int16, two numbers per 32-bit word. AVX-512 VNNI multiplies 16 pairs of words and adds both products
   of each to 32-bit sums, in the time that floats take for 16 products. Numbers have 11 bits and a sign, so no sum
   of products overflows. There is one scale per query, one for all keys of a head, and one per channel of its
   values. This is about ten times as fine as bf16. */

#ifndef WORDS_H
#define WORDS_H

#include "attention_float.h"

#if defined(__AVX512VNNI__)

#include <immintrin.h>

enum { MAX_IN_SUM = 256 }; /* places of a head: 256 * 2047^2 is below 2^31 */
static const float MAX_SHORT = 2047, TINY = 1e-30f;
/* A weight, and the sum of all weights of a query: 2047 times that is below 2^31 too. */
static const float MAX_WEIGHT = 32767, MAX_WEIGHTS = 1e6f;

INLINE uint32_t pair(float low, float high) {
    return ((uint32_t)bits_of(low + ROUND) & 0xffff) | (uint32_t)bits_of(high + ROUND) << 16;
}

/* As in attention_float.h, of words. */
typedef struct {
    const uint32_t *values;
    size_t rows, row_step, depth, depth_step;
} LeftWords;

INLINE void multiply_words(LeftWords left, const uint32_t *right, size_t wide, float *sums) {
    size_t lanes = wide * LANES;
    for (size_t first = 0; first < left.rows; first += ROWS) {
        const uint32_t *of[ROWS];
        __m512i sum[ROWS][WIDE];
        for (size_t i = 0; i < ROWS; i++) of[i] = left.values + MIN(first + i, left.rows - 1) * left.row_step;
        EACH (i, ROWS)
            EACH (w, wide) sum[i][w] = _mm512_setzero_si512();
        for (size_t k = 0; k < left.depth; k++) {
            __m512i words[WIDE];
            EACH (w, wide) words[w] = _mm512_loadu_si512(right + k * lanes + w * LANES);
            EACH (i, ROWS) {
                __m512i word = _mm512_set1_epi32((int)of[i][k * left.depth_step]);
                EACH (w, wide) /* no intrinsic: matmul_vnni.c */
                    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum[i][w]) : "v"(word), "v"(words[w]));
            }
        }
        EACH (i, ROWS)
            EACH (w, wide) _mm512_storeu_ps(sums + (first + i) * lanes + w * LANES, _mm512_cvtepi32_ps(sum[i][w]));
    }
}

/* All arrays of one head of one row. A pair of channels, or of keys, is one word. */
typedef struct {
    size_t count, channels /* in pairs */, keys /* in pairs */;
    uint32_t *key, *value;    /* [count][channels], [keys][size] */
    float key_unit, *units;   /* of a key, and of each channel of the values */
    uint32_t *query, *weight; /* [channels][lanes], [keys][lanes] */
    float *queries, *scores, *mixed;
} Words;

INLINE void find_peaks(const float *rows, size_t step, size_t count, size_t size, float *peaks) {
    memset(peaks, 0, size * sizeof *peaks);
    for (size_t j = 0; j < count; j++)
#pragma omp simd
        for (size_t k = 0; k < size; k++) peaks[k] = MAX(peaks[k], fabsf(rows[j * step + k]));
}

INLINE void lay_out_keys(const float *key, size_t step, size_t size, Words *words) {
    float peaks[MAX_IN_SUM], peak = TINY;
    find_peaks(key, step, words->count, size, peaks);
    for (size_t k = 0; k < size; k++) peak = MAX(peak, peaks[k]);
    words->key_unit = peak / MAX_SHORT;
    float inverse = MAX_SHORT / peak;
    for (size_t j = 0; j < words->count; j++) {
        int16_t *shorts = (int16_t *)(words->key + j * words->channels);
#pragma omp simd
        for (size_t k = 0; k < size; k++) shorts[k] = (int16_t)bits_of(key[j * step + k] * inverse + ROUND);
        if (size % 2) shorts[size] = 0;
    }
}

INLINE void lay_out_values(const float *value, size_t step, size_t size, Words *words) {
    float inverse[MAX_IN_SUM];
    find_peaks(value, step, words->count, size, words->units);
    for (size_t k = 0; k < size; k++) {
        inverse[k] = MAX_SHORT / MAX(words->units[k], TINY);
        words->units[k] *= 1 / MAX_SHORT;
    }
    for (size_t j = 0; j < words->keys; j++) {
        const float *low = value + 2 * j * step, *high = 2 * j + 1 < words->count ? low + step : low;
#pragma omp simd
        for (size_t k = 0; k < size; k++) words->value[j * size + k] = pair(low[k] * inverse[k], high[k] * inverse[k]);
    }
}

/* Queries [size][lanes] as words, and the factor of a score in each lane. */
INLINE void shorten_queries(const Words *words, size_t size, size_t lanes, float *scale) {
    float inverse[WIDE * LANES], unit = words->key_unit / MAX_SHORT / sqrtf((float)size);
    const float *query = words->queries;
    memset(scale, 0, lanes * sizeof *scale);
    for (size_t k = 0; k < size; k++)
#pragma omp simd
        for (size_t i = 0; i < lanes; i++) scale[i] = MAX(scale[i], fabsf(query[k * lanes + i]));
#pragma omp simd
    for (size_t i = 0; i < lanes; i++) {
        inverse[i] = MAX_SHORT / MAX(scale[i], TINY);
        scale[i] *= unit;
    }
    for (size_t k = 0; k < words->channels; k++, query += 2 * lanes)
#pragma omp simd
        for (size_t i = 0; i < lanes; i++)
            words->query[k * lanes + i] = pair(query[i] * inverse[i], query[lanes + i] * inverse[i]);
}

/* Weights of scores [count][lanes], where `scale` is that of each lane, and the sum of each lane. */
INLINE void soften_words(const Words *words, size_t lanes, float *scale, float *sum) {
    float *score = words->scores, shift[WIDE * LANES], most = MIN(MAX_WEIGHT, MAX_WEIGHTS / (float)words->count);
    find_largest(score, words->count, lanes, shift);
    float above = log2f(most);
#pragma omp simd
    for (size_t i = 0; i < lanes; i++) {
        scale[i] *= LOG2_E;
        shift[i] = above - shift[i] * scale[i];
        sum[i] = 0;
    }
    for (size_t j = 0; j < words->count / 2; j++, score += 2 * lanes)
#pragma omp simd
        for (size_t i = 0; i < lanes; i++) {
            float low = power_of_two(score[i] * scale[i] + shift[i]);
            float high = power_of_two(score[lanes + i] * scale[i] + shift[i]);
            sum[i] += low + high;
            words->weight[j * lanes + i] = pair(low, high);
        }
    if (words->count % 2)
#pragma omp simd
        for (size_t i = 0; i < lanes; i++) {
            float low = power_of_two(score[i] * scale[i] + shift[i]);
            sum[i] += low;
            words->weight[words->count / 2 * lanes + i] = pair(low, 0);
        }
}

INLINE void attend_words_wide(const Heads *heads, size_t at, size_t first, size_t wide, const Words *words) {
    size_t size = heads->size, hidden = heads->heads * size, lanes = wide * LANES;
    size_t here = MIN(words->count - first, lanes), from = at + first * hidden;
    float scale[WIDE * LANES], sum[WIDE * LANES];
    memset(words->queries, 0, 2 * words->channels * lanes * sizeof(float));
    transpose(heads->query + from, hidden, (here + 3) / 4 * 4, here - 1, size, words->queries, lanes);
    shorten_queries(words, size, lanes, scale);
    LeftWords keys = {words->key, words->count, words->channels, words->channels, 1};
    LeftWords values = {words->value, size, 1, words->keys, size};
    multiply_words(keys, words->query, wide, words->scores);
    soften_words(words, lanes, scale, sum);
    multiply_words(values, words->weight, wide, words->mixed);
    for (size_t k = 0; k < size; k++)
#pragma omp simd
        for (size_t i = 0; i < lanes; i++) words->mixed[k * lanes + i] *= words->units[k];
    write_mixed(words->mixed, size, lanes, sum, here, heads->out + from, hidden);
}

static int attend_long(const Heads *heads, size_t row, size_t head) {
    size_t size = heads->size, hidden = heads->heads * size, at = heads->starts[row] * hidden + head * size;
    size_t count = (size_t)heads->lengths[row], lanes = WIDE * LANES, first = 0;
    if (size > MAX_IN_SUM) return attend(heads, row, head);
    Words words = {.count = count, .channels = (size + 1) / 2, .keys = (count + 1) / 2};
    size_t of_query = lanes * words.channels, of_weight = lanes * words.keys, of_mixed = lanes * (size + ROWS);
    size_t of_scores = lanes * (count + ROWS), of_key = whole(count * words.channels, 16);
    size_t all = 3 * of_query + of_weight + of_mixed + of_scores + of_key + words.keys * size + size;
    if (!(words.query = take_scratch(all * sizeof *words.query))) return 0;
    words.queries = (float *)(words.query + of_query);
    words.weight = (uint32_t *)words.queries + 2 * of_query;
    words.mixed = (float *)(words.weight + of_weight);
    words.scores = words.mixed + of_mixed;
    words.key = (uint32_t *)(words.scores + of_scores);
    words.value = words.key + of_key;
    words.units = (float *)(words.value + words.keys * size);
    lay_out_keys(heads->key + at, hidden, size, &words);
    lay_out_values(heads->value + at, hidden, size, &words);
    for (; count > first + (WIDE - 1) * LANES; first += lanes) attend_words_wide(heads, at, first, WIDE, &words);
    if (count > first + LANES)
        attend_words_wide(heads, at, first, 2, &words);
    else if (count > first)
        attend_words_wide(heads, at, first, 1, &words);
    give_back_scratch(words.query);
    return 1;
}

#else

static int attend_long(const Heads *heads, size_t row, size_t head) { return attend(heads, row, head); }

#endif
#endif
