/* A machine on which no block above 1 MiB is to be had, to be included before all else. */

#include <stdlib.h>

#define aligned_alloc(alignment, bytes) ((bytes) > 1 << 20 ? NULL : (aligned_alloc)(alignment, bytes))
