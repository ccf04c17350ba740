/* AMX in plain C. Include it before everything else: then the AMX kernels run on any processor with AVX-512. It traps
   where a processor would raise an exception (Intel 64 and IA-32 Architectures, volume 2, TDPBUSD and TDPBF16PS). */

#define EMULATED_AMX

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define AMX __attribute__((target("avx512f")))

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} EmulatedConfig;

static __thread EmulatedConfig tile_config;
static __thread uint8_t tile[8][16][64];

static inline void tile_check(int right) {
    if (!right) __builtin_trap();
}

static inline void tile_configure(const void *config) {
    memcpy(&tile_config, config, sizeof tile_config);
    memset(tile, 0x55, sizeof tile);
    for (int i = 0; i < 8; i++)
        tile_check(tile_config.rows[i] >= 1 && tile_config.rows[i] <= 16 && tile_config.bytes[i] <= 64);
}

static inline void tile_zero(int to) { memset(tile[to], 0, sizeof tile[to]); }

static inline void tile_load(int to, const void *from, size_t step) {
    tile_zero(to);
    for (size_t row = 0; row < tile_config.rows[to]; row++)
        memcpy(tile[to][row], (const char *)from + row * step, tile_config.bytes[to]);
}

static inline void tile_store(int from, void *to, size_t step) {
    for (size_t row = 0; row < tile_config.rows[from]; row++)
        memcpy((char *)to + row * step, tile[from][row], tile_config.bytes[from]);
}

static inline void tile_check_shapes(int sum, int left, int right) {
    tile_check(tile_config.rows[sum] == tile_config.rows[left] && tile_config.bytes[sum] == tile_config.bytes[right] &&
               tile_config.bytes[left] / 4 == tile_config.rows[right]);
}

static inline void tile_add_bytes(int sum, int left, int right) {
    tile_check_shapes(sum, left, right);
    for (int m = 0; m < tile_config.rows[sum]; m++)
        for (int n = 0; n < tile_config.bytes[sum] / 4; n++)
            for (int k = 0; k < tile_config.bytes[left]; k++)
                ((int32_t *)tile[sum][m])[n] += tile[left][m][k] * (int8_t)tile[right][k / 4][n * 4 + k % 4];
}

static inline float tile_bf16(const uint8_t *row, int place) {
    uint32_t bits = (uint32_t)((const uint16_t *)row)[place] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline void tile_add_bf16(int sum, int left, int right) {
    tile_check_shapes(sum, left, right);
    for (int m = 0; m < tile_config.rows[sum]; m++)
        for (int n = 0; n < tile_config.bytes[sum] / 4; n++)
            for (int k = 0; k < tile_config.bytes[left] / 2; k++)
                ((float *)tile[sum][m])[n] +=
                    tile_bf16(tile[left][m], k) * tile_bf16(tile[right][k / 2], n * 2 + k % 2);
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbusd
#undef _tile_dpbf16ps
#define _tile_loadconfig tile_configure
#define _tile_release() (void)0
#define _tile_zero tile_zero
#define _tile_loadd tile_load
#define _tile_stored tile_store
#define _tile_dpbusd tile_add_bytes
#define _tile_dpbf16ps tile_add_bf16
