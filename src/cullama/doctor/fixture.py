"""A backend in one storage type, and the few words that the operators' cases use on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..files.tensor import DTYPES, HostArray, StoredTensor
from ..model.batch import Batch, Chunk, build_batch
from ..model.config import ModelConfig
from ..model.kv_cache import KVCache
from ..model.layer import Attention, Linear, Norm
from ..model.operators import AnyOperators
from ..model.rope import Rope
from .reference import Floats

EPS = 1e-5

Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class ModelSizes:
    """Of the model whose operators are run; letters as in `operators.py`."""

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
    ops: AnyOperators
    dtype: str
    activation: np.dtype  # of what lies between two operators
    sizes: ModelSizes
    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(17))

    def numbers(self, *shape: int) -> Numbers:
        """Random, and exact in the storage type: with mean 0 and a spread of 1."""
        wide = (self.generator.random(shape, np.float32) - np.float32(0.5)) * np.float32(12**0.5)
        return wide.astype(DTYPES[self.dtype]).astype(np.float32)

    def matrix(self, outputs: int, inputs: int) -> Numbers:
        """Random weights that keep the spread of what they are multiplied with."""
        scaled = self.numbers(outputs, inputs) * np.float32(inputs**-0.5)
        return scaled.astype(DTYPES[self.dtype]).astype(np.float32)

    def upload(self, x: HostArray) -> Any:
        """As the result of an operator would lie."""
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
    def item(self) -> int:
        """Bytes of a stored number."""
        return DTYPES[self.dtype].itemsize


def stored(array: Numbers) -> StoredTensor:
    def tiles() -> Iterator[HostArray]:
        yield array

    return StoredTensor("random numbers", array.shape, "float32", tiles)


@dataclass(frozen=True)
class Texts:
    """Sequences whose keys and values lie in a cache, as they were given."""

    rig: Fixture
    cache: KVCache[Any]
    keys: Numbers  # [S, C, K, E]
    values: Numbers

    @property
    def blocks(self) -> int:
        """Of one sequence."""
        return -(-self.keys.shape[1] // self.cache.block_size)

    def chunks(self, tokens: int, first_block: int = 0) -> list[Chunk]:
        """The last tokens of every sequence."""
        count, context = self.keys.shape[:2]
        return [
            Chunk([0] * tokens, context - tokens, self._blocks_of(each, first_block), 1)
            for each in range(count)
        ]

    def batch(self, tokens: int, first_block: int = 0) -> Batch[Any]:
        return self.rig.batch(self.chunks(tokens, first_block), self.cache.block_size)

    def _blocks_of(self, each: int, first_block: int) -> list[int]:
        start = first_block + each * self.blocks
        return list(range(start, start + self.blocks))


def written_texts(rig: Fixture, count: int, context: int, copies: int = 1) -> Texts:
    """Turned by nothing, so that what is kept is what was given. `copies`: room for so many."""
    kv_heads, width = rig.sizes.kv_heads, rig.sizes.head_dim
    keys, values = rig.numbers(2, count, context, kv_heads, width)
    cache = empty_cache(rig, count * copies, context)
    texts = Texts(rig, cache, keys, values)
    tokens = count * context
    unused_q = np.zeros((tokens, rig.sizes.heads, width), np.float32)
    rows = [part.reshape(tokens, -1) for part in (unused_q, keys, values)]
    unturned = np.repeat(np.array([[1, 0]], np.float32), width, axis=1).repeat(tokens, axis=0)
    rig.ops.rope_and_store(
        rig.upload(np.concatenate(rows, axis=1)),
        bare_attention(),
        rig.ops.upload(unturned),
        cache.layers[0],
        texts.batch(context),
    )
    return texts


def empty_cache(rig: Fixture, sequences: int, context: int) -> KVCache[Any]:
    """Room for so many sequences, each in blocks of its own."""
    config = _config(rig.sizes)
    block_size = rig.ops.cache(config, 1).block_size
    blocks = sequences * -(-context // block_size)
    return rig.ops.cache(config, blocks * block_size)


def _config(sizes: ModelSizes) -> ModelConfig:
    return ModelConfig(
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


def bare_attention() -> Attention[Any, Any]:
    """All that `rope_and_store` asks of an attention: whether q and k are normed. They are not."""
    nothing: Any = None
    return Attention(nothing, nothing, None, None, nothing)
