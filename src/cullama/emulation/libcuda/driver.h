// The state of the emulated driver, and the functions that its files share.
//
// One `Driver` per process, as with the real one; every entry point holds its lock (calls.h).
// Work on a stream is a list of closures that run when something waits for them (timeline.cpp).
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "api.h"

using Action = std::function<CUresult()>;

// What a kernel wrote, for a launch that may begin before it has ended.
struct Outputs {
  bool is_wanted = false;
  std::vector<unsigned long long> ranges;  // address, size, address, …
};

// One piece of work in a stream; also what an event remembers of the moment it was recorded.
struct Work {
  Stream* stream;
  uint64_t sequence;                           // the order of the calls, over all streams
  Action run;                                  // empty for records and waits
  std::shared_ptr<Work> after;                 // what a wait waits for, in another stream
  std::shared_ptr<Outputs> outputs = nullptr;  // of a kernel
  bool done = false;
  std::chrono::steady_clock::time_point finished{};
};

// Unlike Work, a node may run many times, so its action must leave its captured values alone.
struct GraphNode {
  Action run;
  std::vector<size_t> after;                   // earlier nodes, by index
  std::shared_ptr<Outputs> outputs = nullptr;  // of a kernel
};

struct Graph {
  std::vector<GraphNode> nodes;
};

struct GraphExecution {
  Context* owner;
  size_t bytes;  // of device memory
  std::shared_ptr<const std::vector<GraphNode>> nodes;
};

struct Capture {
  CaptureMode mode;
  std::thread::id thread;
  Stream* origin;
  std::set<Stream*> streams;  // the origin and those that joined through events
  std::vector<GraphNode> nodes;
  bool is_invalid = false;
  bool has_ended = false;
};

struct Stream {
  Context* context;
  unsigned flags;
  std::deque<std::shared_ptr<Work>> queue;
  bool is_destroyed = false;  // queued work still runs, as in the real driver
  int not_ready_answers = 0;
  std::shared_ptr<Capture> capture;
  std::vector<size_t> tips;  // nodes that the next captured node comes after

  bool is_legacy() const;
  bool is_blocking() const { return flags == STREAM_DEFAULT; }
};

struct Event {
  unsigned flags;
  std::shared_ptr<Work> record;      // the last record; null: never recorded
  std::shared_ptr<Capture> capture;  // set when the last record was captured
  std::vector<size_t> tips;
  int not_ready_answers = 0;
};

struct Allocation {
  Context* owner;
  char* mapping;  // begins and ends with a guard page
  size_t mapped;
  size_t size;     // as requested
  size_t rounded;  // as counted against the device's memory
};

// The functions of a translated module (a shared object), as the PTX emulator exports them.
struct BuiltModule {
  int (*parameter_count)(const char* kernel);
  size_t (*parameter_size)(const char* kernel, int index);
  int (*launch)(const char* kernel, const unsigned grid[3], const unsigned block[3],
                size_t shared_bytes, void** arguments);
  const char* (*error)();
  void (*schedule)(int order, unsigned long long seed);
  void (*check_pointers)(int (*is_live)(unsigned long long address, size_t size));
  void (*static_memory)(const char* kernel, size_t* shared_bytes, size_t* local_bytes);
  void (*eager_copies)(int is_eager) = nullptr;  // cp.async at its issue, not before its wait
  void (*await)(const unsigned long long* ranges, int count) = nullptr;
  void (*counter_check)(int is_on) = nullptr;
};

struct Kernel {
  std::string name;
  const BuiltModule* built;
  std::vector<size_t> parameter_sizes;
  size_t static_shared = 0;
  size_t local = 0;
  size_t max_dynamic_shared = 0;  // raised through cuFuncSetAttribute
  unsigned max_threads = 1024;    // less where the PTX says .maxntid or .reqntid
  int ptx_version = 0, binary_version = 0;
  bool is_unloaded = false;
};

struct Module {
  std::string original, text;                              // as given, and without comments
  std::map<std::string, std::shared_ptr<Kernel>> kernels;  // those requested
};

struct Range {
  CUdeviceptr begin = 1, end = 0;
};

