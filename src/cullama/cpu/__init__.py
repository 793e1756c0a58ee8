"""The CPU backend: numpy, and the BLAS that numpy brings."""
