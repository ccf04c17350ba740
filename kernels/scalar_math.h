/* Functions of one number, which compilers vectorize. */

#ifndef SCALAR_MATH_H
#define SCALAR_MATH_H

#include <stdint.h>
#include <string.h>

#include "vectors.h"

#define INLINE static inline __attribute__((always_inline))
/* For each I below COUNT, a constant of at most 16. The loop is unrolled, so arrays indexed by I stay in registers. */
#if defined(__clang__)
#define EACH(I, COUNT) _Pragma("clang loop unroll(full)") for (size_t I = 0; I < (COUNT); I++)
#else
#define EACH(I, COUNT) _Pragma("GCC unroll 16") for (size_t I = 0; I < (COUNT); I++)
#endif

/* 1.5 * 2^23. Adding it rounds a small number to an integer, which is then in the last bits of the float. */
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

/* 2^y as 2^n * 2^f with f in [-1/2, 1/2], for y up to 64; relative error at most 2e-7. Below -64, it is 2^-64. */
INLINE float power_of_two(float y) {
    y = MAX(y, -64);
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

static const float LOG2_E = 1.44269504f;

/* x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), the GELU of Hendrycks and Gimpel (2016), as
   x / (1 + e^(-2 sqrt(2 / pi) * (x + 0.044715 x^3))) */
INLINE float gelu(float x) { return x / (1 + power_of_two(MIN(x * (-2.30220819f - 0.10294324f * x * x), 64))); }

#endif
