"""NumPy's broadcasting rules, worked out on the host for `kernels/broadcast.cu`.

It knows shapes and strides; it touches no array.
"""

from __future__ import annotations

import ctypes
from math import prod

import numpy as np

from ..errors import UsageError

MAX_AXES = 8  # that remain once neighbours are joined


class Axes(ctypes.Structure):
    """What the kernels take: sizes, and the step of each operand, outermost first, in elements."""

    _fields_ = (
        ("count", ctypes.c_int32),
        ("shape", ctypes.c_int32 * MAX_AXES),
        ("x", ctypes.c_int32 * MAX_AXES),
        ("y", ctypes.c_int32 * MAX_AXES),
    )

    @property
    def strides(self) -> tuple[int, int, int]:
        """Of a single axis, or none: how many, and the steps of x and y."""
        assert self.count <= 1
        return (self.shape[0], self.x[0], self.y[0]) if self.count else (1, 0, 0)


def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Raises UsageError for shapes that do not go together."""
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
    """The broadcast shape of two arrays without gaps, and how each is walked.

    `x_item` and `y_item`: elements of what is broadcast, 1, or a matrix. `within`: a shape that
    both are repeated to fill.
    """
    shape = broadcast_shape(x, y, within)
    x_steps, y_steps = _steps(x, x_item, len(shape)), _steps(y, y_item, len(shape))
    joined: list[tuple[int, int, int]] = []
    for axis in zip(shape, x_steps, y_steps, strict=True):
        _join(joined, axis)
    if len(joined) > MAX_AXES:
        raise UsageError(
            f"shapes {list(x)} and {list(y)} broadcast along {len(joined)} axes that cannot be "
            f"joined, expected at most {MAX_AXES}"
        )
    return shape, _packed(joined)


def _steps(shape: tuple[int, ...], item: int, axes: int) -> list[int]:
    """Elements from one to the next along each axis; 0 where there is but one."""
    sizes = (1,) * (axes - len(shape)) + shape
    return [0 if size == 1 else item * prod(sizes[place + 1 :]) for place, size in enumerate(sizes)]


def _join(joined: list[tuple[int, int, int]], axis: tuple[int, int, int]) -> None:
    """Add an inner axis; one that goes on where the axis around it would step is the same axis."""
    size, x, y = axis
    if size == 1:
        return
    if joined:
        around, x_around, y_around = joined[-1]
        if (x_around, y_around) == (x * size, y * size):
            joined[-1] = (around * size, x, y)
            return
    joined.append(axis)


def _packed(axes: list[tuple[int, int, int]]) -> Axes:
    packed = Axes(count=len(axes))
    for place, (size, x, y) in enumerate(axes):
        packed.shape[place], packed.x[place], packed.y[place] = size, x, y
    return packed
