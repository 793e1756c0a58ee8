// add, mul, matmul with NumPy's broadcasting rules, for custom layers.
//   The host broadcasts the shapes and merges neighbouring axes (src/cullama/cuda/broadcasting.py);
//   the kernels get up to 8 axes, outermost first, with a stride for each operand, in elements. An
//   operand that is repeated along an axis has stride 0 there, and is not copied.
//   add, mul   out[i] = x[...] op y[...].  Launch: one thread for each output.
//   matmul     [..., M, N] x [..., N, P] -> [..., M, P] over the axes as batch.
//              Launch: (ceil(M / 64), ceil(P / 64), Z) blocks of 256 threads; with Z below the
//              number of products, each block computes every Z-th.
//   The output overlaps nothing.
#include "gemm.cuh"

constexpr int MAX_AXES = 8;

struct Axes {
  long long count, shape[MAX_AXES], x[MAX_AXES], y[MAX_AXES];
};

struct Offsets {
  size_t x, y;
};

// The offset in each operand of element `index` of the broadcast shape.
__device__ __forceinline__ Offsets offsets_of(size_t index, const Axes& axes) {
  Offsets at = {0, 0};
#pragma unroll
  for (int axis = MAX_AXES - 1; axis >= 0; axis--) {
    if (axis >= axes.count) continue;
    const size_t rest = index / axes.shape[axis], here = index - rest * axes.shape[axis];
    at.x += here * axes.x[axis];
    at.y += here * axes.y[axis];
    index = rest;
  }
  return at;
}

struct Product {
  static __device__ __forceinline__ float of(float a, float b) { return a * b; }
};

template <typename Op, typename T>
__device__ void elementwise(T* out, const T* x, const T* y, const Axes& axes, u64 size) {
  const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const Offsets at = offsets_of(i, axes);
  out[i] = T(Op::of(float(x[at.x]), float(y[at.y])));
}

template <typename T>
__device__ void matmul(T* out, const T* x, const T* y, const Axes& axes, int rows, int inner,
                       int columns, u64 products) {
  for (u64 index = blockIdx.z; index < products; index += gridDim.z) {
    const Offsets at = offsets_of(index, axes);
    T* product = out + index * rows * columns;
    gemm(Vectors<T, true>{x + at.x, inner}, Vectors<T, false>{y + at.y, columns}, rows, columns,
         inner,
         [=](int row, int column, float sum) { product[size_t(row) * columns + column] = T(sum); });
  }
}

#define EXPORT(NAME, T)                                                                   \
  extern "C" __global__ void add_##NAME(T* out, const T* x, const T* y, const Axes axes,  \
                                        u64 size) {                                       \
    elementwise<Sum>(out, x, y, axes, size);                                              \
  }                                                                                       \
  extern "C" __global__ void mul_##NAME(T* out, const T* x, const T* y, const Axes axes,  \
                                        u64 size) {                                       \
    elementwise<Product>(out, x, y, axes, size);                                          \
  }                                                                                       \
  extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 2)                           \
      matmul_##NAME(T* out, const T* x, const T* y, const Axes axes, int rows, int inner, \
                    int columns, u64 products) {                                          \
    matmul<T>(out, x, y, axes, rows, inner, columns, products);                           \
  }
FOR_EACH_DTYPE(EXPORT)
