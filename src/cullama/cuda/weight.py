"""A matrix on the GPU that `linear` multiplies with.

What a quantised weight needs beside its numbers (scales, a format) belongs here, and the products
that read it to `products.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from .memory import DeviceArray


@dataclass(frozen=True)
class CudaWeight:
    """A weight in the storage type."""

    values: DeviceArray  # [O, I], row by row

    @property
    def nbytes(self) -> int:
        return self.values.nbytes
