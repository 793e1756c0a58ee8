// sanitizers.h - tells ASan and TSan about fibers; does nothing in an ordinary build.
//
// TSan sees every CUDA thread as a thread of its own, ordered by barriers and __syncwarp alone. It
// sees blocks one after another, as they use the same shared memory here. Part of scheduler.cpp,
// which is itself not instrumented: EMULATED_BOUNDS and EMULATED_RACES say which sanitizer checks
// the kernels.
#pragma once
#include <stddef.h>

#if defined(EMULATED_BOUNDS)
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(EMULATED_RACES)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

namespace emulated {
namespace {

#if defined(EMULATED_BOUNDS) || defined(EMULATED_RACES)
constexpr bool IS_SANITIZED = true;
#define EMULATED_STACK_ROOM (512 << 10)
#else
constexpr bool IS_SANITIZED = false;
#define EMULATED_STACK_ROOM (64 << 10)
#endif

// Not memset(): sanitizers check that one.
inline void write_unseen(unsigned char* memory, unsigned char value, size_t bytes) {
  for (volatile unsigned char* at = memory; at < memory + bytes; at++) *at = value;
}

#if defined(EMULATED_RACES)
constexpr bool HAS_FIBER_FOR_EACH_THREAD = true;
constexpr unsigned NO_ORDER = 1;  // switching does not synchronise
void *tsan_main, *tsan_fibers[1024];
char block_start, block_end;

inline void release_memory(void* at) { __tsan_release(at); }
inline void acquire_memory(void* at) { __tsan_acquire(at); }
inline void acquire_block_start() { __tsan_acquire(&block_start); }
inline void release_block_start() { __tsan_release(&block_start); }
inline void acquire_block_end() { __tsan_acquire(&block_end); }
inline void release_block_end() { __tsan_release(&block_end); }

inline void sanitizer_prepares(unsigned char*, size_t, size_t, unsigned threads) {
  tsan_main = __tsan_get_current_fiber();
  for (unsigned i = 0; i < threads; i++)
    if (!tsan_fibers[i]) tsan_fibers[i] = __tsan_create_fiber(NO_ORDER);
}
inline void sanitizer_leaves_for(int stack) {
  __tsan_switch_to_fiber(stack < 0 ? tsan_main : tsan_fibers[stack], NO_ORDER);
}
#else
constexpr bool HAS_FIBER_FOR_EACH_THREAD = false;
inline void release_memory(void*) {}
inline void acquire_memory(void*) {}
inline void acquire_block_start() {}
inline void release_block_start() {}
inline void acquire_block_end() {}
inline void release_block_end() {}
#endif

#if defined(EMULATED_BOUNDS)
unsigned char* asan_stacks;
size_t asan_stride, asan_guard;
void* asan_main_bottom;
size_t asan_main_size;

inline void sanitizer_prepares(unsigned char* stacks, size_t stride, size_t guard, unsigned) {
  asan_stacks = stacks, asan_stride = stride, asan_guard = guard;
  pthread_attr_t attributes;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &asan_main_bottom, &asan_main_size);
  pthread_attr_destroy(&attributes);
}
inline void sanitizer_leaves_for(int stack) {
  const bool is_main = stack < 0;
  const void* bottom = is_main ? asan_main_bottom : asan_stacks + stack * asan_stride + asan_guard;
  __sanitizer_start_switch_fiber(nullptr, bottom,
                                 is_main ? asan_main_size : asan_stride - asan_guard);
}
// Unpoisons the frames of abandoned fibers.
inline void sanitizer_begins_stack(int stack) {
  __asan_unpoison_memory_region(asan_stacks + stack * asan_stride + asan_guard,
                                asan_stride - asan_guard);
}
inline void sanitizer_has_arrived() { __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr); }
// Poisons what follows the block's shared memory.
inline void sanitizer_bounds(unsigned char* memory, size_t bytes, size_t window) {
  __asan_unpoison_memory_region(memory, bytes);
  __asan_poison_memory_region(memory + bytes, window - bytes);
}
#else
inline void sanitizer_begins_stack(int) {}
inline void sanitizer_has_arrived() {}
inline void sanitizer_bounds(unsigned char*, size_t, size_t) {}
#if !defined(EMULATED_RACES)
inline void sanitizer_prepares(unsigned char*, size_t, size_t, unsigned) {}
inline void sanitizer_leaves_for(int) {}
#endif
#endif

}  // namespace
}  // namespace emulated
