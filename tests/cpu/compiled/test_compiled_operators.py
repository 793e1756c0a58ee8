"""The compiled backend as a whole: weights into place, and a model that says what numpy's says.

Each operator by itself is held to its meaning in `tests/operators`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from compiled_cpu import NAMES, PoisonedOperators, in_each_instruction_set, jit, operators
from numpy.typing import NDArray
from packed_weights import GROUPED, PLAIN, assert_same_bits, bytes_of_rows, meaning

from cullama.benchmark.shapes import SHAPES, random_checkpoint
from cullama.checkpoint.checkpoint import Checkpoint
from cullama.checkpoint.names import expected_shapes
from cullama.checkpoint.weights import load_weights
from cullama.cpu.backend import BLOCK_SIZE
from cullama.cpu.operators import CpuOperators
from cullama.cpu.packed import FORMATS, PackedMatrix
from cullama.files.tensor import StoredTensor
from cullama.model.batch import Chunk, build_batch
from cullama.model.layer import Linear, Norm
from cullama.model.llama import AnyLlama, Llama
from cullama.model.operators import AnyOperators

BEST = NAMES[0]

Array = NDArray[Any]
Floats = NDArray[np.float32]


def stored(
    format_name: str, rows: int, columns: int = 256, seed: int = 0, size: float = 1.0
) -> StoredTensor:
    """A tensor as its file has it; a quantised one may also be read as float32."""
    raw = bytes_of_rows(format_name, rows, columns, seed, size)
    numbers = meaning(format_name, raw)
    if format_name in PLAIN:
        return StoredTensor("plain", (rows, columns), format_name, lambda: iter([raw]))
    return StoredTensor(
        "quantised",
        (rows, columns),
        format_name,
        tiles=lambda: iter([numbers[:7], numbers[7:]]),
        blocks=lambda: iter([raw[:5], raw[5:6], raw[6:]]),
    )


def packed(ops: AnyOperators, *parts: StoredTensor) -> PackedMatrix:
    weight = ops.weight(parts)
    assert isinstance(weight, PackedMatrix)
    return weight


def numbers_of(weight: PackedMatrix) -> Floats:
    return np.concatenate(list(weight.pieces()))


def formats_of(weight: PackedMatrix) -> list[str]:
    return [part.format.name for part in weight.parts]


# --- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", FORMATS)
def test_auto_keeps_every_weight_as_its_file_has_it(format_name: str) -> None:
    tensor = stored(format_name, 37)
    weight = packed(operators(BEST), tensor)
    assert formats_of(weight) == [format_name]
    assert_same_bits(numbers_of(weight), tensor.read().astype(np.float32))


def test_parts_of_one_type_lie_together_and_others_below() -> None:
    """As query, key and value do: files of "Q4_K_M" keep some values in Q6_K."""
    parts = [stored(name, 20, seed=i) for i, name in enumerate(("Q4_K", "Q4_K", "Q6_K", "Q4_K"))]
    weight = packed(operators(BEST), *parts)
    assert formats_of(weight) == ["Q4_K", "Q6_K", "Q4_K"]
    assert [part.rows for part in weight.parts] == [40, 20, 20]
    expected = np.concatenate([part.read() for part in parts])
    assert_same_bits(numbers_of(weight), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("format_name", ["Q4_0", "Q6_K", "F16", "F32"])
def test_a_type_that_is_asked_for_is_what_weights_become(format_name: str, dtype: str) -> None:
    tensor = stored(format_name, 20)
    kind = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    weight = packed(operators(BEST, dtype), tensor)
    assert formats_of(weight) == [{"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]]
    assert_same_bits(numbers_of(weight), tensor.read().astype(kind).astype(np.float32))


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
def test_a_quantised_type_may_be_asked_for(dtype: str) -> None:
    tensor = stored("F32", 20)
    weight = packed(operators(BEST, dtype), tensor)
    assert formats_of(weight) == [dtype.upper()]
    apart = np.abs(numbers_of(weight) - tensor.read()).max()
    assert apart <= np.abs(tensor.read()).max() / {"q8_0": 250, "q4_0": 7}[dtype]


def test_rows_that_blocks_do_not_divide_stay_float16() -> None:
    tensor = stored("F32", 20, columns=48)
    weight = packed(operators(BEST, "q8_0"), tensor)
    assert formats_of(weight) == ["F16"]
    assert_same_bits(numbers_of(weight), tensor.read().astype(np.float16).astype(np.float32))


def test_rows_that_stay_float16_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "cullama")
    odd, even = stored("F32", 20, columns=48), stored("F32", 20, columns=64)
    with operators(BEST, "q8_0").loading(None, [even]):
        assert caplog.messages == []
    with operators(BEST, "q8_0").loading(None, [even, odd]):
        (message,) = caplog.messages
    assert "plain" in message
    assert "32" in message
    assert "float16" in message


def test_a_type_without_kernels_becomes_bfloat16() -> None:
    numbers = np.random.default_rng(0).standard_normal((20, 64), np.float32)
    tensor = StoredTensor("a weight", (20, 64), "IQ2_XS", lambda: iter([numbers]))
    weight = packed(operators(BEST), tensor)
    assert formats_of(weight) == ["BF16"]
    expected = numbers.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert_same_bits(numbers_of(weight), expected)


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [("auto", np.float32), ("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16),
     ("q8_0", np.float32)],
)  # fmt: skip
def test_vectors_are_rounded_only_where_a_type_was_asked_for(dtype: str, kind: type) -> None:
    numbers = np.array([1 / 3, 1e-3, 7.77], np.float32)
    parts = [StoredTensor("a norm", (3,), "F32", lambda: iter([numbers]))] * 2
    found = operators(BEST, dtype).vector(parts)
    np.testing.assert_array_equal(found, np.tile(numbers.astype(kind).astype(np.float32), 2))


@pytest.mark.parametrize(
    ("dtype", "file_types", "cached_as"),
    [
        ("auto", ["Q4_K", "Q6_K", "F32"], "float16"),
        ("auto", ["F16"], "float16"),
        ("auto", ["F32", "F32"], "float32"),  # a float32 model stays one throughout
        ("float32", ["Q4_K"], "float32"),
        ("bfloat16", ["F32"], "bfloat16"),
        ("q8_0", ["F32"], "float16"),
    ],
)
def test_the_type_of_the_cache_follows_from_dtype_and_file(
    dtype: str, file_types: list[str], cached_as: str
) -> None:
    ops = operators(BEST, dtype)
    with ops.loading(None, [stored(name, 16) for name in file_types]):
        pass
    cache = ops.cache(SHAPES["tinystories-656k"], 100)
    assert {str(layer.keys.dtype) for layer in cache.layers} == {cached_as}


# --- kept between runs ---------------------------------------------------------------------------

KEY = "/models/llama.gguf|1000|1"


def load(folder: Path | None, dtype: str, *tensors: StoredTensor) -> list[PackedMatrix]:
    ops = PoisonedOperators(dtype, 1, jit(BEST), folder)
    with ops.loading(KEY, tensors):
        return [packed(ops, tensor) for tensor in tensors]


def unreadable(tensor: StoredTensor) -> StoredTensor:
    def nothing() -> Iterator[Array]:
        raise AssertionError("read again, although it is packed")

    return replace(tensor, tiles=nothing, blocks=nothing)


def test_packed_weights_are_kept_and_not_read_again(tmp_path: Path) -> None:
    tensors = [stored("Q4_K", 37), stored("F16", 20), stored("Q8_0", 16)]
    first = load(tmp_path, "auto", *tensors)
    (path,) = tmp_path.iterdir()
    second = load(tmp_path, "auto", *map(unreadable, tensors))
    for before, after in zip(first, second, strict=True):
        assert formats_of(before) == formats_of(after)
        for old, new in zip(before.parts, after.parts, strict=True):
            np.testing.assert_array_equal(old.data, new.data)
            with pytest.raises(ValueError, match="read-only"):
                new.data[:] = 0
    assert path.stat().st_size < 1.2 * sum(each.nbytes for each in first) + 20_000


def test_another_type_has_a_file_of_its_own(tmp_path: Path) -> None:
    tensor = stored("F32", 37)
    for dtype in ("q8_0", "q4_0"):
        load(tmp_path, dtype, tensor)
    assert len(list(tmp_path.iterdir())) == 2
    (again,) = load(tmp_path, "q8_0", unreadable(tensor))
    assert formats_of(again) == ["Q8_0"]


# --- foreign arrays ------------------------------------------------------------------------------


def foreign(x: Floats) -> Iterator[Array]:
    """The same numbers as other people's layers may have them."""
    yield np.asfortranarray(x)
    yield np.repeat(x, 2, axis=1)[:, ::2]
    yield x[::-1].copy()[::-1]
    yield x.astype(np.float64)
    read_only = x.copy()
    read_only.flags.writeable = False
    yield read_only


