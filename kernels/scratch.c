#include "scratch.h"

#include <pthread.h>
#include <stdlib.h>

/* Bytes. A thread keeps its block for the next call, unless the block is larger than usual rows need. */
enum { UNIT = 1 << 16, MAX_KEPT = 1 << 22 };

typedef struct {
    _Alignas(CACHE_LINE) size_t bytes; /* of the memory after this header */
} Block;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static int has_key;

/* The block of a thread is freed when the thread ends. */
static void create_key(void) { has_key = !pthread_key_create(&key, free); }

static Block *kept_block(void) {
    pthread_once(&once, create_key);
    return has_key ? pthread_getspecific(key) : NULL;
}

static Block *allocate(size_t bytes) {
    size_t size = whole(bytes, UNIT);
    Block *block = aligned_alloc(CACHE_LINE, sizeof *block + size);
    if (block) block->bytes = size;
    return block;
}

void *take_scratch(size_t bytes) {
    Block *kept = kept_block();
    if (kept && bytes <= kept->bytes) return kept + 1;
    Block *block = allocate(bytes);
    if (!block) return NULL;
    if (has_key && bytes <= MAX_KEPT && !pthread_setspecific(key, block)) free(kept);
    return block + 1;
}

void give_back_scratch(void *memory) {
    Block *block = (Block *)memory - 1;
    if (block != kept_block()) free(block);
}
