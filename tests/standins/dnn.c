/* libcudnn: graphs of operations become plans, and plans run. */

#include "standins.h"

#include <stdlib.h>

enum { PLAN = 5, VERSION = 92800 };  /* cudnnBackendDescriptorType_t */
enum { INT64 = 3, DESCRIPTOR = 15 }; /* cudnnBackendAttributeType_t */

typedef struct {
    Stream *stream;
} Handle;

typedef struct {
    int type;
} Descriptor;

EXPORT size_t cudnnGetVersion(void) { return VERSION; }

EXPORT size_t cudnnGetCudartVersion(void) { return 13000; }

EXPORT int cudnnGetProperty(int part, int *value) {
    const int PARTS[] = {VERSION / 10000, VERSION / 100 % 100, VERSION % 100};
    *value = PARTS[part];
    return SUCCESS;
}

EXPORT int cudnnCreate(Handle **handle) {
    *handle = calloc(1, sizeof **handle);
    return *handle ? SUCCESS : OUT_OF_MEMORY;
}

EXPORT int cudnnDestroy(Handle *handle) {
    free(handle);
    return SUCCESS;
}

EXPORT int cudnnSetStream(Handle *handle, Stream *stream) {
    handle->stream = stream;
    return SUCCESS;
}

EXPORT int cudnnGetStream(const Handle *handle, Stream **stream) {
    *stream = handle->stream;
    return SUCCESS;
}

EXPORT int cudnnBackendCreateDescriptor(int type, Descriptor **descriptor) {
    *descriptor = calloc(1, sizeof **descriptor);
    if (*descriptor) (*descriptor)->type = type;
    return *descriptor ? SUCCESS : OUT_OF_MEMORY;
}

EXPORT int cudnnBackendDestroyDescriptor(Descriptor *descriptor) {
    free(descriptor);
    return SUCCESS;
}

EXPORT int cudnnBackendFinalize(const Descriptor *descriptor) {
    if (descriptor->type == PLAN) log_event("plan", "", 0, NULL);
    return SUCCESS;
}

/* One of each that is asked for: one engine, no memory, no notes; a descriptor is there already. */
EXPORT int cudnnBackendGetAttribute(const Descriptor *descriptor, int name, int type, int64_t room, int64_t *count,
                                    void *values) {
    (void)descriptor, (void)name;
    if (count) *count = 1;
    if (values && room && type == INT64)
        *(int64_t *)values = 0;
    else if (values && room && type != DESCRIPTOR)
        *(int *)values = 0;
    return SUCCESS;
}

EXPORT int cudnnBackendExecute(const Handle *handle) {
    run_kernel("cudnn", handle->stream);
    return SUCCESS;
}

EXPORT const char *cudnnGetErrorString(int status) { return status ? "an error of a stand-in" : "success"; }

EXPORT void cudnnGetLastErrorString(char *message, size_t room) {
    if (room) *message = 0;
}

SUCCEEDS(cudnnAdvVersionCheck)
SUCCEEDS(cudnnBackendInitialize)
SUCCEEDS(cudnnBackendSetAttribute)
SUCCEEDS(cudnnCnnVersionCheck)
SUCCEEDS(cudnnGraphVersionCheck)
SUCCEEDS(cudnnOpsVersionCheck)
SUCCEEDS(cudnnQueryRuntimeError)
IS_MISSING(cudnnBackendPopulateCudaGraph)
IS_MISSING(cudnnBackendUpdateCudaGraph)
