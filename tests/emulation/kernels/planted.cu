// planted: kernels with one bug each, all of which the emulator must find.
//   `correct_*` are the corrected versions of bugs that depend on order: they pass in all orders.

extern "C" __global__ void missing_barrier(float* out, const float* x) {
  __shared__ float row[128];
  row[threadIdx.x] = x[threadIdx.x];
  out[threadIdx.x] = row[127 - threadIdx.x];
}

extern "C" __global__ void correct_barrier(float* out, const float* x) {
  __shared__ float row[128];
  row[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = row[127 - threadIdx.x];
}

extern "C" __global__ void divergent_barrier(float* out) {
  if (threadIdx.x % 2) {
    out[threadIdx.x] = 1.f;
    __syncthreads();
  } else {
    __syncthreads();
    out[threadIdx.x] = 2.f;
  }
}

extern "C" __global__ void early_return(float* out, int count) {
  if (int(threadIdx.x) >= count) return;
  __syncthreads();
  out[threadIdx.x] = 1.f;
}

// The full mask names lanes 8 and up, which never reach the shuffle.
extern "C" __global__ void lanes_missing(float* out) {
  float sum = threadIdx.x;
  if (threadIdx.x % 32 < 8) sum += __shfl_xor_sync(0xffffffff, sum, 1);
  __syncthreads();
  out[threadIdx.x] = sum;
}

extern "C" __global__ void lane_not_in_mask(float* out) {
  out[threadIdx.x] = __shfl_sync(0xff, float(threadIdx.x), 0);
}

// The upper lanes continue to the __syncwarp, while the lower ones wait for them in the shuffle.
extern "C" __global__ void different_masks(float* out) {
  out[threadIdx.x] = __shfl_xor_sync(threadIdx.x % 32 < 16 ? 0xffffffff : 0xffff0000, 1.f, 1);
  __syncwarp();
}

extern "C" __global__ void static_shared_out_of_bounds(float* out, int shift) {
  __shared__ float row[64];
  row[threadIdx.x + shift] = 1.f;
  __syncthreads();
  out[threadIdx.x] = row[threadIdx.x];
}

extern "C" __global__ void dynamic_shared_out_of_bounds(float* out) {
  extern __shared__ float rows[];
  rows[2 * threadIdx.x] = 1.f;
  __syncthreads();
  out[threadIdx.x] = rows[threadIdx.x];
}

extern "C" __global__ void global_out_of_bounds(float* out, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= count) out[i] = 1.f;
}

extern "C" __global__ void null_pointer(float* out, const float* x) { out[0] = x[threadIdx.x]; }

extern "C" __global__ void misaligned(float4* out, const float* x) {
  out[0] = *reinterpret_cast<const float4*>(x + threadIdx.x);
}

extern "C" __global__ void misaligned_shared(float* out) {
  __shared__ float row[64];
  row[threadIdx.x] = 1.f;
  __syncthreads();
  const float2 pair = *reinterpret_cast<const float2*>(row + threadIdx.x);
  out[threadIdx.x] = pair.x + pair.y;
}

extern "C" __global__ void uninitialised_shared(float* out) {
  __shared__ float partial[32];
  if (threadIdx.x < blockDim.x / 32) partial[threadIdx.x] = 1.f;
  __syncthreads();
  float sum = 0.f;
  for (int i = 0; i < 32; i++) sum += partial[i];
  out[threadIdx.x] = sum;
}

// The last thread to write wins.
extern "C" __global__ void last_writer_wins(float* out) { out[0] = threadIdx.x; }

extern "C" __global__ void lost_updates(float* out) {
  const float before = out[0];
  __syncthreads();
  out[0] = before + 1.f;
}

extern "C" __global__ void block_waits_for_earlier_block(float* out) {
  out[blockIdx.x + 1] = out[blockIdx.x] + 1.f;
}

// The second pass overwrites what slow warps still read.
extern "C" __global__ void shared_reused_too_early(float* out, const float* x) {
  __shared__ float row[4];
  for (int pass = 0; pass < 4; pass++) {
    if (threadIdx.x % 32 == 0) row[threadIdx.x / 32] = x[pass * 4 + threadIdx.x / 32];
    __syncthreads();
    out[pass * 128 + threadIdx.x] = row[0] + row[1] + row[2] + row[3];
  }
}

extern "C" __global__ void correct_reuse(float* out, const float* x) {
  __shared__ float row[4];
  for (int pass = 0; pass < 4; pass++) {
    if (threadIdx.x % 32 == 0) row[threadIdx.x / 32] = x[pass * 4 + threadIdx.x / 32];
    __syncthreads();
    out[pass * 128 + threadIdx.x] = row[0] + row[1] + row[2] + row[3];
    __syncthreads();
  }
}

__device__ __noinline__ float deeper(float* out, int depth) {
  float kept[64];
  for (int i = 0; i < 64; i++) kept[i] = out[i] + depth;
  if (depth != -1) kept[0] += deeper(out, depth + 1);
  return kept[depth & 63] + kept[0];
}

extern "C" __global__ void stack_overflow(float* out) { out[64] = deeper(out, 0); }

extern "C" __global__ void endless_loop(volatile float* out) {
  while (out[0] == 0.f) {
  }
}

extern "C" __global__ void endless_barriers(volatile float* out) {
  while (out[0] == 0.f) __syncthreads();
}

extern "C" __global__ void trapped(float* out) {
  if (threadIdx.x == 3) __trap();
  out[threadIdx.x] = 1.f;
}

extern "C" __global__ void signed_overflow(int* out) {
  int sum = 0x7fffffff;
  for (int i = 0; i < int(threadIdx.x); i++) sum += i;
  out[threadIdx.x] = sum;
}
