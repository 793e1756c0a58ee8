"""Every operator with something to do, what should come out, and what it has to move.

A case is made when its turn comes. It knows operators and numpy; it knows no clock and no table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from ..model.batch import Chunk
from ..sampling.draw import Draw, Drawn
from ..sampling.params import SamplingParams
from ..sampling.philox import uniform
from . import reference
from .fixture import EPS, Fixture, Numbers, bare_attention, empty_cache, written_texts
from .reference import Floats

FEW = 4  # rows, and sequences: what one pass over the weights serves
TOP_P, TEMPERATURE, SEED = 0.9, 0.8, 2024


@dataclass(frozen=True)
class Case:
    """An operator ready to run.

    Either `traffic` or `operations` is what keeps it from being faster.
    """

    shape: str
    run: Callable[[], Any]
    read: Callable[[Any], list[Floats]]  # what came out, in parts of a kind
    expected: Callable[[], list[Floats]]
    traffic: int = 0  # bytes that must be read and written
    operations: int = 0  # of floating point
    roundings: int = 1  # results that are rounded where the reference's are not
    is_exact: bool = False  # copies and choices have no error
    can_be_captured: bool = True  # it waits for nothing, and sends nothing


Make = Callable[[Fixture], Case]


def _simple(
    rig: Fixture, shape: str, run: Callable[[], Any], expected: Callable[[], Floats], **more: Any
) -> Case:
    """One array comes out."""
    return Case(shape, run, lambda out: [rig.floats(out)], lambda: [expected()], **more)


def _dimensions(*shapes: Sequence[int]) -> str:
    return ", ".join("×".join(map(str, shape)) for shape in shapes)


def _embed(rig: Fixture) -> Case:
    table = rig.matrix(rig.sizes.vocabulary, rig.sizes.hidden)
    rows = rig.generator.integers(0, len(table), rig.sizes.rows)
    on_device, which = rig.weight(table), rig.integers(rows)
    return _simple(
        rig,
        _dimensions(table.shape, rows.shape),
        lambda: rig.ops.embed(on_device, which),
        lambda: table[rows].astype(np.float64),
        traffic=rows.size * table.shape[1] * (rig.item + rig.activation.itemsize),
        is_exact=True,
    )


def _linear(rig: Fixture, rows: int | None = None, has_bias: bool = False) -> Case:
    """`rows`: None takes a prompt's, which are added to a residual."""
    sizes = rig.sizes
    x, weight = (
        rig.numbers(rows or sizes.rows, sizes.hidden),
        rig.matrix(2 * sizes.inner, sizes.hidden),
    )
    bias = rig.numbers(len(weight)) if has_bias else None
    residual = rig.numbers(len(x), len(weight)) if rows is None else None
    given = (
        rig.upload(x),
        rig.linear(weight, bias),
        None if residual is None else rig.upload(residual),
    )
    added = [each.astype(np.float64) for each in (bias, residual) if each is not None]
    moved = {"operations": 2 * len(x) * weight.size} if rows is None else {}
    return _simple(
        rig,
        _dimensions(x.shape, weight.shape) + (" + bias" * has_bias) + " + residual" * (not rows),
        lambda: rig.ops.linear(*given),
        lambda: reference.linear(x.astype(np.float64), weight, *added),
        traffic=0 if moved else weight.size * rig.item,
        **moved,
    )


def _logits(rig: Fixture) -> Case:
    x, norm = rig.numbers(1, rig.sizes.hidden), rig.numbers(rig.sizes.hidden)
    head = rig.matrix(rig.sizes.vocabulary, rig.sizes.hidden)
    given = rig.upload(x), rig.norm(norm), rig.linear(head)
    return _simple(
        rig,
        _dimensions(x.shape, head.shape),
        lambda: rig.ops.logits(*given),
        lambda: reference.linear(reference.rms_norm(x.astype(np.float64), norm, EPS), head),
        traffic=head.size * rig.item,
        roundings=2,
    )


def _rms_norm(rig: Fixture) -> Case:
    x, weight = rig.numbers(rig.sizes.rows, rig.sizes.hidden), rig.numbers(rig.sizes.hidden)
    given = rig.upload(x), rig.norm(weight)
    return _simple(
        rig,
        _dimensions(x.shape),
        lambda: rig.ops.rms_norm(*given),
        lambda: reference.rms_norm(x.astype(np.float64), weight, EPS),
        traffic=2 * x.size * rig.activation.itemsize,
    )


