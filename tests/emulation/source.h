// source.h - lets g++ compile a kernel file as C++ that runs on the scheduler.
//
// Defines CUDA C++'s built-in names, as far as our kernels use them. It is included before the
// kernel file; source.py then replaces __global__ and __shared__ in the preprocessed text. Number
// formats come from the CUDA toolkit's own headers, which compile for the host too.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>

#include "machine.h"

#undef __global__
#undef __shared__
#undef __device__
#undef __host__
#undef __constant__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__

namespace emulated {

inline unsigned char* dynamic_memory() { return machine.shared + machine.dynamic_first; }

template <class T>
using Words = uint32_t[(sizeof(T) + 3) / 4];

// Values of any size are shuffled word by word.
template <class T>
inline T shuffle_value(int line, ShuffleMode mode, uint32_t mask, T value, int control,
                       int width = 32) {
  Words<T> words = {};
  memcpy(words, &value, sizeof value);
  const uint32_t segments = uint32_t(32 - width) << 8 | (mode == SHUFFLE_UP ? 0 : 31);
  for (uint32_t& word : words)
    word = shuffle(*machine.current, mode, word, uint32_t(control), segments, mask, line);
  memcpy(&value, words, sizeof value);
  return value;
}

inline void warp_barrier(int line, uint32_t mask = ALL_LANES) {
  collective(*machine.current, "__syncwarp", mask, line, nullptr, nullptr);
}

// With atomic loads and stores, so that a race detector does not report them.
template <class T, class Change>
inline T atomic_change(T* at, Change change) {
  T old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(at, &old, T(change(old)), true, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
  return old;
}

template <size_t... INDEX>
struct Indices {};
template <size_t COUNT, size_t... INDEX>
struct IndicesTo : IndicesTo<COUNT - 1, COUNT - 1, INDEX...> {};
template <size_t... INDEX>
struct IndicesTo<0, INDEX...> {
  using Type = Indices<INDEX...>;
};

// A kernel function with what the launch was given, and the sizes of its parameters.
template <auto KERNEL>
struct Entry;
template <class... Parameters, void (*KERNEL)(Parameters...)>
struct Entry<KERNEL> {
  static constexpr int count = sizeof...(Parameters);
  static constexpr size_t sizes[] = {sizeof(Parameters)..., 0};

  static void run(Thread&) { call(typename IndicesTo<sizeof...(Parameters)>::Type()); }

 private:
  template <class T>
  static T& parameter(size_t index) {
    return *static_cast<T*>(machine.parameters[index]);
  }
  template <size_t... INDEX>
  static void call(Indices<INDEX...>) {
    KERNEL(parameter<Parameters>(INDEX)...);
  }
};

}  // namespace emulated

#define threadIdx (emulated::machine.current->index)
#define blockIdx (emulated::machine.block)
#define blockDim (emulated::machine.block_size)
#define gridDim (emulated::machine.grid)

#define __syncthreads() emulated::barrier(*emulated::machine.current, 0, 0, __LINE__)
#define __syncwarp(...) emulated::warp_barrier(__LINE__, ##__VA_ARGS__)
#define __shfl_sync(...) emulated::shuffle_value(__LINE__, emulated::SHUFFLE_IDX, __VA_ARGS__)
#define __shfl_up_sync(...) emulated::shuffle_value(__LINE__, emulated::SHUFFLE_UP, __VA_ARGS__)
#define __shfl_down_sync(...) emulated::shuffle_value(__LINE__, emulated::SHUFFLE_DOWN, __VA_ARGS__)
#define __shfl_xor_sync(...) emulated::shuffle_value(__LINE__, emulated::SHUFFLE_BFLY, __VA_ARGS__)
#define __ballot_sync(mask, vote) \
  emulated::ballot(*emulated::machine.current, bool(vote), mask, __LINE__).yes
#define __any_sync(mask, vote) (__ballot_sync(mask, vote) != 0)
#define __all_sync(mask, vote) (__ballot_sync(mask, !(vote)) == 0)

#define atomicAdd(at, value) emulated::atomic_change(at, [&](auto old) { return old + (value); })
#define atomicMax(at, value) \
  emulated::atomic_change(at, [&](auto old) { return old > (value) ? old : (value); })
#define atomicMin(at, value) \
  emulated::atomic_change(at, [&](auto old) { return old < (value) ? old : (value); })
#define atomicExch(at, value) __atomic_exchange_n(at, value, __ATOMIC_RELAXED)

inline void __threadfence() {}
inline void __threadfence_block() {}
[[noreturn]] inline void __trap() { emulated::fail(emulated::LAUNCH_FAILED, 0, "trap"); }

template <class T>
inline T __ldg(const T* at) {
  return *at;
}
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline float __expf(float x) { return exp2f(x * 1.4426950408889634f); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __int_as_float(int x) { return emulated::bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emulated::bits<float>(x); }
inline int __float_as_int(float x) { return emulated::bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emulated::bits<unsigned>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return int(emulated::leading_zeros(unsigned(x))); }
inline int first_set(int x) { return __builtin_ffs(x); }
#define __ffs(x) first_set(int(x))
inline unsigned __umulhi(unsigned a, unsigned b) { return emulated::high_product(a, b); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return emulated::high_product(uint64_t(a), uint64_t(b));
}
template <class A, class B>
inline auto min(A a, B b) -> decltype(a + b) {
  return a < b ? a : b;
}
template <class A, class B>
inline auto max(A a, B b) -> decltype(a + b) {
  return a > b ? a : b;
}

// source.py adds the table of the file's kernels at its end.
namespace emulated {
extern const Module source_module;
}
EMULATED_INTERFACE(emulated::source_module)
