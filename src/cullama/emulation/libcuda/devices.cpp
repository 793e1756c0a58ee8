// Devices and their primary contexts: how many, what they can do, and the life of a context.
#include <cstdio>
#include <cstring>

#include "calls.h"

namespace {

thread_local Context* current = nullptr;

bool exists(CUdevice device) { return device >= 0 && device < number("devices"); }

Context& context_of(CUdevice device) {
  auto& contexts = driver().contexts;
  while (contexts.size() <= static_cast<size_t>(device)) {
    contexts.push_back(std::make_unique<Context>());
    contexts.back()->device = static_cast<CUdevice>(contexts.size()) - 1;
  }
  return *contexts[device];
}

void activate(Context& context) {
  if (context.is_active) return;
  context.is_active = true;
  context.legacy = std::make_unique<Stream>();
  context.legacy->context = &context;
}

struct SharedMemory {
  int capability, per_block, per_multiprocessor;  // KiB; per block with the attribute raised
};

// CUDA C++ programming guide, "Technical specifications per compute capability".
const SharedMemory SHARED_MEMORY[] = {
    {70, 96, 96},  {75, 64, 64},   {80, 163, 164},  {86, 99, 100},   {87, 163, 164},
    {89, 99, 100}, {90, 227, 228}, {100, 227, 228}, {103, 227, 228}, {120, 99, 100},
};

SharedMemory shared_memory_of(CUdevice device) {
  SharedMemory result = SHARED_MEMORY[0];
  for (const SharedMemory& row : SHARED_MEMORY)
    if (row.capability <= number_of_device("compute_capabilities", device)) result = row;
  return result;
}

// By the numbers of CUdevice_attribute; what is not listed is 0.
std::map<int, long> attributes_of(CUdevice device) {
  long capability = number_of_device("compute_capabilities", device);
  SharedMemory shared = shared_memory_of(device);
  return {
      {1, 1024},                                          // MAX_THREADS_PER_BLOCK
      {2, 1024},                                          // MAX_BLOCK_DIM_X
      {3, 1024},                                          // MAX_BLOCK_DIM_Y
      {4, 64},                                            // MAX_BLOCK_DIM_Z
      {5, 2147483647},                                    // MAX_GRID_DIM_X
      {6, 65535},                                         // MAX_GRID_DIM_Y
      {7, 65535},                                         // MAX_GRID_DIM_Z
      {8, 49152},                                         // MAX_SHARED_MEMORY_PER_BLOCK
      {9, 65536},                                         // TOTAL_CONSTANT_MEMORY
      {10, 32},                                           // WARP_SIZE
      {12, 65536},                                        // MAX_REGISTERS_PER_BLOCK
      {13, 1000000},                                      // CLOCK_RATE, kHz
      {14, 512},                                          // TEXTURE_ALIGNMENT
      {15, 1},                                            // GPU_OVERLAP
      {16, number_of_device("multiprocessors", device)},  // MULTIPROCESSOR_COUNT
      {19, 1},                                            // CAN_MAP_HOST_MEMORY
      {31, 1},                                            // CONCURRENT_KERNELS
      {33, device},                                       // PCI_BUS_ID
      {36, 1000000},                                      // MEMORY_CLOCK_RATE, kHz
      {37, 128},                                          // GLOBAL_MEMORY_BUS_WIDTH, bits
      {38, 4194304},                                      // L2_CACHE_SIZE
      {39, 2048},                                         // MAX_THREADS_PER_MULTIPROCESSOR
      {40, 2},                                            // ASYNC_ENGINE_COUNT
      {41, 1},                                            // UNIFIED_ADDRESSING
      {75, capability / 10},                              // COMPUTE_CAPABILITY_MAJOR
      {76, capability % 10},                              // COMPUTE_CAPABILITY_MINOR
      {81, shared.per_multiprocessor * 1024},             // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
      {82, 65536},                                        // MAX_REGISTERS_PER_MULTIPROCESSOR
      {97, shared.per_block * 1024},                      // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
      {106, 32},                                          // MAX_BLOCKS_PER_MULTIPROCESSOR
      {111, 1024},                                        // RESERVED_SHARED_MEMORY_PER_BLOCK
  };
}

const int ATTRIBUTES_KNOWN = 150;

}  // namespace

Context* current_context() { return current; }
void set_current_context(Context* context) { current = context; }

size_t shared_memory_limit(CUdevice device) { return shared_memory_of(device).per_block * 1024; }

void tear_down(Context& context) {
  drop_work(context);
  abandon_captures(&context);
  release_memory(&context);
  context.events.clear();
  context.modules.clear();
  context.streams.clear();
  context.legacy.reset();
  context.is_active = false;
}

// Resets even a lost context, which only tests may do.
void forget_contexts() {
  for (const auto& context : driver().contexts) {
    tear_down(*context);
    context->retained = 0;
    context->dead = SUCCESS;
  }
}

DRIVER_API CUresult cuInit(unsigned flags) {
  return call("cuInit", Needs::NOTHING, [&]() -> CUresult {
    if (flags) return INVALID_VALUE;
    if (number("devices") == 0) return NO_DEVICE;
    driver().process = getpid();
    return SUCCESS;
  });
}

