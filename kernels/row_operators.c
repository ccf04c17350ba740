#include "operators.h"

#include <stdlib.h>

#include "scratch.h"

enum { ROWS_AT_ONCE = 16 };

size_t room_of(int kind, size_t width) { return kind == ADD_NORM_QUANTIZE || kind == GELU_QUANTIZE ? width : 0; }

int has_room(int kind, size_t width) { return room_of(kind, width) <= MAX_WIDTH; }

Status *take_input(const Operator *operator, const Context *context, size_t index, Rows *rows, size_t place) {
    Tensor tensor;
    Status *status = read_input(context, index, &tensor);
    if (status) return status;
    char letter = operator->takes[index];
    size_t expected = (letter == 'W' ? 1 : rows->count) * (letter == 'S' ? 1 : rows->width);
    rows->in[place] = tensor.data;
    return tensor.count == expected ? NULL : refuse("an input does not fit the rows of the first one");
}

Status *make_outputs(const Operator *operator, Context *context, Rows *rows, const Tensor *like) {
    const char *makes = operator->makes;
    Status *status = NULL;
    for (size_t i = 0; !status && makes[i]; i++)
        status = make_output(context, i, like, makes[i] == 'S' ? 1 : rows->width, &rows->out[i]);
    return status;
}

Status *read_epsilon(const KernelInfo *info, int kind, float *epsilon) {
    return kind == ADD_NORM_QUANTIZE ? api->float_attribute(info, "epsilon", epsilon) : NULL;
}

static void run_part(void *data, size_t part) {
    Rows *rows = data;
    size_t end = MIN((part + 1) * ROWS_AT_ONCE, rows->count);
    float *room = take_scratch(room_of(rows->kind, rows->width) * sizeof *room);
    if (!room) return run_out_of_memory(&rows->out_of_memory);
    for (size_t row = part * ROWS_AT_ONCE; row < end; row++)
        vectors->row[rows->kind](rows, rows->in[0] + row * rows->width, row, room);
    give_back_scratch(room);
}

static Status *create(const Operator *operator, const KernelInfo *info, void **kernel) {
    float *epsilon = calloc(1, sizeof *epsilon);
    if (!epsilon) return refuse("there is no memory for an operator");
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
    if (!rows.width || !has_room(rows.kind, rows.width))
        return refuse("a row has no places, or more than %d: it has %zu; open the session without this library",
                      MAX_WIDTH, rows.width);
    rows.count = first.count / rows.width;
    for (size_t index = 0; operator->takes[index]; index++)
        if ((status = take_input(operator, context, index, &rows, index))) return status;
    if ((status = make_outputs(operator, context, &rows, &first))) return status;
    size_t parts = (rows.count + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    return run_parallel(context, run_part, parts, &rows, &rows.out_of_memory);
}

#define ROW_OPERATOR(KIND, NAME, TAKES, MAKES)                                                                         \
    [KIND] = {.name = NAME,                                                                                            \
              .takes = TAKES,                                                                                          \
              .makes = MAKES,                                                                                          \
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
