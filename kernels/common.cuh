// What all kernel files share: storage types, reductions over a warp or a block, 16-byte loads.
//
// A kernel file states a formula and its shapes, and has a `template __device__` body and one
// exported symbol for each storage type: NAME_f32, NAME_f16, NAME_bf16. Values are stored as T and
// computed in float32. It is plain CUDA C++ that nvcc and NVRTC compile alike: no host headers.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define FOR_EACH_DTYPE(EXPORT) \
  EXPORT(f32, float)           \
  EXPORT(f16, __half)          \
  EXPORT(bf16, __nv_bfloat16)

using u32 = unsigned int;
using u64 = unsigned long long;

constexpr int WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

__device__ __forceinline__ int lane_index() { return threadIdx.x % WARP; }
__device__ __forceinline__ int warp_index() { return threadIdx.x / WARP; }
__device__ __forceinline__ int warps_in_block() { return blockDim.x / WARP; }

// --- reductions: all lanes, or all threads, get the result ---------------------------------------

struct Sum {
  template <typename V>
  static __device__ __forceinline__ V of(V a, V b) {
    return a + b;
  }
};
struct Max {
  template <typename V>
  static __device__ __forceinline__ V of(V a, V b) {
    return a > b ? a : b;
  }
  // NaN is ignored, so that all lanes get the same maximum; the sum that follows is then NaN.
  static __device__ __forceinline__ float of(float a, float b) { return fmaxf(a, b); }
};

template <typename Op, typename V>
__device__ __forceinline__ V warp_reduce(V v) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2)
    v = Op::of(v, __shfl_xor_sync(ALL_LANES, v, distance));
  return v;
}

// All threads of the block must call it. `identity` is the neutral element of Op.
template <typename Op, typename V>
__device__ __forceinline__ V block_reduce(V v, V identity) {
  __shared__ V warp_results[WARP];
  v = warp_reduce<Op>(v);
  if (lane_index() == 0) warp_results[warp_index()] = v;
  __syncthreads();
  v = lane_index() < warps_in_block() ? warp_results[lane_index()] : identity;
  v = warp_reduce<Op>(v);
  __syncthreads();  // from here on the next call may write `warp_results`
  return v;
}

// --- 16-byte loads and stores --------------------------------------------------------------------

// As many values as one memory instruction of a thread transfers.
template <typename T>
struct alignas(16) Pack {
  static constexpr int SIZE = 16 / sizeof(T);
  T at[SIZE];
};

template <typename T>
__device__ __forceinline__ Pack<T> load_pack(const T* address) {
  Pack<T> pack;
  *reinterpret_cast<uint4*>(&pack) = *reinterpret_cast<const uint4*>(address);
  return pack;
}

// Whether rows of `width` values can be read in packs: `rows` and each row's size are aligned.
template <typename T>
__device__ __forceinline__ bool fits_packs(const T* rows, int width) {
  return width % Pack<T>::SIZE == 0 && reinterpret_cast<u64>(rows) % 16 == 0;
}
