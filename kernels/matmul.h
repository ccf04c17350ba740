/* An int8 matrix product by a constant weight, which is packed in the order in which processors read it. Sums are
   integers, so all implementations give the same bits. */

#ifndef MATMUL_H
#define MATMUL_H

#include "operators.h"

enum { COLUMNS = 16, PANEL = 2 * COLUMNS };

typedef struct Product Product;

typedef struct {
    size_t rows;  /* maximum per call of `multiply` */
    size_t depth; /* maximum `tile_depth` */
    void (*multiply)(const Product *, const uint8_t *left /* [rows][padded_depth] */, size_t rows,
                     float *out /* [rows][width] */);
} Implementation;

struct Product {
    const Implementation *implementation;
    size_t depth, width;
    size_t padded_depth;      /* rounded up to a multiple of 4 */
    size_t tile_depth, tiles; /* `padded_depth` in equal parts */
    size_t panels;            /* of 32 columns; the last is padded with zeros */
    uint8_t zero;
    int8_t *weight;  /* [panels][tiles][2][tile_depth / 4][16][4] */
    int32_t *offset; /* the share of the zero point in the sum of each column */
    float *scale;
    float epsilon;
};

/* NULL if the processor lacks the instructions. */
const Implementation *amx_implementation(void), *vnni_implementation(void);

#if defined(__x86_64__)

#include <immintrin.h>

/* Convert the sums of 16 columns of a row to floats. */
static inline __attribute__((always_inline, target("avx512f"))) void write_out(const Product *product, __m512i sums,
                                                                               size_t column, float *row) {
    size_t left = product->width > column ? product->width - column : 0;
    __mmask16 mask = left >= COLUMNS ? 0xffff : (__mmask16)((1u << left) - 1);
    __m512i sum = _mm512_sub_epi32(sums, _mm512_loadu_si512(product->offset + column));
    __m512 scale = _mm512_loadu_ps(product->scale + column);
    _mm512_mask_storeu_ps(row + column, mask, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale));
}

#endif
#endif