def _silu_mul(rig: Fixture) -> Case:
    gate_up = 4 * rig.numbers(rig.sizes.rows, 2 * rig.sizes.inner)
    given = rig.upload(gate_up)
    return _simple(
        rig,
        _dimensions(gate_up.shape),
        lambda: rig.ops.silu_mul(given),
        lambda: reference.silu_mul(gate_up.astype(np.float64)),
        traffic=gate_up.size * 3 // 2 * rig.activation.itemsize,
    )


# --- rotating, storing, attending ----------------------------------------------------------------


def _rope_and_store(rig: Fixture) -> Case:
    """What was stored is read back by attending to it with the rotated queries."""
    sizes = rig.sizes
    tokens, heads, kv_heads, width = sizes.rows, sizes.heads, sizes.kv_heads, sizes.head_dim
    qkv = rig.numbers(tokens, heads + 2 * kv_heads, width)
    angles = rig.numbers(tokens, width // 2).astype(np.float64) * np.pi
    cache = empty_cache(rig, 1, tokens)
    blocks = list(range(cache.blocks))
    batch = rig.batch([Chunk([0] * tokens, 0, blocks, 1)], cache.block_size)
    given = rig.upload(qkv.reshape(tokens, -1)), rig.ops.upload(_cos_sin(angles))

    def run() -> Any:
        return rig.ops.rope_and_store(given[0], bare_attention(), given[1], cache.layers[0], batch)

    def read(q: Any) -> list[Floats]:
        return [rig.floats(q), rig.floats(rig.ops.attention(q, cache.layers[0], batch))]

    def expected() -> list[Floats]:
        exact = qkv.astype(np.float64)
        q, k = (
            reference.turned(part, angles) for part in (exact[:, :heads], exact[:, heads:-kv_heads])
        )
        return [q, reference.attention(q, k, exact[:, -kv_heads:])]

    traffic = 2 * qkv.size * rig.activation.itemsize
    return Case(_dimensions(qkv.shape), run, read, expected, traffic, roundings=3)


def _cos_sin(angles: Floats) -> Numbers:
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([cos, cos, -sin, sin], axis=1).astype(np.float32)


def _attention(rig: Fixture, sequences: int, context: int, tokens: int) -> Case:
    """The last tokens of each sequence."""
    sizes = rig.sizes
    texts = written_texts(rig, sequences, context)
    q = rig.numbers(sequences, tokens, sizes.heads, sizes.head_dim)
    given, batch = rig.upload(q.reshape(-1, *q.shape[2:])), texts.batch(tokens)
    pairs = sequences * sum(range(context - tokens + 1, context + 1)) * sizes.heads
    return _simple(
        rig,
        f"{sequences} × {tokens} of {context}, {sizes.heads} heads on {sizes.kv_heads}",
        lambda: rig.ops.attention(given, texts.cache.layers[0], batch),
        lambda: _attended(q, texts.keys, texts.values),
        traffic=2 * texts.keys.size * rig.item if tokens == 1 else 0,
        operations=4 * pairs * sizes.head_dim if tokens > 1 else 0,
    )


def _attended(q: Numbers, keys: Numbers, values: Numbers) -> Floats:
    """Sequence by sequence: [S, T, H, E], [S, C, K, E] → [S T, H E]."""
    exact = (part.astype(np.float64) for part in (q, keys, values))
    return np.concatenate([reference.attention(*one) for one in zip(*exact, strict=True)])


def _copy_blocks(rig: Fixture) -> Case:
    """The copy of a text is attended to, in blocks that held nothing before."""
    sizes = rig.sizes
    texts = written_texts(rig, 1, sizes.context, copies=2)
    q = rig.numbers(1, 1, sizes.heads, sizes.head_dim)
    given, batch = rig.upload(q[0]), texts.batch(1, first_block=texts.blocks)
    copies = [(block, block + texts.blocks) for block in range(texts.blocks)]
    shape = (texts.blocks, texts.cache.block_size, sizes.kv_heads, sizes.head_dim)
    return Case(
        _dimensions(shape),
        lambda: rig.ops.copy_blocks(texts.cache, copies),
        lambda _: [rig.floats(rig.ops.attention(given, texts.cache.layers[0], batch))],
        lambda: [_attended(q, texts.keys, texts.values)],
        traffic=2 * 2 * prod(shape) * rig.item,
    )


# --- NumPy's broadcasting ------------------------------------------------------------------------


def _elementwise(rig: Fixture, operator: str) -> Case:
    rows, width = rig.sizes.rows, rig.sizes.hidden
    x = rig.numbers(rows, width)
    y = rig.numbers(width) if operator == "add" else rig.numbers(rows, 1)
    given = rig.upload(x), rig.upload(y)
    apply = np.add if operator == "add" else np.multiply
    return _simple(
        rig,
        _dimensions(x.shape, y.shape),
        lambda: getattr(rig.ops, operator)(*given),
        lambda: apply(x.astype(np.float64), y),
        traffic=2 * x.size * rig.activation.itemsize,
    )


def _matmul(rig: Fixture) -> Case:
    count, rows, width = rig.sizes.heads, rig.sizes.rows, rig.sizes.head_dim
    x, y = rig.numbers(count, rows, width), rig.numbers(count, width, rows)
    given = rig.upload(x), rig.upload(y)
    return _simple(
        rig,
        _dimensions(x.shape, y.shape),
        lambda: rig.ops.matmul(*given),
        lambda: x.astype(np.float64) @ y.astype(np.float64),
        operations=2 * x.size * rows,
    )


# --- drawing, and steps as a whole ---------------------------------------------------------------


def _sample(rig: Fixture, params: SamplingParams) -> Case:
    logits = 4 * rig.generator.standard_normal((FEW, rig.sizes.vocabulary), np.float32)
    on_device = rig.ops.upload(logits)
    # As many tokens of an answer are there already: each row has a random number of its own.
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
        lambda: rig.ops.sample(on_device, draws)(),
        lambda drawn: [np.array([_token(each) for each in drawn], np.float64)],
        expected,
        traffic=logits.nbytes,
        is_exact=True,
        can_be_captured=False,
    )


