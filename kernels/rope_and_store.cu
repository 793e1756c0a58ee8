// rope_and_store: rotates q and k of a fused projection; writes k and v to the paged KV cache.
//   1. where there are norm weights (Qwen3), q and k are normed by head:
//        v / sqrt(mean(v^2) + eps) * w
//   2. q and k are rotated (Su et al., RoFormer, 2021), pairs half a head apart:
//        out = v * (cos, cos) + swapped(v) * (-sin, sin), with cos_sin[t] = (cos, cos, -sin, sin)
//   3. k and v are written to slots[t] of the paged cache; with a slot of -1 they are not
//   qkv [T, H + 2K, E], cos_sin [T, 2E] float32, slots [T] -> q [T, H, E]
//   keys, values [blocks, K, block_size, E]; slot = block * block_size + offset
//   Launch: one warp for each head, (T, ceil((H + 2K) / warps)) blocks. Outputs overlap nothing.
#include "common.cuh"

struct Heads {
  int q, kv, width;
};

template <typename T>
__device__ T* slot_address(T* cache, int slot, int head, Heads heads, int block_size) {
  const size_t row = size_t(slot / block_size) * heads.kv + head;
  return cache + (row * block_size + slot % block_size) * heads.width;
}

template <typename T>
__device__ float norm_scale(const T* head, int width, float eps) {
  float squares = 0.f;
#pragma unroll 1  // one or two iterations: unrolling would only lengthen the PTX
  for (int i = lane_index(); i < width; i += WARP) squares += float(head[i]) * float(head[i]);
  return rsqrtf(warp_reduce<Sum>(squares) / width + eps);
}

template <typename T>
__device__ void rotate(T* to, const T* head, const T* norm, const float* cos_sin, int width,
                       float eps) {
  const float scale = norm ? norm_scale(head, width, eps) : 1.f;
  const int half = width / 2;
#pragma unroll 1
  for (int i = lane_index(); i < half; i += WARP) {
    float low = float(head[i]), high = float(head[half + i]);
    if (norm) {
      low *= scale * float(norm[i]);
      high *= scale * float(norm[half + i]);
    }
    to[i] = T(low * cos_sin[i] + high * cos_sin[width + i]);
    to[half + i] = T(high * cos_sin[half + i] + low * cos_sin[width + half + i]);
  }
}

template <typename T>
__device__ void rope_and_store(T* q, const T* qkv, const T* q_norm, const T* k_norm,
                               const float* cos_sin, T* keys, T* values, const int* slots,
                               Heads heads, int block_size, float eps) {
  const int token = blockIdx.x, head = blockIdx.y * warps_in_block() + warp_index();
  const int all = heads.q + 2 * heads.kv, width = heads.width;
  if (head >= all) return;
  const T* from = qkv + (size_t(token) * all + head) * width;
  const float* row_cos_sin = cos_sin + size_t(token) * 2 * width;
  if (head < heads.q) {
    rotate(q + (size_t(token) * heads.q + head) * width, from, q_norm, row_cos_sin, width, eps);
    return;
  }
  const int slot = slots[token];
  if (slot < 0) return;
  if (head < heads.q + heads.kv) {
    T* key = slot_address(keys, slot, head - heads.q, heads, block_size);
    rotate(key, from, k_norm, row_cos_sin, width, eps);
  } else {
    T* value = slot_address(values, slot, head - heads.q - heads.kv, heads, block_size);
#pragma unroll 1
    for (int i = lane_index(); i < width; i += WARP) value[i] = from[i];
  }
}

#define EXPORT(NAME, T)                                                                    \
  extern "C" __global__ void rope_and_store_##NAME(                                        \
      T* q, const T* qkv, const T* q_norm, const T* k_norm, const float* cos_sin, T* keys, \
      T* values, const int* slots, int heads, int kv_heads, int width, int block_size,     \
      float eps) {                                                                         \
    rope_and_store<T>(q, qkv, q_norm, k_norm, cos_sin, keys, values, slots,                \
                      Heads{heads, kv_heads, width}, block_size, eps);                     \
  }
FOR_EACH_DTYPE(EXPORT)
