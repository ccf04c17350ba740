/* AMX (Intel, from Sapphire Rapids on): eight tile registers of 16 rows of 64 bytes, and their matrix products. */

#ifndef AMX_H
#define AMX_H

#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__) && !defined(WITHOUT_AMX)
#define HAVE_AMX

#include <immintrin.h>

#if !defined(EMULATED_AMX) /* by tests/kernels/emulated_amx.h, for processors without AMX */
#define AMX __attribute__((target("amx-tile,amx-int8,amx-bf16,avx512f")))
#endif

/* The intrinsics do not tell the compiler which memory they read. Use this after writing to that memory. */
#define MEMORY_BARRIER() __asm__ volatile("" ::: "memory")

enum { TILE_ROWS = 16, TILE_COLUMNS = 16, TILE_BYTES = 64 };

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} TileConfig;

#endif
#endif
