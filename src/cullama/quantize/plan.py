"""Plans a file: each tensor's name there, its type, and the order of its rows.

It reads no weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.gguf import ROPE_DIVISORS
from ..checkpoint.names import EMBEDDING, HEAD, expected_shapes, gguf_name, is_query_or_key
from ..files.quantized_blocks import GROUP
from ..files.tensor import HostArray, StoredTensor
from ..model.rope import Llama3Scaling, Rope

# The output matrix loses most by few bits. llama.cpp uses Q6_K there, or Q8_0 where rows are no
# multiple of 256; gguf-py does not write Q6_K.
MIN_HEAD_TYPE = "Q8_0"


@dataclass(frozen=True)
class Target:
    """A tensor to be written to a file."""

    source: StoredTensor
    name: str  # llama.cpp's
    dtype: str  # "Q4_0"
    head_dim: int | None = None  # of q and k whose rows are to be interleaved


def targets(checkpoint: Checkpoint, wanted: str) -> Iterator[Target]:
    """Yield every tensor of the model, then the RoPE divisors if it needs them.

    Args:
        wanted: the type of matrices, one of GGUF_TYPES.
    """
    config = checkpoint.config
    for name in expected_shapes(config):
        source = checkpoint.tensors[name]
        is_interleaved = config.family.has_interleaved_qk and is_query_or_key(name)
        yield Target(
            source,
            gguf_name(name),
            _type_of(source, wanted, is_head=name == (EMBEDDING if config.tied else HEAD)),
            config.head_dim if is_interleaved else None,
        )
    rope = config.rope
    if rope.has_divisors_in_gguf:
        # One divisor for each frequency, [E / 2]; other scalings are metadata, and multiply.
        scaling = rope.scaling if isinstance(rope.scaling, Llama3Scaling) else None
        divided = replace(rope, scaling=scaling).inverse_frequencies(config.head_dim)
        values: HostArray = Rope(rope.theta).inverse_frequencies(config.head_dim) / divided
        values = values.astype(np.float32)
        stored = StoredTensor(ROPE_DIVISORS, values.shape, "F32", lambda: iter([values]))
        yield Target(stored, ROPE_DIVISORS, "F32")


def _type_of(source: StoredTensor, wanted: str, is_head: bool) -> str:
    """Return the GGUF type of a tensor.

    Vectors stay float32, being small; rows that are not whole blocks cannot be quantised; the
    output matrix gets at least eight bits.
    """
    if len(source.shape) == 1:
        return "F32"
    if wanted.startswith("q") and source.shape[-1] % GROUP:
        return "F16"
    return MIN_HEAD_TYPE if is_head and wanted.startswith("q") else wanted.upper()
