"""Kernels in the place of rms_norm, as a user would write them."""

from __future__ import annotations

ARGUMENTS = "float* out, const float* x, const float* weight, int width, float eps"

RMS_NORM = """extern "C" __global__ void NAME(ARGUMENTS) {
  __shared__ float parts[256];
  const float* row = x + size_t(blockIdx.x) * width;
  float sum = 0.f;
  for (int i = threadIdx.x; i < width; i += blockDim.x) sum += row[i] * row[i];
  parts[threadIdx.x] = sum;
  __syncthreads();
  sum = 0.f;
  for (int i = 0; i < blockDim.x; i++) sum += parts[i];
  const float scale = rsqrtf(sum / width + eps);
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    out[size_t(blockIdx.x) * width + i] = row[i] * scale * weight[i];
}
""".replace("ARGUMENTS", ARGUMENTS)


def rms_norm(name: str = "rms_norm_f32", old: str = "", new: str = "") -> str:
    """Return a right kernel, or one with `old` replaced by `new`."""
    assert old in RMS_NORM
    text = RMS_NORM.replace(old, new) if old else RMS_NORM
    return text.replace("NAME", name)
