// Planted slowness, one kind a kernel; test_obstacles.py expects each to be named at the line that
// ends in the comment SLOW, or at none.

using u32 = unsigned int;
using u64 = unsigned long long;

__device__ __forceinline__ int thread_of_grid() { return blockIdx.x * blockDim.x + threadIdx.x; }

// Lanes a row apart.
extern "C" __global__ void uncoalesced_loads(float* out, const float* x, int n) {
  float sum = 0;
#pragma unroll 8
  for (int i = 0; i < n; i++) sum += x[thread_of_grid() * n + i];  // SLOW
  out[thread_of_grid()] = sum;
}

extern "C" __global__ void uncoalesced_stores(float* out, const float* x, int n) {
  const float v = x[thread_of_grid()];
#pragma unroll 8
  for (int i = 0; i < n; i++) out[thread_of_grid() * n + i] = v + i;  // SLOW
}

extern "C" __global__ void bank_conflicts(float* out, const float* x, int n) {
  __shared__ float tile[32][32];
  for (int row = 0; row < 32; row++) tile[row][threadIdx.x] = x[row * 32 + threadIdx.x];
  __syncwarp();
  float sum = 0;
#pragma unroll 1
  for (int k = 0; k < n; k++)
#pragma unroll
    for (int column = 0; column < 8; column++) sum += tile[threadIdx.x][(column + k) % 32];  // SLOW
  out[thread_of_grid()] = sum;
}

// Each load's address is the one before.
extern "C" __global__ void few_loads(int* out, const int* next, int n) {
  int at = thread_of_grid() % 4096;
#pragma unroll 1
  for (int i = 0; i < n; i++) at = next[at];  // SLOW
  out[thread_of_grid()] = at;
}

extern "C" __global__ void narrow_loads(float* out, const float* x, int n) {
  float sum = 0;
  const float* row = x + size_t(thread_of_grid() / 32) * n;
#pragma unroll 8
  for (int i = threadIdx.x % 32; i < n; i += 32) sum += row[i];  // SLOW
  out[thread_of_grid()] = sum;
}

extern "C" __global__ void divisions(int* out, const int* x, int n) {
  int sum = x[thread_of_grid()];
#pragma unroll 1
  for (int i = 0; i < 16; i++) sum += (sum + i) / n;  // SLOW
  out[thread_of_grid()] = sum;
}

extern "C" __global__ void atomics(u32* out, const u32* x, int n) {
  for (int i = 0; i < n; i++) atomicAdd(&out[x[thread_of_grid()] % 2], 1u);  // SLOW
}

// Shared memory adds no 64-bit numbers by itself.
extern "C" __global__ void cas_loops(u64* out, const u64* x, int n) {
  __shared__ u64 sums[64];
  if (threadIdx.x < 64) sums[threadIdx.x] = 0;
  __syncthreads();
  const u64 v = x[thread_of_grid()];
#pragma unroll 1
  for (int i = 0; i < n; i++) atomicAdd(&sums[(threadIdx.x + i) % 64], v);  // SLOW
  __syncthreads();
  if (threadIdx.x < 64) out[blockIdx.x * 64 + threadIdx.x] = sums[threadIdx.x];
}

// Every lane its own way.
extern "C" __global__ void divergence(float* out, const float* x, int n) {
  float v = x[thread_of_grid()];
#pragma unroll 1
  for (int lane = 0; lane < 32; lane++)
    if (threadIdx.x % 32 == lane)
#pragma unroll 1
      for (int i = 0; i < n; i++) v = v * 1.01f + lane;  // SLOW
  out[thread_of_grid()] = v;
}

// An array that is indexed by a variable is in no registers.
extern "C" __global__ void local_memory(float* out, const int* x, int n) {
  float values[32] = {};
  const int first = x[thread_of_grid()];
#pragma unroll 1
  for (int i = 0; i < n; i++) values[(first + i * 5) % 32] += 1.f;  // SLOW
  float sum = 0;
#pragma unroll 1
  for (int i = 0; i < 32; i++) sum += values[i] * i;
  out[thread_of_grid()] = sum;
}

extern "C" __global__ void barriers(float* out, const float* x, int n) {
  __shared__ float room[128];
  float v = x[thread_of_grid()];
#pragma unroll 1
  for (int i = 0; i < n; i++) {
    v = v * 1.5f + 1.f;
    __syncthreads();  // SLOW
  }
  room[threadIdx.x] = v;
  out[thread_of_grid()] = room[threadIdx.x];
}

extern "C" __global__ void special_functions(float* out, const float* x, int n) {
  float v[4] = {x[threadIdx.x], x[threadIdx.x + 1], x[threadIdx.x + 2], x[threadIdx.x + 3]};
#pragma unroll 1
  for (int i = 0; i < n; i++)
#pragma unroll
    for (int k = 0; k < 4; k++) v[k] = __sinf(v[k]);  // SLOW
  out[thread_of_grid()] = v[0] + v[1] + v[2] + v[3];
}

extern "C" __global__ void doubles(float* out, const float* x, int n) {
  float v = x[thread_of_grid()];
#pragma unroll 1
  for (int i = 0; i < n; i++) v = v * 1.01 + 0.5;  // SLOW
  out[thread_of_grid()] = v;
}

// 200 KB of shared memory: one block an SM.
extern "C" __global__ void low_occupancy(float* out, const float* x, int n) {
  extern __shared__ float room[];
  float sum = 0;
#pragma unroll 1
  for (int i = threadIdx.x; i < n; i += 128) sum += x[size_t(blockIdx.x) * n + i];
  room[threadIdx.x] = sum;
  out[thread_of_grid()] = room[threadIdx.x];
}

extern "C" __global__ void few_blocks(float* out, const float* x, int n) {
  float sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
  out[threadIdx.x] = sum;
}

// What a kernel that reads should do: 16 bytes a lane, four loads in flight.
extern "C" __global__ void good(float* out, const float* x, int n) {
  float sum = 0;
  const float4* row = reinterpret_cast<const float4*>(x + size_t(thread_of_grid() / 32) * n);
#pragma unroll 4
  for (int i = threadIdx.x % 32; i < n / 4; i += 32) {
    const float4 v = row[i];
    sum += v.x + v.y + v.z + v.w;
  }
  out[thread_of_grid()] = sum;
}
