"""Translates PTX instructions to C++: a table of one small function for each family.

It covers plain CUDA C++ kernels as nvcc and NVRTC compile them for compute 8.0 and 9.0a. Operations
without a C++ operator are functions in machine.h.
"""

from . import arithmetic, control, logic, memory, moves, warps
from .table import TABLE, translate

__all__ = ["TABLE", "arithmetic", "control", "logic", "memory", "moves", "translate", "warps"]