@in_each_instruction_set
def test_arrays_of_any_layout_give_what_numpy_gives(name: str) -> None:
    ops: Any = operators(name)
    draw = np.random.default_rng(0)
    x = draw.standard_normal((5, 256), np.float32)
    norm = Norm(draw.standard_normal(256, np.float32), 1e-5)
    residual, bias = draw.standard_normal((5, 21), np.float32), np.ones(21, np.float32)
    for weight in (packed(ops, stored("Q8_0", 21)), packed(ops, stored("F16", 21))):
        expected = ops.linear(x, Linear(weight, bias), residual)
        for other in foreign(x):
            np.testing.assert_array_equal(
                ops.linear(other, Linear(weight, bias), residual), expected
            )
        for other in foreign(residual):
            np.testing.assert_array_equal(ops.linear(x, Linear(weight, bias), other), expected)
        found = ops.linear(x, Linear(weight, bias.astype(np.float64)), residual)
        np.testing.assert_array_equal(found, expected)
        for rows in (np.array([20, 0, 3]), np.array([20, 9, 0, 9, 3, 9], np.int32)[::2]):
            np.testing.assert_array_equal(
                ops.embed(weight, rows), ops.embed(weight, rows.astype("i4").copy())
            )
    for other in foreign(x):
        np.testing.assert_array_equal(ops.rms_norm(other, norm), ops.rms_norm(x, norm))
        np.testing.assert_array_equal(ops.silu_mul(other), ops.silu_mul(x))
        rows = np.array([4, 0], np.int32)
        np.testing.assert_array_equal(ops.gather(other, rows), x[rows])


