// rms_norm: out = x / sqrt(mean(x^2) + eps) * weight        (Zhang & Sennrich, 2019)
//   x [T, D], weight [D] -> out [T, D]
//   Launch: one block for each row. The output may be the input.
#include "common.cuh"

template <typename T>
__device__ void rms_norm(T* out, const T* x, const T* weight, int width, float eps) {
  const size_t row = size_t(blockIdx.x) * width;
  float squares = 0.f;
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    const float v = float(x[row + i]);
    squares += v * v;
  }
  const float scale = rsqrtf(block_reduce<Sum>(squares, 0.f) / width + eps);
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    out[row + i] = T(float(x[row + i]) * scale * float(weight[i]));
}

#define EXPORT(NAME, T)                                                                      \
  extern "C" __global__ void rms_norm_##NAME(T* out, const T* x, const T* weight, int width, \
                                             float eps) {                                    \
    rms_norm<T>(out, x, weight, width, eps);                                                 \
  }
FOR_EACH_DTYPE(EXPORT)
