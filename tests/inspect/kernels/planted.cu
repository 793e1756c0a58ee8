// planted: variants of rms_norm_f32 with one bug each. `BUG` stands on the line that the check has to
// name, and on both lines of a race. `right` has none. Launched with a block of 256 threads a row.

#define KERNEL(NAME)                                                                               \
  extern "C" __global__ void rms_norm_f32__##NAME(float* out, const float* x, const float* weight, \
                                                  int width, float eps)
#define ROW x + size_t(blockIdx.x) * width
#define OUT out + size_t(blockIdx.x) * width

__device__ __noinline__ float sum_of_warp(float v) {
  for (int d = 16; d; d /= 2) v += __shfl_xor_sync(0xffffffff, v, d);
  return v;
}

__device__ __noinline__ float sum_of_squares(const float* row, int width) {
  float sum = 0.f;
  for (int i = threadIdx.x; i < width; i += blockDim.x) sum += row[i] * row[i];
  return sum;
}

__device__ __noinline__ float sum_of_block(float v) {
  __shared__ float parts[8];
  v = sum_of_warp(v);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  v = 0.f;
  for (int i = 0; i < 8; i++) v += parts[i];
  __syncthreads();
  return v;
}

__device__ __noinline__ void write(float* out, const float* row, const float* weight, int width,
                                      float scale) {
  for (int i = threadIdx.x; i < width; i += blockDim.x) out[i] = row[i] * scale * weight[i];
}

__device__ __noinline__ float scale_of(const float* row, int width, float eps) {
  return rsqrtf(sum_of_block(sum_of_squares(row, width)) / width + eps);
}

KERNEL(right) { write(OUT, ROW, weight, width, scale_of(ROW, width, eps)); }

// --- races ---------------------------------------------------------------------------------------

KERNEL(missing_barrier) {
  __shared__ float parts[8];
  const float v = sum_of_warp(sum_of_squares(ROW, width));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;  // BUG
  float sum = 0.f;
  for (int i = 0; i < 8; i++) sum += parts[i];  // BUG
  write(OUT, ROW, weight, width, rsqrtf(sum / width + eps));
}

KERNEL(slots_reused_too_early) {
  __shared__ float parts[8];
  float sum = 0.f;
  for (int pass = 0; pass < 2; pass++) {
    const float v = sum_of_warp(sum_of_squares(ROW, width)) / 2;
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;  // BUG
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < 8; i++) sum += parts[i];  // BUG
  }
  write(OUT, ROW, weight, width, rsqrtf(sum / width + eps));
}

KERNEL(missing_syncwarp) {
  __shared__ float lanes[256];
  lanes[threadIdx.x] = sum_of_squares(ROW, width);  // BUG
  float sum = 0.f;
  const int first = threadIdx.x / 32 * 32;
#pragma unroll 1
  for (int i = 0; i < 32; i++) sum += lanes[first + i];  // BUG
  sum = sum_of_block(sum / 32);
  write(OUT, ROW, weight, width, rsqrtf(sum / width + eps));
}

KERNEL(shuffle_instead_of_syncwarp) {
  __shared__ float lanes[256];
  const float v = sum_of_squares(ROW, width);
  lanes[threadIdx.x ^ 1] = v;  // BUG
  const float zero = __shfl_sync(0xffffffff, 0.f * v, 0);
  const float sum = sum_of_block(lanes[threadIdx.x] + zero);  // BUG
  write(OUT, ROW, weight, width, rsqrtf(sum / width + eps));
}

KERNEL(lost_update) {
  __shared__ float total;
  if (threadIdx.x == 0) total = 0.f;
  __syncthreads();
  total += sum_of_squares(ROW, width);  // BUG
  __syncthreads();
  write(OUT, ROW, weight, width, rsqrtf(total / width + eps));
}

KERNEL(last_writer_wins) {
  __shared__ float total;
  const float v = sum_of_warp(sum_of_squares(ROW, width));
  total = v;  // BUG
  __syncthreads();
  write(OUT, ROW, weight, width, rsqrtf(total / width + eps));
}

