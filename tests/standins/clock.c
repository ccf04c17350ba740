#include "standins.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>

#define MAX(A, B) ((A) > (B) ? (A) : (B))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Stream defaults[MAX_DEVICES];
static Time all_done[MAX_DEVICES];

__thread int current_device;

Time now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (Time)time.tv_sec * 1000000000 + time.tv_nsec;
}

static Stream *stream_or_default(Stream *stream) {
    if (stream) return stream;
    defaults[current_device].device = current_device;
    return &defaults[current_device];
}

Time end_of_stream(const Stream *stream) { return stream ? stream->free : defaults[current_device].free; }

Time end_of_device(void) { return all_done[current_device]; }

void delay_stream(Stream *stream, Time until) {
    pthread_mutex_lock(&lock);
    stream = stream_or_default(stream);
    stream->free = MAX(stream->free, until);
    pthread_mutex_unlock(&lock);
}

void sleep_until(Time end) {
    struct timespec time = {.tv_sec = end / 1000000000, .tv_nsec = end % 1000000000};
    if (end > now()) clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

/* `entry` has a stream, and says what it takes. */
static void run(Entry entry, Stream *stream, Time takes) {
    pthread_mutex_lock(&lock);
    stream = stream_or_default(stream);
    entry.stream = stream;
    entry.asked = now();
    entry.start = MAX(entry.asked, stream->free);
    entry.end = stream->free = entry.start + takes;
    all_done[stream->device] = MAX(all_done[stream->device], entry.end);
    write_log(entry);
    pthread_mutex_unlock(&lock);
}

void run_copy(const char *direction, size_t bytes, Stream *stream) {
    run((Entry){.what = "copy", .name = direction, .amount = (double)bytes}, stream, time_of_copy(bytes));
}

void run_kernel(const char *name, Stream *stream) {
    run((Entry){.what = "kernel", .name = name}, stream, time_of_kernel());
}

void run_product(size_t rows, size_t columns, size_t depth, size_t count, Stream *stream) {
    char name[96];
    double multiply_adds = (double)rows * (double)columns * (double)depth * (double)count;
    snprintf(name, sizeof name, "%zux%zux%zu*%zu", rows, columns, depth, count);
    run((Entry){.what = "product", .name = name, .amount = multiply_adds}, stream, time_of_product(multiply_adds));
}
