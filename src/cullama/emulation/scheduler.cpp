// scheduler.cpp - runs kernels: blocks one after another, with a fiber for each thread of a block.
//
// The order of blocks and threads, switching between fibers, barriers, warp collectives,
// asynchronous copies, and stopping and reporting kernels that break the rules. Nothing here
// depends on PTX. Fibers are switched only where CUDA threads wait for each other, so a thread runs
// alone until its next barrier, and a given order always gives the same result.
#include "scheduler.h"

#include "sanitizers.h"
#ifdef EMULATED_WATCHED
#include "counting/l2.h"
#endif

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

// Saves the callee-saved registers, and continues where `load` was saved.
extern "C" void emulated_switch(void** save, void* load);

#if defined(__x86_64__)
__asm__(R"(
.text
.p2align 4
.hidden emulated_switch
.type emulated_switch, @function
emulated_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emulated_switch, . - emulated_switch
)");
constexpr int SAVED_WORDS = 7;  // the last one is the return address
constexpr int RETURN_WORD = 6;
constexpr int ENTRY_OFFSET = 1;  // at a function's entry the stack is 8 bytes off 16
#elif defined(__aarch64__)
__asm__(R"(
.text
.p2align 4
.hidden emulated_switch
.type emulated_switch, %function
emulated_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size emulated_switch, . - emulated_switch
)");
constexpr int SAVED_WORDS = 20;
constexpr int RETURN_WORD = 11;  // x30
constexpr int ENTRY_OFFSET = 0;
#else
#error "the emulator switches stacks on x86-64 and aarch64 only"
#endif

namespace emulated {

Machine machine;

namespace {

constexpr size_t PAGE = 65536;  // a multiple of the page sizes 4, 16 and 64 KiB
constexpr size_t STACK_ROOM = EMULATED_STACK_ROOM;
constexpr int NAMED_BARRIERS = 16;
constexpr unsigned GRID_BARRIER = NAMED_BARRIERS + 1;  // griddepcontrol.wait, as a barrier's number

enum State : unsigned char { NEW, READY, WAITING, DONE };
enum Order { ASCENDING, DESCENDING, RANDOM };

struct Wait {
  const char* name;  // of what the thread waits at
  int line;
  uint32_t mask;  // of a warp collective
  void* payload;
  Complete complete;
  unsigned barrier;  // of a block barrier
  Votes votes;
};

struct Warp {
  uint32_t living, waiting;  // lanes
};

struct Barrier {
  unsigned arrived, expected, yes, first_thread;
  int line;
};

// A barrier's identity for a race detector: a thread may reach the next one before others leave.
struct MemoryOrder {
  unsigned phase;
  char tokens[2];
  char* token() { return &tokens[phase % 2]; }
};

struct Copy {
  unsigned char* to;
  const unsigned char* from;
  unsigned bytes, source_bytes;
};

struct Copies {
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};

struct Settings {
  int order = ASCENDING;
  uint64_t seed = 0;
  int (*is_live)(unsigned long long, size_t) = nullptr;
  bool eager_copies = false;
  bool checks_counters = false;
  uint64_t steps = 2000000000;  // loop iterations and waits of one block: some seconds
};

// What the launch before this one wrote, hidden from the part of a block that may run before it.
struct Awaited {
  std::vector<Range> ranges;
  std::vector<std::vector<unsigned char>> kept;  // empty: nothing is hidden
  unsigned waiting = 0;                          // threads of the block

  void hide() {
    for (const Range& range : ranges) {
      auto* first = reinterpret_cast<unsigned char*>(range.first);
      kept.emplace_back(first, first + range.size);
      memset(first, 0xff, range.size);
    }
  }
  void show() {
    for (size_t i = 0; i < kept.size(); i++)
      memcpy(reinterpret_cast<void*>(ranges[i].first), kept[i].data(), kept[i].size());
    kept.clear();
  }
};

struct Counter {
  unsigned bytes;
  int line;
  Index block;  // the first that changed it
  bool was_zero, is_shared;
};

// The current launch; `launch_mutex` allows one at a time.
struct Run {
  const Module* module;
  const Kernel* kernel;
  unsigned threads, living;
  Thread thread[MAX_THREADS];
  State state[MAX_THREADS];
  Wait wait[MAX_THREADS];
  void* stack_pointer[MAX_THREADS];
  int stack[MAX_THREADS];  // the stack of a thread that has started
  Warp warp[MAX_THREADS / WARP];
  Barrier barrier[NAMED_BARRIERS];
  MemoryOrder barrier_order[NAMED_BARRIERS], warp_order[MAX_THREADS / WARP];
  Copies copies[MAX_THREADS];
  bool has_copies;

  unsigned order[MAX_THREADS];  // in which threads start
  unsigned begun;
  unsigned ready[2 * MAX_THREADS], ready_head, ready_tail;  // a ring

