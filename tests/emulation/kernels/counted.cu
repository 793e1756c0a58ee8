// Kernels whose counts can be worked out by hand; test_counts.py does.
//
// `#pragma unroll 1` keeps a loop a loop: an unrolled one is executed in fours and a rest, of which
// a warp whose lanes have 3 and 4 turns executes both.

extern "C" __global__ void copy_words(float* out, const float* x) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = x[i];
}

extern "C" __global__ void copy_vectors(float4* out, const float4* x) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = x[i];
}

extern "C" __global__ void copy_strided(float* out, const float* x, int stride) {
  out[threadIdx.x] = x[threadIdx.x * stride];
}

// Rows of the tile are `pitch` words apart: with 32 a column lies in one bank, with 33 in all.
template <int pitch>
__device__ void transpose_tile(float* out, const float* x) {
  __shared__ float tile[32][pitch];
  for (int row = threadIdx.y; row < 32; row += 8)
    tile[row][threadIdx.x] = x[row * 32 + threadIdx.x];
  __syncthreads();
  for (int row = threadIdx.y; row < 32; row += 8)
    out[row * 32 + threadIdx.x] = tile[threadIdx.x][row];
}

extern "C" __global__ void transpose(float* out, const float* x) { transpose_tile<32>(out, x); }

extern "C" __global__ void transpose_padded(float* out, const float* x) {
  transpose_tile<33>(out, x);
}

extern "C" __global__ void sum_in_block(float* out, const float* x, int count) {
  __shared__ float of_warp[8];
  float sum = 0;
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += 256) sum += x[i];
  for (int other = 16; other; other /= 2) sum += __shfl_xor_sync(~0u, sum, other);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x) return;
  for (int i = 1; i < 8; i++) sum += of_warp[i];
  *out = sum;
}

extern "C" __global__ void gather_words(float* out, const float* x, const int* index) {
  out[threadIdx.x] = x[index[threadIdx.x]];
}

// In turn i lane i % 32 alone stores, i % 3 + 1 times.
extern "C" __global__ void take_turns(float* x) {
#pragma unroll 1
  for (int i = 0; i < 40; i++) {
    if (threadIdx.x != i % 32) continue;
#pragma unroll 1
    for (int j = 0; j <= i % 3; j++) x[i * 32 + j] = 1.f;
  }
}

// Lane n goes round n + 1 times.
extern "C" __global__ void leave_early(float* out, const float* x) {
  float sum = 0;
#pragma unroll 1
  for (int i = 0; i <= threadIdx.x; i++) sum += x[i * 32 + threadIdx.x];
  out[threadIdx.x] = sum;
}

extern "C" __global__ void count_keys(unsigned* out, const unsigned* keys) {
  atomicAdd(&out[keys[threadIdx.x] % 4], 1u);
}

// 16 bytes a lane, 32 bytes apart: a quarter of a warp meets each bank twice.
extern "C" __global__ void store_apart(float4* out) {
  __shared__ float4 room[256];
  room[threadIdx.x * 2] = make_float4(0, 1, 2, threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = room[threadIdx.x * 2];
}

// Four loads that wait for each other, and four that do not.
extern "C" __global__ void follow(int* out, const int* next) {
  int at = threadIdx.x;
#pragma unroll 1
  for (int i = 0; i < 4; i++) at = next[at];
  out[threadIdx.x] = at;
}

extern "C" __global__ void load_four(int* out, const int* x) {
  int sum = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) sum += x[i * 1024 + threadIdx.x];
  out[threadIdx.x] = sum;
}
