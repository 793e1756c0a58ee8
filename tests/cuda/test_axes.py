"""Shapes and strides for the broadcasting kernels, compared with numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cullama.cuda.broadcasting import MAX_AXES, Axes, broadcast_axes, broadcast_shape
from cullama.errors import UsageError

sizes = st.lists(st.sampled_from([1, 1, 2, 3]), max_size=6).map(tuple)


def walk(axes: Axes, size: int, operand: str) -> list[int]:
    """Return the operand's offset of each element, computed as in `kernels/broadcast.cu`."""
    places = []
    for index in range(size):
        place, rest = 0, index
        for axis in reversed(range(axes.count)):
            rest, here = divmod(rest, axes.shape[axis])
            place += here * getattr(axes, operand)[axis]
        places.append(place)
    return places


def numbered(shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.arange(int(np.prod(shape))).reshape(shape)


@given(x=sizes, y=sizes)
def test_every_element_is_found_where_numpy_finds_it(
    x: tuple[int, ...], y: tuple[int, ...]
) -> None:
    try:
        expected = np.broadcast_shapes(x, y)
    except ValueError:
        with pytest.raises(UsageError, match="do not broadcast"):
            broadcast_axes(x, y)
        return
    shape, axes = broadcast_axes(x, y)
    assert shape == expected
    for operand, own in (("x", x), ("y", y)):
        places = np.broadcast_to(numbered(own), expected).reshape(-1).tolist()
        assert walk(axes, len(places), operand) == places


def test_arrays_of_one_shape_have_one_axis() -> None:
    shape, axes = broadcast_axes((2, 3, 4), (2, 3, 4))
    assert (shape, axes.count, axes.shape[0], axes.x[0], axes.y[0]) == ((2, 3, 4), 1, 24, 1, 1)


def test_a_row_added_to_a_matrix_is_repeated_and_not_copied() -> None:
    _, axes = broadcast_axes((5, 7), (7,))
    assert axes.count == 2
    assert (axes.y[0], axes.y[1]) == (0, 1)


def test_a_single_number_is_repeated_along_one_axis() -> None:
    _, axes = broadcast_axes((2, 3, 4), ())
    assert (axes.count, axes.x[0], axes.y[0]) == (1, 1, 0)


def test_strides_of_a_batch_are_whole_matrices() -> None:
    shape, axes = broadcast_axes((4, 3), (3,), x_item=10, y_item=6)
    assert shape == (4, 3)
    assert (list(axes.x[:2]), list(axes.y[:2])) == ([30, 10], [0, 6])


def test_no_axes_are_one_element() -> None:
    shape, axes = broadcast_axes((), (1, 1))
    assert (shape, axes.count, axes.strides) == ((1, 1), 0, (1, 0, 0))


def test_shapes_that_do_not_broadcast_are_named() -> None:
    with pytest.raises(UsageError, match=r"\[2, 3\] and \[2\] do not broadcast"):
        broadcast_shape((2, 3), (2,))


def test_more_axes_than_the_kernels_take_are_refused() -> None:
    many = (2, 1) * (MAX_AXES // 2 + 1)
    with pytest.raises(UsageError, match="expected at most 8"):
        broadcast_axes(many, many[::-1])


def test_sizes_and_strides_beyond_32_bits_are_not_cut() -> None:
    x, y = (3, 1 << 33), (1, 1 << 33)
    shape, axes = broadcast_axes(x, y)
    assert shape == (3, 1 << 33)
    assert [axes.shape[n] for n in range(2)] == [3, 1 << 33]
    assert [axes.x[n] for n in range(2)] == [1 << 33, 1]
    _, batch = broadcast_axes((2, 5), (5,), x_item=1 << 31, y_item=1 << 32)
    assert [batch.y[n] for n in range(2)] == [0, 1 << 32]
