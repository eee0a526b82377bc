/* CUDA runtime that answers questions about a GPU which is not there, and computes nothing.
 *
 * Loaded before torch, it takes the place of the functions of libcudart, libcublas, libcublasLt and
 * libcuda that torch, triton and Transformer Engine call. What it does not define goes to the real
 * libraries, which refuse for want of a driver. Three rules:
 *
 *   - Questions (devices, capability, streams, events, occupancy) are answered as by a GPU.
 *   - Memory of the device is reserved address space that nobody can read, and a copy to the host
 *     is refused. No result is ever pretended.
 *   - Kernels and matrix products are refused (cudaErrorNotSupported), or, between
 *     absent_gpu_drop(1) and absent_gpu_drop(0), counted and dropped: shapes, types, arguments and
 *     the host's own checks are then those of a GPU, and every value stays unknown.
 */
#define _GNU_SOURCE
/* The header of 16-bit floats needs C++ headers that the learner's environment does not have. */
#define __CUDA_FP16_H__
#define __CUDA_BF16_H__
typedef struct {
  unsigned short bits;
} __half;
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { KERNELS, PRODUCTS, FILLS, COPIES_IN, COPIES_REFUSED, NUM_COUNTS };

#define NUM_DEVICES 8
#define NUM_SMS 132
#define SHARED_OPTIN (227 * 1024)
#define MEMORY ((size_t)141 << 30)
#define DEVICE_SPACE ((size_t)1 << 43)
#define PINNED_SPACE ((size_t)1 << 36)

static int major_ = 9, minor_ = 0, drops, device;
static long counts[NUM_COUNTS];
static char *device_space, *pinned_space;
static size_t device_used, pinned_used;
static cudaError_t last_error;
static const char *refused = "nothing";

static cudaError_t fail(cudaError_t error, const char *what) {
  last_error = error;
  refused = what;
  return error;
}

static cudaError_t launch(int kind, const char *what) {
  if (!drops) return fail(cudaErrorNotSupported, what);
  __atomic_add_fetch(&counts[kind], 1, __ATOMIC_RELAXED);
  return cudaSuccess;
}

