/* Kernels: their names, and the devices that they were compiled for, out of the tables that the compiler of CUDA writes
   into a library. A kernel without machine code for the device does not start, as on a real one. */

#include "standins.h"

enum { MAX_KERNELS = 1 << 16, CONTAINER = (int)0xBA55ED50, MACHINE_CODE = 2 };

/* What the compiler writes; the fields that nobody here reads are left out. */
typedef struct {
    int magic, version;
    const char *container;
} Wrapper;

typedef struct {
    uint32_t magic;
    uint16_t version, header;
    uint64_t bytes;
} Container;

typedef struct {
    uint16_t kind, version;
    uint32_t header;
    uint64_t bytes;
    uint32_t sizes[3], capability;
} Image;

typedef struct {
    const void *address;
    const char *name;
    int runs;
} Kernel;

static Kernel kernels[MAX_KERNELS];
static int no = 0, yes = 1;

/* Code for 8.0 runs on 8.6, and not on 9.0. */
static int fits(const Image *image) {
    int made_for = (int)image->capability;
    return image->kind == MACHINE_CODE && made_for / 10 == capability() / 10 && made_for <= capability();
}

static int has_code(const char *container) {
    const Container *about = (const Container *)container;
    const char *at = container + about->header, *end = at + about->bytes;
    for (const Image *image; about->magic == (uint32_t)CONTAINER && at < end; at += image->header + image->bytes)
        if (fits(image = (const Image *)at)) return 1;
    return 0;
}

static Kernel *place_of(const void *address) {
    size_t at = (uintptr_t)address / 16 % MAX_KERNELS;
    while (kernels[at].address && kernels[at].address != address) at = (at + 1) % MAX_KERNELS;
    return &kernels[at];
}

static int start(const void *address, Stream *stream) {
    const Kernel *kernel = place_of(address);
    if (!kernel->runs) return fail(NO_KERNEL_IMAGE);
    run_kernel(kernel->name, stream);
    return SUCCESS;
}

EXPORT void **__cudaRegisterFatBinary(const Wrapper *wrapper) {
    return (void **)(has_code(wrapper->container) ? &yes : &no);
}

EXPORT void __cudaRegisterFunction(void **library, const void *address, char *device_address, const char *name) {
    (void)device_address;
    *place_of(address) = (Kernel){.address = address, .name = name, .runs = *(const int *)library};
}

SUCCEEDS(__cudaRegisterFatBinaryEnd)
SUCCEEDS(__cudaUnregisterFatBinary)
SUCCEEDS(__cudaRegisterVar)

EXPORT int __cudaGetKernel(const void **kernel, const void *address) {
    *kernel = address;
    return SUCCESS;
}

typedef struct {
    unsigned x, y, z;
} Size;

typedef struct {
    Size grid, block;
    size_t shared_bytes;
    Stream *stream;
} Launch;

static __thread Launch pushed;

EXPORT unsigned __cudaPushCallConfiguration(Size grid, Size block, size_t shared_bytes, Stream *stream) {
    pushed = (Launch){grid, block, shared_bytes, stream};
    return 0;
}

EXPORT int __cudaPopCallConfiguration(Size *grid, Size *block, size_t *shared_bytes, Stream **stream) {
    *grid = pushed.grid, *block = pushed.block, *shared_bytes = pushed.shared_bytes, *stream = pushed.stream;
    return SUCCESS;
}

#define LAUNCHES(NAME)                                                                                                 \
    EXPORT int NAME(const void *address, Size grid, Size block, void **arguments, size_t shared_bytes,                 \
                    Stream *stream) {                                                                                  \
        (void)grid, (void)block, (void)arguments, (void)shared_bytes;                                                  \
        return start(address, stream);                                                                                 \
    }
LAUNCHES(__cudaLaunchKernel)
LAUNCHES(cudaLaunchKernel)
LAUNCHES(cudaLaunchCooperativeKernel)

EXPORT int cudaLaunchKernelExC(const Launch *launch, const void *address) { return start(address, launch->stream); }

typedef struct {
    size_t sizes[3];
    int max_threads, registers, ptx_version, binary_version, rest[25];
} Attributes;

EXPORT int cudaFuncGetAttributes(Attributes *attributes, const void *address) {
    *attributes = (Attributes){.max_threads = 1024, .registers = 64};
    attributes->ptx_version = attributes->binary_version = capability();
    return place_of(address)->runs ? SUCCESS : fail(NO_KERNEL_IMAGE);
}

EXPORT int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks) {
    *blocks = 2;
    return SUCCESS;
}

SUCCEEDS(cudaFuncSetAttribute)
SUCCEEDS(cudaKernelSetAttributeForDevice)
IS_MISSING(cudaLibraryGetKernel)
IS_MISSING(cudaLibraryLoadData)
IS_MISSING(cudaLibraryUnload)
