"""Applies NumPy's broadcasting rules to shapes, for the kernels in `kernels/broadcast.cu`.

It computes shapes and strides on the host, and touches no array.
"""

from __future__ import annotations

import ctypes
from math import prod

import numpy as np

from ..errors import UsageError

MAX_AXES = 8  # left after merging; as in kernels/broadcast.cu


class Axes(ctypes.Structure):
    """The kernels' argument: sizes of the axes, outermost first, and each operand's strides.

    Strides are in elements; 0 repeats the operand along an axis.
    """

    _fields_ = (
        ("count", ctypes.c_int64),
        ("shape", ctypes.c_int64 * MAX_AXES),
        ("x", ctypes.c_int64 * MAX_AXES),
        ("y", ctypes.c_int64 * MAX_AXES),
    )

    @property
    def strides(self) -> tuple[int, int, int]:
        """Return the size and the strides of x and y along the one axis; for none, (1, 0, 0)."""
        assert self.count <= 1
        return (self.shape[0], self.x[0], self.y[0]) if self.count else (1, 0, 0)


def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that arrays of these shapes broadcast to.

    Raises:
        UsageError: they do not broadcast.
    """
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise UsageError(
            f"shapes {' and '.join(str(list(shape)) for shape in shapes)} do not broadcast: "
            "counted from the last, sizes must be equal, or one of them 1"
        ) from None


def broadcast_axes(
    x: tuple[int, ...],
    y: tuple[int, ...],
    x_item: int = 1,
    y_item: int = 1,
    within: tuple[int, ...] = (),
) -> tuple[tuple[int, ...], Axes]:
    """Return the shape that two contiguous arrays broadcast to, and the axes to iterate over.

    Args:
        x_item, y_item: elements of one item of x and of y: 1, or the size of a matrix.
        within: a shape that both are also broadcast to.

    Raises:
        UsageError: the shapes do not broadcast, or need more than `MAX_AXES` axes.
    """
    shape = broadcast_shape(x, y, within)
    x_strides, y_strides = _strides(x, x_item, len(shape)), _strides(y, y_item, len(shape))
    merged = _merge_axes(list(zip(shape, x_strides, y_strides, strict=True)))
    if len(merged) > MAX_AXES:
        raise UsageError(
            f"shapes {list(x)} and {list(y)} broadcast along {len(merged)} axes that cannot be "
            f"merged, expected at most {MAX_AXES}"
        )
    axes = Axes(count=len(merged))
    for place, (size, x_stride, y_stride) in enumerate(merged):
        axes.shape[place], axes.x[place], axes.y[place] = size, x_stride, y_stride
    return shape, axes


def _strides(shape: tuple[int, ...], item: int, axes: int) -> list[int]:
    """Return strides in elements for a shape padded to `axes` axes; 0 for axes of size 1."""
    sizes = (1,) * (axes - len(shape)) + shape
    return [0 if size == 1 else item * prod(sizes[place + 1 :]) for place, size in enumerate(sizes)]


def _merge_axes(axes: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Drop axes of size 1, and merge neighbours that both operands traverse as one axis."""
    merged: list[tuple[int, int, int]] = []
    for size, x, y in axes:
        if size == 1:
            continue
        if merged and merged[-1][1:] == (x * size, y * size):
            merged[-1] = (merged[-1][0] * size, x, y)
        else:
            merged.append((size, x, y))
    return merged
