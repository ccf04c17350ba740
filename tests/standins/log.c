#include "standins.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_LINE = 4096, ROOM = 1 << 20 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char buffer[ROOM];
static size_t filled;

/* Each process has a file of its own in the directory that STANDIN_LOG names. */
static int file(void) {
    static int found = -1;
    const char *directory = getenv("STANDIN_LOG");
    char path[MAX_LINE];
    if (found >= 0 || !directory) return found;
    snprintf(path, sizeof path, "%s/%d", directory, getpid());
    return found = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static void empty_buffer(void) {
    if (filled && file() >= 0 && write(file(), buffer, filled) != (ssize_t)filled) abort();
    filled = 0;
}

void flush_log(void) {
    pthread_mutex_lock(&lock);
    empty_buffer();
    pthread_mutex_unlock(&lock);
}

__attribute__((destructor)) static void end(void) { flush_log(); }

void write_log(Entry entry) {
    int device = entry.stream ? entry.stream->device : current_device, number = entry.stream ? entry.stream->number : 0;
    pthread_mutex_lock(&lock);
    if (filled + MAX_LINE > ROOM) empty_buffer();
    int length = snprintf(buffer + filled, MAX_LINE, "%s\t%.3000s\t%.0f\t%d\t%d\t%ld\t%ld\t%ld\n", entry.what,
                          entry.name, entry.amount, device, number, entry.asked, entry.start, entry.end);
    filled += (size_t)length;
    pthread_mutex_unlock(&lock);
}

void log_event(const char *what, const char *name, double amount, const Stream *stream) {
    Time time = now();
    write_log((Entry){what, name, amount, stream, time, time, time});
}

int log_missing(const char *name) {
    log_event("missing", name, 0, NULL);
    flush_log();
    return MISSING;
}