DRIVER_API CUresult cuDriverGetVersion(int* version) {
  return call("cuDriverGetVersion", Needs::NOTHING, [&]() -> CUresult {
    if (!version) return INVALID_VALUE;
    *version = static_cast<int>(number("driver_version"));
    return SUCCESS;
  });
}

DRIVER_API CUresult cuDeviceGetCount(int* count) {
  return call("cuDeviceGetCount", Needs::DRIVER, [&]() -> CUresult {
    if (!count) return INVALID_VALUE;
    *count = static_cast<int>(number("devices"));
    return SUCCESS;
  });
}

DRIVER_API CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  return call("cuDeviceGet", Needs::DRIVER, [&]() -> CUresult {
    if (!device) return INVALID_VALUE;
    if (!exists(ordinal)) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
  });
}

DRIVER_API CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
  return call("cuDeviceGetName", Needs::DRIVER, [&]() -> CUresult {
    if (!name || length <= 0) return INVALID_VALUE;
    if (!exists(device)) return INVALID_DEVICE;
    snprintf(name, length, "%s", setting_of_device("device_names", device).c_str());
    return SUCCESS;
  });
}

DRIVER_API CUresult cuDeviceGetUuid_v2(unsigned char* uuid, CUdevice device) {
  return call("cuDeviceGetUuid", Needs::DRIVER, [&]() -> CUresult {
    if (!uuid) return INVALID_VALUE;
    if (!exists(device)) return INVALID_DEVICE;
    memset(uuid, 0, 16);
    uuid[15] = static_cast<unsigned char>(device);
    return SUCCESS;
  });
}

DRIVER_API CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice device) {
  return call("cuDeviceGetAttribute", Needs::DRIVER, [&]() -> CUresult {
    if (!value || attribute < 1 || attribute > ATTRIBUTES_KNOWN) return INVALID_VALUE;
    if (!exists(device)) return INVALID_DEVICE;
    *value = static_cast<int>(attributes_of(device)[attribute]);
    return SUCCESS;
  });
}

DRIVER_API CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
  return call("cuDeviceTotalMem", Needs::DRIVER, [&]() -> CUresult {
    if (!bytes) return INVALID_VALUE;
    if (!exists(device)) return INVALID_DEVICE;
    *bytes = number_of_device("memory_bytes", device);
    return SUCCESS;
  });
}

DRIVER_API CUresult cuDevicePrimaryCtxRetain(Context** context, CUdevice device) {
  return call("cuDevicePrimaryCtxRetain", Needs::DRIVER, [&]() -> CUresult {
    if (!context) return INVALID_VALUE;
    if (!exists(device)) return INVALID_DEVICE;
    Context& primary = context_of(device);
    if (primary.dead) return primary.dead;
    activate(primary);
    primary.retained++;
    *context = &primary;
    return SUCCESS;
  });
}

DRIVER_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  return call("cuDevicePrimaryCtxRelease", Needs::DRIVER, [&]() -> CUresult {
    if (!exists(device)) return INVALID_DEVICE;
    Context& primary = context_of(device);
    if (primary.dead) return primary.dead;
    if (primary.retained == 0) return INVALID_CONTEXT;
    if (--primary.retained == 0) tear_down(primary);
    return SUCCESS;
  });
}

// The context stays retained, but everything in it is freed; a lost one stays lost.
DRIVER_API CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
  return call("cuDevicePrimaryCtxReset", Needs::DRIVER, [&]() -> CUresult {
    if (!exists(device)) return INVALID_DEVICE;
    Context& primary = context_of(device);
    if (primary.dead) return primary.dead;
    tear_down(primary);
    return SUCCESS;
  });
}

DRIVER_API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
  return call("cuDevicePrimaryCtxGetState", Needs::DRIVER, [&]() -> CUresult {
    if (!flags || !active) return INVALID_VALUE;
    if (!exists(device)) return INVALID_DEVICE;
    *flags = 0;
    *active = context_of(device).is_active;
    return SUCCESS;
  });
}

DRIVER_API CUresult cuCtxSetCurrent(Context* context) {
  return call("cuCtxSetCurrent", Needs::DRIVER, [&]() -> CUresult {
    for (const auto& known : driver().contexts) {
      if (known.get() != context) continue;
      current = context;
      return SUCCESS;
    }
    if (context) return INVALID_CONTEXT;
    current = nullptr;
    return SUCCESS;
  });
}

DRIVER_API CUresult cuCtxGetCurrent(Context** context) {
  return call("cuCtxGetCurrent", Needs::DRIVER, [&]() -> CUresult {
    if (!context) return INVALID_VALUE;
    *context = current;
    return SUCCESS;
  });
}

DRIVER_API CUresult cuCtxGetDevice(CUdevice* device) {
  return in_context("cuCtxGetDevice", [&](Context& context) -> CUresult {
    if (!device) return INVALID_VALUE;
    *device = context.device;
    return SUCCESS;
  });
}

DRIVER_API CUresult cuCtxSynchronize() {
  return outside_capture("cuCtxSynchronize", [](Context& context) { return finish(context); });
}
