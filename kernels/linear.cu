// linear: out = x weight^T (+ bias) (+ residual), summed in float32, rounded once
//   x [T, I], weight [O, I], bias [O] or null, residual [T, O] or null -> out [T, O]
// Two kernels, each also exported with float32 output (for the logits):
//   gemv   one warp for each output and up to 8 rows of x: reads each weight once for all 8. A
//          row's sum does not depend on other rows. Launch: (ceil(O / warps), ceil(T / 8)) blocks.
//   gemm   tiles of 64 x 64 (gemm.cuh). Launch: (ceil(T / 64), ceil(O / 64)) blocks of 256 threads.
// The output may be the residual; it overlaps nothing else.
#include "gemm.cuh"

template <typename T, typename Out>
struct Epilogue {
  Out* out;
  const T *bias, *residual;
  int outputs;
  __device__ __forceinline__ void operator()(int row, int column, float sum) const {
    const size_t at = size_t(row) * outputs + column;
    if (bias) sum += float(bias[column]);
    if (residual) sum += float(residual[at]);
    out[at] = Out(sum);
  }
};

// One lane's part of ROWS dot products with a row of the weight. Rows past `rows` repeat the last.
template <int ROWS, typename T>
__device__ __forceinline__ void partial_dots(float* sums, const T* x, const T* weight, int rows,
                                             int inner) {
  if (fits_packs(weight, inner) && fits_packs(x, inner)) {
#pragma unroll(ROWS == 1 ? 4 : 1)  // several loads in flight
    for (int i = lane_index() * Pack<T>::SIZE; i < inner; i += WARP * Pack<T>::SIZE) {
      const Pack<T> w = load_pack(weight + i);
#pragma unroll
      for (int row = 0; row < ROWS; row++) {
        const Pack<T> v = load_pack(x + size_t(min(row, rows - 1)) * inner + i);
#pragma unroll
        for (int n = 0; n < Pack<T>::SIZE; n++) sums[row] += float(w.at[n]) * float(v.at[n]);
      }
    }
  } else {
#pragma unroll 1
    for (int i = lane_index(); i < inner; i += WARP)
#pragma unroll
      for (int row = 0; row < ROWS; row++)
        sums[row] += float(weight[i]) * float(x[size_t(min(row, rows - 1)) * inner + i]);
  }
}

template <int ROWS, typename T, typename Out>
__device__ __forceinline__ void dot_rows(const T* x, const T* weight, int first, int rows,
                                         int output, int inner, Epilogue<T, Out> store) {
  float sums[ROWS] = {};
  partial_dots<ROWS>(sums, x + size_t(first) * inner, weight + size_t(output) * inner, rows, inner);
#pragma unroll
  for (int row = 0; row < ROWS; row++) {
    const float sum = warp_reduce<Sum>(sums[row]);
    if (lane_index() == 0 && row < rows) store(first + row, output, sum);
  }
}

constexpr int MAX_ROWS = 8;  // GEMV_ROWS in src/cullama/cuda/products.py

template <typename T, typename Out>
__device__ void gemv(const T* x, const T* weight, int rows, int inner, Epilogue<T, Out> store) {
  const int output = blockIdx.x * warps_in_block() + warp_index(), first = blockIdx.y * MAX_ROWS;
  if (output >= store.outputs) return;
  if (rows - first == 1)
    dot_rows<1>(x, weight, first, 1, output, inner, store);
  else
    dot_rows<MAX_ROWS>(x, weight, first, min(rows - first, MAX_ROWS), output, inner, store);
}

#define EXPORT_TO(NAME, T, Out)                                                                 \
  extern "C" __global__ void gemv_##NAME(Out* out, const T* x, const T* weight, const T* bias,  \
                                         const T* residual, int rows, int inner, int outputs) { \
    gemv<T>(x, weight, rows, inner, Epilogue<T, Out>{out, bias, residual, outputs});            \
  }                                                                                             \
  extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 2)                                 \
      gemm_##NAME(Out* out, const T* x, const T* weight, const T* bias, const T* residual,      \
                  int rows, int inner, int outputs) {                                           \
    gemm(Vectors<T, true>{x, inner}, Vectors<T, true>{weight, inner}, rows, outputs, inner,     \
         Epilogue<T, Out>{out, bias, residual, outputs});                                       \
  }
#define EXPORT(NAME, T) EXPORT_TO(NAME, T, T)
FOR_EACH_DTYPE(EXPORT)
EXPORT_TO(f16_to_f32, __half, float)
EXPORT_TO(bf16_to_f32, __nv_bfloat16, float)
