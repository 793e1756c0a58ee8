"""A backend under test, in one storage type, and the few words the operator tests use.

Everything goes through the `Operators` interface: no test knows how a backend keeps weights or
its cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import reference
from numpy.typing import ArrayLike, DTypeLike, NDArray
from reference import Floats

from cullama.files.tensor import StoredTensor
from cullama.model.batch import Batch, Chunk, build_batch
from cullama.model.config import ModelConfig
from cullama.model.layer import Attention, Linear, Norm
from cullama.model.operators import AnyOperators
from cullama.model.rope import Rope

STORAGE: dict[str, Any] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}  # DESIGN, section 6
EPS = 1e-5


@dataclass(frozen=True)
class Subject:
    backend: str
    dtype: str  # storage: weights and cache
    ops: AnyOperators
    activation_type: DTypeLike  # what lies between two operators

    def rounded(self, x: ArrayLike) -> Floats:
        """The numbers as the storage type knows them: what goes into the reference."""
        return np.asarray(x, np.float32).astype(STORAGE[self.dtype]).astype(np.float64)

    def activation(self, x: Floats) -> Any:
        """Numbers that have been rounded, as the result of an operator would hold them."""
        return self.ops.upload(np.array(x, self.activation_type, order="C"))

    def integers(self, numbers: ArrayLike) -> Any:
        return self.ops.upload(np.asarray(numbers, np.int32))

    def weight(self, *matrices: Floats, rows_a_tile: int = 7) -> Any:
        return self.ops.weight([stored(matrix, rows_a_tile) for matrix in matrices])

    def vector(self, *parts: Floats) -> Any:
        return self.ops.vector([stored(part, 5) for part in parts])

    def floats(self, array: Any) -> Floats:
        return self.ops.download(array).astype(np.float64)

    def rows_of(self, weight: Any, count: int) -> Floats:
        """The first rows of a weight, which only operators can look into."""
        return self.floats(self.ops.embed(weight, self.integers(range(count))))

    def norm(self, weight: Floats, eps: float = EPS) -> Norm[Any]:
        return Norm(self.vector(weight), eps)

    def linear(self, x: Any, weight: Any, bias: Any = None, residual: Any = None) -> Any:
        return self.ops.linear(x, Linear(weight, bias), residual)

    def rms_norm(self, x: Any, weight: Any, eps: float) -> Any:
        return self.ops.rms_norm(x, Norm(weight, eps))

    def check(self, actual: Any, expected: Floats, roundings: int = 1) -> None:
        """An array of the backend against the reference, within the tolerance of the type.

        `roundings`: so many operators in a row round their results, where the reference does not.
        """
        found = self.floats(actual)
        assert found.shape == expected.shape
        rtol = TOLERANCE[self.dtype] * roundings
        rms = np.sqrt(np.mean(expected**2)) if expected.size else 0.0
        # Below a type's normal numbers its steps are absolute.
        step = float(ml_dtypes.finfo(self.activation_type).smallest_subnormal)  # type: ignore[no-untyped-call]
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * rms + step)


def stored(matrix: Floats, rows_a_tile: int, dtype: DTypeLike = np.float32) -> StoredTensor:
    """A tensor as a checkpoint hands it out: rows in tiles that divide nothing evenly."""
    host = np.asarray(matrix, dtype)

    def tiles() -> Iterator[NDArray[Any]]:
        for start in range(0, len(host), rows_a_tile):
            yield host[start : start + rows_a_tile]

    return StoredTensor("a tensor", host.shape, str(host.dtype), tiles)


def small_config(heads: int, kv_heads: int, width: int, windows: Sequence[int] = (0,)) -> Any:
    return ModelConfig(
        architecture="LlamaForCausalLM",
        hidden_size=heads * width,
        intermediate_size=1,
        layers=len(windows),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width,
        vocab_size=1,
        context_length=4096,
        norm_eps=EPS,
        rope=Rope(),
        windows=tuple(windows),
    )


def bare_attention(q_norm: Any = None, k_norm: Any = None, eps: float = EPS) -> Attention[Any, Any]:
    """All that `rope_and_store` may ask of an attention; the rest is None to be found out."""
    nothing: Any = None
    q, k = (None if weight is None else Norm(weight, eps) for weight in (q_norm, k_norm))
    return Attention(norm=nothing, qkv=nothing, q_norm=q, k_norm=k, output=nothing)


class Memory:
    """A cache of the backend and a dictionary beside it, written to in step.

    One layer of the cache for each window asked for; all hold the same keys and values.
    """

    def __init__(
        self,
        subject: Subject,
        heads: int = 4,
        kv_heads: int = 2,
        width: int = 6,
        windows: Sequence[int] = (0,),
        tokens: int = 1024,
    ) -> None:
        self.subject, self.heads, self.kv_heads, self.width = subject, heads, kv_heads, width
        self.cache = subject.ops.cache(small_config(heads, kv_heads, width, windows), tokens)
        self.expected: reference.Cache = {}

    @property
    def block_size(self) -> int:
        return self.cache.block_size

    def random(self, rng: np.random.Generator, tokens: int) -> Floats:
        """A qkv [T, (H + 2K) E] in the numbers of the storage type."""
        columns = (self.heads + 2 * self.kv_heads) * self.width
        return self.subject.rounded(rng.normal(size=(tokens, columns)))

    def batch(self, *chunks: Chunk) -> Batch[NDArray[Any]]:
        return build_batch(chunks, self.block_size)

    def rope_and_store(
        self,
        batch: Batch[NDArray[Any]],
        qkv: Floats,
        angles: Floats,
        norms: tuple[Floats, Floats] | None = None,
        eps: float = EPS,
    ) -> tuple[Any, Floats]:
        """q as the backend has it and as the reference has it; keys and values in both caches."""
        ops = self.subject.ops
        q_norm, k_norm = (None, None) if norms is None else map(self.subject.vector, norms)
        actual = ops.rope_and_store(
            self.subject.activation(qkv),
            bare_attention(q_norm, k_norm, eps),
            ops.upload(reference.cos_sin(angles)),
            self.cache.layers[0],
            ops.upload_batch(batch),
        )
        heads, slots = (self.heads, self.kv_heads), batch.slots.tolist()
        return actual, reference.rope_and_store(
            qkv, heads, angles, slots, self.expected, norms, eps
        )

    def store(self, batch: Batch[NDArray[Any]], qkv: Floats) -> Floats:
        """Keep keys and values in every layer; the queries, for `check_attention`."""
        for layer in range(len(self.cache.layers)):
            self.store_in(layer, batch, qkv)
        angles = np.zeros((len(qkv), self.width // 2))
        return reference.rope_and_store(
            qkv, (self.heads, self.kv_heads), angles, batch.slots.tolist(), self.expected
        )

    def store_in(self, layer: int, batch: Batch[NDArray[Any]], qkv: Floats) -> None:
        """Turned by nothing, so that what is kept is exactly what was given."""
        unturned = reference.cos_sin(np.zeros((len(qkv), self.width // 2)))
        self.subject.ops.rope_and_store(
            self.subject.activation(qkv),
            bare_attention(),
            self.subject.ops.upload(unturned),
            self.cache.layers[layer],
            self.subject.ops.upload_batch(batch),
        )

    def attend(self, batch: Batch[NDArray[Any]], q: Floats, layer: int = 0) -> Any:
        on_device = self.subject.ops.upload_batch(batch)
        return self.subject.ops.attention(
            self.subject.activation(q), self.cache.layers[layer], on_device
        )

    def check_attention(self, batch: Batch[NDArray[Any]], q: Floats, roundings: int = 1) -> None:
        """Every layer, that is every window, against the dictionary."""
        for index, layer in enumerate(self.cache.layers):
            expected = reference.attention(q, self.expected, batch, self.block_size, layer.window)
            self.subject.check(self.attend(batch, q, index), expected, roundings)

    def step(self, rng: np.random.Generator, *chunks: Chunk) -> None:
        """Store and attend, as a layer does, with random numbers; and compare."""
        batch = self.batch(*chunks)
        qkv = self.random(rng, len(batch.tokens))
        self.check_attention(batch, self.store(batch, qkv))

    def values_at(self, blocks: Sequence[int], tokens: int) -> Floats:
        """The values kept for a sequence, [T, K, E]: a token whose window is itself hears its own.

        Only for as many query heads as there are key/value heads.
        """
        assert self.heads == self.kv_heads
        batch = self.subject.ops.upload_batch(self.batch(chunk_of(tokens, 0, blocks)))
        q = self.subject.activation(np.zeros((tokens, self.heads, self.width)))
        alone = replace(self.cache.layers[0], window=1)
        attn_out = self.subject.floats(self.subject.ops.attention(q, alone, batch))
        return attn_out.reshape(tokens, self.heads, self.width)


def chunk_of(tokens: int, start: int, blocks: Sequence[int]) -> Chunk:
    """That many tokens of a sequence, from a position on; which tokens is nobody's business."""
    return Chunk([0] * tokens, start, blocks, 1)
