#include "operators.h"

#include <stdlib.h>

#include "scratch.h"

enum { ROWS_AT_ONCE = 16 };

size_t scratch_floats(int kind, size_t width) { return kind == ADD_NORM_QUANTIZE || kind == GELU_QUANTIZE ? width : 0; }

int scratch_fits(int kind, size_t width) { return scratch_floats(kind, width) <= MAX_WIDTH; }

Status *take_input(const Operator *operator, const Context *context, size_t index, Rows *rows, size_t place) {
    Tensor tensor;
    Status *status = read_input(context, index, &tensor);
    if (status) return status;
    char letter = operator->inputs[index];
    size_t expected = (letter == 'W' ? 1 : rows->count) * (letter == 'S' ? 1 : rows->width);
    rows->in[place] = tensor.data;
    return tensor.count == expected ? NULL : refuse("an input does not fit the rows of the first one");
}

Status *make_outputs(const Operator *operator, Context *context, Rows *rows, const Tensor *like) {
    const char *outputs = operator->outputs;
    Status *status = NULL;
    for (size_t i = 0; !status && outputs[i]; i++)
        status = make_output(context, i, like, outputs[i] == 'S' ? 1 : rows->width, &rows->out[i]);
    return status;
}

Status *read_epsilon(const KernelInfo *info, int kind, float *epsilon) {
    return kind == ADD_NORM_QUANTIZE ? api->float_attribute(info, "epsilon", epsilon) : NULL;
}

static void run_part(void *data, size_t part) {
    Rows *rows = data;
    size_t end = MIN((part + 1) * ROWS_AT_ONCE, rows->count);
    float *scratch = take_scratch(scratch_floats(rows->kind, rows->width) * sizeof *scratch);
    if (!scratch) return run_out_of_memory(&rows->out_of_memory);
    for (size_t row = part * ROWS_AT_ONCE; row < end; row++)
        vectors->row[rows->kind](rows, rows->in[0] + row * rows->width, row, scratch);
    give_back_scratch(scratch);
}

static Status *create(const Operator *operator, const KernelInfo *info, void **kernel) {
    float *epsilon = calloc(1, sizeof *epsilon);
    if (!epsilon) return refuse("out of memory for an operator");
    Status *status = read_epsilon(info, operator->rows, epsilon);
    if (status)
        free(epsilon);
    else
        *kernel = epsilon;
    return status;
}

static Status *compute(const Operator *operator, const void *kernel, Context *context) {
    Rows rows = {.kind = operator->rows, .epsilon = *(const float *)kernel};
    Tensor first;
    Status *status = read_input(context, 0, &first);
    if (status) return status;
    rows.width = first.axes ? (size_t)first.sizes[first.axes - 1] : 0;
    if (!rows.width || !scratch_fits(rows.kind, rows.width))
        return refuse("a row has %zu columns, expected 1 to %d; open the session without this library", rows.width,
                      MAX_WIDTH);
    rows.count = first.count / rows.width;
    for (size_t index = 0; operator->inputs[index]; index++)
        if ((status = take_input(operator, context, index, &rows, index))) return status;
    if ((status = make_outputs(operator, context, &rows, &first))) return status;
    size_t parts = (rows.count + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    return run_parallel(context, run_part, parts, &rows, &rows.out_of_memory);
}

#define ROW_OPERATOR(KIND, NAME, INPUTS, OUTPUTS)                                                                      \
    [KIND] = {.name = NAME,                                                                                            \
              .inputs = INPUTS,                                                                                        \
              .outputs = OUTPUTS,                                                                                      \
              .rows = KIND,                                                                                            \
              .create = create,                                                                                        \
              .compute = compute,                                                                                      \
              .destroy = free}

const Operator ROW_OPERATORS[ROW_KINDS] = {
    ROW_OPERATOR(RESCALE, "Rescale", "PSW", "R"),
    ROW_OPERATOR(QUANTIZE, "Quantize", "P", "BS"),
    ROW_OPERATOR(ADD_NORM_QUANTIZE, "AddNormQuantize", "PSRWWW", "RBS"),
    ROW_OPERATOR(GELU_QUANTIZE, "GeluQuantize", "PSW", "BS"),
};
