// planted_copies: kernels that misuse cp.async, in one way each; `correct_*` do not.

// One group too many is left in flight.
template <int LEFT, bool COMMITS>
__device__ void copy_through_shared(float* out, const float* x) {
  __shared__ __align__(16) float rows[2][128];
  const auto copy = [&](int row) {
    const unsigned to = unsigned(__cvta_generic_to_shared(&rows[row][threadIdx.x * 4]));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(to),
                 "l"(x + row * 128 + threadIdx.x * 4));
    if (COMMITS) asm volatile("cp.async.commit_group;");
  };
  copy(0);
  copy(1);
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT));
  __syncthreads();
  for (int i = threadIdx.x; i < 128; i += 32) out[i] = rows[0][i];
  asm volatile("cp.async.wait_all;");
  __syncthreads();
  for (int i = threadIdx.x; i < 128; i += 32) out[128 + i] = rows[1][i];
}

extern "C" __global__ void correct_copies(float* out, const float* x) {
  copy_through_shared<1, true>(out, x);
}
extern "C" __global__ void waits_for_too_few_copies(float* out, const float* x) {
  copy_through_shared<2, true>(out, x);
}
extern "C" __global__ void copies_not_committed(float* out, const float* x) {
  copy_through_shared<0, false>(out, x);
}

// Copied while the other threads may still read: wrong where copies happen at issue.
template <bool WAITS>
__device__ void copy_over(float* out, const float* x) {
  __shared__ __align__(16) float row[128];
  for (int pass = 0; pass < 2; pass++) {
    const unsigned to = unsigned(__cvta_generic_to_shared(&row[threadIdx.x * 4]));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(to),
                 "l"(x + pass * 128 + threadIdx.x * 4));
    asm volatile("cp.async.wait_all;");
    __syncthreads();
    for (int i = 0; i < 4; i++)
      out[pass * 128 + threadIdx.x * 4 + i] = row[127 - threadIdx.x * 4 - i];
    if (WAITS) __syncthreads();
  }
}

extern "C" __global__ void correct_copies_in_turn(float* out, const float* x) {
  copy_over<true>(out, x);
}
extern "C" __global__ void copies_over_what_is_read(float* out, const float* x) {
  copy_over<false>(out, x);
}
