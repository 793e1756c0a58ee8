"""Cases for the self-test: each operator with inputs, expected outputs, and the work it takes.

A case is made right before it runs, and only one exists at a time. Running, timing and comparing
are in doctor/selftest.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from ...model.batch import Chunk
from ...sampling.draw import Draw, Drawn
from ...sampling.params import SamplingParams
from ...sampling.philox import uniform
from . import reference
from .fixture import EPS, Fixture, Numbers, bare_attention, cached_sequences, empty_cache
from .reference import Floats

FEW = 4  # rows and sequences that one pass over the weights serves
TOP_P, TEMPERATURE, SEED = 0.9, 0.8, 2024


@dataclass(frozen=True)
class Case:
    """An operator with its inputs, ready to run.

    `traffic` is given where memory limits its speed, `operations` where arithmetic does.
    """

    shape: str
    run: Callable[[], Any]
    read: Callable[[Any], list[Floats]]  # the outputs in float64, one array for each
    expected: Callable[[], list[Floats]]
    traffic: int = 0  # bytes that must be read and written
    operations: int = 0  # on floating-point numbers
    roundings: int = 1  # of results in the storage type, which the reference does not make
    is_exact: bool = False  # copies and choices: no error is allowed
    can_be_captured: bool = True  # in a CUDA graph: no waits, no transfers


Make = Callable[[Fixture], Case]


def _simple(
    fixture: Fixture,
    shape: str,
    run: Callable[[], Any],
    expected: Callable[[], Floats],
    **more: Any,
) -> Case:
    """Return the case of an operator with one output."""
    return Case(shape, run, lambda out: [fixture.floats(out)], lambda: [expected()], **more)


def _dimensions(*shapes: Sequence[int]) -> str:
    return ", ".join("×".join(map(str, shape)) for shape in shapes)


def _embed(fixture: Fixture) -> Case:
    table = fixture.matrix(fixture.sizes.vocabulary, fixture.sizes.hidden)
    rows = fixture.generator.integers(0, len(table), fixture.sizes.rows)
    on_device, which = fixture.weight(table), fixture.integers(rows)
    return _simple(
        fixture,
        _dimensions(table.shape, rows.shape),
        lambda: fixture.ops.embed(on_device, which),
        lambda: table[rows].astype(np.float64),
        traffic=rows.size * table.shape[1] * (fixture.itemsize + fixture.activation.itemsize),
        is_exact=True,
    )


def _linear(fixture: Fixture, rows: int | None = None, has_bias: bool = False) -> Case:
    """Multiply `rows` rows; with None a prompt's, to which a residual is added."""
    sizes = fixture.sizes
    x = fixture.numbers(rows or sizes.rows, sizes.hidden)
    weight = fixture.matrix(2 * sizes.inner, sizes.hidden)
    bias = fixture.numbers(len(weight)) if has_bias else None
    residual = fixture.numbers(len(x), len(weight)) if rows is None else None
    given = (
        fixture.upload(x),
        fixture.linear(weight, bias),
        None if residual is None else fixture.upload(residual),
    )
    added = [each.astype(np.float64) for each in (bias, residual) if each is not None]
    moved = {"operations": 2 * len(x) * weight.size} if rows is None else {}
    return _simple(
        fixture,
        _dimensions(x.shape, weight.shape) + (" + bias" * has_bias) + " + residual" * (not rows),
        lambda: fixture.ops.linear(*given),
        lambda: reference.linear(x.astype(np.float64), weight, *added),
        traffic=0 if moved else weight.size * fixture.itemsize,
        **moved,
    )


def _logits(fixture: Fixture) -> Case:
    x, norm = fixture.numbers(1, fixture.sizes.hidden), fixture.numbers(fixture.sizes.hidden)
    head = fixture.matrix(fixture.sizes.vocabulary, fixture.sizes.hidden)
    given = fixture.upload(x), fixture.norm(norm), fixture.linear(head)
    return _simple(
        fixture,
        _dimensions(x.shape, head.shape),
        lambda: fixture.ops.logits(*given),
        lambda: reference.linear(reference.rms_norm(x.astype(np.float64), norm, EPS), head),
        traffic=head.size * fixture.itemsize,
        roundings=2,
    )


def _rms_norm(fixture: Fixture) -> Case:
    x = fixture.numbers(fixture.sizes.rows, fixture.sizes.hidden)
    weight = fixture.numbers(fixture.sizes.hidden)
    given = fixture.upload(x), fixture.norm(weight)
    return _simple(
        fixture,
        _dimensions(x.shape),
        lambda: fixture.ops.rms_norm(*given),
        lambda: reference.rms_norm(x.astype(np.float64), weight, EPS),
        traffic=2 * x.size * fixture.activation.itemsize,
    )