def test_whatever_kernels_left_out_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays that they are to fill are full of NaN, here and in the tests of the operators."""
    ops: Any = operators(BEST)
    weight, x = packed(ops, stored("Q8_0", 21)), np.ones((3, 256), np.float32)
    monkeypatch.setattr(ops._launcher, "run", lambda *arguments, **named: None)
    assert np.isnan(ops.linear(x, Linear(weight))).all()
    assert np.isnan(ops.embed(weight, np.array([1]))).all()
    assert np.isnan(ops.rms_norm(x, Norm(x[0], 1e-5))).all()
    assert np.isnan(ops.silu_mul(x)).all()


# --- in company ----------------------------------------------------------------------------------


def test_threads_may_compute_at_once_on_the_same_operators() -> None:
    ops: Any = operators(BEST, threads=2)
    weight = packed(ops, stored("Q4_0", 530))
    xs = np.random.default_rng(0).standard_normal((4, 9, 256), np.float32)
    expected = [ops.linear(x, Linear(weight)) for x in xs]
    wrong: list[int] = []

    def compute(place: int) -> None:
        for _ in range(100):
            if (ops.linear(xs[place], Linear(weight)) != expected[place]).any():
                wrong.append(place)

    threads = [threading.Thread(target=compute, args=[place], daemon=True) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert wrong == []


@pytest.mark.parametrize("dtype", ["auto", "float32", "float16", "bfloat16", "q8_0", "q4_0"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_description_names_dtype_threads_and_instruction_set(dtype: str, threads: int) -> None:
    for name in NAMES:
        words = operators(name, dtype, threads).description.split(" · ")
        assert words[0] == "cpu"
        assert words[1] == ("weights as stored" if dtype == "auto" else dtype)
        assert words[2] == ("1 thread" if threads == 1 else "2 threads")
        assert words[3] == name


# --- a whole model -------------------------------------------------------------------------------


def checkpoint_in(format_name: str) -> Checkpoint:
    """A small model whose matrices are all of one quantised type, of blocks that suit it."""
    config = replace(
        SHAPES["tinystories-656k"],
        hidden_size=256,
        intermediate_size=512,
        heads=4,
        kv_heads=2,
        head_dim=64,
        vocab_size=500,
        tied=False,
    )
    norms = random_checkpoint("tinystories-656k")
    tensors = {}
    for seed, (name, shape) in enumerate(expected_shapes(config).items()):
        if len(shape) == 2:
            tensors[name] = stored(format_name, *shape, seed=seed, size=shape[1] ** -0.5)
        else:
            ones = np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype(np.float32)
            tensors[name] = StoredTensor(name, shape, "F32", lambda ones=ones: iter([ones]))  # type: ignore[misc]
    return replace(norms, config=config, tensors=tensors)


def logits_of(ops: Any, checkpoint: Checkpoint) -> Floats:
    """Of a prompt, and of tokens one by one behind it; nothing is lost in the cache."""
    model: AnyLlama = Llama(checkpoint.config, load_weights(checkpoint, ops, 200), ops)
    ops.dtype = np.dtype(np.float32)
    cache = ops.cache(checkpoint.config, 200)
    step = ops.graph(lambda batch: model.forward(batch, cache))
    ids = np.random.default_rng(0).integers(0, 500, 80).tolist()
    found = []
    for start, end in [(0, 60), *((place, place + 1) for place in range(60, 80))]:
        chunk = Chunk(ids[start:end], start, range(3), end - start)
        batch = ops.upload_batch(build_batch([chunk], BLOCK_SIZE))
        found.append(ops.download(step(batch)))
    return np.concatenate(found)


def divergence(found: Floats, expected: Floats) -> NDArray[np.float64]:
    """Kullback and Leibler's, of each row."""
    p, q = (each - np.logaddexp.reduce(each, axis=1, keepdims=True)
            for each in (expected.astype(np.float64), found.astype(np.float64)))  # fmt: skip
    return (np.exp(p) * (p - q)).sum(axis=1)


@pytest.fixture(scope="module", params=[*GROUPED, "F16", "BF16", "F32"])
def dequantised(request: pytest.FixtureRequest) -> tuple[Checkpoint, Floats]:
    """A model, and what numpy says with all of it as float32."""
    checkpoint = checkpoint_in(request.param)
    return checkpoint, logits_of(CpuOperators("float32", 1, has_tiles=False), checkpoint)


@in_each_instruction_set
def test_all_that_is_lost_is_the_file_s_own(
    name: str, dequantised: tuple[Checkpoint, Floats]
) -> None:
    """A quantised model says what its numbers say."""
    checkpoint, expected = dequantised
    found = logits_of(operators(name, threads=2), checkpoint)
    assert divergence(found, expected).mean() <= 1e-7
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
