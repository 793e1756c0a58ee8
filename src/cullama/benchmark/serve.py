"""Serve many requests: continuous against static batching, with the same engine and kernels.

    continuous  a request may join and leave between any two steps
    static      a batch starts together and ends with its longest answer; rows whose answer is
                complete are computed all the same and their tokens dropped, as in a `generate`
                over a padded batch
    leaving     static with early exit: a row leaves the batch when its answer is complete, which
                is what a ragged batch saves by itself

Requests arrive as a Poisson process, or all at once. A static batch starts when all of its requests
have arrived.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count, pairwise
from random import Random
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..engine.client import GenerationRequest
from ..engine.engine import Engine, EngineHandle
from ..errors import UsageError
from ..model.config import ModelConfig
from .host import HostCost, host_cost
from .runs import clear_prefix_cache, greedy
from .trace import Recorder

if TYPE_CHECKING:
    from ..llm import LLM

Progress: TypeAlias = Callable[[int, int], None]
OnEnd: TypeAlias = Callable[[], None]  # called as each request ends

WARM_UP = 4  # requests
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class WorkloadRequest:
    """A request of the workload."""

    prompt: list[int]
    answer: int  # tokens
    arrival: float  # seconds after the start


@dataclass(frozen=True)
class Workload:
    """How many requests of which lengths arrive when."""

    requests: int = 256
    shortest: int = 100  # tokens, of prompts and of answers; lengths are drawn uniformly
    longest: int = 1024
    rate: float | None = None  # arrivals a second; None: all at once
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise UsageError(
                f"lengths are {self.shortest} to {self.longest}, expected the shorter one first"
            )

    @property
    def description(self) -> str:
        arrivals = "all at once" if self.rate is None else f"Poisson, {self.rate:g} a second"
        return (
            f"{self.requests} requests, prompts and answers of {self.shortest} to {self.longest} "
            f"tokens (uniform, seed {self.seed}), arriving {arrivals}"
        )

    def draw(self, config: ModelConfig) -> list[WorkloadRequest]:
        """Return the requests, the same ones for the same seed."""
        random, arrival, requests = Random(self.seed), 0.0, []
        for _ in range(self.requests):
            prompt = random.randint(self.shortest, self.longest)
            answer = random.randint(self.shortest, self.longest)
            tokens = [random.randrange(config.vocab_size) for _ in range(prompt)]
            requests.append(WorkloadRequest(tokens, answer, arrival))
            arrival += random.expovariate(self.rate) if self.rate else 0.0
        return requests


@dataclass
class Served:
    """The times of one request, in seconds after the start."""

    arrival: float
    tokens: list[float] = field(default_factory=list)  # when each token arrived

    @property
    def first_token(self) -> float:
        return self.tokens[0] - self.arrival


@dataclass(frozen=True)
class ServeRun:
    """The figures of one kind of batching."""

    kind: str
    seconds: float
    answered: int  # tokens that were requested
    computed: int  # tokens that were drawn, dropped ones included
    steps: int
    preemptions: int
    cache_hit_rate: float
    first_token: dict[str, float]  # seconds, by percentile
    between_tokens: dict[str, float]

    @property
    def tokens_per_second(self) -> float:
        return self.answered / self.seconds


@dataclass(frozen=True)
class ServeReport:
    """All figures; `as_json` is the output of `--json`."""

    model: str
    workload: str
    batch: int
    runs: tuple[ServeRun, ...]
    host: HostCost

    def ratio(self, run: ServeRun) -> float:
        """Return the throughput of the first run over this one's."""
        return self.runs[0].tokens_per_second / run.tokens_per_second

    def as_json(self) -> dict[str, Any]:
        runs = [
            {**asdict(run), "tokens_per_second": run.tokens_per_second, "ratio": self.ratio(run)}
            for run in self.runs
        ]
        return {**asdict(self), "runs": runs}


def benchmark(
    llm: LLM,
    workload: Workload,
    batch: int,
    recorder: Recorder | None = None,
    progress: Progress = lambda done, total: None,
) -> ServeReport:
    """Serve the same requests with each kind of batching, starting with an empty prefix cache.

    Args:
        batch: sequences that may run at once.
        progress: called with (done, total) as requests of all runs finish.

    Raises:
        UsageError: the longest request does not fit the context.
    """
    engine = llm.engine
    if 2 * workload.longest > engine.capacity.context_length:
        raise UsageError(
            f"a request takes up to {2 * workload.longest} tokens, expected at most the context "
            f"of {engine.capacity.context_length}; lower --longest or raise --context"
        )
    requests = workload.draw(llm.config)
    continuous(engine, requests[:WARM_UP], batch)  # warms caches and pages
    kinds = (partial(continuous, recorder=recorder), static, static_with_early_exit)
    finished = count(1)

    def report_end() -> None:
        progress(next(finished), len(kinds) * len(requests))

    runs = tuple(kind(engine, requests, batch, on_end=report_end) for kind in kinds)
    return ServeReport(llm.description, workload.description, batch, runs, host_cost())


