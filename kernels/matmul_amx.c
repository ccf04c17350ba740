/* The int8 matrix product by AMX. For the few rows of a short batch, that of ONNX Runtime takes four times as long. */

#include "amx.h"
#include "matmul.h"

#ifdef HAVE_AMX

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(EMULATED_AMX)

static int request_amx(void) { return 1; }

#else

static int request_amx(void) {
    enum { ALL_OF_AMX = 1 << 22 | 1 << 24 | 1 << 25, AVX512F = 1 << 16, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & ALL_OF_AMX) != ALL_OF_AMX || !(b & AVX512F)) return 0;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

#endif

int has_amx(void) {
    static int known = -1;
    if (known < 0) known = request_amx();
    return known;
}

/* Tiles 0 to 3 hold sums, 4 and 5 the left side, 6 and 7 the weight. */
AMX static void configure(size_t upper, size_t lower, size_t tile_depth) {
    TileConfig config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.bytes[i] = i == 4 || i == 5 ? (uint16_t)tile_depth : 64;
        config.rows[i] = (uint8_t)(i >= 6 ? tile_depth / 4 : i == 2 || i == 3 || i == 5 ? lower : upper);
    }
    MEMORY_BARRIER();
    _tile_loadconfig(&config);
}

AMX static void write_tile(const int32_t *sums, const Product *product, size_t column, float *out, size_t rows) {
    for (size_t row = 0; row < rows; row++)
        write_out(product, _mm512_loadu_si512(sums + row * COLUMNS), column, out + row * product->width);
}

AMX static void multiply_panel(const Product *product, const uint8_t *left, size_t rows, size_t panel, float *out) {
    int32_t sums[4][TILE_ROWS * COLUMNS];
    size_t upper = MIN(rows, TILE_ROWS), lower = rows - upper, step = product->tile_depth * COLUMNS;
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
    size_t column = panel * PANEL, second = column + COLUMNS;
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    write_tile(sums[0], product, column, out, upper);
    write_tile(sums[1], product, second, out, upper);
    if (!lower) return;
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    write_tile(sums[2], product, column, out + TILE_ROWS * product->width, lower);
    write_tile(sums[3], product, second, out + TILE_ROWS * product->width, lower);
}

AMX static void multiply(const Product *product, const uint8_t *left, size_t rows, float *out) {
    size_t upper = MIN(rows, TILE_ROWS);
    configure(upper, MAX(rows - upper, 1), product->tile_depth);
    for (size_t panel = 0; panel < product->panels; panel++) multiply_panel(product, left, rows, panel, out);
    _tile_release();
}

const Implementation *amx_implementation(void) {
    static const Implementation IMPLEMENTATION = {.rows = 2 * TILE_ROWS, .depth = TILE_BYTES, .multiply = multiply};
    return has_amx() ? &IMPLEMENTATION : NULL;
}

#else

int has_amx(void) { return 0; }
const Implementation *amx_implementation(void) { return NULL; }

#endif
