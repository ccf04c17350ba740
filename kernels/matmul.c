/* The int8 matrix product, and the operation on each of its rows. */

#include "matmul.h"

#include <stdlib.h>
#include <string.h>

#include "scratch.h"

enum { LINE = CACHE_LINE / sizeof(float) };

typedef struct {
    const Product *product;
    const uint8_t *left;
    int in_place; /* whether the product is first written to the first output, which has its shape and type */
    Rows rows;
} Job;

/* Copy rows of bytes, each padded with zeros to the padded depth. */
static uint8_t *pad(const Product *product, const uint8_t *left, size_t count, uint8_t *padded) {
    memset(padded, 0, count * product->padded_depth);
    for (size_t i = 0; i < count; i++)
        memcpy(padded + i * product->padded_depth, left + i * product->depth, product->depth);
    return padded;
}

static void run_block(void *data, size_t block) {
    Job *job = data;
    const Product *product = job->product;
    const Rows *rows = &job->rows;
    size_t first = block * product->implementation->rows,
           count = MIN(rows->count - first, product->implementation->rows);
    size_t width = rows->width, is_padded = product->depth != product->padded_depth;
    size_t scratch_size = whole(scratch_floats(rows->kind, width), LINE),
           products_size = job->in_place ? 0 : whole(count * width, LINE);
    size_t padded_size = is_padded ? count * product->padded_depth : 0;
    float *scratch = take_scratch((scratch_size + products_size) * sizeof *scratch + padded_size);
    if (!scratch) return run_out_of_memory(&job->rows.out_of_memory);
    float *products = job->in_place ? (float *)rows->out[0] + first * width : scratch + scratch_size;
    const uint8_t *left = job->left + first * product->depth;
    if (is_padded) left = pad(product, left, count, (uint8_t *)(scratch + scratch_size + products_size));
    product->implementation->multiply(product, left, count, products);
    for (size_t i = 0; i < count; i++) vectors->row[rows->kind](rows, products + i * width, first + i, scratch);
    give_back_scratch(scratch);
}

static const Implementation *best_implementation(void) {
    const Implementation *implementation = amx_implementation();
    return implementation ? implementation : vnni_implementation();
}

#if defined(WITHOUT_PRODUCTS) /* as on most processors; for tests */
int has_products(void) { return 0; }
#else
int has_products(void) { return best_implementation() != NULL; }
#endif

/* ---- the weight ---- */

static void destroy(void *kernel) {
    Product *product = kernel;
    if (!product) return;
    free(product->weight);
    free(product->offset);
    free(product->scale);
    free(product);
}

static void *zeros(size_t bytes) { /* aligned to a cache line; `bytes` is a multiple of it */
    void *memory = aligned_alloc(64, bytes);
    return memory ? memset(memory, 0, bytes) : NULL;
}

typedef struct {
    const int8_t *values;
    size_t row_step, column_step;
} Weight;

/* to[16][4] = the transpose of four rows of 16 columns */
static void pack_block(Product *product, Weight weight, size_t row, size_t column, int8_t *to) {
    size_t rows = MIN(product->depth - MIN(row, product->depth), 4);
    size_t columns = MIN(product->width - MIN(column, product->width), COLUMNS);
    const int8_t *from = weight.values + row * weight.row_step + column * weight.column_step;
    for (size_t i = 0; i < columns; i++)
        for (size_t k = 0; k < rows; k++) {
            int8_t value = from[k * weight.row_step + i * weight.column_step];
            to[i * 4 + k] = value;
            product->offset[column + i] += value * product->zero;
        }
}

static void pack(Product *product, Weight weight, const float *scale) {
    int8_t *to = product->weight;
    for (size_t column = 0; column < product->panels * PANEL; column += PANEL)
        for (size_t tile = 0; tile < product->tiles; tile++)
            for (size_t half = 0; half < PANEL; half += COLUMNS)
                for (size_t k = 0; k < product->tile_depth; k += 4, to += 4 * COLUMNS)
                    pack_block(product, weight, tile * product->tile_depth + k, column + half, to);
    memcpy(product->scale, scale, product->width * sizeof *scale);
}

static size_t tile_depth(size_t depth, size_t most) {
    size_t parts = (depth + most - 1) / most;
    while (depth % parts || depth / parts % 4) parts++;
    return depth / parts;
}

static Status *read_constant(const KernelInfo *info, size_t index, Tensor *tensor) {
    const Value *value;
    int is_constant;
    Status *status = api->constant_input(info, index, &is_constant, &value);
    if (status) return status;
    return is_constant ? read_tensor(value, tensor)
                       : refuse("weight, scale and zero point of a product must be constants");
}

