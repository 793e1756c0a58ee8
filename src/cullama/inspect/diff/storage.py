"""Finds a backend's storage type with a probe, and states the tolerance that goes with it.

The probe is a weight whose elements need more and more bits: which of them come back unchanged
tells the type, whatever the backend. The operators' tests have a tolerance for inputs that the
reference sees rounded, too; here it sees them unrounded, so twice that tolerance is allowed. No
model is run.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...files.tensor import HostArray, StoredTensor
from ...model.operators import AnyOperators

# From fine to coarse.
TOLERANCES = {"float32": 2 * 1e-5, "float16": 2 * 2e-3, "bfloat16": 2 * 1.6e-2}

_MANTISSA_BITS = {"float32": 23, "float16": 10, "bfloat16": 7}


def storage_type(ops: AnyOperators) -> str:
    """Return the name of the type in which the backend keeps weights."""
    probe = [1 + 0.5**bits for bits in _MANTISSA_BITS.values()]
    numbers = np.array([probe + [0.0] * 5], np.float32)  # 8 wide: some kernels load 8 at a time

    def tiles() -> Iterator[HostArray]:
        yield numbers

    table = ops.weight([StoredTensor("probe", numbers.shape, "F32", tiles)])
    row = ops.download(ops.embed(table, ops.upload(np.zeros(1, np.int32))))
    is_kept = row.astype(np.float32)[0] == numbers[0]
    kept = [name for name, survives in zip(_MANTISSA_BITS, is_kept, strict=False) if survives]
    return kept[0] if kept else "bfloat16"


def coarser(first: str, second: str) -> str:
    """Return the type of lower precision."""
    return max(first, second, key=list(TOLERANCES).index)