  int free_stack[MAX_THREADS], free_stacks;
  unsigned char* stacks;
  size_t stack_stride;
  void* main_stack_pointer;

  uint64_t random;
  int code;
  char message[1024];
  sigjmp_buf after_fault;
  void* fault_address;
};

std::mutex launch_mutex;
#ifdef EMULATED_WATCHED
const Watcher* watcher;
uint64_t sample;
L2 l2;
#define TELL(call) \
  if (watcher) watcher->call
#else
#define TELL(call)
#endif
Settings settings;
Run run;
Awaited awaited;
std::map<const unsigned char*, Counter> counters;
volatile bool in_kernel;
pthread_t kernel_thread;
struct sigaction earlier_segv, earlier_bus;

// --- failures -----------------------------------------------------------------------------------

const SourceLine* source_of(int line) {
  const SourceLine* found = nullptr;
  for (int i = 0; i < run.module->line_count && run.module->lines[i].line <= line; i++)
    found = &run.module->lines[i];
  return found;
}

int describe_place(char* text, size_t room, int line) {
  if (const SourceLine* source = source_of(line))
    return snprintf(text, room, "%s %d (%s:%d)", run.module->line_name, line, source->file,
                    source->source);
  return snprintf(text, room, "%s %d", run.module->line_name, line);
}

void record_failure(int code, int line, const char* what) {
  char place[512];
  describe_place(place, sizeof place, line);
  const Index block = machine.block,
              thread = machine.current ? machine.current->index : Index{0, 0, 0};
  snprintf(run.message, sizeof run.message,
           "kernel %s, block (%u, %u, %u), thread (%u, %u, %u), %s: %s", run.kernel->name, block.x,
           block.y, block.z, thread.x, thread.y, thread.z, place, what);
  run.code = code;
}

constexpr int MAIN = -1;  // the stack that launched the kernel

// Switches to another stack, and tells the sanitizers.
void switch_stacks(void** save, void* load, int to) {
  sanitizer_leaves_for(to);
  emulated_switch(save, load);
  sanitizer_has_arrived();
}

[[noreturn]] void leave_block() {
  void* never;
  switch_stacks(&never, run.main_stack_pointer, MAIN);
  abort();
}

// Describes which threads wait where, for reports of deadlocks.
[[noreturn]] void report_deadlock() {
  char text[700];
  int length = snprintf(text, sizeof text, "deadlock");
  bool is_reported[MAX_THREADS] = {};
  unsigned returned = 0;
  int line = 0;
  for (unsigned i = 0; i < run.threads; i++) {
    if (run.state[i] == DONE) returned++;
    if (run.state[i] == DONE || is_reported[i]) continue;
    unsigned count = 0;
    for (unsigned j = i; j < run.threads; j++)
      if (run.state[j] == WAITING && run.wait[j].line == run.wait[i].line)
        is_reported[j] = true, count++;
    if (!line) line = run.wait[i].line, machine.current = &run.thread[i];
    if (length < 550)
      length += snprintf(text + length, sizeof text - length,
                         "; %u threads, the first is number %u, wait at %s in line %d", count, i,
                         run.wait[i].name, run.wait[i].line);
  }
  snprintf(text + length, sizeof text - length, "; %u threads have returned", returned);
  record_failure(LAUNCH_FAILED, line, text);
  leave_block();
}

// --- choosing the next thread -------------------------------------------------------------------

uint64_t next_random() {  // splitmix64
  uint64_t z = run.random += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

unsigned& ready_at(unsigned position) { return run.ready[position % (2 * MAX_THREADS)]; }

void make_ready(unsigned number) {
  run.state[number] = READY;
  ready_at(run.ready_tail++) = number;
}

void make_ready_first(unsigned number) {
  run.state[number] = READY;
  ready_at(--run.ready_head) = number;
}

// Any ready thread, with equal probability.
int pick_random() {
  const unsigned ready = run.ready_tail - run.ready_head, fresh = run.threads - run.begun;
  if (ready + fresh == 0) return -1;
  const unsigned chosen = unsigned(next_random() % (ready + fresh));
  if (chosen < ready) {
    std::swap(ready_at(run.ready_head + chosen), ready_at(run.ready_head));
    return int(ready_at(run.ready_head++));
  }
  std::swap(run.order[run.begun + chosen - ready], run.order[run.begun]);
  return int(run.order[run.begun++]);
}

// Threads that have started go first: few stacks are then in use at once, and stay in the caches.
int pick_started_first() {
  if (settings.order == RANDOM) return pick_random();
  if (run.ready_head != run.ready_tail) return int(ready_at(run.ready_head++));
  return run.begun < run.threads ? int(run.order[run.begun++]) : -1;
}

// The launch before this one ends when no thread can do more without it.
int pick() {
  const int next = pick_started_first();
  if (next >= 0 || !awaited.waiting) return next;
  awaited.show();
  awaited.waiting = 0;
  for (unsigned i = 0; i < run.threads; i++)
    if (run.state[i] == WAITING && run.wait[i].barrier == GRID_BARRIER) make_ready(i);
  return pick_started_first();
}

void finish(Thread& thread);

[[noreturn]] void switch_away(int next);

// Runs a fiber's thread, then, on the same stack, threads that have not started.
void fiber() {
  sanitizer_has_arrived();
  for (;;) {
    Thread& thread = *machine.current;
    acquire_block_start();
    run.kernel->body(thread);
    release_block_end();
    finish(thread);
    const int stack = run.stack[thread.number], next = pick();
    if (HAS_FIBER_FOR_EACH_THREAD || next < 0 || run.state[next] != NEW) {
      if (!HAS_FIBER_FOR_EACH_THREAD) run.free_stack[run.free_stacks++] = stack;
      switch_away(next);
    }
    machine.current = &run.thread[next];
    run.state[next] = READY;
    run.stack[next] = stack;
  }
}

// Stacks start at different offsets into their pages; otherwise they would share few cache sets.
void* new_fiber(int stack) {
  sanitizer_begins_stack(stack);
  unsigned char* end = run.stacks + (size_t(stack) + 1) * run.stack_stride - 1024;
  void** top = reinterpret_cast<void**>(end - stack % 16 * 192) - SAVED_WORDS - ENTRY_OFFSET;
  memset(top, 0, (SAVED_WORDS + ENTRY_OFFSET) * sizeof(void*));
  top[RETURN_WORD] = reinterpret_cast<void*>(fiber);
  return top;
}

void* stack_pointer_of(int number) {
  if (run.state[number] == NEW) {
    run.state[number] = READY;
    run.stack[number] = HAS_FIBER_FOR_EACH_THREAD ? number : run.free_stack[--run.free_stacks];
    run.stack_pointer[number] = new_fiber(run.stack[number]);
  }
  return run.stack_pointer[number];
}

[[noreturn]] void switch_away(int next) {
  if (next < 0 && run.living) report_deadlock();
  machine.current = next < 0 ? nullptr : &run.thread[next];
  void* never;
  if (next < 0) leave_block();
  void* load = stack_pointer_of(next);
  switch_stacks(&never, load, run.stack[next]);
  abort();
}

void take_step(int line) {
  if (--machine.steps_left <= 0) out_of_steps(line);
}

// Blocks the current thread; returns when it was made ready and is scheduled again.
void wait_here() {
  const unsigned me = machine.current->number;
  const int next = pick();
  if (next < 0) report_deadlock();
  if (unsigned(next) == me) return;
  machine.current = &run.thread[next];
  void* load = stack_pointer_of(next);
  switch_stacks(&run.stack_pointer[me], load, run.stack[next]);
}

// --- block barriers -----------------------------------------------------------------------------

#ifdef EMULATED_WATCHED
void tell_of_barrier(unsigned number) {
  uint32_t lanes[MAX_THREADS / WARP] = {}, living[MAX_THREADS / WARP];
  const unsigned warps = (run.threads + WARP - 1) / WARP;
  for (unsigned i = 0; i < run.threads; i++)
    if (run.state[i] == WAITING && run.wait[i].barrier == number) lanes[i / WARP] |= 1u << i % WARP;
  for (unsigned i = 0; i < warps; i++) living[i] = run.warp[i].living;
  TELL(meet_in_block(warps, lanes, living));
}
#else
void tell_of_barrier(unsigned) {}
#endif

void release(unsigned number) {
  Barrier& barrier = run.barrier[number];
  const Votes votes = {barrier.yes, barrier.expected};
  barrier = {};
  run.barrier_order[number].phase++;
  tell_of_barrier(number);
  for (unsigned i = 0; i < run.threads; i++) {
    const unsigned thread = settings.order == DESCENDING ? run.threads - 1 - i : i;
    if (run.state[thread] != WAITING || run.wait[thread].barrier != number) continue;
    run.wait[thread].barrier = NAMED_BARRIERS;
    run.wait[thread].votes = votes;
    make_ready(thread);
  }
}

void check_arrival(const Barrier& barrier, unsigned expected, bool is_whole_block, int line) {
  if (barrier.expected != expected)
    fail(LAUNCH_FAILED, line, "the barrier expects %u threads here, but %u in line %d", expected,
         barrier.expected, barrier.line);
  if (is_whole_block && barrier.line != line)
    fail(LAUNCH_FAILED, line,
         "divergent barrier: this thread waits here, thread number %u waits in line %d",
         barrier.first_thread, barrier.line);
}

void arrive(Thread& self, unsigned number, unsigned expected, bool vote, int line) {
  take_step(line);
  if (number >= NAMED_BARRIERS) fail(LAUNCH_FAILED, line, "there is no barrier %u", number);
  if (expected % WARP)
    fail(LAUNCH_FAILED, line, "a barrier of %u threads: not a multiple of 32", expected);
  const unsigned all = expected ? expected : run.threads;
  Barrier& barrier = run.barrier[number];
  if (barrier.arrived == 0) barrier = {0, all, 0, self.number, line};
  check_arrival(barrier, all, expected == 0, line);
  barrier.arrived++;
  barrier.yes += vote;
}

void begin_wait(Thread& self, const char* name, int line, unsigned barrier) {
  Wait& wait = run.wait[self.number];
  wait.name = name;
  wait.line = line;
  wait.barrier = barrier;
  run.state[self.number] = WAITING;
}

// --- warp collectives ---------------------------------------------------------------------------

// Whether all lanes that lane `first` waits for wait for each other.
bool is_complete(const Warp& warp, const Wait* lanes, unsigned first, uint32_t needed) {
  if ((warp.waiting & needed) != needed) return false;
  for (uint32_t left = needed; left; left &= left - 1) {
    const Wait &one = lanes[first], &other = lanes[__builtin_ctz(left)];
    if (other.mask != one.mask || other.line != one.line)
      fail(LAUNCH_FAILED, one.line,
           "lane %u is at %s with mask %08x, but lane %d at %s with mask %08x in line %d", first,
           one.name, one.mask, __builtin_ctz(left), other.name, other.mask, other.line);
  }
  return true;
}

void complete(Warp& warp, const Wait* lanes, unsigned first, uint32_t needed) {
  if (lanes[first].complete) {
    void* payloads[WARP];
    for (uint32_t left = needed; left; left &= left - 1)
      payloads[__builtin_ctz(left)] = lanes[__builtin_ctz(left)].payload;
    lanes[first].complete(payloads, needed);
  }
  const bool orders_memory = !lanes[first].complete;
  TELL(meet_in_warp(unsigned(lanes - run.wait) / WARP, needed, warp.living, orders_memory));
  warp.waiting &= ~needed;
  run.warp_order[(lanes - run.wait) / WARP].phase++;
}

// In ascending order warps proceed together; in descending order one runs ahead to the next block
// barrier, so that what it does too early shows.
void wake(unsigned warp, uint32_t lanes) {
  while (lanes) {
    const int lane = __builtin_ctz(lanes);
    lanes &= lanes - 1;
    const unsigned number = warp * WARP + unsigned(lane);
    if (settings.order == DESCENDING)
      make_ready_first(number);  // the highest lane runs first
    else
      make_ready(number);
  }
}

// Called when a lane has arrived or exited: completes what is complete. `self` is not queued.
bool advance_warp(unsigned number, uint32_t self) {
  Warp& warp = run.warp[number];
  const Wait* lanes = &run.wait[number * WARP];
  for (uint32_t left = self ? self : warp.waiting; left; left &= left - 1) {
    const unsigned first = unsigned(__builtin_ctz(left));
    const uint32_t needed = lanes[first].mask & warp.living;
    if (!(warp.waiting >> first & 1) || !is_complete(warp, lanes, first, needed)) continue;
    complete(warp, lanes, first, needed);
    wake(number, needed & ~self);
    if (needed & self) return true;
  }
  return false;
}

void finish(Thread& thread) {
  run.state[thread.number] = DONE;
  run.living--;
  Warp& warp = run.warp[thread.warp];
  warp.living &= ~(1u << thread.lane);
  if (warp.waiting) advance_warp(thread.warp, 0);
}

// --- faults -------------------------------------------------------------------------------------

bool is_stack(const void* address) {
  return uintptr_t(address) - machine.stacks_first < machine.stacks_bytes;
}

void on_fault(int signal, siginfo_t* information, void* context) {
  if (in_kernel && pthread_equal(kernel_thread, pthread_self())) {
    in_kernel = false;
    run.fault_address = information->si_addr;
    siglongjmp(run.after_fault, 1);
  }
  const struct sigaction& earlier = signal == SIGSEGV ? earlier_segv : earlier_bus;
  if (earlier.sa_flags & SA_SIGINFO)
    earlier.sa_sigaction(signal, information, context);
  else if (earlier.sa_handler != SIG_DFL && earlier.sa_handler != SIG_IGN)
    earlier.sa_handler(signal);
  else
    sigaction(signal, &earlier, nullptr);  // the instruction is repeated, and now ends the process
}

void record_fault() {
  char text[160];
  const bool is_overflow = is_stack(run.fault_address);
  if (is_overflow)
    snprintf(text, sizeof text, "stack overflow (the line is that of the last access to memory)");
  else if (run.fault_address)
    snprintf(text, sizeof text, "illegal address %p", run.fault_address);
  else
    snprintf(text, sizeof text, "illegal address (null, or not an address at all)");
  record_failure(is_overflow ? HARDWARE_STACK_ERROR : ILLEGAL_ADDRESS, machine.line, text);
}

// Signal handlers while a kernel runs, on their own stack, as the kernel's may be full.
class FaultHandlers {
 public:
  FaultHandlers() {
    if (IS_SANITIZED) return;  // the sanitizer reports it better, and ends the process
    static unsigned char room[64 << 10];
    stack_t ours = {};
    ours.ss_sp = room;
    ours.ss_size = sizeof room;
    sigaltstack(&ours, &earlier_stack_);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &earlier_segv);
    sigaction(SIGBUS, &action, &earlier_bus);
    kernel_thread = pthread_self();
    in_kernel = true;
  }
  ~FaultHandlers() {
    if (IS_SANITIZED) return;
    in_kernel = false;
    sigaction(SIGSEGV, &earlier_segv, nullptr);
    sigaction(SIGBUS, &earlier_bus, nullptr);
    sigaltstack(&earlier_stack_, nullptr);
  }

 private:
  stack_t earlier_stack_ = {};
};

// --- blocks -------------------------------------------------------------------------------------

// NaN in every format.
void poison(unsigned char* memory, size_t bytes) {
  if (!bytes) return;
  if (IS_SANITIZED)
    write_unseen(memory, 0xff, bytes);
  else
    memset(memory, 0xff, bytes);
}

void begin_block() {
  poison(machine.shared, machine.shared_bytes);
  const Range& section = run.module->shared_section;
  poison(reinterpret_cast<unsigned char*>(section.first), section.size);
  memset(run.state, NEW, run.threads);
  memset(run.barrier, 0, sizeof run.barrier);
  for (unsigned i = 0; i * WARP < run.threads; i++) {
    const unsigned lanes = std::min(WARP, run.threads - i * WARP);
    run.warp[i] = {~0u >> (WARP - lanes), 0};
  }
  for (unsigned i = 0; run.has_copies && i < run.threads; i++) run.copies[i] = {};
  run.has_copies = false;
  run.living = run.threads;
  run.begun = run.ready_head = run.ready_tail = 0;
  machine.steps_left = int64_t(settings.steps);
}

void run_block(uint64_t number) {
  acquire_block_end();
  machine.block = {unsigned(number % machine.grid.x),
                   unsigned(number / machine.grid.x % machine.grid.y),
                   unsigned(number / machine.grid.x / machine.grid.y)};
  begin_block();
  awaited.hide();
  TELL(begin_block(run.threads));
  release_block_start();
  const int first = pick();
  machine.current = &run.thread[first];
  void* load = stack_pointer_of(first);
  switch_stacks(&run.main_stack_pointer, load, run.stack[first]);
  awaited.show();
  if (run.code) return;
  TELL(end_block());
}

#ifdef EMULATED_WATCHED
bool run_sample(uint64_t count) {
  if (!sample || sample >= count) return false;
  for (uint64_t i = 0; i < sample && !run.code; i++)
    run_block(sample == 1 ? 0 : i * (count - 1) / (sample - 1));
  acquire_block_end();
  return true;
}
#else
bool run_sample(uint64_t) { return false; }
#endif

void run_blocks() {
  const uint64_t count = uint64_t(machine.grid.x) * machine.grid.y * machine.grid.z;
  if (run_sample(count)) return;
  std::vector<uint64_t> shuffled(settings.order == RANDOM ? count : 0);
  for (uint64_t i = 0; i < shuffled.size(); i++) {
    shuffled[i] = i;
    std::swap(shuffled[i], shuffled[next_random() % (i + 1)]);
  }
  for (uint64_t i = 0; i < count && !run.code; i++)
    run_block(settings.order == RANDOM       ? shuffled[i]
              : settings.order == DESCENDING ? count - 1 - i
                                             : i);
  acquire_block_end();
}

// A fault jumps back to here; nothing in this frame needs cleaning up.
void run_blocks_or_fault() {
  if (sigsetjmp(run.after_fault, 0))
    record_fault();
  else
    run_blocks();
}

void number_threads() {
  const Index size = machine.block_size;
  for (unsigned i = 0; i < run.threads; i++) {
    run.thread[i] = {{i % size.x, i / size.x % size.y, i / size.x / size.y}, i, i % WARP, i / WARP};
    run.order[i] = settings.order == DESCENDING ? run.threads - 1 - i : i;
    run.wait[i].barrier = NAMED_BARRIERS;
  }
}

// --- memory -------------------------------------------------------------------------------------

unsigned char* map(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) abort();
  return static_cast<unsigned char*>(memory);
}

// Each stack has a guard page below it.
void prepare_stacks(size_t local_bytes) {
  const size_t stride = (local_bytes + STACK_ROOM + PAGE - 1) / PAGE * PAGE + PAGE;
  if (stride <= run.stack_stride) return;
  if (run.stacks) munmap(run.stacks, MAX_THREADS * run.stack_stride);
  run.stack_stride = stride;
  run.stacks = map(MAX_THREADS * stride);
  for (size_t i = 0; i < MAX_THREADS; i++) mprotect(run.stacks + i * stride, PAGE, PROT_NONE);
  machine.stacks_first = uintptr_t(run.stacks);
  machine.stacks_bytes = MAX_THREADS * stride;
}

// After a launch that failed: its fibers are abandoned.
void free_all_stacks() {
  run.free_stacks = 0;
  for (unsigned i = MAX_THREADS; i-- > 0;) run.free_stack[run.free_stacks++] = int(i);
}

unsigned char* shared_room() {
  static unsigned char room[SHARED_WINDOW];
  return room;
}

void add_shared_array(uint32_t first, uint32_t size) {
  for (uint32_t i = 0; i < size; i++)
    shared_room()[first + i] = static_cast<unsigned char>(std::min(size - i, 16u));
}

bool is_laid_out(const std::vector<SharedArray>& arrays) {
  static std::vector<SharedArray> last;
  const bool is_same = arrays.size() == last.size() &&
                       !memcmp(arrays.data(), last.data(), arrays.size() * sizeof(SharedArray));
  last = arrays;
  return is_same;
}

// Repeated only when something has changed: it takes longer than a small launch.
void lay_out_shared(size_t dynamic_bytes) {
  static unsigned char* const window = map(SHARED_WINDOW);
  const Kernel& kernel = *run.kernel;
  std::vector<SharedArray> arrays(kernel.shared, kernel.shared + kernel.shared_count);
  arrays.push_back({kernel.dynamic_first, uint32_t(dynamic_bytes)});
  if (is_laid_out(arrays)) return;
  memset(shared_room(), 0, machine.shared_bytes);
  machine.shared = window;
  machine.shared_room = shared_room();
  for (const SharedArray& array : arrays) add_shared_array(array.first, array.size);
  machine.dynamic_first = run.kernel->dynamic_first;
  machine.dynamic_bytes = uint32_t(dynamic_bytes);
  machine.shared_bytes = run.kernel->dynamic_first + uint32_t(dynamic_bytes);
  sanitizer_bounds(machine.shared, machine.shared_bytes, SHARED_WINDOW);
}

// --- live ranges --------------------------------------------------------------------------------

std::vector<Range> live_ranges;

bool is_live(uint64_t first, uint64_t size) { return settings.is_live(first, size_t(size)); }

// Grows by doubling, then by halves, as far as `is_good` allows.
template <class Question>
uint64_t furthest(Question is_good) {
  uint64_t reach = 0, step = 1;
  for (; step < uint64_t(1) << 40 && is_good(reach + step); step *= 2) reach += step;
  for (; step; step /= 2)
    if (is_good(reach + step)) reach += step;
  return reach;
}

Range live_range_around(uint64_t address, unsigned bytes) {
  const uint64_t after = furthest([&](uint64_t more) { return is_live(address, bytes + more); });
  const uint64_t before = furthest([&](uint64_t more) {
    return more <= address && is_live(address - more, more + bytes + after);
  });
  return {address - before, before + bytes + after};
}

bool set_site(Site& site, const Range& range, uint64_t address, unsigned bytes) {
  if (address - range.first >= range.size || range.first + range.size - address < bytes)
    return false;
  site = {range.first, range.size - bytes + 1};
  return true;
}

// Ranges of earlier launches stay while they are live.
void forget_dead_ranges() {
  memset(run.module->sites, 0, run.module->site_count * sizeof(Site));
  auto is_dead = [](const Range& r) { return !settings.is_live || !is_live(r.first, r.size); };
  live_ranges.erase(std::remove_if(live_ranges.begin(), live_ranges.end(), is_dead),
                    live_ranges.end());
}

// --- launching ----------------------------------------------------------------------------------

int refuse(const char* kernel, int code, const char* reason) {
  snprintf(run.message, sizeof run.message, "kernel %s: %s", kernel, reason);
  return run.code = code;
}

const char* objection(const unsigned grid[3], const unsigned block[3], size_t dynamic_bytes) {
  const uint64_t threads = uint64_t(block[0]) * block[1] * block[2];
  if (!grid[0] || !grid[1] || !grid[2] || !threads) return "a grid or block of size 0";
  if (grid[0] > 0x7fffffff || grid[1] > 65535 || grid[2] > 65535) return "the grid is too large";
  if (threads > MAX_THREADS || block[0] > 1024 || block[1] > 1024 || block[2] > 64)
    return "more than 1024 threads in a block";
  if (run.kernel->max_threads && threads > run.kernel->max_threads)
    return "more threads in a block than its __launch_bounds__";
  size_t bytes = dynamic_bytes;
  for (int i = 0; i < run.kernel->shared_count; i++) bytes += run.kernel->shared[i].size;
  const bool fits = run.kernel->dynamic_first + dynamic_bytes <= SHARED_WINDOW;
  return bytes > MAX_SHARED || !fits ? "more shared memory than 227 KiB" : nullptr;
}

void prepare(const unsigned grid[3], const unsigned block[3], size_t dynamic_bytes) {
  machine.grid = {grid[0], grid[1], grid[2]};
  machine.block_size = {block[0], block[1], block[2]};
  run.threads = block[0] * block[1] * block[2];
  run.random = settings.seed;
  number_threads();
  prepare_stacks(run.kernel->local_bytes);
  free_all_stacks();
  lay_out_shared(dynamic_bytes);
  sanitizer_prepares(run.stacks, run.stack_stride, PAGE, run.threads);
  forget_dead_ranges();
}

}  // namespace

