// scheduler.h - the interface between a translated module and the scheduler.
//
// Kernels as functions of one thread, the running block, barriers and warp collectives, failures.
// PTX is in machine.h, the switching of fibers in scheduler.cpp.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define EMULATED_EXPORT __attribute__((visibility("default")))

namespace emulated {

// CUDA's error codes, as cuLaunchKernel and cuCtxSynchronize return them.
enum Error {
  INVALID_VALUE = 1,
  NOT_FOUND = 500,
  ILLEGAL_ADDRESS = 700,
  LAUNCH_TIMEOUT = 702,
  ASSERT = 710,
  HARDWARE_STACK_ERROR = 714,
  MISALIGNED_ADDRESS = 716,
  LAUNCH_FAILED = 719,
};

constexpr unsigned WARP = 32;
constexpr unsigned MAX_THREADS = 1024;
constexpr uint32_t SHARED_BASE = 1024;         // no array lies at shared address 0
constexpr uint32_t SHARED_WINDOW = 256 << 10;  // shared addresses end here
constexpr size_t MAX_SHARED = 232448;          // per block, static and dynamic: compute 9.0's limit

struct Index {
  unsigned x, y, z;
};

// A CUDA thread as its own kernel function sees it.
struct Thread {
  Index index;
  unsigned number;  // within the block
  unsigned lane;
  unsigned warp;
};

// --- a translated module ------------------------------------------------------------------------

using Body = void (*)(Thread&);

// Where an array lies in shared memory. Between arrays lie bytes that belong to none.
struct SharedArray {
  uint32_t first, size;
};

struct Kernel {
  const char* name;
  Body body;
  int parameter_count;
  const size_t* parameter_sizes;
  unsigned max_threads;  // .maxntid, or 0
  size_t local_bytes;
  const SharedArray* shared;
  int shared_count;
  uint32_t dynamic_first;  // where dynamic shared memory begins
};

// The last range of live memory that an instruction accessed: an access of n bytes at
// `address` is in it when address - first < span. Zero, before the first access: in none.
struct Site {
  uint64_t first, span;
};

struct Range {
  uint64_t first, size;
};

// From this PTX line on, instructions come from that line of that source file.
struct SourceLine {
  int line;
  const char* file;
  int source;
};

struct Module {
  const Kernel* kernels;
  int kernel_count;
  Site* sites;
  size_t site_count;
  const Range* variables;  // the module's own .global and .const arrays
  int variable_count;
  const SourceLine* lines;
  int line_count;
  const char* line_name;  // what line numbers refer to: "PTX line"
  Range shared_section;   // of a module from source: where its __shared__ variables lie
};

// --- the machine that runs it -------------------------------------------------------------------

struct Machine {
  Thread* current;
  Index block, block_size, grid;
  void** parameters;
  unsigned char* shared;  // the window: shared address a is byte a of it
  const unsigned char*
      shared_room;  // for each shared address, bytes to its array's end, at most 16
  uint32_t shared_bytes, dynamic_first, dynamic_bytes;
  uint64_t stacks_first, stacks_bytes;  // where the threads' local memory lies
  int line;                             // of the last access outside of shared memory
  int64_t steps_left;                   // of the block, before the watchdog ends it
};
EMULATED_EXPORT extern Machine machine;

// Ends the launch with a CUDA error code and one line: kernel, block, thread, PTX line, message.
[[noreturn]] EMULATED_EXPORT void fail(int code, int line, const char* format, ...);

// bar.sync and its variants: waits until `expected` threads arrived at barrier `number`; 0: all.
EMULATED_EXPORT void barrier(Thread& self, unsigned number, unsigned expected, int line);
EMULATED_EXPORT void barrier_arrive(Thread& self, unsigned number, unsigned expected, int line);
struct Votes {
  unsigned count, all;  // threads that voted yes, threads that voted
};
EMULATED_EXPORT Votes barrier_vote(Thread& self, unsigned number, unsigned expected, bool vote,
                                   int line);

// Waits until all live lanes of `mask` have arrived at this line; the last one calls `complete`
// with the payloads of all lanes. `line` and `name` tell collectives apart.
using Complete = void (*)(void* const payloads[WARP], uint32_t lanes);
EMULATED_EXPORT void collective(Thread& self, const char* name, uint32_t mask, int line,
                                void* payload, Complete complete);
EMULATED_EXPORT uint32_t living_lanes(const Thread& self);

// cp.async: a thread's copies, in groups. They run at issue, or not before the wait.
EMULATED_EXPORT void copy_asynchronously(Thread& self, unsigned char* to, const unsigned char* from,
                                         unsigned bytes, unsigned source_bytes);
EMULATED_EXPORT void commit_copies(Thread& self);
EMULATED_EXPORT void wait_for_copies(Thread& self, unsigned groups_left);

// griddepcontrol.wait: until all threads that can run have come to one, or to a barrier, what the
// launch before this one wrote is hidden (set_awaited).
EMULATED_EXPORT void wait_for_grid(Thread& self, int line);
// atom in global memory: a word that was zero, and that several blocks changed, is a counter that
// they share. It has to be zero again at the end of the launch.
EMULATED_EXPORT void remember_counter(const unsigned char* at, unsigned bytes, int line);

EMULATED_EXPORT void find_live_range(Site& site, uint64_t address, unsigned bytes, int line);
[[noreturn]] EMULATED_EXPORT void out_of_steps(int line);

// Implements the C functions that every module exports.
EMULATED_EXPORT const Kernel* find_kernel(const Module& module, const char* name);
EMULATED_EXPORT int launch(const Module& module, const char* kernel, const unsigned grid[3],
                           const unsigned block[3], size_t dynamic_bytes, void** arguments);
EMULATED_EXPORT const char* last_error();
EMULATED_EXPORT void set_schedule(int order, unsigned long long seed);
EMULATED_EXPORT void set_pointer_check(int (*is_live)(unsigned long long address, size_t size));
EMULATED_EXPORT void set_eager_copies(int eager);
EMULATED_EXPORT void set_watchdog(unsigned long long steps);
// Address and size of each range that the launch before the next one wrote.
EMULATED_EXPORT void set_awaited(const unsigned long long* ranges, int count);
EMULATED_EXPORT void set_counter_check(int is_on);

// --- for counted modules, whose scheduler is a build of its own (EMULATED_WATCHED) --------------

// What counting/counters.h is told. `lanes`, a mask for each warp, have met there; `living` are
// those that have not returned. A lane that arrives does not wait.
struct Watcher {
  void (*begin_block)(unsigned threads);
  void (*end_block)();
  void (*meet_in_warp)(unsigned warp, uint32_t lanes, uint32_t living, bool orders_memory);
  void (*arrive_in_block)(unsigned warp);
  void (*meet_in_block)(unsigned warps, const uint32_t* lanes, const uint32_t* living);
};
EMULATED_EXPORT void set_watcher(const Watcher* watcher);
// Runs only so many blocks of a grid, evenly spread, the first and the last among them; 0: all.
EMULATED_EXPORT void set_sample(unsigned long long count);
EMULATED_EXPORT bool touch_l2(uint64_t sector);
EMULATED_EXPORT void set_l2(uint64_t bytes);

}  // namespace emulated

