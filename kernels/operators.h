/* An operator of ONNX Runtime, and what all of them do with tensors. training/exporting/int8_operators.py defines each
   in ONNX's own operators. A graph runs that definition where this library, or what it needs of the processor, is
   missing. */

#ifndef OPERATORS_H
#define OPERATORS_H

#include "onnxruntime.h"
#include "vectors.h"

enum { MAX_AXES = 8 };

typedef struct Operator Operator;

struct Operator {
    OperatorTable table;
    const char *name;
    /* One letter per input and output. P, R: one float per place of each row. S: one float per row. W: one float per
       place. B: one byte per place of each row. Z: one byte. I: an int8 weight. L: one int64 per text. */
    const char *takes, *makes;
    int rows;       /* what it does to a row */
    int transposed; /* its weight is [N, K] */
    Status *(*create)(const Operator *, const KernelInfo *, void **kernel);
    Status *(*compute)(const Operator *, const void *kernel, Context *);
    void (*destroy)(void *kernel);
};

typedef struct {
    void *data;
    size_t axes, count; /* of elements */
    int64_t sizes[MAX_AXES];
} Tensor;

extern const Api *api;

extern const Operator ROW_OPERATORS[ROW_KINDS];
extern const Operator PACKED_ATTENTION;
/* The int8 product before the operation on rows. */
enum { LINEAR_KINDS = 4 };
extern const Operator LINEAR_OPERATORS[LINEAR_KINDS];
/* Whether the processor has an implementation of the product that is faster than ONNX Runtime's. */
int has_products(void);
/* Whether the processor has tiles, and the system lets this process use them. */
int has_tiles(void);
int attend_by_tiles(const Heads *, size_t row, size_t head); /* as that of vectors.h */

/* An error with a message in the format of printf. */
Status *refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Run each part of an operator, on any thread. A part that calls run_out_of_memory makes this an error. */
Status *run_parallel(const Context *, void (*part)(void *, size_t), size_t parts, void *data, const int *out_of_memory);
void run_out_of_memory(int *out_of_memory);
Status *read_tensor(const Value *, Tensor *);
Status *read_input(const Context *, size_t index, Tensor *);
/* With the sizes of `like`, except the last one. */
Status *make_output(Context *, size_t index, const Tensor *like, size_t last_size, void **data);

/* Floats of scratch memory for a row of so many places, and whether that fits. */
size_t room_of(int kind, size_t width);
int has_room(int kind, size_t width);
/* Take input `index` as number `place` of what is done to rows, if it fits them. */
Status *take_input(const Operator *, const Context *, size_t index, Rows *, size_t place);
Status *make_outputs(const Operator *, Context *, Rows *, const Tensor *like);
Status *read_epsilon(const KernelInfo *, int kind, float *epsilon);

#endif
