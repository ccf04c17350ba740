/* Devices, streams and events. */

#include "standins.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* ---- errors ---- */

static __thread int last_error;

int fail(int error) { return last_error = error; }

EXPORT int cudaPeekAtLastError(void) { return last_error; }

EXPORT int cudaGetLastError(void) {
    int error = last_error;
    last_error = SUCCESS;
    return error;
}

EXPORT const char *cudaGetErrorString(int error) {
    return error == NO_KERNEL_IMAGE ? "no kernel image is available for execution on the device"
           : error == NO_DEVICE     ? "no CUDA-capable device is detected"
           : error == OUT_OF_MEMORY ? "out of memory"
                                    : "an error of a stand-in";
}

EXPORT const char *cudaGetErrorName(int error) { return cudaGetErrorString(error); }

/* ---- devices ---- */

typedef struct {
    int capability, processors, shared_bytes, shared_bytes_by_choice;
} Model;

/* Bytes of shared memory of a multiprocessor, and of what a block may take of it. */
static const Model MODELS[] = {
    {70, 80, 98304, 98304},     /* V100 */
    {75, 40, 65536, 65536},     /* T4 */
    {80, 108, 167936, 166912},  /* A100 */
    {86, 84, 102400, 101376},   /* A40 */
    {89, 58, 102400, 101376},   /* L4 */
    {90, 132, 233472, 232448},  /* H100, H200 */
    {100, 148, 233472, 232448}, /* B200 */
    {120, 170, 102400, 101376}, /* RTX 5090 */
};

static Model model(void) {
    EACH (i, sizeof MODELS / sizeof *MODELS)
        if (MODELS[i].capability == capability()) return MODELS[i];
    abort();
}

enum { SHARED_BYTES = 49152, MAX_THREADS = 1024, REGISTERS = 65536, WARP = 32, VERSION = 13000 };

/* cudaDeviceProp of CUDA 13; the fields that nobody reads are zero. */
typedef struct {
    char name[256], identity[32];
    size_t memory, shared_bytes;
    int registers, warp;
    size_t pitch;
    int threads, block[3], grid[3];
    size_t constants;
    int major, minor;
    size_t textures[2];
    int processors, more_textures[43], concurrent, device[8], l2_bytes, l2_persistent, threads_of_processor, caches[3];
    size_t shared_bytes_of_processor;
    int registers_of_processor, host[9];
    size_t shared_bytes_by_choice;
    int rest[82];
} Properties;
_Static_assert(offsetof(Properties, major) == 360 && offsetof(Properties, concurrent) == 560, "as in driver_types.h");
_Static_assert(offsetof(Properties, threads_of_processor) == 604, "as in driver_types.h");
_Static_assert(offsetof(Properties, shared_bytes_of_processor) == 624, "as in driver_types.h");
_Static_assert(offsetof(Properties, shared_bytes_by_choice) == 672 && sizeof(Properties) == 1008, "the same");

EXPORT int cudaGetDeviceProperties(Properties *properties, int device) {
    Model known = model();
    if (device >= device_count()) return fail(INVALID_DEVICE);
    *properties = (Properties){.name = "stand-in", .memory = memory_of_device(), .shared_bytes = SHARED_BYTES};
    properties->registers = properties->registers_of_processor = REGISTERS;
    properties->warp = WARP, properties->threads = MAX_THREADS, properties->threads_of_processor = 2 * MAX_THREADS;
    memcpy(properties->block, (int[]){1024, 1024, 64}, sizeof properties->block);
    memcpy(properties->grid, (int[]){INT32_MAX, 65535, 65535}, sizeof properties->grid);
    properties->major = known.capability / 10, properties->minor = known.capability % 10;
    properties->processors = known.processors, properties->concurrent = 1, properties->l2_bytes = 50 << 20;
    properties->shared_bytes_of_processor = (size_t)known.shared_bytes;
    properties->shared_bytes_by_choice = (size_t)known.shared_bytes_by_choice;
    return SUCCESS;
}

EXPORT int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    Model known = model();
    const int VALUES[][2] = {
        {1, MAX_THREADS},
        {8, SHARED_BYTES},
        {10, WARP},
        {12, REGISTERS},
        {16, known.processors},
        {39, 2 * MAX_THREADS},
        {75, known.capability / 10},
        {76, known.capability % 10},
        {81, known.shared_bytes},
        {95, 1},
        {97, known.shared_bytes_by_choice},
        {115, 1},
    };
    EACH (i, sizeof VALUES / sizeof *VALUES)
        if (VALUES[i][0] == attribute)
            return *value = VALUES[i][1], device < device_count() ? SUCCESS : fail(INVALID_DEVICE);
    log_event("missing", "cudaDeviceGetAttribute", attribute, NULL);
    return fail(INVALID_VALUE);
}

