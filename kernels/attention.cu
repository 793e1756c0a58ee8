// attention: causal, of each token over its own sequence in the paged cache, heads in groups (GQA)
//   out[t, h] = softmax(q[t, h] . keys / sqrt(E)) values, over positions (p - window, p] of t's sequence
//   q [T, H, E], keys and values [blocks, K, block_size, E], block_tables [S, B] -> out [T, H E]
//
// One ragged call for prompts, single tokens and any mix. The host lists tiles of up to 16 tokens,
// (sequence, first of its tokens in this batch). A tile's rows are its tokens under all H / K query
// heads that share a key head, token by token, 16 rows to a block. Keys
// and values are read in slices of 32 from positions that 32 divides, and folded in as they come
// (Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018), so what a row gets does
// not depend on which rows it shares a block with.
//
//   attention_WIDTH   for heads up to that width. Launch: (tiles, K * ceil(rows / 16), splits) blocks
//                     of 128 threads, shared memory for Shared(E). With several splits (Flash-Decoding,
//                     Dao et al., 2023) each covers `split` positions, and what it found goes to
//                     `partial` [T, H, splits, E + 2]: weighted values, largest score, sum of weights
//   attention_merge   puts the splits together. Launch: (T, H) blocks.
#include "common.cuh"

constexpr int TILE_TOKENS = 16, ROWS = 16, KEYS = 32, WARPS = 4, MINE = ROWS / WARPS;

// A warp owns the rows warp, warp + 4, ...; in the scores, a lane owns a key, and after that columns.
struct Shared {
    float *q, *keys, *values, *weights;  // [ROWS, E], [KEYS, E + 1], [KEYS, E], [ROWS, KEYS]
    __device__ explicit Shared(int width) {
        extern __shared__ float memory[];
        q = memory;
        keys = q + ROWS * width;
        values = keys + KEYS * (width + 1);  // one more, so that 32 keys lie in 32 banks
        weights = values + KEYS * width;
    }
};

struct Shape {
    int heads, kv_heads, width, block_size, table_width, window, split;
    __device__ __forceinline__ int group() const { return heads / kv_heads; }
    // The positions that a token sees: [first_key(p), p].
    __device__ __forceinline__ int first_key(int position) const {
        return window ? max(0, position + 1 - window) : 0;
    }
};

struct Range {
    int begin, end;
};

// A block's rows: of one sequence, all under one key head.
struct Tile {
    int sequence, first_token, first_row, rows, kv_head, group;
    __device__ __forceinline__ int token(int row) const { return first_token + (first_row + row) / group; }
    __device__ __forceinline__ int head(int row) const { return kv_head * group + (first_row + row) % group; }
};

__device__ __forceinline__ Tile tile_of_block(const int2* tiles, const int* query_starts, Shape shape) {
    const int2 tile = tiles[blockIdx.x];
    const int first_token = query_starts[tile.x] + tile.y;
    const int tokens = min(TILE_TOKENS, query_starts[tile.x + 1] - first_token);
    const int first_row = blockIdx.y / shape.kv_heads * ROWS;
    const int rows = max(0, min(ROWS, tokens * shape.group() - first_row));
    return Tile{tile.x, first_token, first_row, rows, int(blockIdx.y) % shape.kv_heads, shape.group()};
}

template <typename T>
__device__ void load_queries(float* to, const T* q, const Tile& tile, Shape shape, float scale) {
    for (int row = warp_index(); row < tile.rows; row += WARPS) {
        const T* from = q + (size_t(tile.token(row)) * shape.heads + tile.head(row)) * shape.width;
#pragma unroll 1
        for (int i = lane_index(); i < shape.width; i += WARP)
            to[row * shape.width + i] = float(from[i]) * scale;
    }
}

// Keys and values of positions [first, first + KEYS); zeros where the tile must not look: what lies
// there may be another's, and no number.
template <typename T>
__device__ void load_slice(Shared shared, const T* keys, const T* values, const int* table, int kv_head,
                           int first, Range range, Shape shape) {
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

// What a warp has gathered for its rows so far; columns are lane, lane + 32, ...
template <int COLUMNS> struct Gathered {
    float values[MINE][COLUMNS] = {};
    float largest[MINE], sum[MINE] = {};  // of the scores, in powers of 2; of the weights
    __device__ Gathered() {
#pragma unroll
        for (int i = 0; i < MINE; i++) largest[i] = -infinity();
    }
};

// Scores of the warp's rows against the lane's key.
__device__ __forceinline__ void score(float* scores, Shared shared, int width) {
    const float* key = shared.keys + lane_index() * (width + 1);
#pragma unroll 4
    for (int e = 0; e < width; e++)
#pragma unroll
        for (int i = 0; i < MINE; i++)
            scores[i] += shared.q[(warp_index() + i * WARPS) * width + e] * key[e];
}

// Fold one slice's score of row i in: its weight goes to shared memory, what was gathered shrinks.
template <int COLUMNS>
__device__ __forceinline__ void reweigh(Gathered<COLUMNS>& gathered, int i, float score, float* weights) {
    const float largest = fmaxf(gathered.largest[i], warp_reduce<Max>(score));
    const float base = largest == -infinity() ? 0.f : largest;  // nothing seen yet: all weights are 0
    const float weight = exp2f(score - base), shrink = exp2f(gathered.largest[i] - base);
    weights[lane_index()] = weight;
    gathered.sum[i] = gathered.sum[i] * shrink + warp_reduce<Sum>(weight);
    gathered.largest[i] = largest;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) gathered.values[i][c] *= shrink;
}

