/* Runs the `generic` kernels on what it reads, for a processor without ONNX Runtime.

   rows KIND COUNT WIDTH: floats of each input, in the order of vectors.h -> each output
   attend HEADS SIZE LENGTH...: floats of query, key and value -> the output */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

extern const Vectors generic;

/* One letter per input and output, as in operators.h. */
static const char *const INPUTS[ROW_KINDS] = {"PSW", "P", "PSRWWW", "PSW"}, *const OUTPUTS[ROW_KINDS] = {"R", "BS", "RBS", "BS"};

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
    const char *inputs = INPUTS[rows.kind], *outputs = OUTPUTS[rows.kind];
    float *scratch = allocate(rows.width * sizeof *scratch);
    rows.epsilon = 1e-12f;
    for (size_t i = 0; inputs[i]; i++) rows.in[i] = take(count_of(inputs[i], &rows));
    for (size_t i = 0; outputs[i]; i++) rows.out[i] = allocate(count_of(outputs[i], &rows) * sizeof(float));
    for (size_t row = 0; row < rows.count; row++)
        generic.row[rows.kind](&rows, rows.in[0] + row * rows.width, row, scratch);
    for (size_t i = 0; outputs[i]; i++)
        fwrite(rows.out[i], outputs[i] == 'B' ? 1 : sizeof(float), count_of(outputs[i], &rows), stdout);
}

static void compute_attention(char **sizes, size_t rows) {
    Attention attention = {.rows = rows, .heads = strtoul(sizes[0], NULL, 10), .size = strtoul(sizes[1], NULL, 10)};
    int64_t *lengths = allocate(rows * sizeof *lengths);
    size_t *starts = allocate(rows * sizeof *starts), tokens = 0;
    for (size_t row = 0; row < rows; row++) {
        starts[row] = tokens;
        tokens += (size_t)(lengths[row] = atoll(sizes[2 + row]));
    }
    size_t count = tokens * attention.heads * attention.size;
    attention.lengths = lengths, attention.starts = starts;
    attention.query = take(count), attention.key = take(count), attention.value = take(count), attention.out = allocate(count * sizeof(float));
    for (size_t row = 0; row < rows; row++)
        for (size_t head = 0; head < attention.heads; head++)
            if (!(lengths[row] < 64 ? generic.attend : generic.attend_long)(&attention, row, head)) exit(5);
    fwrite(attention.out, sizeof(float), count, stdout);
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
