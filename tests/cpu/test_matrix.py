"""Every way a weight can lie in memory gives the same product."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from cullama.cpu import matrix
from cullama.cpu.storage import Memory
from cullama.cpu.thread_pool import ThreadPool

SHAPES = [(64, 1), (64, 64), (128, 33), (192, 576), (1, 7), (65, 3), (1000, 48), (576, 192)]


def placed(values: np.ndarray, layout: matrix.Layout, dtype: type = np.float32) -> matrix.Matrix:
    weight = matrix.allocate(Memory(), values.shape[0], values.shape[1], np.dtype(dtype), layout)
    weight.fill(np.array_split(values, min(3, len(values))))
    return weight


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["tiles", "columns", "rows"])
@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 17, 200])
def test_all_layouts_mean_the_same(
    shape: tuple[int, int], layout: matrix.Layout, tokens: int
) -> None:
    rng = np.random.default_rng(sum(shape) + tokens)
    values = rng.standard_normal(shape, np.float32)
    x = rng.standard_normal((tokens, shape[1]), np.float32)
    expected = x.astype(np.float64) @ values.astype(np.float64).T
    found = placed(values, layout).product(x, ThreadPool(1))
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * shape[1] ** 0.5)


@pytest.mark.parametrize("layout", ["tiles", "rows"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_the_number_of_threads_does_not_change_a_bit(
    layout: matrix.Layout, dtype: type, tokens: int
) -> None:
    rng = np.random.default_rng(tokens)
    weight = placed(rng.standard_normal((19200, 1280), np.float32), layout, dtype)
    x = rng.standard_normal((tokens, 1280), np.float32)
    pools = [ThreadPool(size) for size in (1, 2, 3)]
    assert len(pools[1].split(100, weight.nbytes / matrix.READ_RATE)) == 2  # it is shared
    results = [weight.product(x, thread_pool) for thread_pool in pools]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("layout", ["tiles", "columns", "rows"])
def test_rows_can_be_looked_up(layout: matrix.Layout) -> None:
    values = np.random.default_rng(0).standard_normal((192, 48), np.float32)
    rows = np.array([0, 191, 64, 63, 64])
    np.testing.assert_array_equal(placed(values, layout).rows_at(rows), values[rows])


@pytest.mark.parametrize(
    ("dtype", "has_tiles", "size", "layout"),
    [
        (np.float32, True, matrix.IN_CACHE + 1, "tiles"),
        (np.float32, False, matrix.IN_CACHE + 1, "rows"),
        (np.float32, True, matrix.IN_CACHE, "columns"),
        (np.float16, True, matrix.IN_CACHE + 1, "rows"),
    ],
)
def test_the_layout_follows_from_type_size_and_blas(
    dtype: type, has_tiles: bool, size: int, layout: str
) -> None:
    assert matrix.choose_layout(np.dtype(dtype), has_tiles, size) == layout


def test_a_matrix_that_64_does_not_divide_lies_in_rows() -> None:
    assert placed(np.ones((65, 8), np.float32), "tiles").data.shape == (65, 8)
    assert placed(np.ones((128, 8), np.float32), "tiles").data.shape == (2, 8, 64)