def _token(drawn: Drawn | Exception) -> int:
    return drawn.token if isinstance(drawn, Drawn) else -1


def _graph(rig: Fixture) -> Case:
    """A step met for the third time, with tokens that it was not captured with."""
    sizes, ops = rig.sizes, rig.ops
    table, weight = (
        rig.matrix(sizes.vocabulary, sizes.hidden),
        rig.matrix(sizes.hidden, sizes.hidden),
    )
    norm = rig.numbers(sizes.hidden)
    given = rig.weight(table), rig.norm(norm), rig.linear(weight)
    step = ops.graph(
        lambda batch: ops.linear(
            ops.rms_norm(ops.embed(given[0], batch.tokens), given[1]), given[2]
        )
    )
    tokens = rig.generator.integers(0, sizes.vocabulary, (3, FEW))
    batches = [rig.batch([Chunk([int(token)], 0, [0], 1) for token in row], 1) for row in tokens]
    for batch in batches[:2]:
        step(batch)
    return _simple(
        rig,
        f"{FEW} tokens: embed, rms_norm, linear {_dimensions(weight.shape)}",
        lambda: step(batches[2]),
        lambda: reference.linear(
            reference.rms_norm(table[tokens[2]].astype(np.float64), norm, EPS), weight
        ),
        traffic=weight.size * rig.item,
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
    "attention, decode": lambda rig: _attention(rig, FEW, rig.sizes.context, 1),
    "attention, prefill": lambda rig: _attention(rig, 1, rig.sizes.rows, rig.sizes.rows),
    "attention, long": lambda rig: _attention(rig, 1, rig.sizes.long_context, 1),
    "add": partial(_elementwise, operator="add"),
    "mul": partial(_elementwise, operator="mul"),
    "matmul": _matmul,
    "logits": _logits,
    "sample, greedy": partial(_sample, params=SamplingParams(temperature=0)),
    "sample, drawn": partial(_sample, params=SamplingParams(temperature=TEMPERATURE, top_p=TOP_P)),
    "copy_blocks": _copy_blocks,
    "captured step": _graph,
}
