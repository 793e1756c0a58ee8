// Modules and their functions. A module is checked when it is loaded, and each function compiled
// when it is requested, like the real driver's lazy loading.
#include <algorithm>
#include <cstring>

#include "build.h"
#include "calls.h"
#include "image.h"

namespace {

const size_t SHARED_MEMORY_AT_FIRST = 48 * 1024;  // until a function's attribute is raised

struct LogBuffer {
  char* text = nullptr;
  size_t size = 0;
  void** written = nullptr;  // the option's value, which is an in-and-out parameter
};

LogBuffer error_log(unsigned count, const int* options, void** values) {
  LogBuffer log;
  for (unsigned i = 0; i < count; i++) {
    if (options[i] == JIT_ERROR_LOG_BUFFER) log.text = static_cast<char*>(values[i]);
    if (options[i] != JIT_ERROR_LOG_BUFFER_SIZE_BYTES) continue;
    log.size = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(values[i]));
    log.written = &values[i];
  }
  return log;
}

void write_log(const LogBuffer& log, const std::string& message) {
  if (!log.text || log.size == 0) return;
  size_t length = std::min(message.size(), log.size - 1);
  memcpy(log.text, message.data(), length);
  log.text[length] = '\0';
  if (log.written) *log.written = reinterpret_cast<void*>(length);
}

std::string message_of(const Image& image) {
  std::string where;
  if (image.line) where = " application ptx input, line " + std::to_string(image.line) + ";";
  return "ptxas" + where + " fatal   : " + image.error;
}

CUresult load(Context& context, Module** module, const void* bytes, const LogBuffer& log) {
  if (!module || !bytes) return INVALID_VALUE;
  Image image = read_image(bytes, context.device);
  if (image.code) {
    write_log(log, message_of(image) + "\n");
    return failed(image.code, message_of(image));
  }
  write_log(log, "");
  auto made = std::make_unique<Module>();
  made->text = std::move(image.text);
  made->original = std::move(image.original);
  *module = made.get();
  context.modules.insert(std::move(made));
  return SUCCESS;
}

std::shared_ptr<Kernel> kernel_from(const Context& context, const Module& module,
                                    const BuiltModule& built, const std::string& name) {
  auto kernel = std::make_shared<Kernel>();
  kernel->name = name;
  kernel->built = &built;
  for (int i = 0; i < built.parameter_count(name.c_str()); i++)
    kernel->parameter_sizes.push_back(built.parameter_size(name.c_str(), i));
  built.static_memory(name.c_str(), &kernel->static_shared, &kernel->local);
  kernel->max_dynamic_shared =
      SHARED_MEMORY_AT_FIRST - std::min(SHARED_MEMORY_AT_FIRST, kernel->static_shared);
  kernel->max_threads = max_threads_of(module.text, name);
  kernel->ptx_version = version_of(module.text);
  kernel->binary_version = number_of_device("compute_capabilities", context.device);
  return kernel;
}

CUresult get_function(Context& context, Module& module, const char* name, Kernel** function) {
  if (!has_entry(module.text, name)) return NOT_FOUND;
  std::shared_ptr<Kernel>& kernel = module.kernels[name];
  if (!kernel) {
    std::string error;
    const BuiltModule* built = built_from(module.original, name, error);
    if (built && built->parameter_count(name) < 0)
      error = std::string("the emulator's module has no kernel ") + name;
    if (!error.empty()) {
      module.kernels.erase(name);
      return failed(INVALID_PTX, error);
    }
    kernel = kernel_from(context, module, *built, name);
  }
  *function = kernel.get();
  return SUCCESS;
}

CUresult set_dynamic_shared(const Context& context, Kernel& kernel, int bytes) {
  size_t limit = shared_memory_limit(context.device);
  if (bytes < 0 || bytes + kernel.static_shared > limit) return INVALID_VALUE;
  kernel.max_dynamic_shared = bytes;
  return SUCCESS;
}

const int REGISTERS = 32;  // registers are not allocated here

}  // namespace

std::shared_ptr<Kernel> kernel_of(Context& context, Kernel* handle) {
  for (const auto& module : context.modules)
    for (const auto& [name, kernel] : module->kernels)
      if (kernel.get() == handle) return kernel;
  return nullptr;
}

DRIVER_API CUresult cuModuleLoadDataEx(Module** module, const void* image, unsigned count,
                                       int* options, void** values) {
  return outside_capture("cuModuleLoadDataEx", [&](Context& context) -> CUresult {
    if (count && (!options || !values)) return INVALID_VALUE;
    return load(context, module, image, error_log(count, options, values));
  });
}

DRIVER_API CUresult cuModuleLoadData(Module** module, const void* image) {
  return outside_capture("cuModuleLoadData", [&](Context& context) -> CUresult {
    return load(context, module, image, LogBuffer{});
  });
}

DRIVER_API CUresult cuModuleUnload(Module* module) {
  return outside_capture("cuModuleUnload", [&](Context& context) -> CUresult {
    if (!found(context.modules, module)) return INVALID_HANDLE;
    if (CUresult code = finish(context)) return code;
    for (const auto& [name, kernel] : module->kernels) kernel->is_unloaded = true;
    erase(context.modules, module);
    return SUCCESS;
  });
}

DRIVER_API CUresult cuModuleGetFunction(Kernel** function, Module* module, const char* name) {
  return in_context("cuModuleGetFunction", [&](Context& context) -> CUresult {
    if (!function || !name) return INVALID_VALUE;
    if (!found(context.modules, module)) return INVALID_HANDLE;
    return get_function(context, *module, name, function);
  });
}

DRIVER_API CUresult cuFuncGetAttribute(int* value, int attribute, Kernel* function) {
  return in_context("cuFuncGetAttribute", [&](Context& context) -> CUresult {
    std::shared_ptr<Kernel> kernel = kernel_of(context, function);
    if (!kernel) return INVALID_HANDLE;
    std::map<int, size_t> values = {
        {FUNCTION_MAX_THREADS_PER_BLOCK, kernel->max_threads},
        {FUNCTION_SHARED_SIZE_BYTES, kernel->static_shared},
        {FUNCTION_CONST_SIZE_BYTES, 0},
        {FUNCTION_LOCAL_SIZE_BYTES, kernel->local},
        {FUNCTION_NUM_REGS, REGISTERS},
        {FUNCTION_PTX_VERSION, kernel->ptx_version},
        {FUNCTION_BINARY_VERSION, kernel->binary_version},
        {FUNCTION_CACHE_MODE_CA, 0},
        {FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel->max_dynamic_shared},
        {FUNCTION_PREFERRED_SHARED_MEMORY_CARVEOUT, static_cast<size_t>(-1)},
    };
    if (!value || !values.count(attribute)) return INVALID_VALUE;
    *value = static_cast<int>(values[attribute]);
    return SUCCESS;
  });
}

DRIVER_API CUresult cuFuncSetAttribute(Kernel* function, int attribute, int value) {
  return in_context("cuFuncSetAttribute", [&](Context& context) -> CUresult {
    std::shared_ptr<Kernel> kernel = kernel_of(context, function);
    if (!kernel) return INVALID_HANDLE;
    if (attribute == FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES)
      return set_dynamic_shared(context, *kernel, value);
    bool is_carveout = attribute == FUNCTION_PREFERRED_SHARED_MEMORY_CARVEOUT;
    return is_carveout && value >= -1 && value <= 100 ? SUCCESS : INVALID_VALUE;
  });
}
