/* The product of bytes by the tiles of AMX (Intel, from Sapphire Rapids on). ONNX Runtime's own takes four times as
   long there for the few rows of a short batch. Sums are integers, so the floats that they become are the same bits. */

#include "operators.h"

#include <stdlib.h>
#include <string.h>

#include "tiles.h"

#ifdef HAVE_TILES

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PANEL = 2 * TILE_COLUMNS, BLOCK = 2 * TILE_ROWS };

typedef struct {
    size_t depth, width;
    size_t padded_depth;      /* to a multiple of 4 */
    size_t tile_depth, tiles; /* of the left side's tiles, which divide that */
    size_t panels;            /* of 32 columns; what the last has too many is 0 */
    uint8_t zero;
    int8_t *weight;  /* [panels][tiles][2][tile_depth / 4][16][4] */
    int32_t *offset; /* what zero adds to each column */
    float *scale;
    float epsilon;
} Product;

typedef struct {
    const Product *product;
    const uint8_t *left;
    int in_place; /* the first output is as wide as the product, in floats, which is written there at first */
    Rows rows;
} Job;

static int ask_for_tiles(void) {
    enum { AMX = 1 << 22 | 1 << 24 | 1 << 25, AVX512F = 1 << 16, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & AMX) != AMX || !(b & AVX512F)) return 0;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

int has_tiles(void) {
    static int known = -1;
    if (known < 0) known = ask_for_tiles();
    return known;
}

/* ---- 32 rows ---- */

/* Tiles 0 to 3 sum, 4 and 5 are of the left side, 6 and 7 of the weight. */
TILES static void configure(size_t upper, size_t lower, size_t tile_depth) {
    TileConfig config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.bytes[i] = i == 4 || i == 5 ? (uint16_t)tile_depth : 64;
        config.rows[i] = (uint8_t)(i >= 6 ? tile_depth / 4 : i == 2 || i == 3 || i == 5 ? lower : upper);
    }
    WRITTEN();
    _tile_loadconfig(&config);
}

TILES static void write_out(const int32_t *sums, const Product *product, size_t column, float *out, size_t rows) {
    size_t left = product->width > column ? product->width - column : 0;
    __mmask16 mask = left >= TILE_COLUMNS ? 0xffff : (__mmask16)((1u << left) - 1);
    __m512i offset = _mm512_loadu_si512(product->offset + column);
    __m512 scale = _mm512_loadu_ps(product->scale + column);
    for (size_t row = 0; row < rows; row++) {
        __m512i sum = _mm512_sub_epi32(_mm512_loadu_si512(sums + row * TILE_COLUMNS), offset);
        _mm512_mask_storeu_ps(out + row * product->width + column, mask, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale));
    }
}

TILES static void multiply_panel(const Product *product, const uint8_t *left, size_t rows, size_t panel, float *out) {
    int32_t sums[4][TILE_ROWS * TILE_COLUMNS];
    size_t upper = MIN(rows, TILE_ROWS), lower = rows - upper, step = product->tile_depth * TILE_COLUMNS;
    const int8_t *weight = product->weight + panel * product->tiles * 2 * step;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t tile = 0; tile < product->tiles; tile++) {
        const uint8_t *from = left + tile * product->tile_depth;
        _tile_loadd(6, weight + tile * 2 * step, 64);
        _tile_loadd(7, weight + tile * 2 * step + step, 64);
        _tile_loadd(4, from, product->padded_depth);
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        if (!lower) continue;
        _tile_loadd(5, from + TILE_ROWS * product->padded_depth, product->padded_depth);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }
    size_t column = panel * PANEL, second = column + TILE_COLUMNS;
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    write_out(sums[0], product, column, out, upper);
    write_out(sums[1], product, second, out, upper);
    if (!lower) return;
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    write_out(sums[2], product, column, out + TILE_ROWS * product->width, lower);
    write_out(sums[3], product, second, out + TILE_ROWS * product->width, lower);
}

TILES static void multiply(const Product *product, const uint8_t *left, size_t rows, float *out) {
    size_t upper = MIN(rows, TILE_ROWS);
    configure(upper, MAX(rows - upper, 1), product->tile_depth);
    for (size_t panel = 0; panel < product->panels; panel++) multiply_panel(product, left, rows, panel, out);
    _tile_release();
}

static void run_block(void *data, size_t block) {
    const Job *job = data;
    const Product *product = job->product;
    const Rows *rows = &job->rows;
    size_t first = block * BLOCK, count = MIN(rows->count - first, BLOCK), width = rows->width;
    float own[job->in_place ? 1 : BLOCK * width];
    float *products = job->in_place ? (float *)rows->out[0] + first * width : own;
    const uint8_t *left = job->left + first * product->depth;
    uint8_t padded[product->depth == product->padded_depth ? 1 : BLOCK * product->padded_depth];
    if (product->depth != product->padded_depth) {
        memset(padded, 0, sizeof padded);
        for (size_t i = 0; i < count; i++)
            memcpy(padded + i * product->padded_depth, left + i * product->depth, product->depth);
        left = padded;
    }
    multiply(product, left, count, products);
    for (size_t i = 0; i < count; i++) vectors->row[rows->kind](rows, products + i * width, first + i);
}

