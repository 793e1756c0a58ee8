// racing: kernels whose accesses to memory are in order, or are not.
#include <cuda_fp16.h>

extern "C" __global__ void missing_barrier(float* out, const float* x) {
  __shared__ float row[128];
  row[threadIdx.x] = x[threadIdx.x];
  out[threadIdx.x] = row[127 - threadIdx.x];
}

extern "C" __global__ void with_barrier(float* out, const float* x) {
  __shared__ float row[128];
  for (int pass = 0; pass < 2; pass++) {
    row[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    out[blockIdx.x * 128 + threadIdx.x] = row[127 - threadIdx.x];
    __syncthreads();
  }
}

extern "C" __global__ void with_syncwarp(float* out, const float* x) {
  __shared__ float row[128];
  row[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  out[blockIdx.x * 128 + threadIdx.x] = row[threadIdx.x ^ 1];
}

extern "C" __global__ void shuffle_is_no_barrier(float* out, const float* x) {
  __shared__ float row[32];
  const float v = __shfl_xor_sync(0xffffffff, x[threadIdx.x], 1);
  row[threadIdx.x] = v;
  const float w = __shfl_xor_sync(0xffffffff, v, 2);
  if (w < 0.f) return;
  out[threadIdx.x] = row[threadIdx.x ^ 1];
}

extern "C" __global__ void reused_too_early(float* out, const float* x) {
  __shared__ float value;
#pragma unroll 1
  for (int pass = 0; pass < 4; pass++) {
    if (threadIdx.x == 0) value = x[pass];
    __syncthreads();
    out[pass * 128 + threadIdx.x] = value;
  }
}

// The last block to come adds up what all have written.
__device__ unsigned fenced, unfenced;

extern "C" __global__ void with_fence(float* out, const float* x) {
  __shared__ bool is_last;
  if (threadIdx.x == 0) {
    out[blockIdx.x] = x[blockIdx.x];
    __threadfence();
    is_last = atomicAdd(&fenced, 1) % gridDim.x == gridDim.x - 1;
  }
  __syncthreads();
  if (is_last && threadIdx.x == 1) out[8] = out[0] + out[1];
}

extern "C" __global__ void without_fence(float* out, const float* x) {
  out[blockIdx.x] = x[blockIdx.x];
  if (atomicAdd(&unfenced, 1) % gridDim.x < gridDim.x - 1) return;
  out[8] = out[0] + out[1];
}

__device__ __forceinline__ void copy(float* to, const float* from) {
  const unsigned address = unsigned(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(address), "l"(from));
  asm volatile("cp.async.commit_group;\n");
}

extern "C" __global__ void waited_copy(float* out, const float* x) {
  __shared__ float row[128];
  copy(&row[threadIdx.x], &x[threadIdx.x]);
  asm volatile("cp.async.wait_group 0;\n" ::: "memory");
  __syncthreads();
  out[blockIdx.x * 128 + threadIdx.x] = row[127 - threadIdx.x];
}

extern "C" __global__ void copy_without_wait(float* out, const float* x) {
  __shared__ float row[128];
  copy(&row[threadIdx.x], &x[threadIdx.x]);
  asm volatile("" ::: "memory");
  out[threadIdx.x] = row[threadIdx.x];  // too early
}

extern "C" __global__ void reads_past_what_is_written(float* out) {
  __shared__ float row[33];
  row[threadIdx.x] = 1.f;
  __syncthreads();
  out[threadIdx.x] = row[threadIdx.x + 1];
}

extern "C" __global__ void last_writer_wins(float* out) {
  const float mine = threadIdx.x;
  out[0] = mine;
}

extern "C" __global__ void same_value(float* out, const float* x) {
  __shared__ int is_any;
  is_any = 1;
  __syncthreads();
  out[blockIdx.x * 128 + threadIdx.x] = is_any;
}

// Neighbours write the two halves of a word.
extern "C" __global__ void halves(__half* out, const float* x) {
  out[blockIdx.x * 128 + threadIdx.x] = x[threadIdx.x];
}
