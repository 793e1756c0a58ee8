// silu_mul: out = gate / (1 + exp(-gate)) * up, the middle of SwiGLU        (Shazeer, 2020)
//   gate_up [T, 2F], gate before up in each row -> out [T, F]
//   Launch: (T, ceil(F / threads)) blocks. The output overlaps nothing.
#include "common.cuh"

template <typename T>
__device__ void silu_mul(T* out, const T* gate_up, int width) {
  const int i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= width) return;
  const T* row = gate_up + size_t(blockIdx.x) * 2 * width;
  const float gate = float(row[i]), up = float(row[width + i]);
  out[size_t(blockIdx.x) * width + i] = T(gate / (1.f + expf(-gate)) * up);
}

#define EXPORT(NAME, T)                                                             \
  extern "C" __global__ void silu_mul_##NAME(T* out, const T* gate_up, int width) { \
    silu_mul<T>(out, gate_up, width);                                               \
  }
FOR_EACH_DTYPE(EXPORT)
