/* The part of ONNX Runtime's C API that the kernels use; the Python package has no header.

   Api is OrtApi, a table of functions whose order never changes: for each of its versions, ONNX Runtime asserts the
   place of the last function (core/session/onnxruntime_c_api.cc). The numbers are those places. The compiler checks
   them below. A status is NULL for success. */

#ifndef ONNXRUNTIME_H
#define ONNXRUNTIME_H

#include <stddef.h>
#include <stdint.h>

typedef struct Status Status;
typedef struct Value Value;
typedef struct Shape Shape;
typedef struct Context Context;
typedef struct KernelInfo KernelInfo;
typedef struct SessionOptions SessionOptions;
typedef struct Domain Domain;
typedef struct OperatorTable OperatorTable;

typedef struct {
    Status *(*error)(int code, const char *message); /* 0 */
    void *to_26[26 - 1];
    Status *(*create_domain)(const char *name, Domain **);    /* 26 */
    Status *(*add_operator)(Domain *, const OperatorTable *); /* 27 */
    Status *(*add_domain)(SessionOptions *, Domain *);        /* 28 */
    void *to_51[51 - 29];
    Status *(*data)(const Value *, void **); /* 51 */
    void *to_61[61 - 52];
    Status *(*rank)(const Shape *, size_t *);                /* 61 */
    Status *(*sizes)(const Shape *, int64_t *, size_t rank); /* 62 */
    void *to_65[65 - 63];
    Status *(*shape)(const Value *, Shape **); /* 65 */
    void *to_85[85 - 66];
    Status *(*float_attribute)(const KernelInfo *, const char *name, float *); /* 85 */
    Status *(*int_attribute)(const KernelInfo *, const char *name, int64_t *); /* 86 */
    void *to_90[90 - 87];
    Status *(*input)(const Context *, size_t index, const Value **);                         /* 90 */
    Status *(*output)(Context *, size_t index, const int64_t *sizes, size_t rank, Value **); /* 91 */
    void *to_99[99 - 92];
    void (*release_shape)(Shape *); /* 99 */
    void *to_249[249 - 100];
    Status *(*constant_input)(const KernelInfo *, size_t index, int *is_constant, const Value **); /* 249 */
    void *to_274[274 - 250];
    Status *(*parallel)(const Context *, void (*)(void *, size_t), size_t total, size_t parts, void *); /* 274 */
} Api;

typedef struct {
    const Api *(*api)(uint32_t version);
    const char *(*version)(void);
} ApiBase;

enum { FLOAT = 1, UINT8 = 2, INT8 = 3, INT64 = 7 };
enum { INVALID_ARGUMENT = 2 };
enum { TABLE_VERSION = 16 }; /* of an operator's table: it has the fields below, and no later ones */
enum { API_VERSION = 17 };   /* the first that has `parallel` */

struct OperatorTable {
    uint32_t version;
    void *(*create_before_16)(const OperatorTable *, const Api *, const KernelInfo *);
    const char *(*name)(const OperatorTable *);
    const char *(*provider)(const OperatorTable *); /* NULL: the CPU provider */
    int (*input_type)(const OperatorTable *, size_t index);
    size_t (*inputs)(const OperatorTable *);
    int (*output_type)(const OperatorTable *, size_t index);
    size_t (*outputs)(const OperatorTable *);
    void (*compute_before_16)(void *kernel, Context *);
    void (*destroy)(void *kernel);
    int (*input_kind)(const OperatorTable *, size_t index); /* 0: required */
    int (*output_kind)(const OperatorTable *, size_t index);
    int (*input_memory)(const OperatorTable *, size_t index); /* 0: where the operator runs */
    int (*variadic[4])(const OperatorTable *);                /* not called for operators without such inputs */
    Status *(*create)(const OperatorTable *, const Api *, const KernelInfo *, void **kernel);
    Status *(*compute)(void *kernel, Context *);
};

/* ---- the places, by the names of onnxruntime_c_api.h ---- */

#define AT(STRUCT, FIELD, PLACE, NAME)                                                                                 \
    _Static_assert(offsetof(STRUCT, FIELD) == (PLACE) * sizeof(void *),                                                \
                   #STRUCT "." #FIELD " is not at " #PLACE ", " NAME)

_Static_assert(sizeof(void (*)(void)) == sizeof(void *), "tables of functions have places of another size");
AT(Api, error, 0, "CreateStatus");
AT(Api, create_domain, 26, "CreateCustomOpDomain");
AT(Api, add_operator, 27, "CustomOpDomain_Add");
AT(Api, add_domain, 28, "AddCustomOpDomain");
AT(Api, data, 51, "GetTensorMutableData");
AT(Api, rank, 61, "GetDimensionsCount");
AT(Api, sizes, 62, "GetDimensions");
AT(Api, shape, 65, "GetTensorTypeAndShape");
AT(Api, float_attribute, 85, "KernelInfoGetAttribute_float");
AT(Api, int_attribute, 86, "KernelInfoGetAttribute_int64");
AT(Api, input, 90, "KernelContext_GetInput");
AT(Api, output, 91, "KernelContext_GetOutput");
AT(Api, release_shape, 99, "ReleaseTensorTypeAndShapeInfo");       /* two before the last of version 1 */
AT(Api, constant_input, 249, "KernelInfoGetConstantInput_tensor"); /* five before the last of version 15 */
AT(Api, parallel, 274, "KernelContext_ParallelFor");               /* one before the last of version 17 */

AT(ApiBase, api, 0, "GetApi");
AT(ApiBase, version, 1, "GetVersionString");

AT(OperatorTable, create_before_16, 1, "CreateKernel"); /* after `version`, which is padded to the size of a pointer */
AT(OperatorTable, name, 2, "GetName");
AT(OperatorTable, provider, 3, "GetExecutionProviderType");
AT(OperatorTable, input_type, 4, "GetInputType");
AT(OperatorTable, inputs, 5, "GetInputTypeCount");
AT(OperatorTable, output_type, 6, "GetOutputType");
AT(OperatorTable, outputs, 7, "GetOutputTypeCount");
AT(OperatorTable, compute_before_16, 8, "KernelCompute");
AT(OperatorTable, destroy, 9, "KernelDestroy");
AT(OperatorTable, input_kind, 10, "GetInputCharacteristic");
AT(OperatorTable, output_kind, 11, "GetOutputCharacteristic");
AT(OperatorTable, input_memory, 12, "GetInputMemoryType");
AT(OperatorTable, variadic, 13, "GetVariadicInputMinArity");
AT(OperatorTable, create, 17, "CreateKernelV2");
AT(OperatorTable, compute, 18, "KernelComputeV2");

#undef AT

#endif