void fail(int code, int line, const char* format, ...) {
  char text[700];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  record_failure(code, line, text);
  leave_block();
}

void out_of_steps(int line) {
  fail(LAUNCH_TIMEOUT, line, "the block does not end: %llu loop turns and waits are used up",
       static_cast<unsigned long long>(settings.steps));
}

Votes barrier_vote(Thread& self, unsigned number, unsigned expected, bool vote, int line) {
  arrive(self, number, expected, vote, line);
  begin_wait(self, "bar.sync", line, number);
  char* const token = run.barrier_order[number].token();
  release_memory(token);
  if (run.barrier[number].arrived == run.barrier[number].expected) release(number);
  wait_here();
  acquire_memory(token);
  return run.wait[self.number].votes;
}

void barrier(Thread& self, unsigned number, unsigned expected, int line) {
  barrier_vote(self, number, expected, false, line);
}

void barrier_arrive(Thread& self, unsigned number, unsigned expected, int line) {
  arrive(self, number, expected, false, line);
  TELL(arrive_in_block(self.warp));
  if (run.barrier[number].arrived == run.barrier[number].expected) release(number);
}

void collective(Thread& self, const char* name, uint32_t mask, int line, void* payload,
                Complete complete) {
  take_step(line);
  if (!(mask >> self.lane & 1))
    fail(LAUNCH_FAILED, line, "%s: the thread's own lane %u is not in mask %08x", name, self.lane,
         mask);
  begin_wait(self, name, line, NAMED_BARRIERS);
  Wait& wait = run.wait[self.number];
  wait.mask = mask;
  wait.payload = payload;
  wait.complete = complete;
  run.warp[self.warp].waiting |= 1u << self.lane;
  const bool orders_memory = !complete;  // bar.warp.sync does; shuffles do not
  char* const token = run.warp_order[self.warp].token();
  if (orders_memory) release_memory(token);
  if (advance_warp(self.warp, 1u << self.lane))
    run.state[self.number] = READY;
  else
    wait_here();
  if (orders_memory) acquire_memory(token);
}

