// Functions for tests and the emulated cuBLAS, besides the driver's own.
//
// For tests: settings, faults, counts, what is still allocated, the last error's line, and a fresh
// start. For cuBLAS: the beginning of a call, and work for a stream.
#include "calls.h"

namespace {

using Holding = std::lock_guard<std::recursive_mutex>;

size_t live_bytes() {
  size_t bytes = 0;
  for (const auto& [address, allocation] : driver().allocations) bytes += allocation.size;
  for (const auto& execution : driver().executions) bytes += execution->bytes;
  return bytes;
}

}  // namespace

// Returns 0, or 1 if there is no such setting.
DRIVER_API int fakecuda_set(const char* name, const char* value) {
  Holding lock(driver().lock);
  return set_setting(name, value) ? 0 : 1;
}

DRIVER_API const char* fakecuda_get(const char* name) {
  Holding lock(driver().lock);
  static std::string value;
  value = setting(name);
  return value.c_str();
}

DRIVER_API int fakecuda_fault(const char* text) { return fakecuda_set("faults", text); }

DRIVER_API long fakecuda_calls(const char* name) {
  Holding lock(driver().lock);
  auto count = driver().calls.find(name);
  return count == driver().calls.end() ? 0 : count->second;
}

// "NAME COUNT" a line.
DRIVER_API const char* fakecuda_all_calls() {
  Holding lock(driver().lock);
  static std::string text;
  text.clear();
  for (const auto& [name, count] : driver().calls)
    text += name + " " + std::to_string(count) + "\n";
  return text.c_str();
}

DRIVER_API size_t fakecuda_live_bytes() {
  Holding lock(driver().lock);
  return live_bytes();
}

DRIVER_API size_t fakecuda_live_allocations() {
  Holding lock(driver().lock);
  return driver().allocations.size();
}

DRIVER_API size_t fakecuda_pinned_allocations() {
  Holding lock(driver().lock);
  return driver().pinned.size();
}

DRIVER_API const char* fakecuda_report() {
  Holding lock(driver().lock);
  static std::string report;
  report = driver().report;
  return report.c_str();
}

// Resets everything as if the process had just started, except that cuInit stays called.
DRIVER_API void fakecuda_reset() {
  Holding lock(driver().lock);
  forget_contexts();
  driver().graphs.clear();
  driver().executions.clear();
  driver().calls.clear();
  driver().report.clear();
  forget_settings();
}

// Replaces this driver by an unused one, until it is restored unchanged: for tests of the driver
// itself among tests that hold something in it. No other thread may be in a call.
DRIVER_API void fakecuda_set_aside() { set_driver_aside(); }

// Returns 0, or 1 if none was set aside.
DRIVER_API int fakecuda_take_back() { return take_driver_back() ? 0 : 1; }

// Begins a call of another library in the current context. Returns the driver's refusal, or 0 with
// `*fault` set to the code of a fault asked for by that name, or to 0.
DRIVER_API CUresult fakecuda_enter(const char* name, int* fault) {
  *fault = 0;
  if (driver().process && driver().process != getpid()) return NOT_INITIALIZED;
  Holding lock(driver().lock);
  driver().calls[name]++;
  Context* context = current_context();
  if (driver().process == 0) return NOT_INITIALIZED;
  if (!context || !context->is_active) return INVALID_CONTEXT;
  if (context->dead) return context->dead;
  *fault = injected(name);
  return SUCCESS;
}

// The payload is released when it cannot run again: after it ran, or with its graph.
DRIVER_API CUresult fakecuda_enqueue(Stream* stream, CUresult (*run)(void*), void* payload,
                                     void (*release)(void*)) {
  Holding lock(driver().lock);
  std::shared_ptr<void> shared(payload, release);
  return submit_kernel(stream, [run, shared] { return run(shared.get()); });
}

DRIVER_API int fakecuda_is_capturing(Stream* handle) {
  Holding lock(driver().lock);
  Stream* stream = stream_of(handle);
  return stream && stream->capture ? 1 : 0;
}

DRIVER_API int fakecuda_is_live(CUdeviceptr address, size_t size) {
  Holding lock(driver().lock);
  return is_live(address, size) ? 1 : 0;
}

DRIVER_API CUresult fakecuda_failed(CUresult code, const char* report) {
  Holding lock(driver().lock);
  return failed(code, report);
}
