"""The storage type a backend keeps, found out by asking it, and the error that goes with it.

A backend does not say its type; it shows in what becomes of a number with many digits. The tests
hold every operator to a tolerance on inputs that the reference sees rounded, too. Here it sees
them as they were, and its cache is its own: what is rounded on the way in may cost as much again,
so twice that tolerance is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...files.tensor import HostArray, StoredTensor
from ...model.operators import Operators

# From fine to coarse.
TOLERANCES = {"float32": 2 * 1e-5, "float16": 2 * 2e-3, "bfloat16": 2 * 1.6e-2}

# The last binary place behind a 1 that the type still holds.
_LAST_PLACES = {"float32": 23, "float16": 10, "bfloat16": 7}


def storage_type(ops: Operators[Any]) -> str:
    """The type in which weights come back from the backend."""
    digits = [1 + 0.5**place for place in _LAST_PLACES.values()]
    numbers = np.array([digits + [0.0] * 5], np.float32)  # as wide as any backend may like

    def tiles() -> Iterator[HostArray]:
        yield numbers

    table = ops.weight([StoredTensor("probe", numbers.shape, "F32", tiles)])
    row = ops.download(ops.gather(table, ops.upload(np.zeros(1, np.int32))))
    is_kept = row.astype(np.float32)[0] == numbers[0]
    kept = [name for name, survives in zip(_LAST_PLACES, is_kept, strict=False) if survives]
    return kept[0] if kept else "bfloat16"


def coarser(first: str, second: str) -> str:
    return max(first, second, key=list(TOLERANCES).index)
