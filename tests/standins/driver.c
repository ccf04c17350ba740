/* libcuda: loads kernels that a library carries as files of machine code, and launches them. */

#include "standins.h"

#include <string.h>

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
SUCCEEDS(cuInit)
SUCCEEDS(cuModuleLoadData)
SUCCEEDS(cuModuleUnload)
SUCCEEDS(cuTensorMapEncodeTiled)
IS_MISSING(cuDeviceGetAttribute)
IS_MISSING(cuLaunchCooperativeKernel)
IS_MISSING(cuLinkAddData_v2)
IS_MISSING(cuLinkAddFile_v2)
IS_MISSING(cuLinkComplete)
IS_MISSING(cuLinkCreate_v2)
IS_MISSING(cuLinkDestroy)
IS_MISSING(cuModuleGetGlobal_v2)
