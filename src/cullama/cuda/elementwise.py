"""Adds and multiplies arrays on a device, by NumPy's broadcasting rules.

Shapes and repeated axes are computed in `broadcasting.py`.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ..errors import UsageError
from .broadcasting import broadcast_axes
from .launcher import SUFFIXES, THREADS, Launcher, blocks_for
from .memory import DeviceArray


def elementwise(
    launcher: Launcher,
    operator: str,
    x: DeviceArray,
    y: DeviceArray,
    out: DeviceArray | None = None,
) -> DeviceArray:
    """Launch x + y or x · y ("add", "mul") and return the result.

    `out`: an array for the result, to whose shape the operands are broadcast.
    """
    kind = common_type(x, y)
    shape, axes = broadcast_axes(x.shape, y.shape, within=() if out is None else out.shape)
    if out is None:
        out = launcher.empty(shape, kind)
    launcher.launch(
        "broadcast",
        f"{operator}_{SUFFIXES[kind.name]}",
        (blocks_for(prod(shape), THREADS), 1, 1),
        THREADS,
        (out.address, x.address, y.address, axes, prod(shape)),
    )
    return out


def common_type(x: DeviceArray, y: DeviceArray) -> np.dtype:
    """Return the type of both arrays.

    Raises:
        UsageError: they differ, or there are no kernels for it.
    """
    if x.dtype != y.dtype or x.dtype.name not in SUFFIXES:
        raise UsageError(
            f"the arrays hold {x.dtype.name} and {y.dtype.name}, "
            f"expected one of {', '.join(SUFFIXES)} in both"
        )
    return x.dtype
