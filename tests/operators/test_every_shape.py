"""Every kernel in every storage type on thirty shapes and more, in three orders of its threads.

Of one, odd, not divided by 32, at the edges of tiles and packs, and as large as is sensible. On the
GPU that the CPU plays, threads and blocks run in ascending, descending and random order: what
depends on who comes first gives itself away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import gpu
import numpy as np
import pytest
import reference
from numpy.typing import NDArray
from subject import EPS, STORAGE, Memory, Subject, chunk_of

from cullama.errors import NumericalError
from cullama.model.layer import Linear
from cullama.sampling.draw import Draw, Drawn
from cullama.sampling.params import SamplingParams
from cullama.sampling.sampler import sample

pytestmark = pytest.mark.gpu

LEAST_SHAPES = 30
ORDERS = ["as it comes"] if gpu.IS_REAL else ["ascending", "descending", "random"]

WIDTHS = (1, 2, 3, 7, 8, 31, 32, 33, 64, 65, 127, 128, 129, 255, 256, 257, 576, 1000, 4096, 8192)


@pytest.fixture(scope="module", params=["float32", "float16", "bfloat16"])
def cuda(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Without cuBLAS: every product is a kernel of ours."""
    dtype = request.param
    ops = gpu.operators(dtype, has_cublas=False)
    yield Subject("cuda", dtype, ops, STORAGE[dtype])
    ops.close()


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest) -> Iterator[None]:
    if gpu.IS_REAL:
        yield
        return
    gpu.require()
    gpu.emulated().schedule(request.param, seed=7)
    yield
    gpu.emulated().schedule("ascending")


@pytest.fixture
def over(rng: np.random.Generator, order: None) -> Callable[..., None]:
    """Runs a check on every shape, and sees to it that there are enough of them."""

    def run(check: Callable[..., None], shapes: list[Any]) -> None:
        assert len(set(shapes)) >= LEAST_SHAPES
        for shape in shapes:
            check(rng, *shape)

    return run


