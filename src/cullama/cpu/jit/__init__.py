"""Compiles kernels for the CPU and runs them; it contains no kernel of a model."""
