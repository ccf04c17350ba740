/* What the kernels need of ONNX Runtime's C interface, whose Python package brings no header.

   Api is OrtApi, a table of functions whose order never changes: ONNX Runtime asserts the place of the last of each of
   its versions (core/session/onnxruntime_c_api.cc). The numbers are those places. A status is NULL if all went well. */

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
enum { TABLE_VERSION = 16 }; /* what an operator's table has: the fields below, and no later ones */
enum { API_VERSION = 17 };   /* since when there is `parallel` */

struct OperatorTable {
    uint32_t version;
    void *(*create_before_16)(const OperatorTable *, const Api *, const KernelInfo *);
    const char *(*name)(const OperatorTable *);
    const char *(*provider)(const OperatorTable *); /* NULL: that of the CPU */
    int (*input_type)(const OperatorTable *, size_t index);
    size_t (*inputs)(const OperatorTable *);
    int (*output_type)(const OperatorTable *, size_t index);
    size_t (*outputs)(const OperatorTable *);
    void (*compute_before_16)(void *kernel, Context *);
    void (*destroy)(void *kernel);
    int (*input_kind)(const OperatorTable *, size_t index); /* 0: required */
    int (*output_kind)(const OperatorTable *, size_t index);
    int (*input_memory)(const OperatorTable *, size_t index); /* 0: where the operator runs */
    int (*variadic[4])(const OperatorTable *);                /* not asked of an operator that has no such inputs */
    Status *(*create)(const OperatorTable *, const Api *, const KernelInfo *, void **kernel);
    Status *(*compute)(void *kernel, Context *);
};

#endif
