/* Computes what it reads by `generic` of the kernels, for a processor on which no ONNX Runtime is at hand.

   rows KIND COUNT WIDTH: floats of each input, in the order of vectors.h -> each output
   attend HEADS SIZE LENGTH...: floats of query, key and value -> the output */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

extern const Vectors generic;

/* Each input: R and P are a float for each place of each row, S is one for each row, W one for each place. Each output
   too, where B is a byte. */
static const char *const TAKES[ROW_KINDS] = {"PSW", "P", "PSRWWW", "PSW"}, *const MAKES[ROW_KINDS] = {"R", "BS", "RBS", "BS"};

static void *allocate(size_t bytes) {
    void *memory = calloc(bytes + 1, 1);
    return memory ? memory : (exit(3), NULL);
}

static float *take(size_t count) {
    float *values = allocate(count * sizeof *values);
    return fread(values, sizeof *values, count, stdin) == count ? values : (exit(4), NULL);
}

static size_t count_of(char letter, const Rows *rows) {
    return (letter == 'W' ? 1 : rows->count) * (letter == 'S' ? 1 : rows->width);
}

static void compute_rows(char **sizes) {
    Rows rows = {.kind = atoi(sizes[0]), .count = strtoul(sizes[1], NULL, 10), .width = strtoul(sizes[2], NULL, 10)};
    const char *takes = TAKES[rows.kind], *makes = MAKES[rows.kind];
    float *room = allocate(rows.width * sizeof *room);
    rows.epsilon = 1e-12f;
    for (size_t i = 0; takes[i]; i++) rows.in[i] = take(count_of(takes[i], &rows));
    for (size_t i = 0; makes[i]; i++) rows.out[i] = allocate(count_of(makes[i], &rows) * sizeof(float));
    for (size_t row = 0; row < rows.count; row++)
        generic.row[rows.kind](&rows, rows.in[0] + row * rows.width, row, room);
    for (size_t i = 0; makes[i]; i++)
        fwrite(rows.out[i], makes[i] == 'B' ? 1 : sizeof(float), count_of(makes[i], &rows), stdout);
}

static void compute_attention(char **sizes, size_t rows) {
    Heads heads = {.rows = rows, .heads = strtoul(sizes[0], NULL, 10), .size = strtoul(sizes[1], NULL, 10)};
    int64_t *lengths = allocate(rows * sizeof *lengths);
    size_t *starts = allocate(rows * sizeof *starts), tokens = 0;
    for (size_t row = 0; row < rows; row++) {
        starts[row] = tokens;
        tokens += (size_t)(lengths[row] = atoll(sizes[2 + row]));
    }
    size_t count = tokens * heads.heads * heads.size;
    heads.lengths = lengths, heads.starts = starts;
    heads.query = take(count), heads.key = take(count), heads.value = take(count), heads.out = allocate(count * sizeof(float));
    for (size_t row = 0; row < rows; row++)
        for (size_t head = 0; head < heads.heads; head++)
            if (!(lengths[row] < 64 ? generic.attend : generic.attend_long)(&heads, row, head)) exit(5);
    fwrite(heads.out, sizeof(float), count, stdout);
}

int main(int count, char **words) {
    if (count > 3 && !strcmp(words[1], "attend"))
        compute_attention(words + 2, (size_t)count - 4);
    else if (count == 5 && !strcmp(words[1], "rows"))
        compute_rows(words + 2);
    else
        return 2;
    return 0;
}
