/* A custom operator of ONNX Runtime, and helpers for its tensors. training/exporting/int8_operators.py defines each
   operator by standard ONNX operators. If this library, or an instruction that it needs, is missing, ONNX Runtime
   computes that definition. */

#ifndef OPERATORS_H
#define OPERATORS_H

#include "onnxruntime.h"
#include "vectors.h"

enum { MAX_AXES = 8 };

typedef struct Operator Operator;

struct Operator {
    OperatorTable table;
    const char *name;
    /* One letter per input and output. P, R: floats, row by row. S: one float per row. W: one float per column. B:
       bytes, row by row. Z: one byte. I: an int8 weight. L: one int64 per text. */
    const char *inputs, *outputs;
    int rows;       /* the kind of its row operation */
    int transposed; /* whether its weight is [N, K] */
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
/* An int8 matrix product, then a row operation. */
enum { LINEAR_KINDS = 4 };
extern const Operator LINEAR_OPERATORS[LINEAR_KINDS];
/* Whether the processor has an implementation of the product that is faster than ONNX Runtime's. */
int has_products(void);
/* Whether the processor has AMX, and the system lets this process use it. */
int has_amx(void);
int attend_amx(const Attention *, size_t row, size_t head); /* like `attend` in vectors.h */

/* Make an error; the message has the format of printf. */
Status *refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Run all parts of an operator, each on any thread. An error if a part called run_out_of_memory. */
Status *run_parallel(const Context *, void (*part)(void *, size_t), size_t parts, void *data, const int *out_of_memory);
void run_out_of_memory(int *out_of_memory);
Status *read_tensor(const Value *, Tensor *);
Status *read_input(const Context *, size_t index, Tensor *);
/* The output has the shape of `like`, except the last axis. */
Status *make_output(Context *, size_t index, const Tensor *like, size_t last_size, void **data);

/* Floats of scratch memory for a row of this width, and whether that is within the limit. */
size_t scratch_floats(int kind, size_t width);
int scratch_fits(int kind, size_t width);
/* Use input `index` as rows->in[place]; an error if its size does not fit the rows. */
Status *take_input(const Operator *, const Context *, size_t index, Rows *, size_t place);
Status *make_outputs(const Operator *, Context *, Rows *, const Tensor *like);
Status *read_epsilon(const KernelInfo *, int kind, float *epsilon);

#endif
