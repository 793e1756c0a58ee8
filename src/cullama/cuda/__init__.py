"""The CUDA backend: kernels from PTX through the driver API, large products through cuBLAS."""
