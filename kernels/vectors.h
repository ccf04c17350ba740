/* Vector code, compiled once per level of the instruction set (build.sh). The best level of the processor is chosen
   at run time. */

#ifndef VECTORS_H
#define VECTORS_H

#include <stddef.h>
#include <stdint.h>

#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* What lies between two products, in one pass over memory. A row is computed alone, in one order of sums, so that an
   answer does not depend on what shares its batch. P is the product, and S its scale, one per row. Integers come
   with their scale.

   RESCALE            P S, bias                             -> P * S + bias
   QUANTIZE           P                                     -> integers of P
   ADD_NORM_QUANTIZE  P S, residual, gain, shift, smoothing -> norm(P * S + residual), integers of that * smoothing
   GELU_QUANTIZE      P S, bias                             -> integers of gelu(P * S + bias) */
enum { RESCALE, QUANTIZE, ADD_NORM_QUANTIZE, GELU_QUANTIZE, ROW_KINDS };

/* Constants lie where the file of a graph has them, at any byte. */
typedef float Float __attribute__((aligned(1)));

typedef struct {
    int kind;
    size_t count, width;
    float epsilon;
    const Float *in[6]; /* in the order above; of P only operators know, for it may be a block that is in no tensor */
    void *out[3];
    int out_of_memory; /* set by the part that found no memory to work in */
} Rows;

typedef struct {
    const float *query, *key, *value; /* [tokens, heads * size], one row behind the other */
    const int64_t *lengths;           /* [rows], in tokens */
    const size_t *starts;             /* [rows] */
    float *out;
    size_t rows, heads, size;
    int out_of_memory; /* as above */
} Heads;

/* Limits by which scratch memory is bounded: places of a row, tokens of a text, places of a head. */
enum { MAX_WIDTH = 1 << 14, MAX_TOKENS = 1 << 13, MAX_IN_HEAD = 1 << 19 };

typedef struct {
    /* `room` is what has_room in operators.h says. */
    void (*row[ROW_KINDS])(const Rows *, const Float *product, size_t row, float *room);
    /* Attention of one head of one row; 0 if there is no memory for it. */
    int (*attend)(const Heads *, size_t row, size_t head);
    /* The same for rows of 64 tokens or more, where fewer bits than in floats are enough. */
    int (*attend_long)(const Heads *, size_t row, size_t head);
    /* Turn scores into weights that are not yet divided by their sum, and return the inverse of the sum. `penalty`
       removes padding. */
    float (*soften)(float *scores, const float *penalty, size_t wide);
    /* Round to bf16. */
    void (*shorten)(const float *values, float scale, uint16_t *rounded, size_t count);
} Vectors;

extern const Vectors *vectors;

#endif
