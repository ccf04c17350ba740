/* Simulates a machine that allocates no block above 1 MiB. Include it before everything else. */

#include <stdlib.h>

#define aligned_alloc(alignment, bytes) ((bytes) > 1 << 20 ? NULL : (aligned_alloc)(alignment, bytes))
