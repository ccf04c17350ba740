#include "operators.h"

#include <stdlib.h>

enum { LONG = 64 }; /* below this length, laying numbers out takes as long as their products in floats */

static void run_head(void *data, size_t part) {
    Heads *heads = data;
    size_t row = part / heads->heads, head = part % heads->heads;
    if (!heads->lengths[row]) return;
    /* By the row's own length, whatever shares its batch. */
    int is_long = heads->lengths[row] >= LONG;
    if (!(!is_long ? vectors->attend : has_tiles() ? attend_by_tiles : vectors->attend_long)(heads, row, head))
        run_out_of_memory(&heads->out_of_memory);
}

/* Where each row begins; an error if the lengths do not add up to the tokens, or there is no room for a row. */
static Status *find_starts(const Heads *heads, size_t tokens, size_t *starts) {
    size_t start = 0;
    for (size_t row = 0; row < heads->rows; row++) {
        starts[row] = start;
        if (heads->lengths[row] < 0 || (size_t)heads->lengths[row] > tokens - start)
            return refuse("the length of a row is less than 0, or more than there is of it");
        size_t length = (size_t)heads->lengths[row];
        if (length > MAX_TOKENS || length * heads->size > MAX_IN_HEAD)
            return refuse("row %zu has %zu tokens with heads of %zu places, but the kernels take no more than %d "
                          "tokens and %d places in all; shorten the row or open the session without this library",
                          row, length, heads->size, MAX_TOKENS, MAX_IN_HEAD);
        start += length;
    }
    return start < tokens ? refuse("there are more tokens than the lengths of rows say") : NULL;
}

static Status *create(const Operator *operator, const KernelInfo *info, void **kernel) {
    (void)operator;
    int64_t *heads = malloc(sizeof *heads);
    if (!heads) return refuse("there is no memory for an operator");
    Status *status = api->int_attribute(info, "heads", heads);
    if (!status && *heads < 1) status = refuse("attention has less than one head");
    if (status)
        free(heads);
    else
        *kernel = heads;
    return status;
}

static Status *compute(const Operator *operator, const void *kernel, Context *context) {
    (void)operator;
    Tensor in[4];
    Status *status = NULL;
    for (size_t i = 0; !status && i < 4; i++) status = read_input(context, i, &in[i]);
    if (status) return status;
    size_t count = (size_t)*(const int64_t *)kernel, rows = in[3].count;
    if (in[0].axes != 2 || !in[0].sizes[1] || (size_t)in[0].sizes[1] % count || in[1].count != in[0].count ||
        in[2].count != in[0].count)
        return refuse("query, key and value are not all [T, heads * N]");
    size_t *starts = malloc((rows + 1) * sizeof *starts);
    if (!starts) return refuse("there is no memory for the rows of a batch");
    Heads heads = {in[0].data,       in[1].data,   in[2].data,     .lengths = in[3].data,
                   .starts = starts, .rows = rows, .heads = count, .size = (size_t)in[0].sizes[1] / count};
    void *out;
    status = find_starts(&heads, (size_t)in[0].sizes[0], starts);
    if (!status) status = make_output(context, 0, &in[0], count * heads.size, &out);
    if (!status) {
        heads.out = out;
        status = run_parallel(context, run_head, rows * count, &heads, &heads.out_of_memory);
    }
    free(starts);
    return status;
}

const Operator PACKED_ATTENTION = {
    .name = "PackedAttention", .takes = "PRRL", .makes = "R", .create = create, .compute = compute, .destroy = free};