static cublasStatus_t multiply(const char *what) {
  return launch(PRODUCTS, what) == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

static int in(const void *pointer, const char *space, size_t size) {
  return space && (const char *)pointer >= space && (const char *)pointer < space + size;
}

static int on_device(const void *pointer) { return in(pointer, device_space, DEVICE_SPACE); }

static cudaError_t take(void **pointer, size_t size, char **space, size_t *used, size_t limit,
                        int protection) {
  size = (size + 511) & ~(size_t)511;
  if (!*space) {
    *space = mmap(NULL, limit, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*space == MAP_FAILED) abort();
  }
  size_t start = __atomic_fetch_add(used, size, __ATOMIC_RELAXED);
  if (start + size > limit) return fail(cudaErrorMemoryAllocation, "memory");
  *pointer = *space + start;
  return cudaSuccess;
}

/* For the tests. */
void absent_gpu_capability(int major, int minor) { major_ = major, minor_ = minor; }
void absent_gpu_drop(int is_dropping) { drops = is_dropping; }
long absent_gpu_count(int kind) { return counts[kind]; }
const char *absent_gpu_refused(void) { return refused; }

/* Questions. */
cudaError_t cudaGetDeviceCount(int *count) { return *count = NUM_DEVICES, cudaSuccess; }
cudaError_t cudaGetDevice(int *which) { return *which = device, cudaSuccess; }
cudaError_t cudaSetDevice(int which) {
  if (which < 0 || which >= NUM_DEVICES) return fail(cudaErrorInvalidDevice, "device");
  return device = which, cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *it, int which) {
  memset(it, 0, sizeof *it);
  strcpy(it->name, "absent GPU");
  it->totalGlobalMem = MEMORY, it->major = major_, it->minor = minor_;
  it->multiProcessorCount = NUM_SMS, it->warpSize = 32, it->regsPerBlock = 65536;
  it->sharedMemPerBlock = 49152, it->sharedMemPerBlockOptin = SHARED_OPTIN;
  it->sharedMemPerMultiprocessor = SHARED_OPTIN + 1024, it->reservedSharedMemPerBlock = 1024;
  it->regsPerMultiprocessor = 65536, it->maxThreadsPerMultiProcessor = 2048;
  it->maxThreadsPerBlock = 1024, it->maxBlocksPerMultiProcessor = 32;
  it->maxThreadsDim[0] = it->maxThreadsDim[1] = 1024, it->maxThreadsDim[2] = 64;
  it->maxGridSize[0] = 2147483647, it->maxGridSize[1] = it->maxGridSize[2] = 65535;
  it->l2CacheSize = 50 << 20, it->pciBusID = which + 1, it->unifiedAddressing = 1;
  it->textureAlignment = 512, it->memPitch = 2147483647, it->totalConstMem = 65536;
  it->concurrentKernels = it->streamPrioritiesSupported = it->cooperativeLaunch = 1;
  it->canMapHostMemory = it->memoryPoolsSupported = it->ECCEnabled = 1;
  it->clusterLaunch = major_ >= 9;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int which) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = major_; break;
    case cudaDevAttrComputeCapabilityMinor: *value = minor_; break;
    case cudaDevAttrMultiProcessorCount: *value = NUM_SMS; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = SHARED_OPTIN; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = SHARED_OPTIN + 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = 65536; break;
    case cudaDevAttrClockRate:
    case cudaDevAttrMemoryClockRate: *value = 1980000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = 5120; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrClusterLaunch: *value = major_ >= 9; break;
    case cudaDevAttrCooperativeLaunch: *value = 1; break;
    case cudaDevAttrL2CacheSize: *value = 50 << 20; break;
    default: return fail(cudaErrorInvalidValue, "a device attribute without an answer");
  }
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *unused, size_t *total) { return *unused = *total = MEMORY, cudaSuccess; }
cudaError_t cudaDeviceCanAccessPeer(int *can, int from, int to) { return *can = from != to, cudaSuccess; }
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) { return cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  return *least = 0, *greatest = -5, cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *it, const void *pointer) {
  memset(it, 0, sizeof *it);
  it->type = on_device(pointer)                        ? cudaMemoryTypeDevice
             : in(pointer, pinned_space, PINNED_SPACE) ? cudaMemoryTypeHost
                                                       : cudaMemoryTypeUnregistered;
  if (it->type == cudaMemoryTypeDevice) it->devicePointer = (void *)pointer;
  if (it->type == cudaMemoryTypeHost) it->hostPointer = it->devicePointer = (void *)pointer;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *it, const void *kernel) {
  memset(it, 0, sizeof *it);
  it->maxThreadsPerBlock = 1024, it->numRegs = 32, it->binaryVersion = it->ptxVersion = 10 * major_ + minor_;
  it->maxDynamicSharedSizeBytes = 49152;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute what, int value) {
  return cudaSuccess;
}
cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t kernel, enum cudaFuncAttribute what, int value,
                                            int which) {
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *kernel, int size,
                                                                   size_t shared, unsigned flags) {
  return *blocks = 2, cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveClusters(int *clusters, const void *kernel,
                                           const cudaLaunchConfig_t *config) {
  return *clusters = 16, cudaSuccess;
}
cudaError_t cudaOccupancyMaxPotentialClusterSize(int *size, const void *kernel,
                                                 const cudaLaunchConfig_t *config) {
  return *size = 8, cudaSuccess;
}
cudaError_t cudaGetSymbolAddress(void **pointer, const void *symbol) { return cudaMalloc(pointer, 512); }
cudaError_t cudaGetLastError(void) {
  cudaError_t error = last_error;
  return last_error = cudaSuccess, error;
}
cudaError_t cudaPeekAtLastError(void) { return last_error; }

/* Memory. */
cudaError_t cudaMalloc(void **pointer, size_t size) {
  return take(pointer, size, &device_space, &device_used, DEVICE_SPACE, PROT_NONE);
}
cudaError_t cudaFree(void *pointer) { return cudaSuccess; }
cudaError_t cudaMallocAsync(void **pointer, size_t size, cudaStream_t stream) {
  return cudaMalloc(pointer, size);
}
cudaError_t cudaFreeAsync(void *pointer, cudaStream_t stream) { return cudaSuccess; }
cudaError_t cudaHostAlloc(void **pointer, size_t size, unsigned flags) {
  return take(pointer, size, &pinned_space, &pinned_used, PINNED_SPACE, PROT_READ | PROT_WRITE);
}
cudaError_t cudaMallocHost(void **pointer, size_t size) { return cudaHostAlloc(pointer, size, 0); }
cudaError_t cudaFreeHost(void *pointer) { return cudaSuccess; }
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
  if (size == 0) return cudaSuccess;
  if (on_device(from) && !on_device(to)) {
    counts[COPIES_REFUSED]++;
    return fail(cudaErrorNotPermitted, "a copy to the host");
  }
  return launch(COPIES_IN, "a copy to the device");
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return cudaMemcpy(to, from, size, kind);
}
cudaError_t cudaMemcpyToSymbol(const void *symbol, const void *from, size_t size, size_t offset,
                               enum cudaMemcpyKind kind) {
  return launch(COPIES_IN, "a copy to the device");
}
cudaError_t cudaMemset(void *pointer, int value, size_t size) { return launch(FILLS, "a fill"); }
cudaError_t cudaMemsetAsync(void *pointer, int value, size_t size, cudaStream_t stream) {
  return launch(FILLS, "a fill");
}

