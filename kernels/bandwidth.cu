// bandwidth: limits of the GPU that `cullama bench` compares its figures with.
//   read     sums [N] values, 16 bytes a lane at a time and eight such loads in flight: measures
//            memory bandwidth, the limit of decoding. Launch: any number of blocks. The sum is
//            stored only if it is -1, which the caller's values do not give: without that use, the
//            compiler would remove the reads.
//   nothing  does nothing: measures the gap between two kernels of a graph.
#include "common.cuh"

constexpr int IN_FLIGHT = 8;  // loads that a lane has begun before it waits for the first

__device__ __forceinline__ float sum_of(const Pack<float>& pack) {
  return (pack.at[0] + pack.at[1]) + (pack.at[2] + pack.at[3]);
}

extern "C" __global__ void read_f32(float* sums, const float* x, u64 count) {
  const u64 packs = count / Pack<float>::SIZE, step = u64(gridDim.x) * blockDim.x;
  const auto at = [x](u64 pack) { return load_pack(x + pack * Pack<float>::SIZE); };
  float sum = 0.f;
  u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i + (IN_FLIGHT - 1) * step < packs) {
    // Each load replaces the one just summed: ptxas keeps loads in flight over a loop's end, and
    // sinks those that would only stand before their uses.
    Pack<float> loaded[IN_FLIGHT];
#pragma unroll
    for (int n = 0; n < IN_FLIGHT; n++) loaded[n] = at(i + n * step);
    for (i += IN_FLIGHT * step; i + (IN_FLIGHT - 1) * step < packs; i += IN_FLIGHT * step) {
#pragma unroll
      for (int n = 0; n < IN_FLIGHT; n++) {
        sum += sum_of(loaded[n]);
        loaded[n] = at(i + n * step);
      }
    }
#pragma unroll
    for (int n = 0; n < IN_FLIGHT; n++) sum += sum_of(loaded[n]);
  }
  for (; i < packs; i += step) sum += sum_of(at(i));
  if (sum == -1.f) sums[0] = sum;
}

extern "C" __global__ void nothing_f32() {}