def normal(cuda: Subject, rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    return cuda.rounded(rng.normal(size=shape))


def test_gather(cuda: Subject, over: Callable[..., None]) -> None:
    def check(rng: np.random.Generator, rows: int, width: int) -> None:
        table = normal(cuda, rng, 50, width)
        wanted = rng.integers(0, 50, rows)
        found = cuda.ops.embed(cuda.weight(table), cuda.integers(wanted))
        np.testing.assert_array_equal(cuda.floats(found), table[wanted])

    over(check, list(product((1, 3), WIDTHS)))


def test_rms_norm(cuda: Subject, over: Callable[..., None]) -> None:
    def check(rng: np.random.Generator, rows: int, width: int) -> None:
        x, weight = normal(cuda, rng, rows, width), normal(cuda, rng, width)
        found = cuda.rms_norm(cuda.activation(x), cuda.vector(weight), EPS)
        cuda.check(found, reference.rms_norm(x, weight, EPS))

    over(check, list(product((1, 3), WIDTHS)))


def test_silu_mul(cuda: Subject, over: Callable[..., None]) -> None:
    def check(rng: np.random.Generator, rows: int, width: int) -> None:
        gate_up = cuda.rounded(normal(cuda, rng, rows, 2 * width) * 3)
        cuda.check(cuda.ops.silu_mul(cuda.activation(gate_up)), reference.silu_mul(gate_up))

    over(check, list(product((1, 3), (*WIDTHS, 14336))))


HEADS = ((1, 1), (3, 1), (4, 2), (5, 5), (9, 3), (32, 8))


def test_rope_and_store(cuda: Subject, over: Callable[..., None]) -> None:
    """With and without norms; what was kept is read by an attention that sees it."""

    def check(
        rng: np.random.Generator, heads: tuple[int, int], width: int, tokens: int, is_normed: bool
    ) -> None:
        memory = Memory(cuda, *heads, width=width, tokens=64)
        batch = memory.batch(chunk_of(tokens, 0, [1, 0]))
        qkv, angles = memory.random(rng, tokens), rng.uniform(-3, 3, (tokens, width // 2))
        norms = (normal(cuda, rng, width), normal(cuda, rng, width)) if is_normed else None
        found, expected = memory.rope_and_store(batch, qkv, angles, norms)
        cuda.check(found, expected)
        memory.check_attention(batch, cuda.rounded(expected), roundings=2)

    shapes = product(HEADS, (2, 6, 64, 66), (1, 33), (False, True))
    over(check, [shape for i, shape in enumerate(shapes) if i % 3 == 0])


@pytest.mark.parametrize("widths", [(2, 6, 64), (66, 96, 128), (130, 256)], ids=str)
def test_attention(cuda: Subject, over: Callable[..., None], widths: tuple[int, ...]) -> None:
    """A prompt, a chunk behind it, and a token behind that; contexts of one to three slices."""

    def check(
        rng: np.random.Generator, width: int, heads: tuple[int, int], context: int, window: int
    ) -> None:
        memory = Memory(cuda, *heads, width=width, windows=(window,), tokens=128)
        for start, tokens in ((0, context), (context, 17), (context + 17, 1)):
            memory.step(rng, chunk_of(tokens, start, [2, 0, 3, 1]))

    contexts = ((1, 0), (31, 0), (32, 5), (47, 33), (64, 0))
    shapes = [
        (width, heads, context, window)
        for width, heads, (context, window) in product(widths, HEADS[:-1], contexts)
    ]
    over(check, shapes if len(widths) < 3 else shapes[::2])


def test_attention_split_and_merged(cuda: Subject, over: Callable[..., None]) -> None:
    def check(rng: np.random.Generator, heads: tuple[int, int], context: int, window: int) -> None:
        memory = Memory(cuda, *heads, width=6, windows=(window,), tokens=1024)
        blocks = [int(block) for block in rng.permutation(32)[:20]]
        memory.store(memory.batch(chunk_of(context, 0, blocks)), memory.random(rng, context))
        memory.step(rng, chunk_of(1, context, blocks))

    over(check, list(product(HEADS[:3], (255, 256, 257, 511, 600), (0, 100))))


INNER = (1, 3, 8, 31, 32, 33, 64, 127, 256, 257, 576)


def test_linear_of_few_rows(cuda: Subject, over: Callable[..., None]) -> None:
    def check(rng: np.random.Generator, rows: int, inner: int, outputs: int) -> None:
        check_linear(cuda, rng, rows, inner, outputs)

    shapes = list(product((1, 2, 8, 9), INNER, (5,)))
    over(check, [*shapes, (1, 14336, 3), (1, 64, 1000), (8, 4096, 7), (31, 40, 50)])


def test_linear_of_many_rows(cuda: Subject, over: Callable[..., None]) -> None:
    def check(rng: np.random.Generator, rows: int, inner: int, outputs: int) -> None:
        check_linear(cuda, rng, rows, inner, outputs)

    shapes = list(product((33, 64, 65), (1, 15, 16, 17, 100), (1, 63, 65)))
    over(check, [*shapes, (130, 64, 130), (40, 1000, 20)])


def check_linear(
    cuda: Subject, rng: np.random.Generator, rows: int, inner: int, outputs: int
) -> None:
    x, weight = normal(cuda, rng, rows, inner), normal(cuda, rng, outputs, inner)
    bias, residual = normal(cuda, rng, outputs), normal(cuda, rng, rows, outputs)
    operands = cuda.activation(x), cuda.weight(weight)
    cuda.check(cuda.linear(*operands), reference.linear(x, weight))
    found = cuda.linear(*operands, cuda.vector(bias), cuda.activation(residual))
    cuda.check(found, reference.linear(x, weight, bias, residual))


def test_logits(cuda: Subject, over: Callable[..., None]) -> None:
    """Out of any storage type into float32."""

    def check(rng: np.random.Generator, rows: int, width: int, vocabulary: int) -> None:
        x, norm = normal(cuda, rng, rows, width), normal(cuda, rng, width)
        head = normal(cuda, rng, vocabulary, width)
        found = cuda.ops.logits(cuda.activation(x), cuda.norm(norm), Linear(cuda.weight(head)))
        expected = reference.linear(reference.rms_norm(x, norm, EPS), head)
        assert cuda.ops.download(found).dtype == np.float32
        cuda.check(found, expected)

    over(check, list(product((1, 8, 40), (3, 32, 65, 576), (1, 33, 517))))


BROADCAST = [
    ((), ()),
    ((1,), ()),
    ((3,), (3,)),
    ((257,), (1,)),
    ((33, 5), (5,)),
    ((33, 5), (33, 1)),
    ((1, 5), (7, 1)),
    ((2, 1, 3), (4, 1)),
    ((2, 3, 4, 5), (3, 1, 5)),
    ((2, 1, 2, 1, 2), (1, 3, 1, 3, 1)),
    ((0, 4), (4,)),
    ((1000,), (1000,)),
    ((64, 64), ()),
    ((5, 1, 31), (6, 31)),
    ((3, 1), (1, 300)),
]


@pytest.mark.parametrize("operator", ["add", "mul"])
def test_elementwise(cuda: Subject, over: Callable[..., None], operator: str) -> None:
    def check(rng: np.random.Generator, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
        x, y = normal(cuda, rng, *x_shape), normal(cuda, rng, *y_shape)
        found = getattr(cuda.ops, operator)(cuda.activation(x), cuda.activation(y))
        cuda.check(found, x + y if operator == "add" else x * y)

    shapes = BROADCAST + [(y, x) for x, y in BROADCAST] + [((n,), (n,)) for n in (2, 31, 32, 33)]
    over(check, shapes)


def test_matmul(cuda: Subject, over: Callable[..., None]) -> None:
    def check(rng: np.random.Generator, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
        x, y = normal(cuda, rng, *x_shape), normal(cuda, rng, *y_shape)
        cuda.check(cuda.ops.matmul(cuda.activation(x), cuda.activation(y)), x @ y)

    plain = [((m, n), (n, p)) for m, n, p in product((1, 33, 65), (1, 17), (1, 3, 66))]
    vectors = [((5,), (5,)), ((5,), (5, 3)), ((4, 5), (5,)), ((2, 4, 5), (5,)), ((5,), (2, 5, 3))]
    batches = [
        ((2, 3, 4), (4, 5)),
        ((3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (5, 4, 6)),
        ((2, 1, 3, 4), (1, 3, 4, 1)),
        ((3, 0), (0, 4)),
        ((0, 4), (4, 2)),
        ((2, 3, 70, 5), (1, 3, 5, 70)),
    ]
    over(check, plain + vectors + batches)


def test_more_products_than_a_grid_has_blocks(
    cuda: Subject, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cullama.cuda.products.MAX_GRID_Z", 3)  # 65,535 in earnest
    x, y = normal(cuda, rng, 2, 1, 3, 20), normal(cuda, rng, 5, 20, 6)  # of two axes: not cuBLAS's
    cuda.check(cuda.ops.matmul(cuda.activation(x), cuda.activation(y)), x @ y)


def tokens(outcomes: Sequence[Drawn | NumericalError]) -> list[int]:
    assert all(isinstance(outcome, Drawn) for outcome in outcomes)
    return [outcome.token for outcome in outcomes if isinstance(outcome, Drawn)]


def test_sample(cuda: Subject, over: Callable[..., None]) -> None:
    def check(
        rng: np.random.Generator, vocabulary: int, params: tuple[tuple[str, Any], ...]
    ) -> None:
        logits = (rng.normal(size=(2, vocabulary)) * 3).astype(np.float32)
        draws = [Draw(SamplingParams(**dict(params)), seed, 0, (0, 0), 1) for seed in (3, 4)]
        found = cuda.ops.sample(cuda.ops.upload(logits), draws)()
        expected = sample(logits, draws)
        assert tokens(found) == tokens(expected)

    params = (
        (("temperature", 0),),
        (("top_k", 3),),
        (("top_p", 0.8), ("min_p", 0.01), ("repetition_penalty", 1.2)),
    )
    over(check, list(product((1, 2, 31, 32, 33, 300, 511, 512, 513, 2048, 50257), params)))
