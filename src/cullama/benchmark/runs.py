"""Time prefill, decode and speculation through the engine.

Prompts are token ids and are submitted like any other request. The limits of the machine are
measured in benchmark/yardsticks.py; nothing is printed here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

from ..engine.client import GenerationRequest
from ..engine.engine import Engine
from ..model.operators import Forward
from ..sampling.params import SamplingParams

VOCABULARY_STEP = 7919  # a prime, so that prompts use the whole vocabulary


@dataclass(frozen=True)
class Prefill:
    """The time to prefill a prompt and draw the first token."""

    tokens: int  # of the prompt
    seconds: float  # median


@dataclass(frozen=True)
class Decode:
    """The time to decode one token after a context."""

    context: int  # tokens
    seconds: float  # median
    model_seconds: float | None  # of these, in the forward pass; None if it is asynchronous


@dataclass(frozen=True)
class Speculation:
    """Decoding with speculation, against decoding without."""

    text: str  # its kind
    threads: int | None
    max_drafts: int  # a step
    tokens_per_second: float
    speed_up: float  # over decoding without speculation
    acceptance: float  # share of the draft tokens
    tokens_per_step: float


def prefill(engine: Engine, tokens: int, repeats: int) -> Prefill:
    """Time the prefill of `tokens` tokens, and the drawing of the first token after them."""
    times = []
    for repeat in range(repeats + 1):
        clear_prefix_cache(engine)
        start = time.perf_counter()
        _arrivals(engine, _prompt(engine, tokens, repeat), greedy(1))
        times.append(time.perf_counter() - start)
    return Prefill(tokens, median(times[1:]))  # the first warms caches and pages


def decode(engine: Engine, context: int, tokens: int) -> Decode:
    """Time the decoding of `tokens` tokens one by one, the first after `context` tokens."""
    with _ForwardClock(engine) as clock:
        arrivals = _arrivals(engine, _prompt(engine, context, 0), greedy(tokens + 1))
    # The first step prefills the prompt, and the next runs with cold caches.
    gaps = [after - before for before, after in pairwise(arrivals[1:])]
    model_seconds = median(clock.seconds[-len(gaps) :])
    return Decode(context, median(gaps), None if clock.is_asynchronous else model_seconds)


def speculation(
    engine: Engine, max_drafts: int, tokens: int, repeats: int, threads: int | None
) -> list[Speculation]:
    """Time speculation with a text that repeats itself, and with one that does not."""
    repetitive, varied = _prompt(engine, 16, 0) * 16, _prompt(engine, 256, 1)
    plain = greedy(tokens)
    drawn = replace(plain, temperature=1.0, seed=0)
    return [
        _speculation("repeats itself", engine, repetitive, plain, max_drafts, repeats, threads),
        _speculation("does not", engine, varied, drawn, max_drafts, repeats, threads),
    ]


def _speculation(
    text: str,
    engine: Engine,
    prompt: list[int],
    plain: SamplingParams,
    max_drafts: int,
    repeats: int,
    threads: int | None,
) -> Speculation:
    metrics, tokens = engine.metrics, plain.max_tokens or 0
    drafts, accepted = metrics.draft_tokens, metrics.accepted_tokens
    without, with_drafts, steps = [], [], 0
    for _ in range(repeats):
        without.append(_seconds_after_first_token(engine, prompt, plain))
        before = metrics.steps
        params = replace(plain, speculation=max_drafts)
        with_drafts.append(_seconds_after_first_token(engine, prompt, params))
        steps += metrics.steps - before
    drafts, accepted = metrics.draft_tokens - drafts, metrics.accepted_tokens - accepted
    return Speculation(
        text=text,
        threads=threads,
        max_drafts=max_drafts,
        tokens_per_second=(tokens - 1) / median(with_drafts),
        speed_up=median(without) / median(with_drafts),
        acceptance=accepted / drafts if drafts else 0.0,
        tokens_per_step=repeats * tokens / steps,
    )


def clear_prefix_cache(engine: Engine) -> None:
    """Evict every cached block, so that the next prompt is computed in full."""
    with engine.exclusive() as access:
        access.clear_prefix_cache()


def _seconds_after_first_token(engine: Engine, prompt: list[int], params: SamplingParams) -> float:
    clear_prefix_cache(engine)
    arrivals = _arrivals(engine, prompt, params)
    return arrivals[-1] - arrivals[0]


def _prompt(engine: Engine, tokens: int, shift: int) -> list[int]:
    return [(shift + i * VOCABULARY_STEP) % engine.capacity.vocab_size for i in range(tokens)]


def greedy(tokens: int) -> SamplingParams:
    """Return parameters for exactly `tokens` greedy tokens."""
    return SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)


def _arrivals(engine: Engine, prompt: list[int], params: SamplingParams) -> list[float]:
    """Return the time at which each token after a prompt arrived."""
    [handle] = engine.submit(GenerationRequest(prompt, params))
    arrivals: list[float] = []
    while True:
        handle.wait()
        output = handle.read()
        arrivals += [time.perf_counter()] * len(output.token_ids)
        if output.error is not None:
            raise output.error
        if output.finish_reason is not None:
            return arrivals


class _ForwardClock:
    """Times an engine's forward passes, as a context manager."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.seconds: list[float] = []

    def __enter__(self) -> _ForwardClock:
        with self._engine.exclusive() as access:
            self.is_asynchronous = access.ops.is_asynchronous
            self._undo = access.replace_forward(self._timed)
        return self

    def __exit__(self, *error: object) -> None:
        self._undo()

    def _timed(self, forward: Forward[Any, Any]) -> Forward[Any, Any]:
        def timed(batch: Any) -> Any:
            start = time.perf_counter()
            logits = forward(batch)
            self.seconds.append(time.perf_counter() - start)
            return logits

        return timed
