#include "operators.h"

#include <stdlib.h>
#include <string.h>

enum { LONG = 64 }; /* below, laying numbers out anew takes as long as their products do in floats */

static void run_head(void *data, size_t part) {
    const Heads *heads = data;
    size_t row = part / heads->heads, head = part % heads->heads, hidden = heads->heads * heads->size;
    /* By the row's own length, whatever shares its batch. */
    int is_long = heads->lengths[row] >= LONG;
    (!is_long ? vectors->attend : has_tiles() ? attend_by_tiles : vectors->attend_long)(heads, row, head);
    float *padding = heads->out + row * heads->length * hidden + head * heads->size;
    for (size_t i = (size_t)heads->lengths[row]; i < heads->length; i++)
        memset(padding + i * hidden, 0, heads->size * sizeof(float));
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
    Heads heads = {in[0].data, in[1].data, in[2].data, .lengths = in[3].data,
                   .heads = (size_t)*(const int64_t *)kernel};
    if (in[0].axes != 3 || (size_t)in[0].sizes[2] % heads.heads || in[1].count != in[0].count ||
        in[2].count != in[0].count || in[3].count != (size_t)in[0].sizes[0])
        return refuse("query, key and value are not all [B, S, heads * N], or lengths are not [B]");
    heads.rows = (size_t)in[0].sizes[0];
    heads.length = (size_t)in[0].sizes[1];
    heads.size = (size_t)in[0].sizes[2] / heads.heads;
    if (heads.length > MOST_TOKENS || heads.length * heads.size > MOST_IN_HEAD)
        return refuse("a row has more than 8192 tokens, or a head of it more than 524288 places");
    for (size_t row = 0; row < heads.rows; row++)
        if (heads.lengths[row] < 0 || (size_t)heads.lengths[row] > heads.length)
            return refuse("the length of a row is less than 0, or more than there is of it");
    void *out;
    if ((status = make_output(context, 0, &in[0], heads.heads * heads.size, &out))) return status;
    heads.out = out;
    return heads.rows ? api->parallel(context, run_head, heads.rows * heads.heads, 0, &heads) : NULL;
}

const Operator SELF_ATTENTION = {
    .name = "SelfAttention", .takes = "PRRL", .makes = "R", .create = create, .compute = compute, .destroy = free};