KERNEL(row_of_another_block) {
  const float scale = scale_of(ROW, width, eps);
  write(OUT, ROW, weight, width, scale);
  if (blockIdx.x) (OUT)[-1] = scale;  // BUG
}

__device__ float partial[64];
__device__ unsigned arrived;

KERNEL(missing_fence) {
  __shared__ bool is_last;
  const float sum = sum_of_block(sum_of_squares(ROW, width));
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = sum;  // BUG
    is_last = atomicAdd(&arrived, 1) % gridDim.x == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last) return;
  for (int row = 0; row < gridDim.x; row++) {
    const float scale = rsqrtf(partial[row] / width + eps);  // BUG
    write(out + row * width, x + row * width, weight, width, scale);
  }
}

__device__ __forceinline__ void copy(float* to, const float* from) {
  const unsigned address = unsigned(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(address), "l"(from) : "memory");
}

KERNEL(copy_without_wait) {
  __shared__ float tile[256];
  const float scale = scale_of(ROW, width, eps);
  for (int i = threadIdx.x; i < width; i += 256) {
    copy(&tile[threadIdx.x], ROW + i);
    asm volatile("cp.async.commit_group;\n" ::: "memory");
    (OUT)[i] = tile[threadIdx.x] * scale * weight[i];  // BUG
    asm volatile("cp.async.wait_group 0;\n" ::: "memory");
  }
}

KERNEL(copy_without_barrier) {
  __shared__ float tile[256];
  const float scale = scale_of(ROW, width, eps);
  for (int i = threadIdx.x; i < width; i += 256) {
    const int rest = min(256, width - (i - int(threadIdx.x)));
    copy(&tile[rest - 1 - threadIdx.x], ROW + (i - threadIdx.x + rest - 1 - threadIdx.x));
    asm volatile("cp.async.commit_group;\n" ::: "memory");
    asm volatile("cp.async.wait_group 0;\n" ::: "memory");
    (OUT)[i] = tile[threadIdx.x] * scale * weight[i];  // BUG
  }
}

KERNEL(uninitialised_shared) {
  __shared__ float parts[32];
  const float v = sum_of_warp(sum_of_squares(ROW, width));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  const float sum = sum_of_warp(parts[threadIdx.x % 32]);  // BUG
  write(OUT, ROW, weight, width, rsqrtf(sum / width + eps));
}

// --- addresses -----------------------------------------------------------------------------------

KERNEL(past_a_shared_array) {
  __shared__ float parts[8];
  const float v = sum_of_warp(sum_of_squares(ROW, width));
  if (threadIdx.x % 32 == 0) parts[1 + threadIdx.x / 32] = v;  // BUG
  __syncthreads();
  float sum = 0.f;
  for (int i = 0; i < 8; i++) sum += parts[i];
  write(OUT, ROW, weight, width, rsqrtf(sum / width + eps));
}

KERNEL(dynamic_memory_that_no_launch_gives) {
  extern __shared__ float parts[];
  parts[threadIdx.x] = sum_of_squares(ROW, width);  // BUG
  __syncthreads();
  write(OUT, ROW, weight, width, rsqrtf(sum_of_block(parts[threadIdx.x]) / width + eps));
}

KERNEL(past_the_last_column) {
  const float scale = scale_of(ROW, width, eps);
  for (int i = threadIdx.x; i <= width; i += blockDim.x)
    (OUT)[i] = (ROW)[i] * scale * weight[i];  // BUG
}

KERNEL(before_the_first_column) {
  const float scale = scale_of(ROW, width, eps);
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    (OUT)[i] = x[int(blockIdx.x) * width + i - 1] * scale * weight[i];  // BUG
}

KERNEL(weight_of_every_row) {
  const float scale = scale_of(ROW, width, eps);
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    (OUT)[i] = (ROW)[i] * scale * weight[width + i];  // BUG
}

KERNEL(null_pointer) {
  const float scale = scale_of(ROW, width, eps);
  const float* which = eps > 0.f ? nullptr : weight;
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    (OUT)[i] = (ROW)[i] * scale * which[i];  // BUG
}

