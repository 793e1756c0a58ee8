"""Runs an operator, or a model's decode step, on device memory that holds only zeros.

What a kernel does depends on its operands' shapes, not on their values; so nothing is computed or
uploaded but the integers of a batch and the logits that are drawn from, and a model of any size
takes no memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ...cuda.batch import CudaBatch
from ...cuda.memory import DeviceArray, Pool, empty
from ...cuda.operators import CudaOperators
from ...cuda.products import GEMV_ROWS
from ...cuda.weight import CudaWeight
from ...errors import UsageError
from ...model.batch import Chunk, build_batch
from ...model.config import ModelConfig
from ...model.kv_cache import KVCache, LayerCache
from ...model.layer import Attention, Layer, Linear, Mlp, Norm, Weights
from ...model.llama import Llama
from ...sampling.draw import Draw
from ...sampling.params import SamplingParams
from .shapes import STEP, Numbers, ProfiledCase

SEED = 17
BLOCK_SIZE = 32
CUBLAS = "more than 8 rows are multiplied by cuBLAS, which is not profiled"


class Operands:
    """Makes operands for one backend, and runs its operators on them."""

    def __init__(self, ops: CudaOperators, pool: Pool) -> None:
        self.ops, self._pool = ops, pool

    def array(self, *shape: int, dtype: type | None = None) -> DeviceArray:
        return empty(self._pool, shape, dtype or self.ops.dtype)

    def linear(self, outputs: int, inputs: int) -> Linear[DeviceArray, CudaWeight]:
        return Linear(CudaWeight(self.array(outputs, inputs)))

    def norm(self, width: int) -> Norm[DeviceArray]:
        return Norm(self.array(width), 1e-5)

    def integers(self, count: int, limit: int) -> DeviceArray:
        """Return random rows of a table."""
        rows = np.random.default_rng(SEED).integers(0, limit, count, np.int32)
        return self.ops.upload(rows)

    def batch(self, sequences: int, tokens: int, context: int) -> CudaBatch:
        """Return a batch of the last tokens of each sequence."""
        blocks = -(-context // BLOCK_SIZE)
        chunks = [
            Chunk([0] * tokens, context - tokens, range(n * blocks, (n + 1) * blocks), 1)
            for n in range(sequences)
        ]
        chunks = [chunk._replace(blocks=list(chunk.blocks)) for chunk in chunks]
        return self.ops.upload_batch(build_batch(chunks, BLOCK_SIZE))

    def cache(
        self, sequences: int, context: int, kv_heads: int, width: int
    ) -> LayerCache[DeviceArray]:
        shape = (sequences * -(-context // BLOCK_SIZE), kv_heads, BLOCK_SIZE, width)
        return LayerCache(self.array(*shape), self.array(*shape), 0)

    def draws(self, rows: int, *, is_drawn: bool) -> list[Draw]:
        params = (
            SamplingParams(temperature=0.8, top_p=0.9)
            if is_drawn
            else SamplingParams(temperature=0)
        )
        return [Draw(params, SEED, 0, [0] * (1 + row), 1) for row in range(rows)]


def _embed(on: Operands, rows: int, columns: int, vocabulary: int) -> None:
    on.ops.embed(CudaWeight(on.array(vocabulary, columns)), on.integers(rows, vocabulary))


def _linear(on: Operands, rows: int, inputs: int, outputs: int) -> None:
    if rows > GEMV_ROWS and not on.ops.is_deterministic:
        raise UsageError(f"linear: rows is {rows}; {CUBLAS}")
    on.ops.linear(on.array(rows, inputs), on.linear(outputs, inputs))


def _rms_norm(on: Operands, rows: int, columns: int) -> None:
    on.ops.rms_norm(on.array(rows, columns), on.norm(columns))


def _silu_mul(on: Operands, rows: int, columns: int) -> None:
    on.ops.silu_mul(on.array(rows, 2 * columns))


def _rope_and_store(on: Operands, tokens: int, heads: int, kv_heads: int, head_dim: int) -> None:
    on.ops.rope_and_store(
        on.array(tokens, (heads + 2 * kv_heads) * head_dim),
        _attention_operands(on, 1, 1, 1, head_dim),
        on.array(tokens, 2 * head_dim, dtype=np.float32),
        on.cache(1, tokens, kv_heads, head_dim),
        on.batch(1, tokens, tokens),
    )


def _attention(
    on: Operands,
    sequences: int,
    tokens: int,
    context: int,
    window: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
) -> None:
    q = on.array(sequences * tokens, heads, head_dim)
    cache = replace(on.cache(sequences, context, kv_heads, head_dim), window=window)
    on.ops.attention(q, cache, on.batch(sequences, tokens, context))


def _add(on: Operands, rows: int, columns: int) -> None:
    on.ops.add(on.array(rows, columns), on.array(columns))


def _mul(on: Operands, rows: int, columns: int) -> None:
    on.ops.mul(on.array(rows, columns), on.array(rows, 1))


def _matmul(on: Operands, products: int, rows: int, inputs: int, columns: int) -> None:
    """Multiply with broadcasting over two axes: what cuBLAS does not do."""
    on.ops.matmul(on.array(2, products, rows, inputs), on.array(products, inputs, columns))


def _logits(on: Operands, rows: int, columns: int, vocabulary: int) -> None:
    if rows > GEMV_ROWS and not on.ops.is_deterministic:
        raise UsageError(f"logits: rows is {rows}; {CUBLAS}")
    on.ops.logits(on.array(rows, columns), on.norm(columns), on.linear(vocabulary, columns))


def _sample(on: Operands, rows: int, vocabulary: int, drawn: int) -> None:
    logits = 4 * np.random.default_rng(SEED).standard_normal((rows, vocabulary), np.float32)
    on.ops.sample(on.ops.upload(logits), on.draws(rows, is_drawn=bool(drawn)))


_RUN: dict[str, Callable[..., None]] = {
    "embed": _embed,
    "linear": _linear,
    "rms_norm": _rms_norm,
    "silu_mul": _silu_mul,
    "rope_and_store": _rope_and_store,
    "attention": _attention,
    "add": _add,
    "mul": _mul,
    "matmul": _matmul,
    "logits": _logits,
    "sample": _sample,
}


def _attention_operands(
    on: Operands, width: int, heads: int, kv_heads: int, head_dim: int
) -> Attention[DeviceArray, CudaWeight]:
    qkv = on.linear((heads + 2 * kv_heads) * head_dim, width)
    return Attention(on.norm(width), qkv, None, None, on.linear(width, heads * head_dim))


def run_case(on: Operands, case: ProfiledCase) -> None:
    """Launch an operator's kernels.

    Raises:
        UsageError: at this shape the operator launches no kernel of ours.
    """
    _RUN[case.operator](on, **case.numbers)


def run_step(on: Operands, config: ModelConfig, layers: int, numbers: Numbers) -> None:
    """Launch the kernels of a greedy decode step of a model with so many layers."""
    sequences, context = numbers["sequences"], numbers["context"]
    if sequences > GEMV_ROWS and not on.ops.is_deterministic:
        raise UsageError(f"{STEP}: sequences is {sequences}; {CUBLAS}")
    heads, kv_heads, head_dim = config.heads, config.kv_heads, config.head_dim
    width, inner = config.hidden_size, config.intermediate_size
    attention = [_attention_operands(on, width, heads, kv_heads, head_dim) for _ in range(layers)]
    mlps = [
        Mlp(on.norm(width), on.linear(2 * inner, width), on.linear(width, inner))
        for _ in range(layers)
    ]
    caches = tuple(
        replace(on.cache(sequences, context, kv_heads, head_dim), window=config.windows[0])
        for _ in range(layers)
    )
    embedding = CudaWeight(on.array(config.vocab_size, width))
    table = on.array(context, 2 * head_dim, dtype=np.float32)
    both = tuple(Layer(*each) for each in zip(attention, mlps, strict=True))
    weights = Weights(embedding, both, on.norm(width), Linear(embedding), table)
    blocks = sequences * -(-context // BLOCK_SIZE)
    model = Llama(replace(config, layers=layers), weights, on.ops)
    logits = model.forward(on.batch(sequences, 1, context), KVCache(caches, blocks, BLOCK_SIZE))
    on.ops.sample(logits, on.draws(sequences, is_drawn=False))
