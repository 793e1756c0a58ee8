"""Each row computed as if it were alone: the same bits in any batch, chunking and company.

A product of many rows sums in another order than a product of one, so a row's last bits depend on
who else is in the batch, and now and then a token does. Here rows go through products in groups of
a fixed size and through attention one by one. It costs speed where there are many rows: each group
reads all the weights again. (He et al., "Defeating Nondeterminism in LLM Inference", 2025.)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..files.tensor import HostArray
from ..model.batch import Batch
from ..model.kv_cache import LayerCache
from . import matrix
from .attention import CpuBatch, attend
from .operators import CpuOperators, Floats

# Rows in a product: four take no longer than one where the weights come from memory.
GROUP = 4


class DeterministicCpuOperators(CpuOperators):
    def __init__(
        self, dtype: str, threads: int, has_tiles: bool, weight_folder: Path | None = None
    ) -> None:
        super().__init__(dtype, threads, has_tiles, weight_folder)
        self._groups: dict[tuple[int, ...], int] = {}  # by shape and strides of the weight

    def use_threads(self, threads: int) -> None:
        super().use_threads(threads)
        self.description += " · deterministic"

    def _product(self, x: HostArray, weight: HostArray) -> Floats:
        group = self._group_for(weight)
        out = np.empty((len(x), matrix.rows_in(weight)), np.float32)
        rows = np.zeros((group, x.shape[1]), np.float32)
        for start in range(0, len(x), group):
            some = x[start : start + group]
            rows[: len(some)] = some
            out[start : start + group] = super()._product(rows, weight)[: len(some)]
        return out

    def rms_norm(self, x: HostArray, weight: HostArray, eps: float) -> HostArray:
        return self._rms_norm_rows(x, weight, eps)

    def attention(
        self, q: HostArray, cache: LayerCache[HostArray], batch: Batch[HostArray]
    ) -> HostArray:
        assert isinstance(batch, CpuBatch)
        return attend(q, cache, batch, self.thread_pool, tile=1)

    def _group_for(self, weight: HostArray) -> int:
        """How many rows may share a product with this weight: seen, not taken on trust."""
        key = weight.shape + weight.strides
        if key not in self._groups:
            self._groups[key] = GROUP if self._is_blind_to_neighbours(weight) else 1
        return self._groups[key]

    def _is_blind_to_neighbours(self, weight: HostArray) -> bool:
        """Whether a row gives the same bits in every place of a group, whatever the others are."""
        random = np.random.default_rng(0)
        inputs = weight.shape[1]
        row = random.standard_normal(inputs, np.float32)
        results = []
        for place in range(GROUP):
            rows = random.standard_normal((GROUP, inputs), np.float32)
            rows[place] = row
            results.append(super()._product(rows, weight)[place])
        return all((result == results[0]).all() for result in results)
