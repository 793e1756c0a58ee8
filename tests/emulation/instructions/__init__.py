"""What each PTX instruction is in C++: one small function for each family, in one table.

It knows the instructions of plain CUDA C++ kernels as nvcc and NVRTC write them for compute 8.0 and
9.0a. The meaning of an operation that C++ has no operator for is in machine.h, under a plain name.
"""

from . import arithmetic, control, logic, memory, moves, warps
from .table import TABLE, translate

__all__ = ["TABLE", "arithmetic", "control", "logic", "memory", "moves", "translate", "warps"]
