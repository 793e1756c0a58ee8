"""Kernels from source: compiled, checked on the emulated GPU, and swapped into a running model."""
