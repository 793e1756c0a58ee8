// gather: out[t] = table[rows[t]]
//   table [V, D], rows [T] -> out [T, D]
//   Launch: one block for each t. The output overlaps nothing.
#include "common.cuh"

template <typename T>
__device__ void gather(T* out, const T* table, const int* rows, int width) {
  const T* from = table + size_t(rows[blockIdx.x]) * width;
  T* to = out + size_t(blockIdx.x) * width;
  if (fits_packs(table, width)) {
    for (int i = threadIdx.x * Pack<T>::SIZE; i < width; i += blockDim.x * Pack<T>::SIZE)
      *reinterpret_cast<Pack<T>*>(to + i) = load_pack(from + i);
  } else {
    for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
  }
}

#define EXPORT(NAME, T)                                                                          \
  extern "C" __global__ void gather_##NAME(T* out, const T* table, const int* rows, int width) { \
    gather<T>(out, table, rows, width);                                                          \
  }
FOR_EACH_DTYPE(EXPORT)