static Status *create(const Operator *operator, const KernelInfo *info, void **kernel) {
    Tensor weight, scale, zero;
    Status *status;
    if ((status = read_constant(info, 2, &weight)) || (status = read_constant(info, 3, &scale)) ||
        (status = read_constant(info, 4, &zero)))
        return status;
    size_t depth = (size_t)weight.sizes[operator->transposed], width = (size_t)weight.sizes[!operator->transposed];
    if (weight.axes != 2 || !weight.count || scale.count != width || zero.count != 1)
        return refuse("a weight is not [K, N], its scale not [N], or its zero point not a scalar");
    if (depth > MAX_WIDTH || !scratch_fits(operator->rows, width))
        return refuse("a weight of [%zu, %zu] exceeds %d rows or columns; open the session without this library", depth,
                      width, MAX_WIDTH);
    Product *product = calloc(1, sizeof *product);
    if (!product) return refuse("out of memory for an operator");
    product->implementation = best_implementation();
    product->depth = depth;
    product->width = width;
    product->padded_depth = (product->depth + 3) / 4 * 4;
    product->tile_depth = tile_depth(product->padded_depth, product->implementation->depth);
    product->tiles = product->padded_depth / product->tile_depth;
    product->panels = (product->width + PANEL - 1) / PANEL;
    product->zero = *(const uint8_t *)zero.data;
    product->weight = zeros(product->panels * PANEL * product->padded_depth);
    product->offset = zeros(product->panels * PANEL * sizeof *product->offset);
    product->scale = zeros(product->panels * PANEL * sizeof *product->scale);
    if (!product->weight || !product->offset || !product->scale) {
        destroy(product);
        return refuse("out of memory for the weight of a product");
    }
    size_t row_step = operator->transposed ? 1 : width, column_step = operator->transposed ? depth : 1;
    pack(product, (Weight){weight.data, row_step, column_step}, scale.data);
    if ((status = read_epsilon(info, operator->rows, &product->epsilon)))
        destroy(product);
    else
        *kernel = product;
    return status;
}

static Status *compute(const Operator *operator, const void *kernel, Context *context) {
    const Product *product = kernel;
    Tensor left;
    Status *status = read_input(context, 0, &left);
    if (status) return status;
    if (!left.axes || (size_t)left.sizes[left.axes - 1] != product->depth)
        return refuse("the rows of a product do not have as many elements as its weight has rows");
    Job job = {product, left.data, .in_place = operator->outputs[0] == 'R'};
    job.rows = (Rows){.kind = operator->rows, .width = product->width, .epsilon = product->epsilon};
    job.rows.count = left.count / product->depth;
    if ((status = take_input(operator, context, 1, &job.rows, 1))) return status;
    for (size_t index = 5; operator->inputs[index]; index++)
        if ((status = take_input(operator, context, index, &job.rows, index - 3))) return status;
    if ((status = make_outputs(operator, context, &job.rows, &left))) return status;
    size_t blocks = (job.rows.count + product->implementation->rows - 1) / product->implementation->rows;
    return run_parallel(context, run_block, blocks, &job, &job.rows.out_of_memory);
}

/* Inputs: integers [.., K], their scale [.., 1], weight [K, N], its scale [N], its zero point. Then come those of the
   row operation. Weight, its scale and its zero point are constants. */
#define LINEAR_OPERATOR(KIND, NAME, INPUTS, OUTPUTS, ...)                                                              \
    {.name = NAME,                                                                                                     \
     .inputs = "BSIWZ" INPUTS,                                                                                         \
     .outputs = OUTPUTS,                                                                                               \
     .rows = KIND,                                                                                                     \
     .create = create,                                                                                                 \
     .compute = compute,                                                                                               \
     .destroy = destroy,                                                                                               \
     __VA_ARGS__}

const Operator LINEAR_OPERATORS[LINEAR_KINDS] = {
    LINEAR_OPERATOR(RESCALE, "Linear", "W", "R"),
    LINEAR_OPERATOR(RESCALE, "LinearTransposed", "W", "R", .transposed = 1),
    LINEAR_OPERATOR(ADD_NORM_QUANTIZE, "LinearAddNormQuantize", "RWWW", "RBS"),
    LINEAR_OPERATOR(GELU_QUANTIZE, "LinearGeluQuantize", "W", "BS"),
};