KERNEL(misaligned) {
  const float scale = scale_of(ROW, width, eps);
  for (int i = threadIdx.x; i < width - 1; i += blockDim.x) {
    const float2 pair = *reinterpret_cast<const float2*>(x + i);  // BUG
    (OUT)[i] = (pair.x + 0.f * pair.y) * scale * weight[i];
  }
}

KERNEL(misaligned_in_shared_memory) {
  __shared__ float tile[258];
  tile[threadIdx.x] = 0.f;
  __syncthreads();
  const float2 pair = *reinterpret_cast<float2*>(tile + 1 + threadIdx.x % 64);  // BUG
  write(OUT, ROW, weight, width, pair.x + pair.y + scale_of(ROW, width, eps));
}

// --- barriers and collectives --------------------------------------------------------------------

KERNEL(barrier_in_a_branch) {
  const float scale = scale_of(ROW, width, eps);
  if (threadIdx.x % 2) {
    (OUT)[0] = scale;
    __syncthreads();  // BUG
  } else {
    __syncthreads();  // BUG
    write(OUT, ROW, weight, width, scale);
  }
}

KERNEL(return_before_a_barrier) {
  if (int(threadIdx.x) >= width) return;
  __shared__ float parts[256];
  parts[threadIdx.x] = sum_of_squares(ROW, width);
  __syncthreads();  // BUG
  float sum = 0.f;
  for (int i = 0; i < min(256, width); i++) sum += parts[i];
  write(OUT, ROW, weight, width, rsqrtf(sum / width + eps));
}

KERNEL(barrier_in_an_uneven_loop) {
  const float scale = scale_of(ROW, width, eps);
#pragma unroll 1
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    __syncthreads();  // BUG
    (OUT)[i] = (ROW)[i] * scale * weight[i];
  }
}

KERNEL(barrier_of_part_of_a_warp) {
  const float scale = scale_of(ROW, width, eps);
  if (threadIdx.x < 48) asm volatile("bar.sync 1, 48;\n" ::: "memory");  // BUG
  write(OUT, ROW, weight, width, scale);
}

KERNEL(barrier_of_two_sizes) {
  const float scale = scale_of(ROW, width, eps);
  if (threadIdx.x < 32) asm volatile("bar.sync 1, 64;\n" ::: "memory");
  if (threadIdx.x >= 32 && threadIdx.x < 64) asm volatile("bar.sync 1, 96;\n" ::: "memory");  // BUG
  write(OUT, ROW, weight, width, scale);
}

KERNEL(lanes_missing_in_a_shuffle) {
  float v = sum_of_squares(ROW, width);
  if (threadIdx.x % 32 < 16) v += __shfl_xor_sync(0xffffffff, v, 1);  // BUG
  write(OUT, ROW, weight, width, rsqrtf(sum_of_block(v) / width + eps));
}

KERNEL(lane_not_in_its_mask) {
  const float v = __shfl_sync(0xffff, sum_of_squares(ROW, width), 0);  // BUG
  write(OUT, ROW, weight, width, rsqrtf(sum_of_block(v) / width + eps));
}

KERNEL(masks_that_differ) {
  const unsigned mask = threadIdx.x % 32 < 16 ? 0xffffffff : 0xffff0000;
  const float v = __shfl_xor_sync(mask, sum_of_squares(ROW, width), 1);  // BUG
  __syncwarp();                                                          // BUG
  write(OUT, ROW, weight, width, rsqrtf(sum_of_block(v) / width + eps));
}

// --- ends ----------------------------------------------------------------------------------------

KERNEL(endless_loop) {
  const float scale = scale_of(ROW, width, eps);
  float step = 0.f;
#pragma unroll 1
  for (int i = threadIdx.x; i < width; i += blockDim.x * (step > 0.f)) {  // BUG
    (OUT)[i] = (ROW)[i] * scale * weight[i];
  }
}