/* ---- the weight, in the order of the tiles ---- */

static void destroy(void *kernel) {
    Product *product = kernel;
    if (!product) return;
    free(product->weight);
    free(product->offset);
    free(product->scale);
    free(product);
}

static void *zeros(size_t bytes) { /* at the beginning of a cache line; bytes are a multiple of one */
    void *memory = aligned_alloc(64, bytes);
    return memory ? memset(memory, 0, bytes) : NULL;
}

static void pack(Product *product, const int8_t *weight, const float *scale) {
    for (size_t column = 0; column < product->width; column++) {
        size_t panel = column / PANEL, half = column % PANEL / TILE_COLUMNS;
        int32_t sum = 0;
        for (size_t k = 0; k < product->depth; k++) {
            size_t tile = k / product->tile_depth, within = k % product->tile_depth;
            size_t at = ((panel * product->tiles + tile) * 2 + half) * product->tile_depth * TILE_COLUMNS;
            int8_t value = weight[k * product->width + column];
            product->weight[at + within / 4 * 64 + column % TILE_COLUMNS * 4 + within % 4] = value;
            sum += value;
        }
        product->offset[column] = sum * product->zero;
        product->scale[column] = scale[column];
    }
}

static size_t tile_depth(size_t depth) {
    size_t largest = 4;
    for (size_t candidate = 8; candidate <= TILE_BYTES; candidate += 4)
        if (depth % candidate == 0) largest = candidate;
    return largest;
}

static Status *read_constant(const KernelInfo *info, size_t index, Tensor *tensor) {
    const Value *value;
    int is_constant;
    Status *status = api->constant_input(info, index, &is_constant, &value);
    if (status) return status;
    return is_constant ? read_tensor(value, tensor) : refuse("weight, scale and zero of a product must be constants");
}

static Status *create(const Operator *operator, const KernelInfo *info, void **kernel) {
    Tensor weight, scale, zero;
    Status *status;
    if ((status = read_constant(info, 2, &weight)) || (status = read_constant(info, 3, &scale)) ||
        (status = read_constant(info, 4, &zero)))
        return status;
    if (weight.axes != 2 || !weight.count || scale.count != (size_t)weight.sizes[1] || zero.count != 1)
        return refuse("a weight is not [K, N], or its scale not [N], or its zero not one number");
    if (weight.sizes[0] > MOST_WIDTH || weight.sizes[1] > MOST_WIDTH) return refuse("a weight is longer than 16384");
    Product *product = calloc(1, sizeof *product);
    if (!product) return refuse("there is no memory for an operator");
    product->depth = (size_t)weight.sizes[0];
    product->width = (size_t)weight.sizes[1];
    product->padded_depth = (product->depth + 3) / 4 * 4;
    product->tile_depth = tile_depth(product->padded_depth);
    product->tiles = product->padded_depth / product->tile_depth;
    product->panels = (product->width + PANEL - 1) / PANEL;
    product->zero = *(const uint8_t *)zero.data;
    product->weight = zeros(product->panels * PANEL * product->padded_depth);
    product->offset = zeros(product->panels * PANEL * sizeof *product->offset);
    product->scale = zeros(product->panels * PANEL * sizeof *product->scale);
    if (!product->weight || !product->offset || !product->scale) {
        destroy(product);
        return refuse("there is no memory for the weight of a product");
    }
    pack(product, weight.data, scale.data);
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
        return refuse("the rows of a product are not as long as its weight is deep");
    Job job = {product, left.data, .in_place = operator->makes[0] == 'R'};
    job.rows = (Rows){.kind = operator->rows, .width = product->width, .epsilon = product->epsilon};
    job.rows.count = left.count / product->depth;
    if ((status = take_input(operator, context, 1, &job.rows, 1))) return status;
    for (size_t index = 5; operator->takes[index]; index++)
        if ((status = take_input(operator, context, index, &job.rows, index - 3))) return status;
    if ((status = make_outputs(operator, context, &job.rows, &left))) return status;
    size_t blocks = (job.rows.count + BLOCK - 1) / BLOCK;
    return blocks ? api->parallel(context, run_block, blocks, 0, &job) : NULL;
}

/* integers [.., K], scale [.., 1], weight [K, N], its scale [N] and zero, which are constants; then what is done to
   rows takes */
#define LINEAR_OPERATOR(KIND, NAME, TAKES, MAKES)                                                                      \
    {.name = NAME,                                                                                                     \
     .takes = "BSIWZ" TAKES,                                                                                           \
     .makes = MAKES,                                                                                                   \
     .rows = KIND,                                                                                                     \
     .create = create,                                                                                                 \
     .compute = compute,                                                                                               \
     .destroy = destroy}

const Operator LINEAR_OPERATORS[] = {
    LINEAR_OPERATOR(RESCALE, "Linear", "W", "R"),
    LINEAR_OPERATOR(ADD_NORM_QUANTIZE, "LinearAddNormQuantize", "RWWW", "RBS"),
    LINEAR_OPERATOR(GELU_QUANTIZE, "LinearGeluQuantize", "W", "BS"),
};

#else

int has_tiles(void) { return 0; }
const Operator LINEAR_OPERATORS[3];

#endif