template <int COLUMNS>
__device__ __forceinline__ void gather_values(Gathered<COLUMNS>& gathered, Shared shared, int width) {
#pragma unroll 4
    for (int k = 0; k < KEYS; k++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            const int column = lane_index() + c * WARP;
            const float value = column < width ? shared.values[k * width + column] : 0.f;
#pragma unroll
            for (int i = 0; i < MINE; i++)
                gathered.values[i][c] += shared.weights[(warp_index() + i * WARPS) * KEYS + k] * value;
        }
}

template <int COLUMNS>
__device__ __forceinline__ void fold_slice(Gathered<COLUMNS>& gathered, Shared shared, const Tile& tile,
                                           const int* positions, int first, Range range, Shape shape) {
    float scores[MINE] = {};
    score(scores, shared, shape.width);
    const int key = first + lane_index();
#pragma unroll
    for (int i = 0; i < MINE; i++) {
        const int row = warp_index() + i * WARPS;
        const int position = positions[tile.token(min(row, tile.rows - 1))];
        const bool seen = key >= max(range.begin, shape.first_key(position)) && key < range.end && key <= position;
        reweigh(gathered, i, seen ? scores[i] : -infinity(), shared.weights + row * KEYS);
    }
    __syncwarp();
    gather_values(gathered, shared, shape.width);
}

template <int COLUMNS, typename T>
__device__ void write_rows(const Gathered<COLUMNS>& gathered, T* out, float* partial, const Tile& tile, Shape shape) {
#pragma unroll
    for (int i = 0; i < MINE; i++) {
        const int row = warp_index() + i * WARPS;
        if (row >= tile.rows) continue;
        const size_t at = size_t(tile.token(row)) * shape.heads + tile.head(row);
        float* part = partial ? partial + (at * gridDim.z + blockIdx.z) * (shape.width + 2) : nullptr;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            const int column = lane_index() + c * WARP;
            if (column >= shape.width) continue;
            if (part)
                part[column] = gathered.values[i][c];
            else
                out[at * shape.width + column] = T(gathered.values[i][c] / gathered.sum[i]);
        }
        if (part && lane_index() == 0) {
            part[shape.width] = gathered.largest[i];
            part[shape.width + 1] = gathered.sum[i];
        }
    }
}

template <int COLUMNS, typename T>
__device__ void attention(T* out, float* partial, const T* q, const T* keys, const T* values,
                          const int* positions, const int* query_starts, const int* block_tables,
                          const int2* tiles, Shape shape, float scale) {
    const Tile tile = tile_of_block(tiles, query_starts, shape);
    if (tile.rows == 0) return;
    Range range = {shape.first_key(positions[tile.token(0)]), positions[tile.token(tile.rows - 1)] + 1};
    if (shape.split) {
        range.begin = max(range.begin, int(blockIdx.z) * shape.split);
        range.end = min(range.end, int(blockIdx.z + 1) * shape.split);
        if (range.begin >= range.end) return;
    }
    const Shared shared(shape.width);
    load_queries(shared.q, q, tile, shape, scale);
    Gathered<COLUMNS> gathered;
    const int* table = block_tables + size_t(tile.sequence) * shape.table_width;
    for (int first = range.begin / KEYS * KEYS; first < range.end; first += KEYS) {
        load_slice(shared, keys, values, table, tile.kv_head, first, range, shape);
        __syncthreads();
        if (warp_index() < tile.rows)
            fold_slice(gathered, shared, tile, positions, first, range, shape);
        __syncthreads();
    }
    write_rows(gathered, out, partial, tile, shape);
}

template <typename T>
__device__ void attention_merge(T* out, const float* partial, const int* positions, int splits, Shape shape) {
    const int position = positions[blockIdx.x];
    const size_t row = size_t(blockIdx.x) * gridDim.y + blockIdx.y;
    const float* parts = partial + row * splits * (shape.width + 2);
    const int begin = shape.first_key(position) / shape.split, end = position / shape.split + 1;
    float largest = -infinity(), sum = 0.f;
    for (int z = begin; z < end; z++) largest = fmaxf(largest, parts[z * (shape.width + 2) + shape.width]);
    for (int z = begin; z < end; z++) {
        const float* part = parts + z * (shape.width + 2);
        sum += part[shape.width + 1] * exp2f(part[shape.width] - largest);
    }
    for (int i = threadIdx.x; i < shape.width; i += blockDim.x) {
        float value = 0.f;
        for (int z = begin; z < end; z++) {
            const float* part = parts + z * (shape.width + 2);
            value += part[i] * exp2f(part[shape.width] - largest);
        }
        out[row * shape.width + i] = T(value / sum);
    }
}

#define EXPORT_WIDTH(WIDTH, NAME, T)                                                                \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP, 2)                                   \
    attention_##WIDTH##_##NAME(T* out, float* partial, const T* q, const T* keys, const T* values,  \
                               const int* positions, const int* query_starts,                       \
                               const int* block_tables, const int2* tiles, const Shape shape,       \
                               float scale) {                                                       \
        attention<WIDTH / WARP>(out, partial, q, keys, values, positions, query_starts,             \
                                block_tables, tiles, shape, scale);                                 \
    }
#define EXPORT(NAME, T)                                                                             \
    EXPORT_WIDTH(64, NAME, T)                                                                       \
    EXPORT_WIDTH(128, NAME, T)                                                                      \
    EXPORT_WIDTH(256, NAME, T)                                                                      \
    extern "C" __global__ void attention_merge_##NAME(T* out, const float* partial,                 \
                                                      const int* positions, int splits,             \
                                                      const Shape shape) {                          \
        attention_merge<T>(out, partial, positions, splits, shape);                                 \
    }
FOR_EACH_DTYPE(EXPORT)
