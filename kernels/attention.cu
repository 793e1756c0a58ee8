// attention: causal attention over the paged KV cache, with grouped query heads (GQA)
//   out[t, h] = softmax(q[t, h] . keys / sqrt(E)) values, over positions (p - window, p] of t
//   q [T, H, E], keys and values [blocks, K, block_size, E], positions [T],
//   query_starts [S + 1], block_tables [S, B], tiles [tiles, 2] -> out [T, H E]
//   `scale` is log2(e) / sqrt(E): exponentials are powers of two, e^x = exp2(log2(e) x).
//
// One ragged call for prefill, decode and any mix. The host lists query tiles of up to 16 tokens:
// (sequence, first of its tokens in this batch). A row is one token under one query head. Under one
// KV head, a tile has the rows of its tokens and the H / K query heads that share the KV head,
// token by token; a block of threads computes 16 rows. Keys and values are read in tiles of 32,
// which begin at multiples of 32, with online softmax (Milakov & Gimelshein, "Online normalizer
// calculation for softmax", 2018). So a row's result does not depend on which other rows are in its
// block.
//
//   attention_WIDTH   for heads up to that width. Launch: (tiles, K * ceil(rows / 16), splits)
//                     blocks of 128 threads, shared memory for Shared(E). With several splits
//                     (Flash-Decoding, Dao et al., 2023) each covers `split` positions, and writes
//                     its state to `partial` [T, H, splits, E + 2]: weighted values, maximum score,
//                     sum of probs. The output overlaps nothing.
//   attention_merge   merges the splits. Launch: (T, H) blocks.
#include "common.cuh"

constexpr int TILE_TOKENS = 16, ROWS = 16, KEYS = 32, WARPS = 4, THREADS = WARPS * WARP;
constexpr int ROWS_PER_WARP = ROWS / WARPS;

// A warp computes rows warp, warp + 4, ...; a lane computes scores of one key, then some columns.
struct Shared {
  float *q, *keys, *values, *probs;  // [ROWS, E], [KEYS, E + 1], [KEYS, E], [ROWS, KEYS]
  __device__ explicit Shared(int width) {
    extern __shared__ float memory[];
    q = memory;
    keys = q + ROWS * width;
    values = keys + KEYS * (width + 1);  // one more, so that 32 keys are in 32 banks
    probs = values + KEYS * width;
  }
};

struct Shape {
  int heads, kv_heads, width, block_size, table_width, window, split;
  __device__ __forceinline__ int group() const { return heads / kv_heads; }
  // A token at position p attends to [first_key(p), p].
  __device__ __forceinline__ int first_key(int position) const {
    return window ? max(0, position + 1 - window) : 0;
  }
};

struct Range {
  int begin, end;
};

// A block's rows: of one sequence, all under one KV head.
struct QueryTile {
  int sequence, first_token, first_row, rows, kv_head, group;
  __device__ __forceinline__ int token(int row) const {
    return first_token + (first_row + row) / group;
  }
  __device__ __forceinline__ int head(int row) const {
    return kv_head * group + (first_row + row) % group;
  }
};

__device__ __forceinline__ QueryTile tile_of_block(const int2* tiles, const int* query_starts,
                                                   Shape shape) {
  const int2 tile = tiles[blockIdx.x];
  const int first_token = query_starts[tile.x] + tile.y;
  const int tokens = min(TILE_TOKENS, query_starts[tile.x + 1] - first_token);
  const int first_row = blockIdx.y / shape.kv_heads * ROWS;
  const int rows = max(0, min(ROWS, tokens * shape.group() - first_row));
  return QueryTile{tile.x,       first_token, first_row, rows, int(blockIdx.y) % shape.kv_heads,
                   shape.group()};
}

template <typename T>
__device__ void load_queries(float* to, const T* q, const QueryTile& tile, Shape shape,
                             float scale) {
  for (int row = warp_index(); row < tile.rows; row += WARPS) {
    const T* from = q + (size_t(tile.token(row)) * shape.heads + tile.head(row)) * shape.width;
#pragma unroll 1
    for (int i = lane_index(); i < shape.width; i += WARP)
      to[row * shape.width + i] = float(from[i]) * scale;
  }
}

