"""The only caller of the model: turns what the scheduler chose into one forward pass.

It knows batches and the cache; it does not decide who takes part, nor when a text ends.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..batch import Piece, build_batch
from ..errors import NumericalError
from ..kv_cache import KVCache
from ..llama import Llama
from ..sampling import Drawn
from ..sequence import Sequence

Array = TypeVar("Array")


class Runner(Generic[Array]):
    def __init__(self, model: Llama[Array], cache: KVCache[Array]) -> None:
        self.model, self.cache, self.ops = model, cache, model.ops
        self.forward = model.ops.graph(lambda batch: model.forward(batch, cache))

    def step(
        self, chosen: Many[tuple[Sequence, int]]
    ) -> list[tuple[Sequence, Drawn | NumericalError]]:
        """One pass over the chosen tokens; a draw for each sequence that has caught up."""
        pieces = [
            Piece(s.next_tokens(count), s.computed, s.blocks, logits=int(count == s.pending))
            for s, count in chosen
        ]
        logits = self._run(pieces)
        ready = [s for s, count in chosen if count == s.pending]
        drawn = self.ops.sample(logits, [s.draw() for s in ready]) if ready else []
        for s, count in chosen:
            s.computed += count
        return list(zip(ready, drawn, strict=True))

    def logits(self, pieces: Many[Piece]) -> NDArray[np.float32]:
        """The logits the pieces ask for, [R, V]; their keys and values go to their blocks."""
        return self.ops.download(self._run(pieces))

    def _run(self, pieces: Many[Piece]) -> Array:
        batch = build_batch(pieces, self.cache.block_size)
        return self.forward(self.ops.upload_batch(batch))
