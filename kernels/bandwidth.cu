// bandwidth: the limits of a GPU that `cullama bench` sets its figures against.
//   read     adds up [N] numbers, 16 bytes a lane at a time: the rate of reading, which is the limit
//            of writing a text. Launch: any number of blocks. The sum is kept only if it is -1, which
//            the caller sees to that it is not: without a use, there would be no reading.
//   nothing  does nothing: the time from one kernel of a graph to the next.
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
