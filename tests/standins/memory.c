/* Memory of the device is memory of the machine, so that copies are real; addresses are looked up in a list. */

#include "standins.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 256 };
enum { UNREGISTERED, HOST, DEVICE }; /* cudaMemoryType */
enum { TO_DEVICE = 1, TO_HOST };     /* cudaMemcpyKind */

static const char *const DIRECTIONS[] = {"HtoH", "HtoD", "DtoH", "DtoD", "any"};

typedef struct Block {
    struct Block *next;
    void *start;
    size_t bytes;
    int kind, device;
} Block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Block *blocks;
static size_t taken[MAX_DEVICES];

/* Filled with zeros: what the kernels do not write is the same in each run. */
static void *align(Block *block) { return (void *)(((uintptr_t)(block + 1) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT); }

static int take(void **memory, size_t bytes, int kind) {
    int device = current_device;
    pthread_mutex_lock(&lock);
    int fits = kind == HOST || taken[device] + bytes <= memory_of_device();
    Block *block = fits ? calloc(1, sizeof *block + ALIGNMENT + bytes) : NULL;
    if (block) {
        *block = (Block){blocks, align(block), bytes, kind, device};
        blocks = block, *memory = block->start;
        if (kind == DEVICE) taken[device] += bytes;
    }
    pthread_mutex_unlock(&lock);
    log_event(kind == HOST ? "pin" : "take", block ? "" : "refused", (double)bytes, NULL);
    return block ? SUCCESS : fail(OUT_OF_MEMORY);
}

static int give_back(void *memory) {
    pthread_mutex_lock(&lock);
    Block **at = &blocks, *found;
    while (*at && (*at)->start != memory) at = &(*at)->next;
    if ((found = *at)) {
        *at = found->next;
        if (found->kind == DEVICE) taken[found->device] -= found->bytes;
    }
    pthread_mutex_unlock(&lock);
    if (found) log_event(found->kind == HOST ? "unpin" : "give back", "", (double)found->bytes, NULL);
    free(found);
    return found || !memory ? SUCCESS : fail(INVALID_VALUE);
}

static Block find(const void *address) {
    Block found = {.kind = UNREGISTERED};
    pthread_mutex_lock(&lock);
    for (Block *block = blocks; block && !found.start; block = block->next)
        if ((size_t)((const char *)address - (char *)block->start) < block->bytes) found = *block;
    pthread_mutex_unlock(&lock);
    return found;
}

EXPORT int cudaMalloc(void **memory, size_t bytes) { return take(memory, bytes, DEVICE); }

EXPORT int cudaMallocFromPoolAsync(void **memory, size_t bytes) { return take(memory, bytes, DEVICE); }

EXPORT int cudaMallocHost(void **memory, size_t bytes) { return take(memory, bytes, HOST); }

EXPORT int cudaHostAlloc(void **memory, size_t bytes) { return take(memory, bytes, HOST); }

EXPORT int cudaFreeAsync(void *memory) { return give_back(memory); }

EXPORT int cudaFreeHost(void *memory) { return give_back(memory); }

/* It waits for all that the device was given. */
EXPORT int cudaFree(void *memory) {
    sleep_until(end_of_device());
    return give_back(memory);
}

EXPORT int cudaMemGetInfo(size_t *free_bytes, size_t *bytes) {
    *bytes = memory_of_device();
    *free_bytes = *bytes - taken[current_device];
    return SUCCESS;
}

typedef struct {
    int kind, device;
    const void *on_device, *on_host;
    long reserved[8];
} Pointer;

EXPORT int cudaPointerGetAttributes(Pointer *pointer, const void *address) {
    Block block = find(address);
    *pointer = (Pointer){.kind = block.kind, .device = block.device, .on_host = address};
    if (block.kind) pointer->on_device = address;
    return SUCCESS;
}

static int wait_for(Stream *stream, const char *why) {
    log_event("wait", why, 0, stream);
    flush_log();
    sleep_until(end_of_stream(stream));
    return SUCCESS;
}

EXPORT int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, Stream *stream) {
    memmove(to, from, bytes);
    run_copy(DIRECTIONS[kind], bytes, stream);
    /* As CUDA does: what goes to memory that is not pinned is there when the call returns. */
    return kind == TO_HOST && find(to).kind == UNREGISTERED ? wait_for(stream, "copy") : SUCCESS;
}

EXPORT int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) {
    memmove(to, from, bytes);
    run_copy(DIRECTIONS[kind], bytes, NULL);
    return wait_for(NULL, "copy");
}

EXPORT int cudaMemcpy2DAsync(char *to, size_t to_step, const char *from, size_t from_step, size_t width, size_t rows,
                             int kind, Stream *stream) {
    EACH (row, rows) memmove(to + row * to_step, from + row * from_step, width);
    run_copy(DIRECTIONS[kind], width * rows, stream);
    return kind == TO_HOST && find(to).kind == UNREGISTERED ? wait_for(stream, "copy") : SUCCESS;
}

EXPORT int cudaMemsetAsync(void *memory, int value, size_t bytes, Stream *stream) {
    memset(memory, value, bytes);
    run_kernel("memset", stream);
    return SUCCESS;
}

EXPORT int cudaMemset(void *memory, int value, size_t bytes) { return cudaMemsetAsync(memory, value, bytes, NULL); }

EXPORT int cudaMemPoolCreate(void **pool) {
    *pool = &blocks;
    return SUCCESS;
}

EXPORT int cudaMemPoolGetAttribute(void *pool, int attribute, uint64_t *value) {
    (void)pool, (void)attribute;
    *value = 0;
    return SUCCESS;
}

SUCCEEDS(cudaMemPoolDestroy)
SUCCEEDS(cudaMemPoolSetAttribute)
SUCCEEDS(cudaMemPoolTrimTo)
IS_MISSING(cudaMemcpyFromSymbol)
