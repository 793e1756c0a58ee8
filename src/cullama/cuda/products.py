"""Matrix products: cuBLAS for large ones, kernels of our own for few rows or without cuBLAS."""

from __future__ import annotations

from math import prod

import numpy as np

from ..errors import UsageError
from ..model.layer import Linear
from ..model.operators import check_columns
from . import memory
from .broadcasting import broadcast_axes
from .cublas import Cublas
from .driver import Device
from .elementwise import common_type, elementwise
from .launcher import SUFFIXES, WARP, WARPS, Launcher, address_of, blocks_for
from .memory import DeviceArray
from .weight import CudaWeight

GEMV_ROWS = 8  # that one pass over the weights serves: MAX_ROWS in kernels/linear.cu
GEMM_TILE, GEMM_THREADS = 64, 256
MAX_GRID_Z = (1 << 16) - 1  # blocks along z, of all GPUs


class Products:
    """Launches matrix products on a device, by cuBLAS or by kernels."""

    def __init__(
        self,
        device: Device,
        launcher: Launcher,
        cublas: Cublas | None,
        zero: DeviceArray,
        deterministic: bool,
    ) -> None:
        """`zero`: [1], in the storage type. `deterministic`: a row's bits ignore the other rows."""
        self._device, self._launcher, self._cublas = device, launcher, cublas
        self._zero, self._is_deterministic = zero, deterministic

    def linear(
        self,
        x: DeviceArray,
        projection: Linear[DeviceArray, CudaWeight],
        residual: DeviceArray | None,
        out_type: np.dtype,
    ) -> DeviceArray:
        """Return x · weightᵀ (+ bias) (+ residual) as an array of `out_type`."""
        weight, bias = projection.weight.values, projection.bias
        check_columns(x.shape[-1], weight.shape[1])
        rows = x.shape[0]
        out = self._launcher.empty((rows, weight.shape[0]), out_type)
        if self._cublas is not None and rows > GEMV_ROWS:
            if bias is not None:
                addend = self._zero if residual is None else residual
                elementwise(self._launcher, "add", bias, addend, out)
            elif residual is not None:
                memory.copy_on_device(self._device, residual, out)
            has_addend = bias is not None or residual is not None
            self._cublas.linear(out, x, weight, add=has_addend)
        elif rows > 4 * GEMV_ROWS and not self._is_deterministic:  # more than four such passes
            grid = (blocks_for(rows, GEMM_TILE), blocks_for(weight.shape[0], GEMM_TILE), 1)
            self._launch("gemm", (grid, GEMM_THREADS), out, x, weight, bias, residual)
        else:
            grid = (blocks_for(weight.shape[0], WARPS), blocks_for(rows, GEMV_ROWS), 1)
            self._launch("gemv", (grid, WARPS * WARP), out, x, weight, bias, residual)
        return out

    def _launch(
        self,
        kernel: str,
        size: tuple[tuple[int, int, int], int],
        out: DeviceArray,
        x: DeviceArray,
        weight: DeviceArray,
        *addends: DeviceArray | None,
    ) -> None:
        converts = "" if out.dtype == self._launcher.dtype else "_to_f32"
        operands = (out.address, x.address, weight.address, *map(address_of, addends))
        arguments = (*operands, *x.shape, weight.shape[0])
        self._launcher.launch(
            "linear", f"{kernel}_{self._launcher.suffix}{converts}", *size, arguments
        )

    def matmul(self, x: DeviceArray, y: DeviceArray) -> DeviceArray:
        kind = common_type(x, y)
        left, right = _as_matrices(x.shape, y.shape)
        (rows, inner), columns = left[-2:], right[-1]
        shape, axes = broadcast_axes(left[:-2], right[:-2], rows * inner, inner * columns)
        out = self._launcher.empty((*shape, rows, columns), kind)
        if self._cublas is not None and axes.count <= 1 and out.size and inner:
            self._cublas.matmul(out, x, y, (rows, inner, columns), axes.strides)
        else:
            tiles = blocks_for(rows, GEMM_TILE), blocks_for(columns, GEMM_TILE)
            products = prod(shape)
            self._launcher.launch(
                "broadcast",
                f"matmul_{SUFFIXES[kind.name]}",
                (*tiles, min(products, MAX_GRID_Z)),
                GEMM_THREADS,
                (out.address, x.address, y.address, axes, rows, inner, columns, products),
            )
        # Leave out the axis that made a vector a matrix.
        kept_rows = (rows,) if len(x.shape) > 1 else ()
        kept_columns = (columns,) if len(y.shape) > 1 else ()
        return out.view(0, (*shape, *kept_rows, *kept_columns))


def _as_matrices(x: tuple[int, ...], y: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return shapes of matrices: a vector is a row on the left, a column on the right.

    Raises:
        UsageError: one of them has no axis, or the inner sizes differ.
    """
    if not x or not y:
        raise UsageError("matmul takes arrays of one axis or more, not single numbers")
    left = x if len(x) > 1 else (1, *x)
    right = y if len(y) > 1 else (*y, 1)
    if left[-1] != right[-2]:
        raise UsageError(
            f"matmul of {list(x)} and {list(y)}: {left[-1]} columns meet {right[-2]} rows, "
            "expected as many"
        )
    return left, right
