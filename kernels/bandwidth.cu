// bandwidth: limits of the GPU that `cullama bench` compares its figures with.
//   read     sums [N] values, 16 bytes a lane at a time: measures memory bandwidth, the limit of
//            decoding. Launch: any number of blocks. The sum is stored only if it is -1, which the
//            caller's values never give: without that use, the compiler would remove the reads.
//   nothing  does nothing: measures the gap between two kernels of a graph.
#include "common.cuh"

extern "C" __global__ void read_f32(float* sums, const float* x, u64 count) {
  const u64 packs = count / Pack<float>::SIZE, step = u64(gridDim.x) * blockDim.x;
  float sum = 0.f;
#pragma unroll 4
  for (u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x; i < packs; i += step) {
    const Pack<float> pack = load_pack(x + i * Pack<float>::SIZE);
    sum += (pack.at[0] + pack.at[1]) + (pack.at[2] + pack.at[3]);
  }
  if (sum == -1.f) sums[0] = sum;
}

extern "C" __global__ void nothing_f32() {}
