/* Vector code, compiled once per level of the instruction set (build.sh). The best level of the processor is chosen
   at run time. */

#ifndef VECTORS_H
#define VECTORS_H

#include <stddef.h>
#include <stdint.h>

#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* What a graph computes between two matrix products, in one pass over memory. Each row is computed alone and in a fixed
   order, so an answer does not depend on the rest of its batch. P is the product, and S its scale, one per row.
   Integers come with their scale.

   RESCALE            P S, bias                             -> P * S + bias
   QUANTIZE           P                                     -> integers of P
   ADD_NORM_QUANTIZE  P S, residual, gain, shift, smoothing -> norm(P * S + residual), integers of that * smoothing
   GELU_QUANTIZE      P S, bias                             -> integers of gelu(P * S + bias) */
enum { RESCALE, QUANTIZE, ADD_NORM_QUANTIZE, GELU_QUANTIZE, ROW_KINDS };

/* Constants are read in place from the file of a graph, where they have any alignment. */
typedef float Float __attribute__((aligned(1)));

typedef struct {
    int kind;
    size_t count, width;
    float epsilon;
    const Float *in[6]; /* in the order above; row functions get P as an argument, because it may be in no tensor */
    void *out[3];
    int out_of_memory; /* set by a part that got no scratch memory */
} Rows;

typedef struct {
    const float *query, *key, *value; /* [tokens, heads * size], rows one after another */
    const int64_t *lengths;           /* [rows], in tokens */
    const size_t *starts;             /* [rows] */
    float *out;
    size_t rows, heads, size;
    int out_of_memory; /* as above */
} Attention;

/* Limits, which bound scratch memory: columns of a row, tokens of a row, values of a head (tokens * channels). */
enum { MAX_WIDTH = 1 << 14, MAX_TOKENS = 1 << 13, MAX_IN_HEAD = 1 << 19 };

typedef struct {
    /* `scratch` has scratch_floats(kind, width) floats; see operators.h. */
    void (*row[ROW_KINDS])(const Rows *, const Float *product, size_t row, float *scratch);
    /* Attention of one head of one row; returns 0 without memory. */
    int (*attend)(const Attention *, size_t row, size_t head);
    /* The same for rows of 64 tokens or more, at a lower precision if that is faster. */
    int (*attend_long)(const Attention *, size_t row, size_t head);
    /* Replace scores by softmax numerators, and return the inverse of their sum. `penalty` is added to the scores; it
       masks padding. */
    float (*softmax_row)(float *scores, const float *penalty, size_t wide);
    /* Round to bf16. */
    void (*to_bf16)(const float *values, float scale, uint16_t *rounded, size_t count);
} Vectors;

extern const Vectors *vectors;

#endif
