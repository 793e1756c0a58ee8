"""Measures a server beside the engine in this process: throughput, and time to the first token.

Engine and server take turns, with the same prompts, so that what else the machine does meets both.
The server is `cullama serve`, three processes with the client (client.py); on a machine of two
cores they share those, and the CPU time of each tells what a wider machine would do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ...sampling.params import SamplingParams
from ..runs import greedy
from ..serve import Workload, WorkloadRequest
from .processes import ClientProcess, ServerProcess

if TYPE_CHECKING:
    from ...llm import LLM

Progress: TypeAlias = Callable[[int, int], None]

FIRST_TOKENS = 8  # of an answer whose first token is timed
# Of nano-vllm's bench.py, https://github.com/GeeeekExplorer/nano-vllm: sampled, not greedy.
WORKLOAD_TEMPERATURE = 0.6


@dataclass(frozen=True)
class HttpPlan:
    """What is measured."""

    streams: int = 32
    prompt: int = 32  # tokens
    tokens: int = 256  # of each answer
    rounds: int = 5
    first: int = 25  # pairs of single requests
    first_prompt: int = 64  # tokens
    workload: Workload | None = None
    seed: int = 0


@dataclass(frozen=True)
class Throughput:
    """One run of many requests."""

    tokens: int
    seconds: float
    cpu: dict[str, float]  # CPU seconds by process; empty where the system does not tell
    between_tokens: tuple[float, float] | None = None  # p50, p99, of a client's arrivals

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Pairs:
    """Runs of the engine and of the server, in turns."""

    engine: tuple[Throughput, ...]
    http: tuple[Throughput, ...]

    @property
    def ratio(self) -> float:
        """Return the median of the rounds' ratios: throughput over HTTP, to the engine's."""
        rates = zip(self.http, self.engine, strict=True)
        return median(one.tokens_per_second / other.tokens_per_second for one, other in rates)

    def as_json(self) -> dict[str, Any]:
        def rows(runs: Sequence[Throughput]) -> list[dict[str, Any]]:
            return [{**asdict(run), "tokens_per_second": run.tokens_per_second} for run in runs]

        return {"engine": rows(self.engine), "http": rows(self.http), "ratio": self.ratio}


@dataclass(frozen=True)
class HttpReport:
    """All figures; `as_json` is the output of `--json`."""

    model: str
    plan: HttpPlan
    streams: Pairs
    first_engine: tuple[float, ...]  # seconds to the first token
    first_http: tuple[float, ...]
    workload: Pairs | None

    @property
    def first_added(self) -> float:
        """Return by how many seconds the median is later over HTTP."""
        return median(self.first_http) - median(self.first_engine)

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "plan": asdict(self.plan),
            "streams": self.streams.as_json(),
            "first_token": {
                "engine": self.first_engine,
                "http": self.first_http,
                "added_p50": self.first_added,
            },
            "workload": self.workload and self.workload.as_json(),
        }


def benchmark(
    llm: LLM,
    arguments: Sequence[str],
    plan: HttpPlan,
    progress: Progress = lambda done, total: None,
) -> HttpReport:
    """Measure the model in this process and served.

    Args:
        llm: the model; its engine runs alone while the server is idle, and the other way round.
        arguments: of `cullama serve`, for the same model and options.
        progress: called with (done, total) runs.

    Raises:
        CullamaError: the server does not start, or a stream ends early.
        ContextLengthError: the context is too short for what is measured.
    """
    with ServerProcess(arguments) as server, ClientProcess() as client:
        server.wait_until_ready()
        return _Runs(llm, server, client, plan, progress).report()


class _Runs:
    def __init__(
        self,
        llm: LLM,
        server: ServerProcess,
        client: ClientProcess,
        plan: HttpPlan,
        progress: Progress,
    ) -> None:
        self._llm, self._server, self._client, self._plan = llm, server, client, plan
        self._random = Random(plan.seed)
        self._progress, self._done = progress, 0

    def report(self) -> HttpReport:
        plan = self._plan
        # Both are warm before the first round: compiled kernels, caches, pages.
        self._pair(self._same_length(2 * FIRST_TOKENS), 0.0)
        streams = [
            self._pair(self._same_length(plan.tokens), 0.0, reverse=bool(number % 2))
            for number in range(plan.rounds)
        ]
        first = [self._first() for _ in range(plan.first)]
        workload = None
        if plan.workload is not None:
            drawn = plan.workload.draw(self._llm.config)
            engine, http = self._pair(drawn, WORKLOAD_TEMPERATURE)
            workload = Pairs((engine,), (http,))
        return HttpReport(
            self._llm.description,
            plan,
            Pairs(tuple(engine for engine, _ in streams), tuple(http for _, http in streams)),
            tuple(engine for engine, _ in first),
            tuple(http for _, http in first),
            workload,
        )

    def _same_length(self, tokens: int) -> list[WorkloadRequest]:
        prompts = [self._prompt(self._plan.prompt) for _ in range(self._plan.streams)]
        return [WorkloadRequest(prompt, tokens, 0.0) for prompt in prompts]

    def _prompt(self, tokens: int) -> list[int]:
        """Return random tokens, so that nothing of them is in the prefix cache."""
        return [self._random.randrange(self._llm.config.vocab_size) for _ in range(tokens)]

    def _pair(
        self, requests: Sequence[WorkloadRequest], temperature: float, reverse: bool = False
    ) -> tuple[Throughput, Throughput]:
        """Run the requests in this process and over HTTP; `reverse`: over HTTP first."""
        http = self._over_http(requests, temperature) if reverse else None
        engine = self._in_process(requests, temperature)
        http = http or self._over_http(requests, temperature)
        self._progress(self._done, self._plan.rounds + 1 + (self._plan.workload is not None))
        self._done += 1
        return engine, http

    def _in_process(self, requests: Sequence[WorkloadRequest], temperature: float) -> Throughput:
        params = [_params(request.answer, temperature) for request in requests]
        prompts = [request.prompt for request in requests]
        cpu, start = time.process_time(), time.perf_counter()
        completions = self._llm.generate(prompts, params, progress=False)
        seconds = time.perf_counter() - start
        tokens = sum(len(each.token_ids) for each in completions)
        return Throughput(tokens, seconds, {"engine": time.process_time() - cpu})

    def _over_http(self, requests: Sequence[WorkloadRequest], temperature: float) -> Throughput:
        bodies = [_body(each.prompt, each.answer, temperature) for each in requests]
        before = self._server.cpu_seconds()
        answer = self._client.ask(self._server.port, bodies)
        after = self._server.cpu_seconds()
        cpu = {name: after[name] - before[name] for name in before.keys() & after.keys()}
        p50, p99 = np.percentile(answer["gaps"], (50, 99))
        tokens, seconds = sum(answer["tokens"]), answer["seconds"]
        cpu = {**cpu, "client": answer["cpu"]}
        return Throughput(tokens, seconds, cpu, (float(p50), float(p99)))

    def _first(self) -> tuple[float, float]:
        """Return the seconds to the first token of one request, in this process and over HTTP."""
        prompt = self._prompt(self._plan.first_prompt)
        start = time.perf_counter()
        with self._llm.stream(prompt, greedy(FIRST_TOKENS)) as stream:
            next(stream)
            engine = time.perf_counter() - start
        answer = self._client.ask(self._server.port, [_body(prompt, FIRST_TOKENS, 0.0)])
        return engine, answer["first"][0]


def _params(tokens: int, temperature: float) -> SamplingParams:
    return replace(greedy(tokens), temperature=temperature)


def _body(prompt: list[int], tokens: int, temperature: float) -> dict[str, Any]:
    params = _params(tokens, temperature)
    return {
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "ignore_eos": params.ignore_eos,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
