#include "operators.h"

#include <stdlib.h>

enum { MIN_LONG = 64 }; /* for shorter rows, packing takes as long as attention in floats */

static void run_head(void *data, size_t part) {
    Attention *attention = data;
    size_t row = part / attention->heads, head = part % attention->heads;
    if (!attention->lengths[row]) return;
    /* Depends on this row alone, so an answer does not depend on the rest of its batch. */
    int is_long = attention->lengths[row] >= MIN_LONG;
    if (!(!is_long ? vectors->attend : has_amx() ? attend_amx : vectors->attend_long)(attention, row, head))
        run_out_of_memory(&attention->out_of_memory);
}

/* Compute where each row begins. An error if the lengths do not add up to the tokens, or if a row is too long. */
static Status *find_starts(const Attention *attention, size_t tokens, size_t *starts) {
    size_t start = 0;
    for (size_t row = 0; row < attention->rows; row++) {
        starts[row] = start;
        if (attention->lengths[row] < 0 || (size_t)attention->lengths[row] > tokens - start)
            return refuse("the length of a row is negative, or exceeds the tokens that are left");
        size_t length = (size_t)attention->lengths[row];
        if (length > MAX_TOKENS || length * attention->size > MAX_IN_HEAD)
            return refuse("row %zu has %zu tokens with heads of %zu channels, but the kernels take at most %d "
                          "tokens and %d values per head; shorten the row or open the session without this library",
                          row, length, attention->size, MAX_TOKENS, MAX_IN_HEAD);
        start += length;
    }
    return start < tokens ? refuse("the lengths of the rows add up to fewer tokens than there are") : NULL;
}

static Status *create(const Operator *operator, const KernelInfo *info, void **kernel) {
    (void)operator;
    int64_t *heads = malloc(sizeof *heads);
    if (!heads) return refuse("out of memory for an operator");
    Status *status = api->int_attribute(info, "heads", heads);
    if (!status && *heads < 1) status = refuse("attention needs at least one head");
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
    if (!starts) return refuse("out of memory for the rows of a batch");
    Attention attention = {in[0].data,       in[1].data,   in[2].data,     .lengths = in[3].data,
                           .starts = starts, .rows = rows, .heads = count, .size = (size_t)in[0].sizes[1] / count};
    void *out;
    status = find_starts(&attention, (size_t)in[0].sizes[0], starts);
    if (!status) status = make_output(context, 0, &in[0], count * attention.size, &out);
    if (!status) {
        attention.out = out;
        status = run_parallel(context, run_head, rows * count, &attention, &attention.out_of_memory);
    }
    free(starts);
    return status;
}

const Operator PACKED_ATTENTION = {
    .name = "PackedAttention", .inputs = "PRRL", .outputs = "R", .create = create, .compute = compute, .destroy = free};
