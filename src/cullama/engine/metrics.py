"""Counts what an engine has done so far, in totals. Numbers only."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Metrics:
    """Totals since the engine was made."""

    submitted: int = 0  # requests: each of the n samples
    ended: Counter[str] = field(default_factory=Counter)  # by finish reason
    steps: int = 0
    busy_seconds: float = 0.0  # in steps
    compile_seconds: float = 0.0  # of the backend's kernels, since the model was loaded
    prompt_tokens: int = 0  # of the requests that were admitted
    cached_tokens: int = 0  # of those, found in the prefix cache
    drawn_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0  # draft tokens that were drawn
    preemptions: int = 0

    @property
    def cache_hit_rate(self) -> float:
        """The share of prompt tokens that did not have to be computed."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def acceptance_rate(self) -> float:
        """The share of draft tokens that were accepted."""
        return self.accepted_tokens / self.draft_tokens if self.draft_tokens else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "ended": dict(self.ended),
            "cache_hit_rate": self.cache_hit_rate,
            "acceptance_rate": self.acceptance_rate,
        }
