#include "operators.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const Api *api;
const Vectors *vectors;

/* Tests choose a level, without AMX: -DVECTORS=x86_64_v3 -DWITHOUT_AMX. */
#if defined(VECTORS)
extern const Vectors VECTORS;

static const Vectors *best_vectors(void) { return &VECTORS; }
#elif defined(__x86_64__)
extern const Vectors x86_64, x86_64_v3, x86_64_v4, x86_64_v4_vnni;

static const Vectors *best_vectors(void) {
    __builtin_cpu_init();
#define HAS(feature) __builtin_cpu_supports(feature)
    if (!HAS("avx2") || !HAS("fma") || !HAS("bmi2")) return &x86_64;
    int v4 = HAS("avx512f") && HAS("avx512bw") && HAS("avx512cd") && HAS("avx512dq") && HAS("avx512vl");
    return !v4 ? &x86_64_v3 : HAS("avx512vnni") ? &x86_64_v4_vnni : &x86_64_v4;
}
#else
extern const Vectors generic;

static const Vectors *best_vectors(void) { return &generic; }
#endif

/* ---- tensors ---- */

Status *refuse(const char *format, ...) {
    char reason[400];
    va_list values;
    va_start(values, format);
    vsnprintf(reason, sizeof reason, format, values);
    va_end(values);
    return api->error(INVALID_ARGUMENT, reason);
}

Status *read_tensor(const Value *value, Tensor *tensor) {
    Shape *shape;
    Status *status = api->shape(value, &shape);
    if (status) return status;
    if (!(status = api->rank(shape, &tensor->axes)))
        status = tensor->axes <= MAX_AXES ? api->sizes(shape, tensor->sizes, tensor->axes)
                                          : refuse("a tensor has more than 8 axes");
    api->release_shape(shape);
    if (status) return status;
    tensor->count = 1;
    for (size_t i = 0; i < tensor->axes; i++) tensor->count *= (size_t)tensor->sizes[i];
    return api->data(value, &tensor->data);
}

Status *read_input(const Context *context, size_t index, Tensor *tensor) {
    const Value *value;
    Status *status = api->input(context, index, &value);
    return status ? status : read_tensor(value, tensor);
}

Status *make_output(Context *context, size_t index, const Tensor *like, size_t last_size, void **data) {
    int64_t sizes[MAX_AXES];
    Value *value;
    memcpy(sizes, like->sizes, sizeof sizes);
    sizes[like->axes - 1] = (int64_t)last_size;
    Status *status = api->output(context, index, sizes, like->axes, &value);
    return status ? status : api->data(value, data);
}

/* ---- parts ---- */

void run_out_of_memory(int *out_of_memory) { __atomic_store_n(out_of_memory, 1, __ATOMIC_RELAXED); }

Status *run_parallel(const Context *context, void (*part)(void *, size_t), size_t parts, void *data,
                     const int *out_of_memory) {
    Status *status = parts ? api->parallel(context, part, parts, 0, data) : NULL;
    if (status || !__atomic_load_n(out_of_memory, __ATOMIC_RELAXED)) return status;
    return refuse(
        "out of memory for the scratch block of an operator; shorten the rows or give the process more memory");
}

/* ---- the table of functions that ONNX Runtime calls ---- */

typedef struct {
    const Operator *operator;
    void *own;
} Kernel;

static const Operator *of(const OperatorTable *table) { return (const Operator *)table; }

static int type_of(char letter) {
    return letter == 'B' || letter == 'Z' ? UINT8 : letter == 'I' ? INT8 : letter == 'L' ? INT64 : FLOAT;
}

static const char *name(const OperatorTable *table) { return of(table)->name; }
static const char *provider(const OperatorTable *table) { return (void)table, NULL; }
static int input_type(const OperatorTable *table, size_t index) { return type_of(of(table)->inputs[index]); }
static size_t inputs(const OperatorTable *table) { return strlen(of(table)->inputs); }
static int output_type(const OperatorTable *table, size_t index) { return type_of(of(table)->outputs[index]); }
static size_t outputs(const OperatorTable *table) { return strlen(of(table)->outputs); }
static int zero(const OperatorTable *table, size_t index) { return (void)table, (void)index, 0; }

static Status *create(const OperatorTable *table, const Api *same_api, const KernelInfo *info, void **made) {
    (void)same_api;
    Kernel *kernel = malloc(sizeof *kernel);
    if (!kernel) return refuse("out of memory for an operator");
    kernel->operator = of(table);
    Status *status = kernel->operator->create(kernel->operator, info, &kernel->own);
    if (status)
        free(kernel);
    else
        *made = kernel;
    return status;
}

static Status *compute(void *data, Context *context) {
    const Kernel *kernel = data;
    return kernel->operator->compute(kernel->operator, kernel->own, context);
}

static void destroy(void *data) {
    Kernel *kernel = data;
    kernel->operator->destroy(kernel->own);
    free(kernel);
}

static const OperatorTable TABLE = {
    .version = TABLE_VERSION,
    .name = name,
    .provider = provider,
    .input_type = input_type,
    .inputs = inputs,
    .output_type = output_type,
    .outputs = outputs,
    .destroy = destroy,
    .input_kind = zero,
    .output_kind = zero,
    .input_memory = zero,
    .create = create,
    .compute = compute,
};

static Status *add(Domain *domain, const Operator *operators, size_t count) {
    Status *status = NULL;
    for (size_t i = 0; !status && i < count; i++) {
        Operator *operator = malloc(sizeof *operator); /* lives as long as the process */
        if (!operator) return refuse("out of memory for an operator");
        *operator = operators[i];
        operator->table = TABLE;
        status = api->add_operator(domain, &operator->table);
    }
    return status;
}

static Status *create_domain(Domain **domain) {
    Status *status;
    if ((status = api->create_domain("bertheads", domain)) || (status = add(*domain, ROW_OPERATORS, ROW_KINDS)) ||
        (status = add(*domain, &PACKED_ATTENTION, 1)))
        return status;
    return has_products() ? add(*domain, LINEAR_OPERATORS, LINEAR_KINDS) : NULL;
}

/* An ONNX Runtime without API_VERSION still has version 1, in which `error` has the same place. */
static Status *refuse_version(const ApiBase *base) {
    if (!(api = base->api(1))) return NULL; /* no error can be reported; the session then lacks our operators */
    Status *status = refuse("ONNX Runtime %s has no version %d of its C interface, which the kernels need; "
                            "install ONNX Runtime 1.%d or later",
                            base->version(), API_VERSION, API_VERSION);
    api = NULL;
    return status;
}

static Status *register_once(SessionOptions *options, const ApiBase *base) {
    static Domain *domain; /* lives as long as the process */
    Domain *made = NULL;
    if (!domain) {
        const Api *found = base->api(API_VERSION);
        if (!found) return refuse_version(base);
        api = found;
        vectors = best_vectors();
        Status *status = create_domain(&made);
        if (status) return status;
        domain = made;
    }
    return api->add_domain(options, domain);
}

/* ONNX Runtime calls this with the options of each session, on any thread. */
__attribute__((visibility("default"))) Status *RegisterCustomOps(SessionOptions *options, const ApiBase *base) {
    static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
    if (!base || !base->api || !base->version) return NULL;
    pthread_mutex_lock(&one_at_a_time);
    Status *status = register_once(options, base);
    pthread_mutex_unlock(&one_at_a_time);
    return status;
}