/* Streams and events: nothing is ever under way. */
static void *handle(void) { return malloc(16); }
cudaError_t cudaStreamCreate(cudaStream_t *stream) { return *stream = handle(), cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
  return *stream = handle(), cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
  return *stream = handle(), cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return cudaSuccess; }
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) { return *priority = 0, cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                     unsigned long long *id, cudaGraph_t *graph,
                                     const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                                     size_t *count) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize(void) { return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t *event) { return *event = handle(), cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
  return *event = handle(), cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { return cudaSuccess; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  return cudaSuccess;
}
/* All take alike: compilers choose among kernels by time. */
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
  return *ms = 1.0f, cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return cudaSuccess; }

/* Kernels. */
cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                             cudaStream_t stream) {
  return launch(KERNELS, "a kernel");
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **arguments) {
  return launch(KERNELS, "a kernel");
}
cudaError_t cudaLaunchCooperativeKernel(const void *kernel, dim3 grid, dim3 block, void **arguments,
                                        size_t shared, cudaStream_t stream) {
  return launch(KERNELS, "a kernel");
}
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *stub) {
  return *kernel = (cudaKernel_t)stub, cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                               cudaStream_t stream) {
  return launch(KERNELS, "a kernel");
}

/* The driver: this library is also libcuda.so.1. What is not here does not exist for those who ask. */
/* NVRTC compiles without a driver; with one it would ask for tables that nobody has described. */
CUresult cuInit(unsigned flags) { return CUDA_ERROR_NO_DEVICE; }
CUresult cuGetErrorString(CUresult error, const char **text) {
  return *text = "refused by the absent GPU", CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char **text) { return cuGetErrorString(error, text); }
CUresult cuDeviceGet(CUdevice *it, int ordinal) { return *it = ordinal, CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice which) {
  return cudaDeviceGetAttribute(value, (enum cudaDeviceAttr)attribute, which) == cudaSuccess
             ? CUDA_SUCCESS
             : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuDriverGetVersion(int *version) { return *version = CUDART_VERSION, CUDA_SUCCESS; }
CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr pointer) {
  if (attribute != CU_POINTER_ATTRIBUTE_DEVICE_POINTER || !on_device((void *)pointer))
    return CUDA_ERROR_INVALID_VALUE;
  return *(CUdeviceptr *)value = pointer, CUDA_SUCCESS;
}
CUresult cuPointerGetAttributes(unsigned count, CUpointer_attribute *attributes, void **values,
                                CUdeviceptr pointer) {
  for (unsigned i = 0; i < count; i++)
    if (cuPointerGetAttribute(values[i], attributes[i], pointer)) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}
CUresult cuCtxGetLimit(size_t *value, CUlimit limit) { return *value = 1024, CUDA_SUCCESS; }
CUresult cuCtxSetLimit(CUlimit limit, size_t value) { return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxGetState(CUdevice it, unsigned *flags, int *is_active) {
  return *flags = 0, *is_active = 1, CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *it, CUdevice which) { return *it = handle(), CUDA_SUCCESS; }
#undef cuDevicePrimaryCtxRelease
CUresult cuDevicePrimaryCtxRelease(CUdevice which) { return CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext *it) { return *it = handle(), CUDA_SUCCESS; }
#undef cuStreamGetCtx
CUresult cuStreamGetCtx(CUstream stream, CUcontext *it) { return *it = handle(), CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext it) { return CUDA_SUCCESS; }
/* Kernels that Transformer Engine compiles at run time. */
CUresult cuModuleLoadDataEx(CUmodule *it, const void *image, unsigned count, CUjit_option *options,
                            void **values) {
  return *it = handle(), CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction *it, CUmodule module, const char *name) {
  return *it = handle(), CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule it) { return CUDA_SUCCESS; }
CUresult cuFuncSetCacheConfig(CUfunction it, CUfunc_cache config) { return CUDA_SUCCESS; }
CUresult cuModuleLoad(CUmodule *it, const char *file) { return *it = handle(), CUDA_SUCCESS; }
CUresult cuModuleLoadData(CUmodule *it, const void *image) { return *it = handle(), CUDA_SUCCESS; }
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction it) {
  return *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0, CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction it, CUfunction_attribute attribute, int value) { return CUDA_SUCCESS; }
