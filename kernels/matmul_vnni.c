/* The int8 matrix product by AVX-512 VNNI (Intel from Cascade Lake on, AMD from Zen 4 on). The sums of 12 rows by 32
   columns stay in registers; one instruction adds four products to each. */

#include "matmul.h"
#include "scalar_math.h"

#if defined(__x86_64__)

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

enum { ROWS = 12, AHEAD = 8192 }; /* AHEAD: bytes from the weights in use to those that are prefetched */

/* With the intrinsic, GCC 12 copies the sums to other registers and back. */
#define ADD_FOUR(SUMS, BYTES, WEIGHTS) __asm__("vpdpbusd %2, %1, %0" : "+v"(SUMS) : "v"(BYTES), "v"(WEIGHTS))

/* `rows` is a constant wherever this is inlined. */
VNNI INLINE void multiply_rows(const Product *product, const uint8_t *left, size_t rows, size_t panel, float *out) {
    size_t depth = product->padded_depth, column = panel * PANEL;
    const int8_t *first_weight = product->weight + column * depth, *second_weight = first_weight + COLUMNS * depth;
    __m512i first[ROWS], second[ROWS];
    EACH (row, rows) first[row] = second[row] = _mm512_setzero_si512();
    for (size_t k = 0; k < depth; k += 4) {
        __m512i first_four = _mm512_load_si512(first_weight + k * COLUMNS);
        __m512i second_four = _mm512_load_si512(second_weight + k * COLUMNS);
        _mm_prefetch(first_weight + k * COLUMNS + AHEAD, _MM_HINT_T0);
        _mm_prefetch(second_weight + k * COLUMNS + AHEAD, _MM_HINT_T0);
        EACH (row, rows) {
            __m512i bytes = _mm512_set1_epi32(*(const int32_t *)(left + row * depth + k));
            ADD_FOUR(first[row], bytes, first_four);
            ADD_FOUR(second[row], bytes, second_four);
        }
    }
    EACH (row, rows) {
        write_out(product, first[row], column, out + row * product->width);
        write_out(product, second[row], column + COLUMNS, out + row * product->width);
    }
}

#define CASE(COUNT)                                                                                                    \
    case COUNT:                                                                                                        \
        return multiply_rows(product, left, COUNT, panel, out)

VNNI static void multiply_part(const Product *product, const uint8_t *left, size_t rows, size_t panel, float *out) {
    switch (rows) {
        CASE(1);
        CASE(2);
        CASE(3);
        CASE(4);
        CASE(5);
        CASE(6);
        CASE(7);
        CASE(8);
        CASE(9);
        CASE(10);
        CASE(11);
        CASE(12);
    }
}

static void multiply(const Product *product, const uint8_t *left, size_t rows, float *out) {
    size_t parts = (rows + ROWS - 1) / ROWS; /* of nearly equal size */
    for (size_t panel = 0; panel < product->panels; panel++)
        for (size_t part = 0; part < parts; part++) {
            size_t first = rows * part / parts, end = rows * (part + 1) / parts;
            const uint8_t *from = left + first * product->padded_depth;
            multiply_part(product, from, end - first, panel, out + first * product->width);
        }
}

const Implementation *vnni_implementation(void) {
    static const Implementation IMPLEMENTATION = {.rows = 2 * ROWS, .depth = MAX_WIDTH, .multiply = multiply};
    __builtin_cpu_init();
#define HAS(feature) __builtin_cpu_supports(feature)
    return HAS("avx512f") && HAS("avx512bw") && HAS("avx512vl") && HAS("avx512vnni") ? &IMPLEMENTATION : NULL;
}

#else

const Implementation *vnni_implementation(void) { return NULL; }

#endif
