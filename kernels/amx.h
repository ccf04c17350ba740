/* The tiles of AMX (Intel, from Sapphire Rapids on): eight registers of 16 rows of 64 bytes, and products of them. */

#ifndef TILES_H
#define TILES_H

#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__) && !defined(WITHOUT_TILES)
#define HAVE_TILES

#include <immintrin.h>

#if !defined(EMULATED_TILES) /* tests/kernels/emulated_tiles.h, for processors without */
#define TILES __attribute__((target("amx-tile,amx-int8,amx-bf16,avx512f")))
#endif

/* The intrinsics do not tell the compiler what memory they read: this does, behind what was written for them. */
#define WRITTEN() __asm__ volatile("" ::: "memory")

enum { TILE_ROWS = 16, TILE_COLUMNS = 16, TILE_BYTES = 64 };

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} TileConfig;

#endif
#endif