CUresult cuOccupancyMaxActiveClusters(int *clusters, CUfunction it, const CUlaunchConfig *config) {
  return *clusters = 16, CUDA_SUCCESS;
}
CUresult cuTensorMapEncodeTiled(CUtensorMap *it, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                const cuuint64_t *size, const cuuint64_t *strides, const cuuint32_t *box,
                                const cuuint32_t *steps, CUtensorMapInterleave interleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                CUtensorMapFloatOOBfill fill) {
  return CUDA_SUCCESS;
}
CUresult cuLaunchKernel(CUfunction it, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                        unsigned bz, unsigned shared, CUstream stream, void **arguments, void **extra) {
  return launch(KERNELS, "a kernel compiled at run time") == cudaSuccess ? CUDA_SUCCESS
                                                                         : CUDA_ERROR_NOT_SUPPORTED;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction it, void **arguments, void **extra) {
  return launch(KERNELS, "a kernel of triton") == cudaSuccess ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *found) {
  *function = dlsym(RTLD_DEFAULT, name);
  if (found) *found = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return *function ? cudaSuccess : fail(cudaErrorSymbolNotFound, name);
}

/* Matrix products. */
cublasStatus_t cublasCreate_v2(cublasHandle_t *it) { return *it = handle(), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasDestroy_v2(cublasHandle_t it) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetStream_v2(cublasHandle_t it, cudaStream_t stream) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t it, void *space, size_t size) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t it, cublasMath_t mode) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasGetMathMode(cublasHandle_t it, cublasMath_t *mode) {
  return *mode = CUBLAS_DEFAULT_MATH, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t it, cublasPointerMode_t mode) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t it, cublasPointerMode_t *mode) {
  return *mode = CUBLAS_POINTER_MODE_HOST, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGemmEx(cublasHandle_t it, cublasOperation_t ta, cublasOperation_t tb, int m, int n,
                            int k, const void *alpha, const void *a, cudaDataType at, int lda, const void *b,
                            cudaDataType bt, int ldb, const void *beta, void *c, cudaDataType ct, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
  return multiply("cublasGemmEx");
}
cublasStatus_t cublasSgemm_v2(cublasHandle_t it, cublasOperation_t ta, cublasOperation_t tb, int m, int n,
                              int k, const float *alpha, const float *a, int lda, const float *b, int ldb,
                              const float *beta, float *c, int ldc) {
  return multiply("cublasSgemm");
}
cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t it, cublasOperation_t ta, cublasOperation_t tb, int m,
                                         int n, int k, const float *alpha, const float *a, int lda,
                                         long long int sa, const float *b, int ldb, long long int sb,
                                         const float *beta, float *c, int ldc, long long int sc, int count) {
  return multiply("cublasSgemmStridedBatched");
}
cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t it, cublasOperation_t ta, cublasOperation_t tb,
                                          int m, int n, int k, const void *alpha, const void *a,
                                          cudaDataType at, int lda, long long int sa, const void *b,
                                          cudaDataType bt, int ldb, long long int sb, const void *beta,
                                          void *c, cudaDataType ct, int ldc, long long int sc, int count,
                                          cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
  return multiply("cublasGemmStridedBatchedEx");
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t *it) { return *it = handle(), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t it, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int *found) {
  memset(results, 0, sizeof *results);
  results->state = CUBLAS_STATUS_SUCCESS;
  return *found = 1, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t it, cublasLtMatmulDesc_t operation, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t al, const void *b,
                              cublasLtMatrixLayout_t bl, const void *beta, const void *c,
                              cublasLtMatrixLayout_t cl, void *d, cublasLtMatrixLayout_t dl,
                              const cublasLtMatmulAlgo_t *algorithm, void *space, size_t size,
                              cudaStream_t stream) {
  return multiply("cublasLtMatmul");
}