KERNEL(waits_for_a_later_block) {
  volatile float* flags = partial;
  while (blockIdx.x + 1 < gridDim.x && flags[blockIdx.x + 1] != -1.f) {  // BUG
  }
  write(OUT, ROW, weight, width, scale_of(ROW, width, eps));
}

KERNEL(trap) {
  if (width > 0 && threadIdx.x == 3) __trap();  // BUG
  write(OUT, ROW, weight, width, scale_of(ROW, width, eps));
}

__device__ __noinline__ float deeper(const float* x, int depth) {
  float kept[64];
  for (int i = 0; i < 64; i++) kept[i] = x[i % 32] + depth;     // BUG
  if (depth != -1) kept[depth & 63] += deeper(x, depth + 1);    // BUG
  return kept[depth & 31] + kept[0];                            // BUG
}

KERNEL(stack_overflow) { (OUT)[0] = deeper(x, 0); }

// --- what does not fit the launch ----------------------------------------------------------------

KERNEL(too_much_shared_memory) {  // BUG
  __shared__ float tile[16 << 10];
  tile[threadIdx.x] = sum_of_squares(ROW, width);
  __syncthreads();
  write(OUT, ROW, weight, width, rsqrtf(sum_of_block(tile[threadIdx.x]) / width + eps));
}

extern "C" __global__ void __launch_bounds__(128)
    rms_norm_f32__launch_bounds(float* out, const float* x, const float* weight, int width,  // BUG
                                float eps) {
  write(OUT, ROW, weight, width, scale_of(ROW, width, eps));
}

extern "C" __global__ void rms_norm_f32__signature(float* out, const float* x, int width) {  // BUG
  for (int i = threadIdx.x; i < width; i += blockDim.x) (OUT)[i] = (ROW)[i];
}

// --- results -------------------------------------------------------------------------------------

KERNEL(eps_within_the_mean) {
  const float sum = sum_of_block(sum_of_squares(ROW, width));
  const float scale = rsqrtf(sum / (width + 4096 * eps));
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    (OUT)[i] = (ROW)[i] * scale * weight[i];  // BUG
}

KERNEL(first_warp_alone) {
  const float sum = sum_of_warp(threadIdx.x < 32 ? sum_of_squares(ROW, width) : 0.f);
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    (OUT)[i] = (ROW)[i] * rsqrtf(sum / width + eps) * weight[i];  // BUG
}

KERNEL(tail_left_out) {  // BUG
  const float scale = scale_of(ROW, width, eps);
  for (int i = threadIdx.x; i < width / 4 * 4; i += blockDim.x)
    (OUT)[i] = (ROW)[i] * scale * weight[i];
}

KERNEL(nan) {
  const float scale = sqrtf(-scale_of(ROW, width, eps));
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    (OUT)[i] = (ROW)[i] * scale * weight[i];  // BUG
}

// --- slow ----------------------------------------------------------------------------------------

KERNEL(uncoalesced) {
  const float scale = scale_of(ROW, width, eps);
  const int each = (width + 255) / 256, first = threadIdx.x * each;
#pragma unroll 1
  for (int i = first; i < min(width, first + each); i++) {
    (OUT)[i] = (ROW)[i] * scale * weight[i];  // BUG
  }
}

KERNEL(bank_conflicts) {
  __shared__ float tile[32 * 32];
  tile[threadIdx.x % 32 * 32 + threadIdx.x / 32] = sum_of_squares(ROW, width);  // BUG
  __syncthreads();
  const float sum = sum_of_block(tile[threadIdx.x % 32 * 32 + threadIdx.x / 32]);  // BUG
  write(OUT, ROW, weight, width, rsqrtf(sum / width + eps));
}

KERNEL(local_memory) {
  float sums[8] = {};
#pragma unroll 1
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    sums[(i / 256) & 7] += (ROW)[i] * (ROW)[i];  // BUG
  float sum = 0.f;
#pragma unroll 1
  for (int i = 0; i < 8; i++) sum += sums[i];
  write(OUT, ROW, weight, width, rsqrtf(sum_of_block(sum) / width + eps));
}
