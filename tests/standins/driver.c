/* libcuda: says which devices there are, loads kernels that a library carries as files of machine code, and launches
 * them. */

#include "standins.h"

#include <string.h>

EXPORT int cuInit(unsigned flags) {
    (void)flags;
    return device_count() ? SUCCESS : NO_DEVICE;
}

EXPORT int cuDeviceGetCount(int *count) {
    *count = device_count();
    return SUCCESS;
}

EXPORT int cuDeviceGet(int *device, int number) {
    *device = number;
    return number < device_count() ? SUCCESS : INVALID_DEVICE;
}

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
    enum { MAJOR = 75, MINOR };
    if (attribute != MAJOR && attribute != MINOR) return log_missing("cuDeviceGetAttribute");
    *value = attribute == MAJOR ? capability() / 10 : capability() % 10;
    return device < device_count() ? SUCCESS : INVALID_DEVICE;
}

EXPORT int cuModuleGetFunction(char **function, void *module, const char *name) {
    (void)module;
    *function = strdup(name);
    return *function ? SUCCESS : OUT_OF_MEMORY;
}

typedef unsigned Size;

EXPORT int cuLaunchKernel(const char *function, Size x, Size y, Size z, Size block_x, Size block_y, Size block_z,
                          Size shared_bytes, Stream *stream) {
    (void)x, (void)y, (void)z, (void)block_x, (void)block_y, (void)block_z, (void)shared_bytes;
    run_kernel(function, stream);
    return SUCCESS;
}

EXPORT int cuGetErrorString(int error, const char **text) {
    *text = error ? "an error of a stand-in" : "no error";
    return SUCCESS;
}

EXPORT int cuGetErrorName(int error, const char **text) { return cuGetErrorString(error, text); }

SUCCEEDS(cuFuncSetAttribute)
SUCCEEDS(cuFuncSetCacheConfig)
SUCCEEDS(cuModuleLoadData)
SUCCEEDS(cuModuleUnload)
SUCCEEDS(cuTensorMapEncodeTiled)
IS_MISSING(cuLaunchCooperativeKernel)
IS_MISSING(cuLinkAddData_v2)
IS_MISSING(cuLinkAddFile_v2)
IS_MISSING(cuLinkComplete)
IS_MISSING(cuLinkCreate_v2)
IS_MISSING(cuLinkDestroy)
IS_MISSING(cuModuleGetGlobal_v2)
