// What every kernel file needs: the storage types, and sums and maxima over a warp or a block.
//
// A kernel file holds a formula with its shapes, a `template __device__` body, and one exported
// symbol for each storage type: NAME_f32, NAME_f16, NAME_bf16. Numbers are stored in T and always
// computed in float32. Plain CUDA C++ that nvcc and NVRTC compile alike: no host headers.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define FOR_EACH_DTYPE(EXPORT) EXPORT(f32, float) EXPORT(f16, __half) EXPORT(bf16, __nv_bfloat16)

using u32 = unsigned int;
using u64 = unsigned long long;

constexpr int WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

__device__ __forceinline__ int lane_index() { return threadIdx.x % WARP; }
__device__ __forceinline__ int warp_index() { return threadIdx.x / WARP; }
__device__ __forceinline__ int warps_in_block() { return blockDim.x / WARP; }

// --- reductions: every lane, or every thread, gets the result --------------------------------------

struct Sum {
    template <typename V> static __device__ __forceinline__ V of(V a, V b) { return a + b; }
};
struct Max {
    template <typename V> static __device__ __forceinline__ V of(V a, V b) { return a > b ? a : b; }
    // What is not a number is no maximum: all lanes agree, and it shows in the sum that follows.
    static __device__ __forceinline__ float of(float a, float b) { return fmaxf(a, b); }
};

template <typename Op, typename V> __device__ __forceinline__ V warp_reduce(V v) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        v = Op::of(v, __shfl_xor_sync(ALL_LANES, v, distance));
    return v;
}

// All threads of the block must call it; `identity` changes nothing when it is combined with.
template <typename Op, typename V> __device__ __forceinline__ V block_reduce(V v, V identity) {
    __shared__ V of_warp[WARP];
    v = warp_reduce<Op>(v);
    if (lane_index() == 0) of_warp[warp_index()] = v;
    __syncthreads();
    v = lane_index() < warps_in_block() ? of_warp[lane_index()] : identity;
    v = warp_reduce<Op>(v);
    __syncthreads();  // `of_warp` belongs to the next call from here on
    return v;
}

// --- 16 bytes at once ------------------------------------------------------------------------------

// As many numbers as one memory instruction of a thread can carry.
template <typename T> struct alignas(16) Pack {
    static constexpr int SIZE = 16 / sizeof(T);
    T at[SIZE];
};

template <typename T> __device__ __forceinline__ Pack<T> load_pack(const T* address) {
    Pack<T> pack;
    *reinterpret_cast<uint4*>(&pack) = *reinterpret_cast<const uint4*>(address);
    return pack;
}

// Rows of `width` numbers that begin at an aligned address can be read in packs throughout.
template <typename T> __device__ __forceinline__ bool fits_packs(const T* rows, int width) {
    return width % Pack<T>::SIZE == 0 && reinterpret_cast<u64>(rows) % 16 == 0;
}