def continuous(
    engine: Engine,
    requests: Sequence[WorkloadRequest],
    batch: int,
    on_end: OnEnd = lambda: None,
    recorder: Recorder | None = None,
) -> ServeRun:
    recording = recorder or nullcontext()
    with _running_limit(engine, batch), recording, _ServeClock(engine, on_end, recorder) as clock:
        served = []
        for request in requests:
            while clock.now() < request.arrival:
                clock.step_or_sleep(request.arrival - clock.now())
            served.append(clock.submit(request, request.answer))
        clock.finish()
        return clock.run("continuous", served, requests)


def static(
    engine: Engine, requests: Sequence[WorkloadRequest], batch: int, on_end: OnEnd = lambda: None
) -> ServeRun:
    def longest(group: Sequence[WorkloadRequest]) -> int:
        return max(request.answer for request in group)

    return _batch_by_batch("static", engine, requests, batch, on_end, longest)


def static_with_early_exit(
    engine: Engine, requests: Sequence[WorkloadRequest], batch: int, on_end: OnEnd = lambda: None
) -> ServeRun:
    return _batch_by_batch("leaving", engine, requests, batch, on_end, None)


def _batch_by_batch(
    kind: str,
    engine: Engine,
    requests: Sequence[WorkloadRequest],
    batch: int,
    on_end: OnEnd,
    tokens: Callable[[Sequence[WorkloadRequest]], int] | None,
) -> ServeRun:
    """`tokens` returns how many tokens to draw for each of a batch; None: as its answer has."""
    with _running_limit(engine, batch), _ServeClock(engine, on_end) as clock:
        served = []
        for start in range(0, len(requests), batch):
            group = requests[start : start + batch]
            while clock.now() < group[-1].arrival:
                time.sleep(group[-1].arrival - clock.now())
            for request in group:
                served.append(clock.submit(request, tokens(group) if tokens else request.answer))
            clock.finish()
        return clock.run(kind, served, requests)


class _ServeClock:
    """Times a run, from when it is entered, and counts what the engine does."""

    def __init__(self, engine: Engine, on_end: OnEnd, recorder: Recorder | None = None) -> None:
        self._engine, self._on_end, self._recorder = engine, on_end, recorder
        self._running: list[tuple[EngineHandle, Served, int]] = []  # and tokens asked for

    def __enter__(self) -> _ServeClock:
        clear_prefix_cache(self._engine)
        metrics = self._engine.metrics
        self._start = time.perf_counter()
        self._before = (metrics.drawn_tokens, metrics.steps, metrics.preemptions)
        self._cached = (metrics.cached_tokens, metrics.prompt_tokens)
        return self

    def __exit__(self, *error: object) -> None:
        for handle, *_ in self._running:
            handle.cancel()

    def now(self) -> float:
        return time.perf_counter() - self._start

    def submit(self, request: WorkloadRequest, tokens: int) -> Served:
        """Submit a request for exactly `tokens` greedy tokens."""
        [handle] = self._engine.submit(GenerationRequest(request.prompt, greedy(tokens)))
        served = Served(request.arrival)
        self._running.append((handle, served, request.answer))
        if self._recorder is not None:
            self._recorder.follow(handle, self._start + request.arrival)
        return served

    def finish(self) -> None:
        while self._engine.has_work:
            self._step()

    def step_or_sleep(self, seconds: float) -> None:
        if self._engine.has_work:
            self._step()
        else:
            time.sleep(max(0.0, seconds))

    def _step(self) -> None:
        """Run a step of the engine, and record when each token arrived."""
        self._engine.step()
        now, running = self.now(), []
        for handle, served, wanted in self._running:
            output = handle.read()
            served.tokens += [now] * min(len(output.token_ids), wanted - len(served.tokens))
            if output.finish_reason is None:
                running.append((handle, served, wanted))
            else:
                self._on_end()
        self._running = running

    def run(
        self, kind: str, served: Sequence[Served], requests: Sequence[WorkloadRequest]
    ) -> ServeRun:
        seconds, metrics = self.now(), self._engine.metrics
        drawn, steps, preemptions = self._before
        cached, prompted = self._cached
        gaps = [later - sooner for one in served for sooner, later in pairwise(one.tokens)]
        return ServeRun(
            kind=kind,
            seconds=seconds,
            answered=sum(request.answer for request in requests),
            computed=metrics.drawn_tokens - drawn,
            steps=metrics.steps - steps,
            preemptions=metrics.preemptions - preemptions,
            cache_hit_rate=(metrics.cached_tokens - cached) / (metrics.prompt_tokens - prompted),
            first_token=_percentiles([one.first_token for one in served]),
            between_tokens=_percentiles(gaps or [0.0]),
        )


@contextmanager
def _running_limit(engine: Engine, batch: int) -> Iterator[None]:
    """Limit how many sequences run at once."""
    with engine.exclusive() as access:
        before = access.limit_running(batch)
    try:
        yield
    finally:
        with engine.exclusive() as access:
            access.limit_running(before)


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{p}": float(np.percentile(seconds, p)) for p in PERCENTILES}
