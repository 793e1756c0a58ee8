"""The frozen records that cross the engine's face, and nothing that changes. Imports no arrays."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Capacity:
    """The sizes that requests to one engine are checked against."""

    vocab_size: int
    eos_ids: tuple[int, ...]  # the model's own end tokens
    context_length: int  # tokens of prompt and completion together
    cache_tokens: int  # tokens that the whole KV cache holds

    @property
    def max_length(self) -> int:
        """Most tokens of prompt and completion together; the last one needs no cache slot."""
        return min(self.context_length, self.cache_tokens + 1)
