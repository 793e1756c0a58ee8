// Kernel launches: checks and copies at the call, and the later execution.
#include "calls.h"

namespace {

struct Size3 {
  unsigned x, y, z;
};

struct Launch {
  std::shared_ptr<Kernel> kernel;
  Size3 grid, block;
  size_t shared;
  std::vector<std::vector<char>> arguments;  // their bytes at the time of the call
  std::shared_ptr<Outputs> outputs = std::make_shared<Outputs>();
  std::shared_ptr<const Outputs> awaited;  // of the launch before a programmatic dependent one
};

bool is_within(Size3 size, Size3 limit) {
  return size.x && size.y && size.z && size.x <= limit.x && size.y <= limit.y && size.z <= limit.z;
}

CUresult check(const Launch& launch) {
  const Kernel& kernel = *launch.kernel;
  size_t threads = size_t{1} * launch.block.x * launch.block.y * launch.block.z;
  if (!is_within(launch.grid, {2147483647, 65535, 65535}))
    return failed(INVALID_VALUE, kernel.name + ": the grid is empty or too large");
  if (!is_within(launch.block, {1024, 1024, 64}) || threads > kernel.max_threads)
    return failed(INVALID_VALUE, kernel.name + ": blocks of " + std::to_string(threads) +
                                     " threads, it takes 1 to " +
                                     std::to_string(kernel.max_threads));
  if (launch.shared > kernel.max_dynamic_shared)
    return failed(INVALID_VALUE, kernel.name + ": " + std::to_string(launch.shared) +
                                     " bytes of dynamic shared memory, " +
                                     std::to_string(kernel.max_dynamic_shared) + " are allowed");
  return SUCCESS;
}

CUresult copy_arguments(Launch& launch, void** arguments) {
  const auto& sizes = launch.kernel->parameter_sizes;
  for (size_t i = 0; i < sizes.size(); i++) {
    if (!arguments || !arguments[i])
      return failed(INVALID_VALUE, launch.kernel->name + ": argument " + std::to_string(i) +
                                       " of " + std::to_string(sizes.size()) + " is missing");
    auto* bytes = static_cast<const char*>(arguments[i]);
    launch.arguments.emplace_back(bytes, bytes + sizes[i]);
  }
  return SUCCESS;
}

CUresult run(const Launch& launch) {
  driver().calls["kernel"]++;
  if (CUresult code = injected("kernel")) return code;
  const Kernel& kernel = *launch.kernel;
  if (kernel.is_unloaded) return failed(LAUNCH_FAILED, kernel.name + ": its module was unloaded");
  std::vector<std::vector<char>> arguments = launch.arguments;  // a kernel may change its own
  std::vector<void*> pointers;
  for (auto& argument : arguments) pointers.push_back(argument.data());
  const unsigned grid[] = {launch.grid.x, launch.grid.y, launch.grid.z};
  const unsigned block[] = {launch.block.x, launch.block.y, launch.block.z};
  take_over(*kernel.built);
  if (launch.awaited && kernel.built->await)
    kernel.built->await(launch.awaited->ranges.data(), launch.awaited->ranges.size() / 2);
  std::vector<std::vector<char>> before;
  if (launch.outputs->is_wanted) before = contents_of_memory();
  CUresult code =
      kernel.built->launch(kernel.name.c_str(), grid, block, launch.shared, pointers.data());
  if (launch.outputs->is_wanted) launch.outputs->ranges = changes_since(before);
  return code ? failed(code, kernel.built->error()) : SUCCESS;
}

CUresult launch(Context& context, Kernel* function, Size3 grid, Size3 block, size_t shared,
                Stream* stream, void** arguments, void** extra, bool is_dependent = false) {
  Launch requested{kernel_of(context, function), grid, block, shared, {}};
  if (!requested.kernel || !stream_of(stream)) return INVALID_HANDLE;
  if (extra) return arguments ? INVALID_VALUE : NOT_SUPPORTED;  // packed arguments are not emulated
  if (CUresult code = check(requested)) return code;
  if (CUresult code = copy_arguments(requested, arguments)) return code;
  if (std::shared_ptr<Outputs> before = outputs_before(*stream_of(stream));
      before && is_dependent) {
    before->is_wanted = true;
    requested.awaited = before;
  }
  std::shared_ptr<Outputs> outputs = requested.outputs;
  auto later = [requested = std::move(requested)] { return run(requested); };
  return submit_kernel(stream, std::move(later), std::move(outputs));
}

struct LaunchAttribute {
  int id, padding;
  int value[16];
};
const int PROGRAMMATIC_STREAM_SERIALIZATION = 6;

// CUlaunchConfig. Of its attributes, one lets a kernel start before the launch before it has ended;
// the others change nothing here.
struct LaunchConfig {
  Size3 grid, block;
  unsigned shared;
  Stream* stream;
  const LaunchAttribute* attributes;
  unsigned attribute_count;
};

}  // namespace

DRIVER_API CUresult cuLaunchKernel(Kernel* function, unsigned grid_x, unsigned grid_y,
                                   unsigned grid_z, unsigned block_x, unsigned block_y,
                                   unsigned block_z, unsigned shared, Stream* stream,
                                   void** arguments, void** extra) {
  return in_context("cuLaunchKernel", [&](Context& context) {
    return launch(context, function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared,
                  stream, arguments, extra);
  });
}

DRIVER_API CUresult cuLaunchKernelEx(const LaunchConfig* config, Kernel* function, void** arguments,
                                     void** extra) {
  return in_context("cuLaunchKernelEx", [&](Context& context) -> CUresult {
    if (!config || (config->attribute_count && !config->attributes)) return INVALID_VALUE;
    bool is_dependent = false;
    for (unsigned i = 0; i < config->attribute_count; i++)
      if (config->attributes[i].id == PROGRAMMATIC_STREAM_SERIALIZATION)
        is_dependent = config->attributes[i].value[0] != 0;
    return launch(context, function, config->grid, config->block, config->shared, config->stream,
                  arguments, extra, is_dependent);
  });
}
