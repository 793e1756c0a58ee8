"""The emulated GPU: an NVIDIA driver and cuBLAS that run kernels from PTX on the CPU.

The CUDA backend and its bindings are the same as on a GPU; only the libraries that they load are
others. `start.py` starts it for `--backend emulated`, `device.py` for tests, `kernel.py` launches
single kernels with arrays. How it works, and what it cannot find: docs/emulation.md.
"""
