// The plain tiled matrix product that `linear` and `matmul` share: C = A B, summed in float32.
//
// One block of 256 threads makes a tile of 64 x 64 outputs, each thread 4 x 4 of them, from slices
// of A and B in shared memory. It asks nothing of sizes, strides or alignment: what cuBLAS does
// faster is checked against it, and where there is no cuBLAS it does the work.
#pragma once
#include "common.cuh"

constexpr int TILE = 64, SLICE = 16, MINE = 4;      // outputs a side, depth, outputs a thread a side
constexpr int GEMM_THREADS = (TILE / MINE) * (TILE / MINE);
constexpr int PITCH = TILE + 4;                     // of a slice's row: keeps 16-byte alignment

// Vectors of `inner` numbers: the rows of A, or the columns of B. Either each lies in one piece and
// the next one begins `pitch` further on, or their first elements do, then their second, and so on.
template <typename T, bool IN_ONE_PIECE> struct Vectors {
    const T* at;
    int pitch;
    __device__ __forceinline__ float operator()(int vector, int depth) const {
        return float(IN_ONE_PIECE ? at[size_t(vector) * pitch + depth] : at[size_t(depth) * pitch + vector]);
    }
};

// slice[k][i] = vectors(first + i, depth + k), zero outside. Neighbours in the warp read neighbours.
template <typename T, bool IN_ONE_PIECE>
__device__ __forceinline__ void load_slice(float (*slice)[PITCH], Vectors<T, IN_ONE_PIECE> vectors,
                                           int first, int count, int depth, int inner) {
#pragma unroll
    for (int n = threadIdx.x; n < TILE * SLICE; n += GEMM_THREADS) {
        const int i = IN_ONE_PIECE ? n / SLICE : n % TILE, k = IN_ONE_PIECE ? n % SLICE : n / TILE;
        const bool inside = first + i < count && depth + k < inner;
        slice[k][i] = inside ? vectors(first + i, depth + k) : 0.f;
    }
}

// store(row, column, sum) is called once for each output of this block's tile.
template <typename A, typename B, typename Store>
__device__ void gemm(A a, B b, int rows, int columns, int inner, Store store) {
    __shared__ alignas(16) float slice_a[SLICE][PITCH], slice_b[SLICE][PITCH];
    const int first_row = blockIdx.x * TILE, first_column = blockIdx.y * TILE;
    const int my_row = threadIdx.x / (TILE / MINE) * MINE;
    const int my_column = threadIdx.x % (TILE / MINE) * MINE;
    float sums[MINE][MINE] = {};
    for (int depth = 0; depth < inner; depth += SLICE) {
        load_slice(slice_a, a, first_row, rows, depth, inner);
        load_slice(slice_b, b, first_column, columns, depth, inner);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < SLICE; k++) {
            const Pack<float> left = load_pack(&slice_a[k][my_row]);
            const Pack<float> right = load_pack(&slice_b[k][my_column]);
#pragma unroll
            for (int i = 0; i < MINE; i++)
#pragma unroll
                for (int j = 0; j < MINE; j++) sums[i][j] += left.at[i] * right.at[j];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < MINE; i++)
#pragma unroll
        for (int j = 0; j < MINE; j++) {
            const int row = first_row + my_row + i, column = first_column + my_column + j;
            if (row < rows && column < columns) store(row, column, sums[i][j]);
        }
}