// Loads keys and values of positions [first, first + KEYS); zeros outside `range`, where memory may
// belong to another sequence or hold NaN.
template <typename T>
__device__ void load_kv_tile(Shared shared, const T* keys, const T* values, const int* table,
                             int kv_head, int first, Range range, Shape shape) {
  for (int k = warp_index(); k < KEYS; k += WARPS) {
    const int position = first + k;
    const bool inside = position >= range.begin && position < range.end;
    size_t from = 0;
    if (inside) {
      const size_t block = size_t(table[position / shape.block_size]) * shape.kv_heads + kv_head;
      from = (block * shape.block_size + position % shape.block_size) * shape.width;
    }
#pragma unroll 1
    for (int i = lane_index(); i < shape.width; i += WARP) {
      shared.keys[k * (shape.width + 1) + i] = inside ? float(keys[from + i]) : 0.f;
      shared.values[k * shape.width + i] = inside ? float(values[from + i]) : 0.f;
    }
  }
}

// Online softmax state of a warp's rows; a lane has columns lane, lane + 32, ...
template <int COLUMNS>
struct SoftmaxState {
  float values[ROWS_PER_WARP][COLUMNS] = {};                      // weighted sums
  float max_score[ROWS_PER_WARP], sum_probs[ROWS_PER_WARP] = {};  // scores are exponents of 2
  __device__ SoftmaxState() {
#pragma unroll
    for (int i = 0; i < ROWS_PER_WARP; i++) max_score[i] = -infinity();
  }
};

// Adds up the scores of the warp's rows against the lane's key.
__device__ __forceinline__ void compute_scores(float* scores, Shared shared, int width) {
  const float* key = shared.keys + lane_index() * (width + 1);
#pragma unroll 4
  for (int e = 0; e < width; e++)
#pragma unroll
    for (int i = 0; i < ROWS_PER_WARP; i++)
      scores[i] += shared.q[(warp_index() + i * WARPS) * width + e] * key[e];
}

// Updates row i with the lane's score: writes its prob, which is not yet divided by their sum, to
// shared memory, and rescales the sums.
template <int COLUMNS>
__device__ __forceinline__ void update(SoftmaxState<COLUMNS>& state, int i, float score,
                                       float* probs) {
  const float max_score = fmaxf(state.max_score[i], warp_reduce<Max>(score));
  const float base = max_score == -infinity() ? 0.f : max_score;  // no key yet: all probs are 0
  const float prob = exp2f(score - base), rescale = exp2f(state.max_score[i] - base);
  probs[lane_index()] = prob;
  state.sum_probs[i] = state.sum_probs[i] * rescale + warp_reduce<Sum>(prob);
  state.max_score[i] = max_score;
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) state.values[i][c] *= rescale;
}

template <int COLUMNS>
__device__ __forceinline__ void accumulate_values(SoftmaxState<COLUMNS>& state, Shared shared,
                                                  int width) {
#pragma unroll 4
  for (int k = 0; k < KEYS; k++)
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      const int column = lane_index() + c * WARP;
      const float value = column < width ? shared.values[k * width + column] : 0.f;
#pragma unroll
      for (int i = 0; i < ROWS_PER_WARP; i++)
        state.values[i][c] += shared.probs[(warp_index() + i * WARPS) * KEYS + k] * value;
    }
}

template <int COLUMNS>
__device__ __forceinline__ void attend_kv_tile(SoftmaxState<COLUMNS>& state, Shared shared,
                                               const QueryTile& tile, const int* positions,
                                               int first, Range range, Shape shape) {
  float scores[ROWS_PER_WARP] = {};
  compute_scores(scores, shared, shape.width);
  const int key = first + lane_index();
#pragma unroll
  for (int i = 0; i < ROWS_PER_WARP; i++) {
    const int row = warp_index() + i * WARPS;
    const int position = positions[tile.token(min(row, tile.rows - 1))];
    const bool seen =
        key >= max(range.begin, shape.first_key(position)) && key < range.end && key <= position;
    update(state, i, seen ? scores[i] : -infinity(), shared.probs + row * KEYS);
  }
  __syncwarp();
  accumulate_values(state, shared, shape.width);
}

