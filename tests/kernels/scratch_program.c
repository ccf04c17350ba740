/* Tests scratch.c by counting the blocks that it allocates and frees. Ends with 0 if all is right, and otherwise names
   the line. */

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int taken, freed, without_memory;

static void *count_taken(size_t alignment, size_t bytes) {
    if (without_memory) return NULL;
    __atomic_fetch_add(&taken, 1, __ATOMIC_SEQ_CST);
    return aligned_alloc(alignment, bytes);
}

static void count_freed(void *memory) {
    if (memory) __atomic_fetch_add(&freed, 1, __ATOMIC_SEQ_CST);
    free(memory);
}

#define aligned_alloc count_taken
#define free count_freed
#include "scratch.c"

#define CHECK(RIGHT)                                                                                                   \
    if (!(RIGHT)) printf("line %d: %s\n", __LINE__, #RIGHT), exit(1)

/* Write to all of a block; return its address. */
static void *use(size_t bytes) {
    void *memory = take_scratch(bytes);
    CHECK(memory && (uintptr_t)memory % CACHE_LINE == 0);
    memset(memory, 0x5a, bytes);
    give_back_scratch(memory);
    return memory;
}

static void *work(void *unused) {
    use(0);
    for (size_t bytes = 1; bytes < 64 << 20; bytes *= 3) use(bytes);
    return unused;
}

static void work_on_threads(void) {
    pthread_t threads[8];
    for (int i = 0; i < 8; i++) CHECK(!pthread_create(&threads[i], NULL, work, NULL));
    for (int i = 0; i < 8; i++) CHECK(!pthread_join(threads[i], NULL));
    CHECK(taken > 8 && taken == freed);
}

int main(void) {
    work_on_threads();
    taken = freed = 0;
    void *first = use(100);
    CHECK(use(100) == first && use(MAX_KEPT / 2) && taken == 2 && freed == 1); /* kept, then replaced by a larger one */
    use(100);
    CHECK(taken == 2);
    use(MAX_KEPT + 1);
    CHECK(taken == 3 && freed == 2); /* too large to keep */
    without_memory = 1;
    CHECK(!take_scratch(MAX_KEPT) && use(MAX_KEPT / 2)); /* what there was is still there */
}
