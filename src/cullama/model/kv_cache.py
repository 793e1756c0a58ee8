"""The paged KV cache: keys and values of each token, in blocks that any sequence may own.

Kwon et al., "Efficient Memory Management for LLM Serving with PagedAttention", SOSP 2023. A slot
holds the key and value of one token; slot = block · block_size + offset. The layout of keys and
values is the backend's; which sequence owns which block is `engine/blocks.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from .layer import Array


@dataclass(frozen=True)
class LayerCache(Generic[Array]):
    keys: Array
    values: Array
    window: int  # how many tokens back a token sees in this layer, itself included; 0 = all


@dataclass(frozen=True)
class KVCache(Generic[Array]):
    layers: tuple[LayerCache[Array], ...]
    blocks: int
    block_size: int