template <int COLUMNS, typename T>
__device__ void write_rows(const SoftmaxState<COLUMNS>& state, T* out, float* partial,
                           const QueryTile& tile, Shape shape) {
#pragma unroll
  for (int i = 0; i < ROWS_PER_WARP; i++) {
    const int row = warp_index() + i * WARPS;
    if (row >= tile.rows) continue;
    const size_t at = size_t(tile.token(row)) * shape.heads + tile.head(row);
    float* part = partial ? partial + (at * gridDim.z + blockIdx.z) * (shape.width + 2) : nullptr;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      const int column = lane_index() + c * WARP;
      if (column >= shape.width) continue;
      if (part)
        part[column] = state.values[i][c];
      else
        out[at * shape.width + column] = T(state.values[i][c] / state.sum_probs[i]);
    }
    if (part && lane_index() == 0) {
      part[shape.width] = state.max_score[i];
      part[shape.width + 1] = state.sum_probs[i];
    }
  }
}

template <int COLUMNS, typename T>
__device__ void attention(T* out, float* partial, const T* q, const T* keys, const T* values,
                          const int* positions, const int* query_starts, const int* block_tables,
                          const int2* tiles, Shape shape, float scale) {
  const QueryTile tile = tile_of_block(tiles, query_starts, shape);
  if (tile.rows == 0) return;
  Range range = {shape.first_key(positions[tile.token(0)]),
                 positions[tile.token(tile.rows - 1)] + 1};
  if (shape.split) {
    range.begin = max(range.begin, int(blockIdx.z) * shape.split);
    range.end = min(range.end, int(blockIdx.z + 1) * shape.split);
    if (range.begin >= range.end) return;
  }
  const Shared shared(shape.width);
  load_queries(shared.q, q, tile, shape, scale);
  SoftmaxState<COLUMNS> state;
  const int* table = block_tables + size_t(tile.sequence) * shape.table_width;
  for (int first = range.begin / KEYS * KEYS; first < range.end; first += KEYS) {
    load_kv_tile(shared, keys, values, table, tile.kv_head, first, range, shape);
    __syncthreads();
    if (warp_index() < tile.rows)
      attend_kv_tile(state, shared, tile, positions, first, range, shape);
    __syncthreads();
  }
  write_rows(state, out, partial, tile, shape);
}

template <typename T>
__device__ void attention_merge(T* out, const float* partial, const int* positions, int splits,
                                Shape shape) {
  const int position = positions[blockIdx.x];
  const size_t row = size_t(blockIdx.x) * gridDim.y + blockIdx.y;
  const float* parts = partial + row * splits * (shape.width + 2);
  const int begin = shape.first_key(position) / shape.split, end = position / shape.split + 1;
  float max_score = -infinity(), sum_probs = 0.f;
  for (int z = begin; z < end; z++)
    max_score = fmaxf(max_score, parts[z * (shape.width + 2) + shape.width]);
  for (int z = begin; z < end; z++) {
    const float* part = parts + z * (shape.width + 2);
    sum_probs += part[shape.width + 1] * exp2f(part[shape.width] - max_score);
  }
  for (int i = threadIdx.x; i < shape.width; i += blockDim.x) {
    float value = 0.f;
    for (int z = begin; z < end; z++) {
      const float* part = parts + z * (shape.width + 2);
      value += part[i] * exp2f(part[shape.width] - max_score);
    }
    out[row * shape.width + i] = T(value / sum_probs);
  }
}

#define EXPORT_WIDTH(WIDTH, NAME, T)                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_##WIDTH##_##NAME(            \
      T* out, float* partial, const T* q, const T* keys, const T* values, const int* positions,   \
      const int* query_starts, const int* block_tables, const int2* tiles, const Shape shape,     \
      float scale) {                                                                              \
    attention<WIDTH / WARP>(out, partial, q, keys, values, positions, query_starts, block_tables, \
                            tiles, shape, scale);                                                 \
  }
#define EXPORT(NAME, T)                                                                    \
  EXPORT_WIDTH(64, NAME, T)                                                                \
  EXPORT_WIDTH(128, NAME, T)                                                               \
  EXPORT_WIDTH(256, NAME, T)                                                               \
  extern "C" __global__ void attention_merge_##NAME(                                       \
      T* out, const float* partial, const int* positions, int splits, const Shape shape) { \
    attention_merge<T>(out, partial, positions, splits, shape);                            \
  }
FOR_EACH_DTYPE(EXPORT)
