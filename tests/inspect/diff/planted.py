"""Test doubles: operators with a planted fault, and a backend with opaque arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import ml_dtypes
import numpy as np

from cullama import LLM
from cullama.cpu.attention import CpuBatch
from cullama.cpu.operators import CpuOperators
from cullama.files.tensor import HostArray, StoredTensor
from cullama.model.batch import Batch
from cullama.model.config import ModelConfig
from cullama.model.kv_cache import KVCache, LayerCache
from cullama.model.operators import Operators


def plant(
    llm: LLM, operator: str, nth: int, calls_a_pass: int, damage: Callable[[HostArray], None]
) -> LLM:
    """Damage the result of an operator's `nth` call in each pass over several tokens."""
    ops = llm.engine.runner.ops
    original, calls = getattr(ops, operator), count()

    def wrong(*operands: Any, **named: Any) -> HostArray:
        result = original(*operands, **named)
        if len(result) == 1 or next(calls) % calls_a_pass != nth:
            return result
        result = result.copy()
        damage(result)
        return result

    setattr(ops, operator, wrong)
    return llm


class Box:
    """An array that only `upload` and `download` open."""

    __slots__ = ("content",)

    def __init__(self, content: HostArray) -> None:
        self.content = content


@dataclass(frozen=True)
class BoxedBatch(Batch[Any]):
    inside: CpuBatch


class OpaqueOperators(CpuOperators):
    """The CPU's, behind arrays that only `upload` and `download` know: as on a device.

    What an operator gives is kept in bfloat16.
    """

    project_qkv = Operators.project_qkv
    feed_forward = Operators.feed_forward

    def __init__(self) -> None:
        super().__init__("bfloat16", threads=1, has_tiles=False)

    def upload(self, host: HostArray) -> Any:
        return Box(np.array(host))

    def download(self, array: Any) -> HostArray:
        return array.content.copy()

    def upload_batch(self, batch: Batch[HostArray]) -> Any:
        inside: Any = super().upload_batch(batch)
        fields = Batch.__dataclass_fields__
        return BoxedBatch(**{name: Box(getattr(inside, name)) for name in fields}, inside=inside)

    def vector(self, parts: Sequence[StoredTensor]) -> Any:
        return Box(super().vector(parts))

    def cache(self, config: ModelConfig, tokens: int) -> KVCache[Any]:
        cache: KVCache[Any] = super().cache(config, tokens)
        layers = tuple(
            replace(layer, keys=Box(layer.keys), values=Box(layer.values)) for layer in cache.layers
        )
        return KVCache(layers, cache.blocks, cache.block_size)

    def embed(self, table: Any, tokens: Any) -> Any:
        return kept(super().embed(table, tokens.content))

    def gather(self, table: Any, rows: Any) -> Any:
        return kept(super().gather(opened(table), rows.content))

    def linear(self, x: Any, projection: Any, residual: Any = None) -> Any:
        inside = replace(projection, bias=opened(projection.bias))
        return kept(super().linear(opened(x), inside, opened(residual)))

    def rms_norm(self, x: Any, norm: Any) -> Any:
        return kept(super().rms_norm(opened(x), replace(norm, weight=opened(norm.weight))))

    def silu_mul(self, gate_up: Any) -> Any:
        return kept(super().silu_mul(opened(gate_up)))

    def rope_and_store(self, qkv: Any, attention: Any, cos_sin: Any, cache: Any, batch: Any) -> Any:
        arrays = opened(qkv), attention, opened(cos_sin), unboxed(cache), batch.inside
        return kept(super().rope_and_store(*arrays))

    def attention(self, q: Any, cache: Any, batch: Any) -> Any:
        return kept(super().attention(opened(q), unboxed(cache), batch.inside))


def kept(result: HostArray) -> Any:
    return Box(result.astype(ml_dtypes.bfloat16) if result.dtype == np.float32 else result)


def opened(box: Any) -> Any:
    if box is None:
        return None
    is_kept = box.content.dtype == ml_dtypes.bfloat16
    return box.content.astype(np.float32) if is_kept else box.content


def unboxed(cache: LayerCache[Box]) -> LayerCache[HostArray]:
    return LayerCache(cache.keys.content, cache.values.content, cache.window)
