"""What the self-test's cases share: a backend in one storage type, random operands, a KV cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.tensor import DTYPES, HostArray, StoredTensor
from ...model.batch import Batch, Chunk, build_batch
from ...model.config import ModelConfig
from ...model.kv_cache import KVCache
from ...model.layer import Attention, Linear, Norm
from ...model.operators import AnyOperators
from ...model.rope import Rope
from .reference import Floats

EPS = 1e-5

Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of the model whose operators are run; letters as in model/operators.py."""

    name: str
    hidden: int  # D
    inner: int  # F
    heads: int  # H
    kv_heads: int  # K
    head_dim: int  # E
    vocabulary: int  # V
    rows: int  # tokens of a prompt
    context: int  # of each of a few sequences
    long_context: int  # of one


MODEL = ModelSizes("SmolLM2-135M", 576, 1536, 9, 3, 64, 49152, 512, 1024, 8192)
SMALL = ModelSizes("small", 48, 80, 4, 2, 16, 300, 40, 70, 600)


@dataclass(frozen=True)
class Fixture:
    """A backend in one storage type, and random operands for it."""

    ops: AnyOperators
    dtype: str
    activation: np.dtype  # type of what operators take and return
    sizes: ModelSizes
    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(17))

    def numbers(self, *shape: int) -> Numbers:
        """Return random numbers, exact in the storage type, of mean 0 and standard deviation 1."""
        wide = (self.generator.random(shape, np.float32) - np.float32(0.5)) * np.float32(12**0.5)
        return wide.astype(DTYPES[self.dtype]).astype(np.float32)

    def matrix(self, outputs: int, inputs: int) -> Numbers:
        """Return a random weight [O, I] that keeps the standard deviation of its inputs."""
        scaled = self.numbers(outputs, inputs) * np.float32(inputs**-0.5)
        return scaled.astype(DTYPES[self.dtype]).astype(np.float32)

    def upload(self, x: HostArray) -> Any:
        """Upload an operand in the type of operators' results."""
        return self.ops.upload(np.ascontiguousarray(x, self.activation))

    def integers(self, numbers: ArrayLike) -> Any:
        return self.ops.upload(np.asarray(numbers, np.int32))

    def weight(self, matrix: Numbers) -> Any:
        return self.ops.weight([stored(matrix)])

    def linear(self, matrix: Numbers, bias: Numbers | None = None) -> Linear[Any, Any]:
        return Linear(self.weight(matrix), None if bias is None else self.vector(bias))

    def norm(self, weight: Numbers) -> Norm[Any]:
        return Norm(self.vector(weight), EPS)

    def vector(self, numbers: Numbers) -> Any:
        return self.ops.vector([stored(numbers)])

    def floats(self, array: Any) -> Floats:
        return self.ops.download(array).astype(np.float64)

    def batch(self, chunks: list[Chunk], block_size: int) -> Batch[Any]:
        return self.ops.upload_batch(build_batch(chunks, block_size))

    @property
    def itemsize(self) -> int:
        """Return the bytes of a stored number."""
        return DTYPES[self.dtype].itemsize


def stored(array: Numbers) -> StoredTensor:
    """Return an array as a tensor of a checkpoint, in one tile."""

    def tiles() -> Iterator[HostArray]:
        yield array

    return StoredTensor("random numbers", array.shape, "float32", tiles)


@dataclass(frozen=True)
class CachedSequences:
    """Sequences in a KV cache, and the keys and values that were stored for them."""

    fixture: Fixture
    cache: KVCache[Any]
    keys: Numbers  # [S, C, K, E]
    values: Numbers

    @property
    def blocks(self) -> int:
        """Return how many blocks one sequence has."""
        return -(-self.keys.shape[1] // self.cache.block_size)

    def batch(self, tokens: int, first_block: int = 0) -> Batch[Any]:
        """Return a batch of the last `tokens` tokens of every sequence.

        `first_block`: where the first sequence's blocks start; the others' follow.
        """
        count, context = self.keys.shape[:2]
        starts = range(first_block, first_block + count * self.blocks, self.blocks)
        chunks = [
            Chunk([0] * tokens, context - tokens, list(range(start, start + self.blocks)), 1)
            for start in starts
        ]
        return self.fixture.batch(chunks, self.cache.block_size)


def cached_sequences(
    fixture: Fixture, count: int, context: int, copies: int = 1
) -> CachedSequences:
    """Store random keys and values of `count` sequences in a new KV cache.

    RoPE's angles are all 0, so keys are stored as they are. `copies`: the cache has room for so
    many times the sequences.
    """
    kv_heads, width = fixture.sizes.kv_heads, fixture.sizes.head_dim
    keys, values = fixture.numbers(2, count, context, kv_heads, width)
    cache = empty_cache(fixture, count * copies, context)
    cached = CachedSequences(fixture, cache, keys, values)
    tokens = count * context
    unused_q = np.zeros((tokens, fixture.sizes.heads, width), np.float32)
    rows = [part.reshape(tokens, -1) for part in (unused_q, keys, values)]
    no_rotation = np.repeat(np.array([[1, 0]], np.float32), width, axis=1).repeat(tokens, axis=0)
    fixture.ops.rope_and_store(
        fixture.upload(np.concatenate(rows, axis=1)),
        bare_attention(),
        fixture.ops.upload(no_rotation),
        cache.layers[0],
        cached.batch(context),
    )
    return cached


def empty_cache(fixture: Fixture, sequences: int, context: int) -> KVCache[Any]:
    """Return a KV cache of one layer for `sequences` sequences, each in blocks of its own."""
    sizes = fixture.sizes
    config = ModelConfig(
        architecture="LlamaForCausalLM",
        hidden_size=sizes.hidden,
        intermediate_size=sizes.inner,
        layers=1,
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        vocab_size=sizes.vocabulary,
        context_length=sizes.long_context,
        norm_eps=EPS,
        rope=Rope(),
        windows=(0,),
    )
    block_size = fixture.ops.cache(config, 1).block_size
    blocks = sequences * -(-context // block_size)
    return fixture.ops.cache(config, blocks * block_size)


def bare_attention() -> Attention[Any, Any]:
    """Return operands for `rope_and_store`, which reads only the norms of q and k: none."""
    nothing: Any = None
    return Attention(nothing, nothing, None, None, nothing)
