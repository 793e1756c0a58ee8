// The tiled matrix product that `linear` and `matmul` share: C = A B, summed in float32.
//
// One block of 256 threads computes a tile of 64 x 64 outputs, each thread 4 x 4 of them, from
// tiles of A and B in shared memory. Sizes, strides and alignment are arbitrary. It is used where
// there is no cuBLAS, and is the reference that cuBLAS is tested against.
#pragma once
#include "common.cuh"

constexpr int TILE = 64;        // rows and columns of a block's outputs
constexpr int TILE_K = 16;      // depth of a tile of A or B
constexpr int THREAD_TILE = 4;  // rows and columns of a thread's outputs
constexpr int GEMM_THREADS = (TILE / THREAD_TILE) * (TILE / THREAD_TILE);
constexpr int PITCH = TILE + 4;  // of a row in shared memory: keeps 16-byte alignment

// Vectors of `inner` values: the rows of A, or the columns of B. CONTIGUOUS: each lies in one
// piece, and the next one begins `pitch` values further on. Else they are interleaved: the values
// at one depth, of all vectors, lie in one piece, and those of the next depth begin `pitch` further
// on.
template <typename T, bool CONTIGUOUS>
struct Vectors {
  const T* at;
  int pitch;
  __device__ __forceinline__ float operator()(int vector, int depth) const {
    return float(CONTIGUOUS ? at[size_t(vector) * pitch + depth]
                            : at[size_t(depth) * pitch + vector]);
  }
};

// tile[k][i] = vectors(first + i, depth + k), zero outside. Neighbouring lanes read neighbours.
template <typename T, bool CONTIGUOUS>
__device__ __forceinline__ void load_tile(float (*tile)[PITCH], Vectors<T, CONTIGUOUS> vectors,
                                          int first, int count, int depth, int inner) {
#pragma unroll
  for (int n = threadIdx.x; n < TILE * TILE_K; n += GEMM_THREADS) {
    const int i = CONTIGUOUS ? n / TILE_K : n % TILE, k = CONTIGUOUS ? n % TILE_K : n / TILE;
    const bool inside = first + i < count && depth + k < inner;
    tile[k][i] = inside ? vectors(first + i, depth + k) : 0.f;
  }
}

// Calls store(row, column, sum) once for each output of this block's tile.
template <typename A, typename B, typename Store>
__device__ void gemm(A a, B b, int rows, int columns, int inner, Store store) {
  __shared__ alignas(16) float tile_a[TILE_K][PITCH], tile_b[TILE_K][PITCH];
  const int first_row = blockIdx.x * TILE, first_column = blockIdx.y * TILE;
  const int thread_row = threadIdx.x / (TILE / THREAD_TILE) * THREAD_TILE;
  const int thread_column = threadIdx.x % (TILE / THREAD_TILE) * THREAD_TILE;
  float sums[THREAD_TILE][THREAD_TILE] = {};
  for (int depth = 0; depth < inner; depth += TILE_K) {
    load_tile(tile_a, a, first_row, rows, depth, inner);
    load_tile(tile_b, b, first_column, columns, depth, inner);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < TILE_K; k++) {
      const Pack<float> left = load_pack(&tile_a[k][thread_row]);
      const Pack<float> right = load_pack(&tile_b[k][thread_column]);
#pragma unroll
      for (int i = 0; i < THREAD_TILE; i++)
#pragma unroll
        for (int j = 0; j < THREAD_TILE; j++) sums[i][j] += left.at[i] * right.at[j];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < THREAD_TILE; i++)
#pragma unroll
    for (int j = 0; j < THREAD_TILE; j++) {
      const int row = first_row + thread_row + i, column = first_column + thread_column + j;
      if (row < rows && column < columns) store(row, column, sums[i][j]);
    }
}