// A device's primary context; others are not emulated.
struct Context {
  CUdevice device;
  int retained = 0;
  bool is_active = false;
  CUresult dead = SUCCESS;  // the sticky error, if there was one
  size_t used = 0;
  std::unique_ptr<Stream> legacy;
  std::vector<std::unique_ptr<Stream>> streams;
  std::set<std::unique_ptr<Event>> events;
  std::set<std::unique_ptr<Module>> modules;
};

struct Fault {
  std::string call;  // a name, or "*"
  long occurrence;   // counted from when the fault was set
  bool and_later;    // "5+": the fifth and all that follow
  CUresult code;
  long seen = 0;
};

struct Driver {
  std::recursive_mutex lock;
  pid_t process = 0;  // where cuInit succeeded; 0 before that
  bool has_settings = false;
  std::map<std::string, std::string> settings;
  std::map<std::string, long> calls;
  std::vector<Fault> faults;
  std::string report;
  uint64_t sequence = 0;
  std::mt19937_64 random;
  std::vector<std::unique_ptr<Context>> contexts;  // by device, never destroyed
  std::map<CUdeviceptr, Allocation> allocations;
  std::map<const char*, Allocation> pinned;
  std::array<Range, 4> remembered;  // of allocations, as kernels check few of them repeatedly
  size_t next_to_forget = 0;
  std::vector<std::shared_ptr<Capture>> captures;  // in progress
  std::set<std::unique_ptr<Graph>> graphs;
  std::set<std::unique_ptr<GraphExecution>> executions;
};

// driver.cpp
Driver& driver();
void set_driver_aside();
bool take_driver_back();

// settings.cpp
std::string setting(const std::string& name);
long number(const std::string& name);
std::string setting_of_device(const std::string& name, CUdevice device);
long number_of_device(const std::string& name, CUdevice device);
bool set_setting(const std::string& name, const std::string& value);
void forget_settings();
void put_settings_in_effect();

// faults.cpp
std::vector<Fault> parse_faults(const std::string& text);
CUresult injected(const std::string& call);
bool is_sticky(CUresult code);
CUresult failed(CUresult code, const std::string& report);

// devices.cpp
Context* current_context();
void set_current_context(Context* context);
void tear_down(Context& context);
void forget_contexts();
size_t shared_memory_limit(CUdevice device);

// memory.cpp
bool is_live(CUdeviceptr address, size_t size);
bool is_pinned(const void* address, size_t size);
std::vector<std::vector<char>> contents_of_memory();
std::vector<unsigned long long> changes_since(const std::vector<std::vector<char>>& contents);
void release_memory(Context* owner);  // null: all

// timeline.cpp
std::shared_ptr<Work> enqueue(Stream& stream, Action run, std::shared_ptr<Work> after = nullptr);
CUresult finish(std::shared_ptr<Work> target);
CUresult finish(Stream& stream);
CUresult finish(Context& context);
void drop_work(Context& context);
std::vector<size_t> order_of(const std::vector<GraphNode>& nodes);

// streams.cpp
Stream* stream_of(Stream* handle);  // null: no such stream
CUresult submit(Stream* handle, Action run);
CUresult submit_kernel(Stream* handle, Action run, std::shared_ptr<Outputs> outputs = nullptr);
std::shared_ptr<Outputs> outputs_before(const Stream& stream);  // of its next launch; or null

// capture.cpp
CUresult refuse_while_capturing();
CUresult refuse_legacy_while_capturing(Context& context);
CUresult append(Stream& stream, Action run);
void record_in_capture(Stream& stream, Event& event);
CUresult wait_in_capture(Stream& stream, Event& event);
CUresult invalidate(Capture& capture, CUresult code);
void abandon_captures(Context* context);

// build.cpp
void take_over(const BuiltModule& module);

// modules.cpp
std::shared_ptr<Kernel> kernel_of(Context& context, Kernel* handle);

template <class T>
T* found(const std::set<std::unique_ptr<T>>& owned, T* handle) {
  for (const auto& item : owned)
    if (item.get() == handle) return handle;
  return nullptr;
}

template <class T>
void erase(std::set<std::unique_ptr<T>>& owned, T* handle) {
  for (auto item = owned.begin(); item != owned.end(); ++item) {
    if (item->get() != handle) continue;
    owned.erase(item);
    return;
  }
}
