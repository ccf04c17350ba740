#include "standins.h"

#include <stdlib.h>

static double number(const char *name, double otherwise) {
    const char *value = getenv(name);
    return value ? atof(value) : otherwise;
}

int capability(void) { return (int)number("STANDIN_CAPABILITY", 90); }

int device_count(void) { return (int)number("STANDIN_DEVICES", 1); }

size_t memory_of_device(void) { return (size_t)(number("STANDIN_GIB", 141) * (1 << 30)); }

static Time at_rate(double amount, const char *name, double unit) {
    double rate = number(name, 0); /* none: it takes no time */
    return rate > 0 ? (Time)(1e9 * amount / (rate * unit)) : 0;
}

Time time_of_kernel(void) { return (Time)(1000 * number("STANDIN_KERNEL_US", 0)); }

Time time_of_product(double multiply_adds) {
    return time_of_kernel() + at_rate(2 * multiply_adds, "STANDIN_TFLOPS", 1e12);
}

Time time_of_copy(size_t bytes) { return at_rate((double)bytes, "STANDIN_GB_PER_S", 1e9); }