def _silu_mul(fixture: Fixture) -> Case:
    gate_up = 4 * fixture.numbers(fixture.sizes.rows, 2 * fixture.sizes.inner)
    given = fixture.upload(gate_up)
    return _simple(
        fixture,
        _dimensions(gate_up.shape),
        lambda: fixture.ops.silu_mul(given),
        lambda: reference.silu_mul(gate_up.astype(np.float64)),
        traffic=gate_up.size * 3 // 2 * fixture.activation.itemsize,
    )


# --- RoPE, KV cache, attention -------------------------------------------------------------------


def _rope_and_store(fixture: Fixture) -> Case:
    """Rotate and store a prompt; the cache is checked by attention of the rotated queries."""
    sizes = fixture.sizes
    tokens, heads, kv_heads, width = sizes.rows, sizes.heads, sizes.kv_heads, sizes.head_dim
    qkv = fixture.numbers(tokens, heads + 2 * kv_heads, width)
    angles = fixture.numbers(tokens, width // 2).astype(np.float64) * np.pi
    cache = empty_cache(fixture, 1, tokens)
    blocks = list(range(cache.blocks))
    batch = fixture.batch([Chunk([0] * tokens, 0, blocks, 1)], cache.block_size)
    cos, sin = np.cos(angles), np.sin(angles)
    cos_sin = np.concatenate([cos, cos, -sin, sin], axis=1).astype(np.float32)
    given = fixture.upload(qkv.reshape(tokens, -1)), fixture.ops.upload(cos_sin)

    def run() -> Any:
        return fixture.ops.rope_and_store(
            given[0], bare_attention(), given[1], cache.layers[0], batch
        )

    def read(q: Any) -> list[Floats]:
        return [fixture.floats(q), fixture.floats(fixture.ops.attention(q, cache.layers[0], batch))]

    def expected() -> list[Floats]:
        exact = qkv.astype(np.float64)
        q, k = (
            reference.rotated(part, angles)
            for part in (exact[:, :heads], exact[:, heads:-kv_heads])
        )
        return [q, reference.attention(q, k, exact[:, -kv_heads:])]

    traffic = 2 * qkv.size * fixture.activation.itemsize
    return Case(_dimensions(qkv.shape), run, read, expected, traffic, roundings=3)


def _attention(fixture: Fixture, sequences: int, context: int, tokens: int) -> Case:
    """Attend from the last `tokens` tokens of each sequence to its whole context."""
    sizes = fixture.sizes
    cached = cached_sequences(fixture, sequences, context)
    q = fixture.numbers(sequences, tokens, sizes.heads, sizes.head_dim)
    given, batch = fixture.upload(q.reshape(-1, *q.shape[2:])), cached.batch(tokens)
    pairs = sequences * sum(range(context - tokens + 1, context + 1)) * sizes.heads
    return _simple(
        fixture,
        f"{sequences} × {tokens} of {context}, {sizes.heads} heads on {sizes.kv_heads}",
        lambda: fixture.ops.attention(given, cached.cache.layers[0], batch),
        lambda: _attended(q, cached.keys, cached.values),
        traffic=2 * cached.keys.size * fixture.itemsize if tokens == 1 else 0,
        operations=4 * pairs * sizes.head_dim if tokens > 1 else 0,
    )


def _attended(q: Numbers, keys: Numbers, values: Numbers) -> Floats:
    """Return the attention of every sequence: [S, T, H, E], [S, C, K, E] → [S T, H E]."""
    exact = (part.astype(np.float64) for part in (q, keys, values))
    return np.concatenate([reference.attention(*one) for one in zip(*exact, strict=True)])


def _copy_blocks(fixture: Fixture) -> Case:
    """Copy a sequence's blocks to empty ones; the copy is checked by attention to it."""
    sizes = fixture.sizes
    cached = cached_sequences(fixture, 1, sizes.context, copies=2)
    q = fixture.numbers(1, 1, sizes.heads, sizes.head_dim)
    given, batch = fixture.upload(q[0]), cached.batch(1, first_block=cached.blocks)
    copies = [(block, block + cached.blocks) for block in range(cached.blocks)]
    shape = (cached.blocks, cached.cache.block_size, sizes.kv_heads, sizes.head_dim)
    return Case(
        _dimensions(shape),
        lambda: fixture.ops.copy_blocks(cached.cache, copies),
        lambda _: [fixture.floats(fixture.ops.attention(given, cached.cache.layers[0], batch))],
        lambda: [_attended(q, cached.keys, cached.values)],
        traffic=2 * 2 * prod(shape) * fixture.itemsize,
    )


# --- NumPy's broadcasting ------------------------------------------------------------------------


def _elementwise(fixture: Fixture, operator: str) -> Case:
    rows, width = fixture.sizes.rows, fixture.sizes.hidden
    x = fixture.numbers(rows, width)
    y = fixture.numbers(width) if operator == "add" else fixture.numbers(rows, 1)
    given = fixture.upload(x), fixture.upload(y)
    apply = np.add if operator == "add" else np.multiply
    return _simple(
        fixture,
        _dimensions(x.shape, y.shape),
        lambda: getattr(fixture.ops, operator)(*given),
        lambda: apply(x.astype(np.float64), y),
        traffic=2 * x.size * fixture.activation.itemsize,
    )


def _matmul(fixture: Fixture) -> Case:
    count, rows, width = fixture.sizes.heads, fixture.sizes.rows, fixture.sizes.head_dim
    x, y = fixture.numbers(count, rows, width), fixture.numbers(count, width, rows)
    given = fixture.upload(x), fixture.upload(y)
    return _simple(
        fixture,
        _dimensions(x.shape, y.shape),
        lambda: fixture.ops.matmul(*given),
        lambda: x.astype(np.float64) @ y.astype(np.float64),
        operations=2 * x.size * rows,
    )


# --- sampling, and captured steps ----------------------------------------------------------------


def _sample(fixture: Fixture, params: SamplingParams) -> Case:
    logits = 4 * fixture.generator.standard_normal((FEW, fixture.sizes.vocabulary), np.float32)
    on_device = fixture.ops.upload(logits)
    # Row r has generated r tokens before, so each row draws with another random number.
    draws = [Draw(params, SEED, 0, [0] * (1 + row), 1) for row in range(FEW)]

    def expected() -> list[Floats]:
        exact = logits.astype(np.float64)
        if params.temperature == 0:
            return [exact.argmax(axis=1).astype(np.float64)]
        tokens = [
            reference.drawn(scores, TEMPERATURE, TOP_P, uniform(SEED, row))
            for row, scores in enumerate(exact)
        ]
        return [np.array(tokens, np.float64)]

    return Case(
        _dimensions(logits.shape),
        lambda: fixture.ops.sample(on_device, draws)(),
        lambda drawn: [
            np.array([each.token if isinstance(each, Drawn) else -1 for each in drawn], np.float64)
        ],
        expected,
        traffic=logits.nbytes,
        is_exact=True,
        can_be_captured=False,
    )


def _graph(fixture: Fixture) -> Case:
    """Run a step of one size for the third time, with tokens that it was not captured with."""
    sizes, ops = fixture.sizes, fixture.ops
    table = fixture.matrix(sizes.vocabulary, sizes.hidden)
    weight = fixture.matrix(sizes.hidden, sizes.hidden)
    norm = fixture.numbers(sizes.hidden)
    given = fixture.weight(table), fixture.norm(norm), fixture.linear(weight)
    step = ops.graph(
        lambda batch: ops.linear(
            ops.rms_norm(ops.embed(given[0], batch.tokens), given[1]), given[2]
        )
    )
    tokens = fixture.generator.integers(0, sizes.vocabulary, (3, FEW))
    batches = [
        fixture.batch([Chunk([int(token)], 0, [0], 1) for token in row], 1) for row in tokens
    ]
    for batch in batches[:2]:
        step(batch)
    return _simple(
        fixture,
        f"{FEW} tokens: embed, rms_norm, linear {_dimensions(weight.shape)}",
        lambda: step(batches[2]),
        lambda: reference.linear(
            reference.rms_norm(table[tokens[2]].astype(np.float64), norm, EPS), weight
        ),
        traffic=weight.size * fixture.itemsize,
        roundings=2,
        can_be_captured=False,
    )


CASES: dict[str, Make] = {
    "embed": _embed,
    "linear, one row": partial(_linear, rows=1),
    "linear, few rows": partial(_linear, rows=FEW, has_bias=True),
    "linear, many rows": _linear,
    "rms_norm": _rms_norm,
    "silu_mul": _silu_mul,
    "rope_and_store": _rope_and_store,
    "attention, decode": lambda fixture: _attention(fixture, FEW, fixture.sizes.context, 1),
    "attention, prefill": lambda fixture: _attention(
        fixture, 1, fixture.sizes.rows, fixture.sizes.rows
    ),
    "attention, long": lambda fixture: _attention(fixture, 1, fixture.sizes.long_context, 1),
    "add": partial(_elementwise, operator="add"),
    "mul": partial(_elementwise, operator="mul"),
    "matmul": _matmul,
    "logits": _logits,
    "sample, greedy": partial(_sample, params=SamplingParams(temperature=0)),
    "sample, drawn": partial(_sample, params=SamplingParams(temperature=TEMPERATURE, top_p=TOP_P)),
    "copy_blocks": _copy_blocks,
    "captured step": _graph,
}
