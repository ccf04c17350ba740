/* Attention by AMX. Factors are bf16 (8 significant bits), finer than the int8 around them. Sums are floats. */

#include <math.h>
#include <string.h>

#include "amx.h"
#include "operators.h"
#include "scratch.h"

#ifdef HAVE_AMX

enum { DEPTH = TILE_BYTES / 2 }; /* bf16 values in one row of a tile */

/* The arrays of one head of one row, in the layout that tiles are loaded from. */
typedef struct {
    size_t count, size;
    size_t queries;  /* tokens, rounded up to a multiple of TILE_ROWS */
    size_t keys;     /* tokens, rounded up to a multiple of DEPTH */
    size_t channels; /* `size`, rounded up to a multiple of DEPTH */
    uint16_t *query; /* [queries][channels] */
    uint32_t *key;   /* [keys / 16][channels / 32][16 pairs of channels][16 keys] */
    uint32_t *value; /* [channels / 16][keys / 32][16 pairs of keys][16 channels] */
    /* For one block of 16 queries. */
    float *scores;     /* [16][keys] */
    float *mixed;      /* [16][channels] */
    float *penalty;    /* [keys] */
    uint16_t *weights; /* [16][keys] */
    /* For one or two tokens, while they are packed. */
    uint16_t *upper, *lower; /* [channels] */
} PackedHead;

AMX static void configure(void) {
    TileConfig config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.bytes[i] = TILE_BYTES, config.rows[i] = TILE_ROWS;
    MEMORY_BARRIER();
    _tile_loadconfig(&config);
}

AMX static void release(void) { _tile_release(); }

/* out[16][columns] = left[16][depth] times right, packed as above. Tiles 0 and 1 hold the sums of 32 columns. */
AMX static void multiply(const uint16_t *left, size_t depth, const uint32_t *right, size_t columns, float *out) {
    size_t steps = depth / DEPTH, tile = TILE_ROWS * TILE_COLUMNS;
    MEMORY_BARRIER();
    for (size_t column = 0; column < columns; column += 2 * TILE_COLUMNS) {
        const uint32_t *first = right + column / TILE_COLUMNS * steps * tile, *second = first + steps * tile;
        _tile_zero(0);
        _tile_zero(1);
        for (size_t step = 0; step < steps; step++) {
            _tile_loadd(4, left + step * DEPTH, depth * sizeof *left);
            _tile_loadd(6, first + step * tile, TILE_BYTES);
            _tile_loadd(7, second + step * tile, TILE_BYTES);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
        }
        _tile_stored(0, out + column, columns * sizeof *out);
        _tile_stored(1, out + column + TILE_COLUMNS, columns * sizeof *out);
    }
}

/* Pack query, key and value as above, padded with zeros. */
AMX static void pack_head(const Attention *attention, size_t at, const PackedHead *packed) {
    size_t size = attention->size, hidden = attention->heads * size, channels = packed->channels,
           steps = channels / DEPTH;
    size_t pairs = packed->keys / 2, tile = TILE_ROWS * TILE_COLUMNS;
    uint16_t *upper = packed->upper, *lower = packed->lower;
    const uint32_t *words = (const uint32_t *)lower;
    memset(packed->query, 0, packed->queries * channels * sizeof *packed->query);
    memset(packed->key, 0, packed->keys * channels * sizeof(uint16_t));
    memset(lower, 0, channels * sizeof *lower);
    for (size_t j = 0; j < packed->count; j++) {
        vectors->to_bf16(attention->query + at + j * hidden, 1 / sqrtf((float)size), packed->query + j * channels,
                         size);
        vectors->to_bf16(attention->key + at + j * hidden, 1, lower, size);
        uint32_t *key = packed->key + j / TILE_COLUMNS * steps * tile + j % TILE_COLUMNS;
        for (size_t word = 0; word < channels / 2; word++) key[word * TILE_COLUMNS] = words[word];
    }
    memset(upper, 0, channels * sizeof *upper);
    for (size_t pair = 0; pair < pairs; pair++) {
        memset(lower, 0, channels * sizeof *lower);
        if (2 * pair >= packed->count)
            memset(upper, 0, channels * sizeof *upper);
        else
            vectors->to_bf16(attention->value + at + 2 * pair * hidden, 1, upper, size);
        if (2 * pair + 1 < packed->count)
            vectors->to_bf16(attention->value + at + (2 * pair + 1) * hidden, 1, lower, size);
        uint32_t *value = packed->value + pair / TILE_ROWS * tile + pair % TILE_ROWS * TILE_COLUMNS;
        for (size_t c = 0; c < channels; c++) {
            size_t column = c / TILE_COLUMNS * (packed->keys / DEPTH);
            value[column * tile + c % TILE_COLUMNS] = upper[c] | (uint32_t)lower[c] << 16;
        }
    }
}

/* Allocate all arrays in one block; return 0 without memory. Wider types come first, which keeps all aligned. */
static int allocate_arrays(PackedHead *packed) {
    size_t keys = packed->keys, channels = packed->channels;
    size_t floats = keys * channels + TILE_ROWS * (keys + channels) + keys;
    size_t shorts = packed->queries * channels + TILE_ROWS * keys + 2 * channels;
    if (!(packed->key = take_scratch(floats * sizeof(float) + shorts * sizeof(uint16_t)))) return 0;
    packed->value = packed->key + keys * channels / 2;
    packed->scores = (float *)(packed->value + keys * channels / 2);
    packed->mixed = packed->scores + TILE_ROWS * keys;
    packed->penalty = packed->mixed + TILE_ROWS * channels;
    packed->query = (uint16_t *)(packed->penalty + keys);
    packed->weights = packed->query + packed->queries * channels;
    packed->upper = packed->weights + TILE_ROWS * keys;
    packed->lower = packed->upper + channels;
    return 1;
}

int attend_amx(const Attention *attention, size_t row, size_t head) {
    size_t size = attention->size, hidden = attention->heads * size, at = attention->starts[row] * hidden + head * size;
    PackedHead packed = {.count = (size_t)attention->lengths[row], .size = size, .channels = whole(size, DEPTH)};
    packed.queries = whole(packed.count, TILE_ROWS);
    packed.keys = whole(packed.count, DEPTH);
    if (!allocate_arrays(&packed)) return 0;
    size_t keys = packed.keys, channels = packed.channels;
    float *scores = packed.scores, *mixed = packed.mixed, *penalty = packed.penalty, inverse[TILE_ROWS];
    uint16_t *weights = packed.weights;
    pack_head(attention, at, &packed);
    for (size_t j = 0; j < keys; j++) penalty[j] = j < packed.count ? 0 : -1e30f;
    configure();
    for (size_t first = 0; first < packed.count; first += TILE_ROWS) {
        size_t here = MIN(packed.count - first, TILE_ROWS);
        multiply(packed.query + first * channels, channels, packed.key, keys, scores);
        for (size_t i = 0; i < here; i++) {
            inverse[i] = vectors->softmax_row(scores + i * keys, penalty, keys);
            vectors->to_bf16(scores + i * keys, 1, weights + i * keys, keys);
        }
        multiply(weights, keys, packed.value, channels, mixed);
        for (size_t i = 0; i < here; i++)
            for (size_t k = 0; k < size; k++)
                attention->out[at + (first + i) * hidden + k] = mixed[i * channels + k] * inverse[i];
    }
    release();
    give_back_scratch(packed.key);
    return 1;
}

#else

int attend_amx(const Attention *attention, size_t row, size_t head) { return vectors->attend(attention, row, head); }

#endif
