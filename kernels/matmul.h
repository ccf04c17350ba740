/* The weight of an int8 product, in the order in which processors read it, and the implementations that multiply by
   it. Sums are integers, so all implementations give the same bits. */

#ifndef PRODUCT_H
#define PRODUCT_H

#include "operators.h"

enum { COLUMNS = 16, PANEL = 2 * COLUMNS };

typedef struct Product Product;

typedef struct {
    size_t rows;  /* at once, at most */
    size_t depth; /* of a tile, at most */
    void (*multiply)(const Product *, const uint8_t *left /* [rows][padded_depth] */, size_t rows,
                     float *out /* [rows][width] */);
} Way;

struct Product {
    const Way *way;
    size_t depth, width;
    size_t padded_depth;      /* to a multiple of 4 */
    size_t tile_depth, tiles; /* which divide that */
    size_t panels;            /* of 32 columns; the last is padded with 0 */
    uint8_t zero;
    int8_t *weight;  /* [panels][tiles][2][tile_depth / 4][16][4] */
    int32_t *offset; /* what the zero point adds to each column */
    float *scale;
    float epsilon;
};

/* NULL where the processor lacks the instructions. */
const Way *by_tiles(void), *by_vnni(void);

#if defined(__x86_64__)

#include <immintrin.h>

/* Make floats of the sums of 16 columns of a row. */
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
