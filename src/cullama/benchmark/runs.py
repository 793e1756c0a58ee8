"""What is measured: reading a prompt, and writing after contexts of several lengths.

Everything goes through the engine, token ids in and out, as any other text does. It knows no
yardstick and prints nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from ..config import ModelConfig
from ..engine.engine import Engine
from ..sampling import SamplingParams

VOCABULARY_STEP = 7919  # a prime: prompts walk all over the vocabulary


@dataclass(frozen=True)
class Prefill:
    tokens: int
    seconds: float  # median


@dataclass(frozen=True)
class Decode:
    context: int
    seconds: float  # a token, median
    model_seconds: float  # of that, in the model's forward pass


def prefill(engine: Engine, tokens: int, repeats: int) -> Prefill:
    """Reading a prompt and drawing the first token after it."""
    times = []
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        _write(engine, _prompt(engine.config, tokens, repeat), 1)
        times.append(time.perf_counter() - start)
    return Prefill(tokens, median(times[1:]))  # the first warms caches and pages


def decode(engine: Engine, context: int, tokens: int) -> Decode:
    """Writing `tokens` tokens one by one, the first after `context` tokens."""
    with _Clock(engine) as clock:
        arrivals = _write(engine, _prompt(engine.config, context, 0), tokens + 1)
    # The first step reads the prompt, and the first after it finds caches cold.
    gaps = [after - before for before, after in pairwise(arrivals[1:])]
    return Decode(context, median(gaps), median(clock.seconds[-len(gaps) :]))


def _prompt(config: ModelConfig, tokens: int, shift: int) -> list[int]:
    return [(shift + i * VOCABULARY_STEP) % config.vocab_size for i in range(tokens)]


def _write(engine: Engine, prompt: list[int], tokens: int) -> list[float]:
    """Greedy tokens after a prompt; the moment each arrived."""
    params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    (sequence,) = engine.submit(prompt, params)
    return [time.perf_counter() for _ in engine.tokens(sequence)]


class _Clock:
    """Times the forward passes of an engine while it is entered."""

    def __init__(self, engine: Engine) -> None:
        self._runner = engine.runner
        self._forward: Callable[[Any], Any] = engine.runner.forward
        self.seconds: list[float] = []

    def __enter__(self) -> _Clock:
        self._runner.forward = self._timed
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.forward = self._forward

    def _timed(self, batch: Any) -> Any:
        start = time.perf_counter()
        logits = self._forward(batch)
        self.seconds.append(time.perf_counter() - start)
        return logits