EXPORT int cudaGetDeviceCount(int *count) {
    *count = device_count();
    return *count ? SUCCESS : fail(NO_DEVICE);
}

EXPORT int cudaGetDevice(int *device) {
    *device = current_device;
    return device_count() ? SUCCESS : fail(NO_DEVICE);
}

EXPORT int cudaSetDevice(int device) {
    if (device < 0 || device >= device_count()) return fail(device_count() ? INVALID_DEVICE : NO_DEVICE);
    current_device = device;
    return SUCCESS;
}

EXPORT int cudaDriverGetVersion(int *version) { return *version = VERSION, SUCCESS; }

EXPORT int cudaRuntimeGetVersion(int *version) { return *version = VERSION, SUCCESS; }

EXPORT int cudaDeviceSynchronize(void) {
    log_event("wait", "device", 0, NULL);
    flush_log();
    sleep_until(end_of_device());
    return SUCCESS;
}

EXPORT int cudaGetDriverEntryPointByVersion(const char *name, void **found, unsigned version, uint64_t flags,
                                            int *result) {
    (void)version, (void)flags;
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY);
    *found = driver ? dlsym(driver, name) : NULL;
    if (result) *result = !*found;
    return SUCCESS;
}

/* ---- streams ---- */

EXPORT int cudaStreamCreate(Stream **stream) {
    static int count;
    *stream = calloc(1, sizeof **stream);
    if (!*stream) return OUT_OF_MEMORY;
    **stream = (Stream){.number = __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED), .device = current_device};
    log_event("stream", "", 0, *stream);
    return SUCCESS;
}

EXPORT int cudaStreamCreateWithFlags(Stream **stream) { return cudaStreamCreate(stream); }

/* Work may refer to it in the log of another thread, so that it is kept. */
SUCCEEDS(cudaStreamDestroy)

EXPORT int cudaStreamSynchronize(Stream *stream) {
    log_event("wait", "stream", 0, stream);
    flush_log();
    sleep_until(end_of_stream(stream));
    return SUCCESS;
}

EXPORT int cudaStreamIsCapturing(Stream *stream, int *status) {
    (void)stream;
    return *status = 0, SUCCESS;
}

/* All that is before it is done as far as the host can see. */
EXPORT int cudaLaunchHostFunc(Stream *stream, void (*call)(void *), void *data) {
    log_event("call", "", 0, stream);
    call(data);
    return SUCCESS;
}

IS_MISSING(cudaStreamBeginCapture)
IS_MISSING(cudaStreamEndCapture)
IS_MISSING(cudaGraphInstantiate)
IS_MISSING(cudaGraphLaunch)
SUCCEEDS(cudaGraphDestroy)
SUCCEEDS(cudaGraphExecDestroy)

/* ---- events ---- */

typedef struct {
    Time time;
} Event;

EXPORT int cudaEventCreate(Event **event) {
    *event = calloc(1, sizeof **event);
    return *event ? SUCCESS : OUT_OF_MEMORY;
}

EXPORT int cudaEventCreateWithFlags(Event **event) { return cudaEventCreate(event); }

EXPORT int cudaEventDestroy(Event *event) {
    free(event);
    return SUCCESS;
}

EXPORT int cudaEventRecord(Event *event, Stream *stream) {
    event->time = end_of_stream(stream);
    return SUCCESS;
}

EXPORT int cudaEventRecordWithFlags(Event *event, Stream *stream) { return cudaEventRecord(event, stream); }

EXPORT int cudaEventSynchronize(Event *event) {
    log_event("wait", "event", 0, NULL);
    flush_log();
    sleep_until(event->time);
    return SUCCESS;
}

EXPORT int cudaStreamWaitEvent(Stream *stream, Event *event) {
    delay_stream(stream, event->time);
    return SUCCESS;
}

EXPORT int cudaEventElapsedTime(float *milliseconds, Event *first, Event *second) {
    *milliseconds = (float)(second->time - first->time) / 1e6f;
    return SUCCESS;
}
