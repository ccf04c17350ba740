/* What the stand-ins share. It lives in libcudart.so.13, to which the others link.

   Each kernel, product and copy starts when it was asked for and its stream is free. It takes the time that the
   environment sets (settings.c). Whoever waits for it sleeps. Streams do not slow each other down. */

#pragma once

#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define EACH(INDEX, COUNT) for (size_t INDEX = 0; INDEX < (COUNT); INDEX++)

/* Functions that have nothing to do, and those that no test has needed: they say so in the log and fail. */
#define SUCCEEDS(NAME)                                                                                                 \
    EXPORT int NAME(void) { return 0; }
#define IS_MISSING(NAME)                                                                                               \
    EXPORT int NAME(void) { return log_missing(#NAME); }

/* cudaError_t, of CUDA's driver_types.h */
enum { SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE = 100, INVALID_DEVICE, NO_KERNEL_IMAGE = 209, MISSING = 801 };

enum { MAX_DEVICES = 8 };

typedef int64_t Time; /* nanoseconds of the monotonic clock */

typedef struct {
    int number, device;
    Time free; /* when all that was put into it is done */
} Stream;

/* settings.c */
int capability(void);
int device_count(void);
size_t memory_of_device(void);
Time time_of_kernel(void);
Time time_of_product(double multiply_adds);
Time time_of_copy(size_t bytes);

/* clock.c; NULL is the default stream of the current device */
extern __thread int current_device;
Time now(void);
Time end_of_stream(const Stream *stream);
Time end_of_device(void);
void delay_stream(Stream *stream, Time until);
void sleep_until(Time end);
void run_copy(const char *direction, size_t bytes, Stream *stream);
EXPORT void run_kernel(const char *name, Stream *stream);
EXPORT void run_product(size_t rows, size_t columns, size_t depth, size_t count, Stream *stream);

/* runtime.c; keeps an error for cudaGetLastError, and returns it */
int fail(int error);

/* log.c; a line: what, name, amount, device, stream, and the times of the call, the start and the end */
typedef struct {
    const char *what, *name;
    double amount;
    const Stream *stream;
    Time asked, start, end;
} Entry;

EXPORT void write_log(Entry entry);
EXPORT void log_event(const char *what, const char *name, double amount, const Stream *stream);
EXPORT int log_missing(const char *name);
void flush_log(void);