void wait_for_grid(Thread& self, int line) {
  if (awaited.kept.empty()) return;
  begin_wait(self, "griddepcontrol.wait", line, GRID_BARRIER);
  awaited.waiting++;
  wait_here();
}

void remember_counter(const unsigned char* at, unsigned bytes, int line) {
  if (!settings.checks_counters || is_stack(at) || size_t(at - machine.shared) < SHARED_WINDOW)
    return;
  const Index here = machine.block;
  auto [known, is_new] = counters.try_emplace(at, Counter{bytes, line, here, true, false});
  Counter& counter = known->second;
  for (unsigned i = 0; is_new && i < bytes; i++) counter.was_zero &= at[i] == 0;
  const Index first = counter.block;
  counter.is_shared |= first.x != here.x || first.y != here.y || first.z != here.z;
}

uint32_t living_lanes(const Thread& self) { return run.warp[self.warp].living; }

static void perform(const Copy& copy) {
  memcpy(copy.to, copy.from, copy.source_bytes);
  memset(copy.to + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
}

void copy_asynchronously(Thread& self, unsigned char* to, const unsigned char* from, unsigned bytes,
                         unsigned source_bytes) {
  const Copy copy = {to, from, bytes, std::min(bytes, source_bytes)};
  run.has_copies = true;
  if (settings.eager_copies)
    perform(copy);
  else
    run.copies[self.number].open.push_back(copy);
}

void commit_copies(Thread& self) {
  Copies& copies = run.copies[self.number];
  copies.groups.push_back(std::move(copies.open));
  copies.open.clear();
  run.has_copies = true;
}

void wait_for_copies(Thread& self, unsigned groups_left) {
  auto& groups = run.copies[self.number].groups;
  while (groups.size() > groups_left) {
    for (const Copy& copy : groups.front()) perform(copy);
    groups.erase(groups.begin());
  }
}

void find_live_range(Site& site, uint64_t address, unsigned bytes, int line) {
  if (!settings.is_live) {
    site = {0, ~uint64_t(0)};
    return;
  }
  for (int i = 0; i < run.module->variable_count; i++)
    if (set_site(site, run.module->variables[i], address, bytes)) return;
  for (const Range& range : live_ranges)
    if (set_site(site, range, address, bytes)) return;
  if (!is_live(address, bytes))
    fail(ILLEGAL_ADDRESS, line, "illegal address 0x%llx: %u bytes there are not all allocated",
         static_cast<unsigned long long>(address), bytes);
  live_ranges.push_back(live_range_around(address, bytes));
  set_site(site, live_ranges.back(), address, bytes);
}

// A launch that leaves a counter of its blocks behind gives the next one a wrong start.
static void check_counters() {
  for (const auto& [at, counter] : counters) {
    uint64_t value = 0;
    memcpy(&value, at, std::min<size_t>(counter.bytes, sizeof value));
    if (!counter.is_shared || !counter.was_zero || value == 0) continue;
    const uint64_t address = uint64_t(at);
    char text[300], buffer[100] = "";
    if (settings.is_live) {
      const Range range = live_range_around(address, counter.bytes);
      snprintf(buffer, sizeof buffer, " (byte %llu of a buffer of %llu bytes)",
               (unsigned long long)(address - range.first), (unsigned long long)range.size);
    }
    snprintf(text, sizeof text,
             "the counter that blocks share at 0x%llx%s is %llu at the end of the launch; it was 0 "
             "at its start, and has to be again",
             (unsigned long long)address, buffer, (unsigned long long)value);
    machine.current = nullptr;
    record_failure(LAUNCH_FAILED, counter.line, text);
    return;
  }
}

const Kernel* find_kernel(const Module& module, const char* name) {
  for (int i = 0; i < module.kernel_count; i++)
    if (!strcmp(module.kernels[i].name, name)) return &module.kernels[i];
  return nullptr;
}

int launch(const Module& module, const char* name, const unsigned grid[3], const unsigned block[3],
           size_t dynamic_bytes, void** arguments) {
  std::lock_guard<std::mutex> lock(launch_mutex);
  run.module = &module;
  run.kernel = find_kernel(module, name);
  machine.current = nullptr;
  run.code = 0;
  run.message[0] = 0;
  if (!run.kernel) return refuse(name, NOT_FOUND, "there is no such kernel");
  if (const char* reason = objection(grid, block, dynamic_bytes))
    return refuse(name, INVALID_VALUE, reason);
  machine.parameters = arguments;
  prepare(grid, block, dynamic_bytes);
  counters.clear();
  awaited.waiting = 0;
  FaultHandlers handlers;
  run_blocks_or_fault();
  awaited.show();
  awaited.ranges.clear();
  if (!run.code) check_counters();
  return run.code;
}

const char* last_error() { return run.message; }

void set_schedule(int order, unsigned long long seed) {
  std::lock_guard<std::mutex> lock(launch_mutex);
  settings.order = order;
  settings.seed = seed;
}

void set_pointer_check(int (*is_live)(unsigned long long address, size_t size)) {
  std::lock_guard<std::mutex> lock(launch_mutex);
  settings.is_live = is_live;
  live_ranges.clear();
}

void set_eager_copies(int eager) {
  std::lock_guard<std::mutex> lock(launch_mutex);
  settings.eager_copies = eager != 0;
}

void set_watchdog(unsigned long long steps) {
  std::lock_guard<std::mutex> lock(launch_mutex);
  settings.steps = steps;
}

void set_awaited(const unsigned long long* ranges, int count) {
  std::lock_guard<std::mutex> lock(launch_mutex);
  awaited.ranges.clear();
  for (int i = 0; i < count; i++) awaited.ranges.push_back({ranges[2 * i], ranges[2 * i + 1]});
}

void set_counter_check(int is_on) {
  std::lock_guard<std::mutex> lock(launch_mutex);
  settings.checks_counters = is_on != 0;
}

#ifdef EMULATED_WATCHED
void set_watcher(const Watcher* wanted) { watcher = wanted; }
void set_sample(unsigned long long count) { sample = count; }
bool touch_l2(uint64_t sector) { return l2.touch(sector); }
void set_l2(uint64_t bytes) { l2.resize(bytes); }
#endif

}  // namespace emulated
