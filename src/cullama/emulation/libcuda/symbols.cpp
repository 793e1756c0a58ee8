// cuGetProcAddress: which function a name means for a version of the interface.
//
// A driver older than a function does not have it. Per-thread default streams get the same
// functions. Built with WITHOUT_PROC_ADDRESS, the library is like a driver of before CUDA 12, in
// which newer bindings do not find what they begin with.
#include <dlfcn.h>

#include <cstring>

#include "driver.h"

namespace {

enum QueryResult : int { FOUND = 0, SYMBOL_NOT_FOUND = 1, VERSION_NOT_SUFFICIENT = 2 };

struct Symbol {
  const char* name;
  int since;  // CUDA version: 12010 for 12.1
  const char* exported;
};

const Symbol SYMBOLS[] = {
    {"cuStreamBeginCapture", 10010, "cuStreamBeginCapture_v2"},
    {"cuStreamEndCapture", 10000, "cuStreamEndCapture"},
    {"cuStreamIsCapturing", 10000, "cuStreamIsCapturing"},
    {"cuThreadExchangeStreamCaptureMode", 10010, "cuThreadExchangeStreamCaptureMode"},
    {"cuInit", 2000, "cuInit"},
    {"cuDriverGetVersion", 2020, "cuDriverGetVersion"},
    {"cuDeviceGetCount", 2000, "cuDeviceGetCount"},
    {"cuDeviceGet", 2000, "cuDeviceGet"},
    {"cuDeviceGetName", 2000, "cuDeviceGetName"},
    {"cuDeviceGetUuid", 11040, "cuDeviceGetUuid_v2"},
    {"cuDeviceGetAttribute", 2000, "cuDeviceGetAttribute"},
    {"cuDeviceTotalMem", 3020, "cuDeviceTotalMem_v2"},
    {"cuDevicePrimaryCtxRetain", 7000, "cuDevicePrimaryCtxRetain"},
    {"cuDevicePrimaryCtxRelease", 11000, "cuDevicePrimaryCtxRelease_v2"},
    {"cuDevicePrimaryCtxReset", 11000, "cuDevicePrimaryCtxReset_v2"},
    {"cuDevicePrimaryCtxGetState", 7000, "cuDevicePrimaryCtxGetState"},
    {"cuCtxSetCurrent", 4000, "cuCtxSetCurrent"},
    {"cuCtxGetCurrent", 4000, "cuCtxGetCurrent"},
    {"cuCtxGetDevice", 2000, "cuCtxGetDevice"},
    {"cuCtxSynchronize", 2000, "cuCtxSynchronize"},
    {"cuGetErrorName", 6000, "cuGetErrorName"},
    {"cuGetErrorString", 6000, "cuGetErrorString"},
    {"cuGraphInstantiateWithFlags", 11040, "cuGraphInstantiateWithFlags"},
    {"cuGraphUpload", 11010, "cuGraphUpload"},
    {"cuGraphLaunch", 10000, "cuGraphLaunch"},
    {"cuGraphExecDestroy", 10000, "cuGraphExecDestroy"},
    {"cuGraphDestroy", 10000, "cuGraphDestroy"},
    {"cuGraphGetNodes", 10000, "cuGraphGetNodes"},
    {"cuLaunchKernel", 4000, "cuLaunchKernel"},
    {"cuLaunchKernelEx", 11060, "cuLaunchKernelEx"},
    {"cuMemGetInfo", 3020, "cuMemGetInfo_v2"},
    {"cuMemAlloc", 3020, "cuMemAlloc_v2"},
    {"cuMemFree", 3020, "cuMemFree_v2"},
    {"cuMemHostAlloc", 2020, "cuMemHostAlloc"},
    {"cuMemFreeHost", 2000, "cuMemFreeHost"},
    {"cuMemcpyHtoD", 3020, "cuMemcpyHtoD_v2"},
    {"cuMemcpyDtoH", 3020, "cuMemcpyDtoH_v2"},
    {"cuMemcpyHtoDAsync", 3020, "cuMemcpyHtoDAsync_v2"},
    {"cuMemcpyDtoHAsync", 3020, "cuMemcpyDtoHAsync_v2"},
    {"cuMemcpyDtoDAsync", 3020, "cuMemcpyDtoDAsync_v2"},
    {"cuMemsetD8Async", 3020, "cuMemsetD8Async"},
    {"cuMemsetD32Async", 3020, "cuMemsetD32Async"},
    {"cuModuleLoadDataEx", 2010, "cuModuleLoadDataEx"},
    {"cuModuleLoadData", 2000, "cuModuleLoadData"},
    {"cuModuleUnload", 2000, "cuModuleUnload"},
    {"cuModuleGetFunction", 2000, "cuModuleGetFunction"},
    {"cuFuncGetAttribute", 2020, "cuFuncGetAttribute"},
    {"cuFuncSetAttribute", 9000, "cuFuncSetAttribute"},
    {"cuStreamCreate", 2000, "cuStreamCreate"},
    {"cuStreamCreateWithPriority", 5050, "cuStreamCreateWithPriority"},
    {"cuStreamDestroy", 4000, "cuStreamDestroy_v2"},
    {"cuStreamSynchronize", 2000, "cuStreamSynchronize"},
    {"cuStreamQuery", 2000, "cuStreamQuery"},
    {"cuStreamWaitEvent", 3020, "cuStreamWaitEvent"},
    {"cuEventCreate", 2000, "cuEventCreate"},
    {"cuEventDestroy", 4000, "cuEventDestroy_v2"},
    {"cuEventRecord", 2000, "cuEventRecord"},
    {"cuEventQuery", 2000, "cuEventQuery"},
    {"cuEventSynchronize", 2000, "cuEventSynchronize"},
    {"cuEventElapsedTime", 2000, "cuEventElapsedTime"},
    {"cuEventElapsedTime", 12080, "cuEventElapsedTime_v2"},
    {"cuGetProcAddress", 11030, "cuGetProcAddress"},
    {"cuGetProcAddress", 12000, "cuGetProcAddress_v2"},
};

void* exported(const char* name) {
  static void* const self = [] {
    Dl_info about;
    dladdr(reinterpret_cast<const void*>(&exported), &about);
    return dlopen(about.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  }();
  return dlsym(self, name);
}

// The newest function of that name that both the caller and the driver know.
const Symbol* newest(const char* name, int version, bool& is_known) {
  const Symbol* result = nullptr;
  for (const Symbol& symbol : SYMBOLS) {
    if (strcmp(symbol.name, name) != 0 || symbol.since > number("driver_version")) continue;
    is_known = true;
    if (symbol.since <= version && (!result || symbol.since > result->since)) result = &symbol;
  }
  return result;
}

CUresult find_symbol(const char* name, void** function, int version, int* status) {
  if (!name || !function) return INVALID_VALUE;
  bool is_known = false;
  const Symbol* symbol = newest(name, version, is_known);
  *function = symbol ? exported(symbol->exported) : nullptr;
  if (status) *status = symbol ? FOUND : is_known ? VERSION_NOT_SUFFICIENT : SYMBOL_NOT_FOUND;
  return *function ? SUCCESS : NOT_FOUND;
}

}  // namespace

DRIVER_API CUresult cuGetProcAddress(const char* name, void** function, int version,
                                     unsigned long long) {
  return find_symbol(name, function, version, nullptr);
}

#ifndef WITHOUT_PROC_ADDRESS
DRIVER_API CUresult cuGetProcAddress_v2(const char* name, void** function, int version,
                                        unsigned long long, int* status) {
  return find_symbol(name, function, version, status);
}
#endif
