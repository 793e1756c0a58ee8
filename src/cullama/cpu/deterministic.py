"""Each row computed as if it were alone: the same bits in any batch, chunking and company.

A product of many rows sums in another order than a product of one, so a row's last bits depend on
what else is in the batch, and now and then a token does. Here rows go through products in groups of
a fixed size and through attention one by one. It costs speed where there are many rows: each group
reads all the weights again. (He et al., "Defeating Nondeterminism in LLM Inference", 2025.)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..files.tensor import HostArray
from ..model.kv_cache import LayerCache
from ..model.layer import Linear, Norm
from .attention import CpuBatch, attend
from .matrix import Matrix
from .operators import CpuOperators, Floats, rms_norm_rows

# Rows in a product: four take no longer than one where the weights come from memory.
GROUP = 4


class DeterministicCpuOperators(CpuOperators):
    def __init__(
        self, dtype: str, threads: int, has_tiles: bool, weight_folder: Path | None = None
    ) -> None:
        super().__init__(dtype, threads, has_tiles, weight_folder)
        self._groups: dict[tuple[object, ...], int] = {}  # by layout and shape of the weight

    def use_threads(self, threads: int) -> None:
        super().use_threads(threads)
        self.description += " · deterministic"

    def linear(
        self,
        x: HostArray,
        projection: Linear[HostArray, Matrix],
        residual: HostArray | None = None,
    ) -> HostArray:
        weight = projection.weight
        group = self._group_for(weight, x.shape[1])
        out = np.empty((len(x), weight.rows), np.float32)
        rows = np.zeros((group, x.shape[1]), np.float32)
        for start in range(0, len(x), group):
            some = x[start : start + group]
            rows[: len(some)] = some
            out[start : start + group] = weight.product(rows, self.thread_pool)[: len(some)]
        for added in (projection.bias, residual):
            if added is not None:
                out += added
        return out

    def rms_norm(self, x: HostArray, norm: Norm[HostArray]) -> HostArray:
        return rms_norm_rows(x, norm)

    def attention(self, q: HostArray, cache: LayerCache[HostArray], batch: CpuBatch) -> HostArray:
        return attend(q, cache, batch, self.thread_pool, tile=1)

    def _group_for(self, weight: Matrix, inputs: int) -> int:
        """Return how many rows may share a product with this weight: tried out, not assumed."""
        key = type(weight), inputs, weight.rows
        if key in self._groups:
            return self._groups[key]
        # GROUP if a row gives the same bits in every place of it, whatever the other rows are.
        random = np.random.default_rng(0)
        row = random.standard_normal(inputs, np.float32)
        results: list[Floats] = []
        for place in range(GROUP):
            rows = random.standard_normal((GROUP, inputs), np.float32)
            rows[place] = row
            results.append(weight.product(rows, self.thread_pool)[place])
        is_exact = all((result == results[0]).all() for result in results)
        self._groups[key] = GROUP if is_exact else 1
        return self._groups[key]