// The C interface of a translated module, over its one `module` table.
#define EMULATED_INTERFACE(module)                                                                 \
  extern "C" {                                                                                     \
  EMULATED_EXPORT int emulated_parameter_count(const char* kernel) {                               \
    const emulated::Kernel* found = emulated::find_kernel(module, kernel);                         \
    return found ? found->parameter_count : -1;                                                    \
  }                                                                                                \
  EMULATED_EXPORT size_t emulated_parameter_size(const char* kernel, int index) {                  \
    const emulated::Kernel* found = emulated::find_kernel(module, kernel);                         \
    return found && index >= 0 && index < found->parameter_count ? found->parameter_sizes[index]   \
                                                                 : 0;                              \
  }                                                                                                \
  EMULATED_EXPORT int emulated_launch(const char* kernel, const unsigned grid[3],                  \
                                      const unsigned block[3], size_t shared_bytes,                \
                                      void** arguments) {                                          \
    return emulated::launch(module, kernel, grid, block, shared_bytes, arguments);                 \
  }                                                                                                \
  EMULATED_EXPORT const char* emulated_error(void) { return emulated::last_error(); }              \
  EMULATED_EXPORT void emulated_schedule(int order, unsigned long long seed) {                     \
    emulated::set_schedule(order, seed);                                                           \
  }                                                                                                \
  EMULATED_EXPORT void emulated_check_pointers(int (*is_live)(unsigned long long, size_t)) {       \
    emulated::set_pointer_check(is_live);                                                          \
  }                                                                                                \
  EMULATED_EXPORT void emulated_static(const char* kernel, size_t* shared_bytes,                   \
                                       size_t* local_bytes) {                                      \
    const emulated::Kernel* found = emulated::find_kernel(module, kernel);                         \
    *shared_bytes = 0;                                                                             \
    *local_bytes = found ? found->local_bytes : 0;                                                 \
    for (int i = 0; found && i < found->shared_count; i++) *shared_bytes += found->shared[i].size; \
  }                                                                                                \
  EMULATED_EXPORT void emulated_eager_copies(int eager) { emulated::set_eager_copies(eager); }     \
  EMULATED_EXPORT void emulated_watchdog(unsigned long long steps) {                               \
    emulated::set_watchdog(steps);                                                                 \
  }                                                                                                \
  EMULATED_EXPORT void emulated_await(const unsigned long long* ranges, int count) {               \
    emulated::set_awaited(ranges, count);                                                          \
  }                                                                                                \
  EMULATED_EXPORT void emulated_counter_check(int is_on) { emulated::set_counter_check(is_on); }   \
  }
