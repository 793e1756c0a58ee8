"""What is measured: reading a prompt, and writing after contexts of several lengths.

Everything goes through the engine, token ids in and out, as any other text does. It knows no
yardstick and prints nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

from ..engine.client import GenerationRequest
from ..engine.engine import Engine
from ..engine.insider import Forward
from ..sampling.params import SamplingParams

VOCABULARY_STEP = 7919  # a prime: prompts walk all over the vocabulary


@dataclass(frozen=True)
class Prefill:
    tokens: int
    seconds: float  # median


@dataclass(frozen=True)
class Decode:
    context: int
    seconds: float  # a token, median
    model_seconds: float | None  # of that, in the model's forward pass, if that is waited for


@dataclass(frozen=True)
class Guessing:
    """Writing with guesses and without, in turns."""

    text: str  # which kind
    threads: int | None
    most: int  # guesses a step
    tokens_per_second: float
    speed_up: float  # over writing without guesses
    right: float  # share of the guesses
    tokens_per_step: float


def prefill(engine: Engine, tokens: int, repeats: int) -> Prefill:
    """Reading a prompt and drawing the first token after it."""
    times = []
    for repeat in range(repeats + 1):
        clear_prefix_cache(engine)  # what is read is to be read, not found
        start = time.perf_counter()
        _write(engine, _prompt(engine, tokens, repeat), _greedy(1))
        times.append(time.perf_counter() - start)
    return Prefill(tokens, median(times[1:]))  # the first warms caches and pages


def decode(engine: Engine, context: int, tokens: int) -> Decode:
    """Writing `tokens` tokens one by one, the first after `context` tokens."""
    with _ForwardClock(engine) as clock:
        arrivals = _write(engine, _prompt(engine, context, 0), _greedy(tokens + 1))
    # The first step reads the prompt, and the first after it finds caches cold.
    gaps = [after - before for before, after in pairwise(arrivals[1:])]
    model_seconds = median(clock.seconds[-len(gaps) :])
    return Decode(context, median(gaps), None if clock.is_asynchronous else model_seconds)


def guessing(
    engine: Engine, most: int, tokens: int, repeats: int, threads: int | None
) -> list[Guessing]:
    """A text that repeats itself, as greedy ones after such a prompt do, and one that does not."""
    repetitive, varied = (
        _prompt(engine, 16, 0) * 16,
        _prompt(engine, 256, 1),
    )
    plain = _greedy(tokens)
    drawn = replace(plain, temperature=1.0, seed=0)
    return [
        _guessing("repeats itself", engine, repetitive, plain, most, repeats, threads),
        _guessing("does not", engine, varied, drawn, most, repeats, threads),
    ]


def _guessing(
    text: str,
    engine: Engine,
    prompt: list[int],
    plain: SamplingParams,
    most: int,
    repeats: int,
    threads: int | None,
) -> Guessing:
    metrics, tokens = engine.metrics, plain.max_tokens or 0
    guesses, right = metrics.draft_tokens, metrics.accepted_tokens
    without, with_guesses, steps = [], [], 0
    for _ in range(repeats):
        without.append(_seconds_after_the_first(engine, prompt, plain))
        before = metrics.steps
        params = replace(plain, speculation=most)
        with_guesses.append(_seconds_after_the_first(engine, prompt, params))
        steps += metrics.steps - before
    guesses, right = metrics.draft_tokens - guesses, metrics.accepted_tokens - right
    return Guessing(
        text=text,
        threads=threads,
        most=most,
        tokens_per_second=(tokens - 1) / median(with_guesses),
        speed_up=median(without) / median(with_guesses),
        right=right / guesses if guesses else 0.0,
        tokens_per_step=repeats * tokens / steps,
    )


def clear_prefix_cache(engine: Engine) -> None:
    """Evict every cached block, so that the next prompt is computed in full."""
    with engine.exclusive() as insider:
        insider.clear_prefix_cache()


def _seconds_after_the_first(engine: Engine, prompt: list[int], params: SamplingParams) -> float:
    clear_prefix_cache(engine)
    arrivals = _write(engine, prompt, params)
    return arrivals[-1] - arrivals[0]


def _prompt(engine: Engine, tokens: int, shift: int) -> list[int]:
    return [(shift + i * VOCABULARY_STEP) % engine.capacity.vocab_size for i in range(tokens)]


def _greedy(tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)


def _write(engine: Engine, prompt: list[int], params: SamplingParams) -> list[float]:
    """The moment each token after a prompt arrived."""
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
    """Times the forward passes of an engine while it is entered."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.seconds: list[float] = []

    def __enter__(self) -> _ForwardClock:
        with self._engine.exclusive() as insider:
            self.is_asynchronous = insider.ops.is_asynchronous
            self._undo = insider.replace_forward(self._timed)
        return self

    def __exit__(self, *error: object) -> None:
        self._undo()

    def _timed(self, forward: Forward) -> Forward:
        def timed(batch: Any) -> Any:
            start = time.perf_counter()
            logits = forward(batch)
            self.seconds.append(time.perf_counter() - start)
            return logits

        return timed
