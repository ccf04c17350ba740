/* libcublas and libcublasLt: products that take time and compute nothing. Arguments behind the last one that is read
   are not declared. */

#include "standins.h"

#include <stdlib.h>

/* ---- libcublas ---- */

typedef struct {
    Stream *stream;
} Handle;

EXPORT int cublasCreate_v2(Handle **handle) {
    *handle = calloc(1, sizeof **handle);
    return *handle ? SUCCESS : OUT_OF_MEMORY;
}

EXPORT int cublasDestroy_v2(Handle *handle) {
    free(handle);
    return SUCCESS;
}

EXPORT int cublasSetStream_v2(Handle *handle, Stream *stream) {
    handle->stream = stream;
    return SUCCESS;
}

EXPORT int cublasGetMathMode(Handle *handle, int *mode) {
    (void)handle;
    *mode = 0;
    return SUCCESS;
}

static int multiply(const Handle *handle, int rows, int columns, int depth, int count) {
    run_product((size_t)rows, (size_t)columns, (size_t)depth, (size_t)count, handle->stream);
    return SUCCESS;
}

#define SIDES int left_turned, int right_turned, int rows, int columns, int depth
#define MATRIX const void *, int
#define TYPED const void *, int, int
#define STRIDED const void *, int, int64_t
#define TYPED_STRIDED const void *, int, int, int64_t
#define FACTOR const void *
#define PRODUCT(NAME, ...)                                                                                             \
    EXPORT int NAME(const Handle *handle, SIDES, ##__VA_ARGS__) {                                                      \
        (void)left_turned, (void)right_turned;                                                                         \
        return multiply(handle, rows, columns, depth, COUNT);                                                          \
    }

#define COUNT 1
PRODUCT(cublasSgemm_v2)
PRODUCT(cublasDgemm_v2)
PRODUCT(cublasGemmEx)
#undef COUNT
#define COUNT count
PRODUCT(cublasSgemmBatched, FACTOR, MATRIX, MATRIX, FACTOR, MATRIX, int count)
PRODUCT(cublasGemmBatchedEx, FACTOR, TYPED, TYPED, FACTOR, TYPED, int count)
PRODUCT(cublasSgemmStridedBatched, FACTOR, STRIDED, STRIDED, FACTOR, STRIDED, int count)
PRODUCT(cublasGemmStridedBatchedEx, FACTOR, TYPED_STRIDED, TYPED_STRIDED, FACTOR, TYPED_STRIDED, int count)
#undef COUNT

EXPORT const char *cublasGetStatusName(int status) { return status ? "an error of a stand-in" : "success"; }

EXPORT const char *cublasGetStatusString(int status) { return cublasGetStatusName(status); }

SUCCEEDS(cublasSetMathMode)
IS_MISSING(cublasDcopy_v2)
IS_MISSING(cublasDgeam)
IS_MISSING(cublasDgemmBatched)
IS_MISSING(cublasDgemmStridedBatched)
IS_MISSING(cublasDgetrfBatched)
IS_MISSING(cublasDgetriBatched)
IS_MISSING(cublasScopy_v2)
IS_MISSING(cublasSgeam)
IS_MISSING(cublasSgetrfBatched)
IS_MISSING(cublasSgetriBatched)
IS_MISSING(cublasSscal_v2)

/* ---- libcublasLt ---- */

typedef struct {
    size_t rows, columns, count;
} Layout;

EXPORT int cublasLtCreate(Handle **handle) { return cublasCreate_v2(handle); }

EXPORT int cublasLtDestroy(Handle *handle) { return cublasDestroy_v2(handle); }

EXPORT int cublasLtMatrixLayoutCreate(Layout **layout, int type, uint64_t rows, uint64_t columns) {
    (void)type;
    *layout = malloc(sizeof **layout);
    if (!*layout) return OUT_OF_MEMORY;
    **layout = (Layout){rows, columns, 1};
    return SUCCESS;
}

EXPORT int cublasLtMatrixLayoutSetAttribute(Layout *layout, int attribute, const void *value) {
    enum { BATCH_COUNT = 5 };
    if (attribute == BATCH_COUNT) layout->count = (size_t) * (const int32_t *)value;
    return SUCCESS;
}

EXPORT int cublasLtMatrixLayoutDestroy(Layout *layout) {
    free(layout);
    return SUCCESS;
}

/* Of a product and of what is preferred, nothing is kept. */
EXPORT int cublasLtMatmulDescCreate(void **description) {
    *description = malloc(1);
    return *description ? SUCCESS : OUT_OF_MEMORY;
}

EXPORT int cublasLtMatmulDescDestroy(void *description) {
    free(description);
    return SUCCESS;
}

EXPORT int cublasLtMatmulPreferenceCreate(void **preference) { return cublasLtMatmulDescCreate(preference); }

EXPORT int cublasLtMatmulPreferenceDestroy(void *preference) { return cublasLtMatmulDescDestroy(preference); }

EXPORT int cublasLtMatmulAlgoGetHeuristic(FACTOR, FACTOR, FACTOR, FACTOR, FACTOR, FACTOR, FACTOR, int asked, void *out,
                                          int *found) {
    (void)asked, (void)out;
    *found = 1;
    return SUCCESS;
}

/* Rows and columns are of the product; the depth is what is left of the left side. */
EXPORT int cublasLtMatmul(FACTOR, FACTOR, FACTOR, FACTOR, const Layout *left, FACTOR, FACTOR, FACTOR, FACTOR, FACTOR,
                          FACTOR, const Layout *product, FACTOR, FACTOR, size_t bytes, Stream *stream) {
    (void)bytes;
    run_product(product->rows, product->columns, left->rows * left->columns / product->rows, product->count, stream);
    return SUCCESS;
}

SUCCEEDS(cublasLtMatmulAlgoConfigSetAttribute)
SUCCEEDS(cublasLtMatmulAlgoInit)
SUCCEEDS(cublasLtMatmulDescSetAttribute)
SUCCEEDS(cublasLtMatmulPreferenceSetAttribute)
IS_MISSING(cublasLtMatrixTransform)
SUCCEEDS(cublasLtMatrixTransformDescCreate)
SUCCEEDS(cublasLtMatrixTransformDescDestroy)
