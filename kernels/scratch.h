/* Scratch memory for one part of an operator. It grows with the input, and a thread may have as little as 128 KiB of
   stack, so it is not on the stack. */

#ifndef SCRATCH_H
#define SCRATCH_H

#include <stddef.h>

enum { CACHE_LINE = 64 };

/* `bytes` of undefined content, aligned to a cache line; NULL without memory. A thread may hold one block at
   a time and must return it. */
void *take_scratch(size_t bytes);
void give_back_scratch(void *memory);

/* `count`, rounded up to a multiple of `unit`. */
static inline size_t whole(size_t count, size_t unit) { return (count + unit - 1) / unit * unit; }

#endif
