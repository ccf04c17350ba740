/* Attention in tiles of AMX. Numbers are bf16 (8 bits of fraction), which is finer than the int8 around them. Sums
   are floats. */

#include <math.h>
#include <string.h>

#include "operators.h"
#include "scratch.h"
#include "amx.h"

#ifdef HAVE_TILES

enum { DEPTH = TILE_BYTES / 2 }; /* of a tile of bf16 */

/* All arrays of one head of one row, as tiles read them. */
typedef struct {
    size_t count, size;
    size_t queries;  /* in whole tiles */
    size_t keys;     /* in pairs of tiles of columns */
    size_t channels; /* in whole depths */
    uint16_t *query; /* [queries][channels] */
    uint32_t *key;   /* [keys / 16][channels / 32][16 pairs of channels][16 keys] */
    uint32_t *value; /* [channels / 16][keys / 32][16 pairs of keys][16 channels] */
    /* Of one group of queries. */
    float *scores;     /* [16][keys] */
    float *mixed;      /* [16][channels] */
    float *penalty;    /* [keys] */
    uint16_t *weights; /* [16][keys] */
    /* Of one or two tokens, while they are laid out. */
    uint16_t *upper, *lower; /* [channels] */
} Tiled;

TILES static void configure(void) {
    TileConfig config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.bytes[i] = TILE_BYTES, config.rows[i] = TILE_ROWS;
    WRITTEN();
    _tile_loadconfig(&config);
}

TILES static void release(void) { _tile_release(); }

/* Tiles 0 and 1 sum two tiles of columns, [16][columns] of left [16][depth] and right, laid out as above. */
TILES static void multiply(const uint16_t *left, size_t depth, const uint32_t *right, size_t columns, float *out) {
    size_t steps = depth / DEPTH, tile = TILE_ROWS * TILE_COLUMNS;
    WRITTEN();
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

/* Lay query, key and value out as above, padded with 0. */
TILES static void lay_out(const Heads *heads, size_t at, const Tiled *tiled) {
    size_t size = heads->size, hidden = heads->heads * size, channels = tiled->channels, steps = channels / DEPTH;
    size_t pairs = tiled->keys / 2, tile = TILE_ROWS * TILE_COLUMNS;
    uint16_t *upper = tiled->upper, *lower = tiled->lower;
    const uint32_t *words = (const uint32_t *)lower;
    memset(tiled->query, 0, tiled->queries * channels * sizeof *tiled->query);
    memset(tiled->key, 0, tiled->keys * channels * sizeof(uint16_t));
    memset(lower, 0, channels * sizeof *lower);
    for (size_t j = 0; j < tiled->count; j++) {
        vectors->shorten(heads->query + at + j * hidden, 1 / sqrtf((float)size), tiled->query + j * channels, size);
        vectors->shorten(heads->key + at + j * hidden, 1, lower, size);
        uint32_t *key = tiled->key + j / TILE_COLUMNS * steps * tile + j % TILE_COLUMNS;
        for (size_t word = 0; word < channels / 2; word++) key[word * TILE_COLUMNS] = words[word];
    }
    memset(upper, 0, channels * sizeof *upper);
    for (size_t pair = 0; pair < pairs; pair++) {
        memset(lower, 0, channels * sizeof *lower);
        if (2 * pair >= tiled->count)
            memset(upper, 0, channels * sizeof *upper);
        else
            vectors->shorten(heads->value + at + 2 * pair * hidden, 1, upper, size);
        if (2 * pair + 1 < tiled->count) vectors->shorten(heads->value + at + (2 * pair + 1) * hidden, 1, lower, size);
        uint32_t *value = tiled->value + pair / TILE_ROWS * tile + pair % TILE_ROWS * TILE_COLUMNS;
        for (size_t c = 0; c < channels; c++) {
            size_t column = c / TILE_COLUMNS * (tiled->keys / DEPTH);
            value[column * tile + c % TILE_COLUMNS] = upper[c] | (uint32_t)lower[c] << 16;
        }
    }
}

/* Give each array its place; 0 if there is no memory. The wider numbers come first, for their alignment. */
static int take_room(Tiled *tiled) {
    size_t keys = tiled->keys, channels = tiled->channels;
    size_t of_floats = keys * channels + TILE_ROWS * (keys + channels) + keys;
    size_t of_shorts = tiled->queries * channels + TILE_ROWS * keys + 2 * channels;
    if (!(tiled->key = take_scratch(of_floats * sizeof(float) + of_shorts * sizeof(uint16_t)))) return 0;
    tiled->value = tiled->key + keys * channels / 2;
    tiled->scores = (float *)(tiled->value + keys * channels / 2);
    tiled->mixed = tiled->scores + TILE_ROWS * keys;
    tiled->penalty = tiled->mixed + TILE_ROWS * channels;
    tiled->query = (uint16_t *)(tiled->penalty + keys);
    tiled->weights = tiled->query + tiled->queries * channels;
    tiled->upper = tiled->weights + TILE_ROWS * keys;
    tiled->lower = tiled->upper + channels;
    return 1;
}

int attend_by_tiles(const Heads *heads, size_t row, size_t head) {
    size_t size = heads->size, hidden = heads->heads * size, at = heads->starts[row] * hidden + head * size;
    Tiled tiled = {.count = (size_t)heads->lengths[row], .size = size, .channels = whole(size, DEPTH)};
    tiled.queries = whole(tiled.count, TILE_ROWS);
    tiled.keys = whole(tiled.count, DEPTH);
    if (!take_room(&tiled)) return 0;
    size_t keys = tiled.keys, channels = tiled.channels;
    float *scores = tiled.scores, *mixed = tiled.mixed, *penalty = tiled.penalty, inverse[TILE_ROWS];
    uint16_t *weights = tiled.weights;
    lay_out(heads, at, &tiled);
    for (size_t j = 0; j < keys; j++) penalty[j] = j < tiled.count ? 0 : -1e30f;
    configure();
    for (size_t first = 0; first < tiled.count; first += TILE_ROWS) {
        size_t here = MIN(tiled.count - first, TILE_ROWS);
        multiply(tiled.query + first * channels, channels, tiled.key, keys, scores);
        for (size_t i = 0; i < here; i++) {
            inverse[i] = vectors->soften(scores + i * keys, penalty, keys);
            vectors->shorten(scores + i * keys, 1, weights + i * keys, keys);
        }
        multiply(weights, keys, tiled.value, channels, mixed);
        for (size_t i = 0; i < here; i++)
            for (size_t k = 0; k < size; k++)
                heads->out[at + (first + i) * hidden + k] = mixed[i * channels + k] * inverse[i];
    }
    release();
    give_back_scratch(tiled.key);
    return 1;
}

#else

int attend_by_tiles(const Heads *heads, size_t row, size_t head) { return vectors->attend(heads, row, head); }

#endif
