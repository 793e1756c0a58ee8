"""What the engine has done so far, in totals. Numbers only."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Metrics:
    """Totals since the engine began."""

    submitted: int = 0  # sequences: each of a request's n
    ended: Counter[str] = field(default_factory=Counter)  # by finish reason
    steps: int = 0
    busy_seconds: float = 0.0  # in steps
    prompt_tokens: int = 0  # of the sequences that came in
    cached_tokens: int = 0  # of those, found in the prefix cache
    drawn_tokens: int = 0
    guessed_tokens: int = 0
    right_guesses: int = 0
    preemptions: int = 0

    @property
    def cache_hit_rate(self) -> float:
        """The share of prompt tokens that did not have to be read."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def guesses_right(self) -> float:
        return self.right_guesses / self.guessed_tokens if self.guessed_tokens else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "ended": dict(self.ended),
            "cache_hit_rate": self.cache_hit_rate,
            "guesses_right": self.guesses_right,
        }
