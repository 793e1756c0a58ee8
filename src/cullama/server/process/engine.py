"""The engine as the front process has it: the interface of engine/client.py, over a pipe.

It starts the engine process, and replaces it when it ends or hangs. Requests that were running then
are replayed where the same tokens will come again (greedy, or `deterministic`: a seed is always
drawn here), and end with an error elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...benchmark.roofline import PassCosts, Roofline
from ...engine.client import EngineClient, GenerationRequest
from ...engine.engine import MAX_RUNNING, TOKEN_BUDGET
from ...engine.metrics import Metrics
from ...engine.request import FinishReason
from ...engine.trace import StepRecord
from ...engine.validation import Capacity, check_length, check_prompt
from ...errors import ClosedError, CullamaError, EngineUnavailableError, QueueFullError
from ...inspect.token_layers import TokenLayers
from ...sampling.philox import fresh_seed
from .child import Child
from .handle import Limits, RemoteHandle, Waiting, wake
from .latency import Latency
from .messages import (
    Answered,
    Cancel,
    ComputeLogits,
    Failed,
    FromEngine,
    Hold,
    Load,
    Loading,
    LookAtLayers,
    Pace,
    Ready,
    Refused,
    Step,
    StopLooking,
    Submit,
)
from .pace import PaceMeter

KEPT_PASSES = 60
MAX_FAILURES = 3  # processes in a row that fail before a token came or STABLE_SECONDS passed
STABLE_SECONDS = 30.0
MIN_STEP_TIMEOUT = 120.0  # seconds
SLOWEST = 10  # times the predicted seconds of a pass; one that takes longer hangs

State: TypeAlias = Literal["loading", "ready", "restarting", "failed", "closed"]

log = logging.getLogger("cullama.server")


@dataclass(frozen=True)
class Status:
    state: State
    reason: str = ""  # why requests are not taken, in words
    loaded: tuple[int, int] | None = None  # weights read, and of how many


@dataclass
class _Running:
    """A request that has not finished."""

    request: GenerationRequest
    handles: list[RemoteHandle]
    was_replayed: bool = False


class RemoteEngine(EngineClient):
    """An engine whose model runs in a process of its own.

    Args:
        load: the model and its options.
        max_waiting: how many requests may wait beyond those that run together; more are refused.
        step_timeout: seconds; a process that has requests and sends nothing for so long is ended.
            None takes MIN_STEP_TIMEOUT, or SLOWEST times what its longest pass should take by what
            was measured of the machine, whichever is more.

    Attributes:
        status: whether requests are taken, and if not, why.
        description: model and device, once it was loaded.
        metrics, last_record: of the process that runs now, as of its last pass.
        block_size, costs: of the KV cache, and what passes cost; known once it was loaded.
        latency: what requests waited for, since the server started.
        passes: the newest ones; `num_passes` counts all.
        observers: called with a `StepRecord` after each pass, in the thread that reads the pipe.
        restarts: processes started beyond the first.
    """

    def __init__(
        self, load: Load, max_waiting: int = 256, step_timeout: float | None = None
    ) -> None:
        self.status = Status("loading", "the model is being loaded")
        self.error: Exception | None = None  # why `status` is "failed"
        self.description = ""
        self.metrics = Metrics()
        self.last_record: StepRecord | None = None
        self.passes: deque[StepRecord] = deque(maxlen=KEPT_PASSES)
        self.num_passes = 0
        self.latency, self.roofline = Latency(), Roofline()
        self.block_size = 1
        self.costs: PassCosts | None = None
        self.observers: list[Callable[[StepRecord], None]] = [self.roofline.add]
        self.on_failure: Callable[[], None] = lambda: None  # called when it has failed for good
        self.restarts = 0
        self._load, self._max_waiting, self._step_timeout = load, max_waiting, step_timeout
        self._is_deterministic = bool(load.options.get("deterministic"))
        self._capacity: Capacity | None = None
        self._ids = count()
        self._running: dict[int, _Running] = {}
        self._answers: dict[int, Future[Any]] = {}  # to what is no request for tokens
        self._looking: Future[TokenLayers] | None = None
        self._changed = threading.Condition()  # guards requests, handles and status
        self._pace = PaceMeter()
        self._has_answered = False  # the process that runs now
        self._child = Child(load)
        self._thread = threading.Thread(target=self._supervise, name="engine-pipe", daemon=True)
        self._thread.start()

    # --- the interface of engine/client.py -----------------------------------------------------

    @property
    def capacity(self) -> Capacity:  # type: ignore[override]
        """What requests are checked against. Raises EngineUnavailableError before it is known."""
        if self._capacity is None:
            raise self._unavailable()
        return self._capacity

    def submit(self, request: GenerationRequest) -> Sequence[RemoteHandle]:
        """Send a request to the engine process.

        Raises:
            EngineUnavailableError: the model is loading, or its process is being replaced.
        """
        request.check(self.capacity)
        params = request.params
        if params.seed is None:
            params = replace(params, seed=fresh_seed())
        request = replace(
            request,
            prompt=[int(token) for token in request.prompt],
            answer=[int(token) for token in request.answer],
            params=params,
        )
        with self._changed:
            self.check_room()
            id = next(self._ids)
            running = _Running(request, [self._handle(id, k, request) for k in range(params.n)])
            self._running[id] = running
            self._child.send(Submit(id, request))
        return running.handles

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        check_prompt(tokens, self.capacity)
        check_length(len(tokens), self.capacity)
        with self._changed:
            id, result = self._awaited()
            self._child.send(ComputeLogits(id, [int(token) for token in tokens]))
        values: NDArray[np.float32] = result.result()
        return values

    async def token_layers(self, tokens: list[int], token: int, count: int) -> TokenLayers:
        """Return what each layer would have said in place of a token behind `tokens`.

        The engine process runs a pass for it after each pass for requests; cancelled, no more.

        Raises:
            UsageError, ContextLengthError: as of `inspect.token_layers`.
            QueueFullError: another one is being looked at.
            EngineUnavailableError: the model is loading, or its process was lost.
        """
        with self._changed:
            if self._looking is not None and not self._looking.done():
                raise QueueFullError("another token's layers are being computed; try again later")
            id, self._looking = self._awaited()
            self._child.send(LookAtLayers(id, tokens, token, count))
        try:
            return await asyncio.wrap_future(self._looking)
        except asyncio.CancelledError:  # the future, too: the next one may ask
            with self._changed:
                self._answers.pop(id, None)
                self._child.send(StopLooking(id))
            raise

    def _awaited(self) -> tuple[int, Future[Any]]:
        """Return an id for a message, and what becomes its answer. Holding `changed`."""
        self._check_ready()
        id, result = next(self._ids), Future[Any]()
        self._answers[id] = result
        return id, result

    def check_room(self) -> None:
        """Raises EngineUnavailableError or QueueFullError: `submit` would refuse any request."""
        with self._changed:
            self._check_ready()
            waiting = sum(len(each.handles) for each in self._running.values()) - MAX_RUNNING
            if waiting >= self._max_waiting:
                raise QueueFullError(f"{waiting} requests are waiting already; try again later")

    def close(self) -> None:
        """End the engine process; running requests end with `ClosedError`."""
        with self._changed:
            self.status = Status("closed", "the server was closed")
            self._fail(list(self._running.values()), self._unavailable())
            self._fail_answers(self._unavailable())
            self._child.kill()
        self._thread.join()

    # --- waiting for it ------------------------------------------------------------------------

    def wait_until_ready(self, seconds: float | None = None) -> None:
        """Wait until the model is loaded.

        Raises:
            CullamaError: why it cannot be loaded, or that it takes longer than `seconds`.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self.status.state in ("ready", "failed", "closed"), seconds
            )
            if self.error is not None:
                raise self.error
            self._check_ready()

    @property
    def num_running(self) -> int:
        """Requests that have not finished, each of the n samples counted."""
        with self._changed:
            return sum(len(each.handles) for each in self._running.values())

    def progress(self) -> list[dict[str, Any]]:
        """Return, of each sample that has not finished, its stage and its numbers of tokens."""
        with self._changed:
            return [
                handle.as_json(sample, running.request, self.block_size)
                for id, running in self._running.items()
                for sample, handle in enumerate(running.handles)
                if handle.finish_reason is None
            ]

    @property
    def _is_held(self) -> bool:
        """Whether the engine process has nothing to send, since no client reads."""
        handles = [handle for each in self._running.values() for handle in each.handles]
        return not self._answers and all(each.is_held or each.finish_reason for each in handles)

    @property
    def step_timeout(self) -> float:
        """Seconds without news after which an engine process that has requests is ended."""
        if self._step_timeout is not None:
            return self._step_timeout
        if self.costs is None or self._capacity is None:
            return MIN_STEP_TIMEOUT
        longest = self.costs.longest_pass(TOKEN_BUDGET, self._capacity.max_length)
        return max(MIN_STEP_TIMEOUT, round(SLOWEST * longest))

    @property
    def pid(self) -> int:
        """Of the engine process that runs now."""
        return self._child.pid

    # --- the thread that reads the pipe --------------------------------------------------------

    def _supervise(self) -> None:
        """Serve one engine process after the other, until closed or until starting one is vain."""
        failures = 0
        while True:
            started, self._has_answered = time.monotonic(), False
            try:
                reason = self._serve()
            except Exception as error:  # a mistake of ours; without this thread, all would wait
                log.exception("the engine process could not be served")
                reason = f"the engine process could not be served: {type(error).__name__}"
            how = self._child.end(patience=0.5)
            is_sound = self._has_answered or time.monotonic() - started > STABLE_SECONDS
            failures = 1 if is_sound else failures + 1
            with self._changed:
                if self.status.state == "closed":
                    return
                self._lose(reason or f"the engine process ended unexpectedly: {how}")
                if failures >= MAX_FAILURES and self.error is None:
                    self.error = EngineUnavailableError(self.status.reason)
                if self.error is None:
                    self._restart()
                if self.error is not None:
                    self.status = Status("failed", self.status.reason)
                    self._fail(list(self._running.values()), self._unavailable())
                    break
        self.on_failure()

    def _restart(self) -> None:
        log.warning("%s; it is being restarted", self.status.reason)
        try:
            # What the machine can do is known by now.
            self._child = Child(replace(self._load, measures=False))
        except OSError as error:  # no memory, or no file descriptors
            reason = f"{self.status.reason}, and no other can be started: {error.strerror}"
            self.status, self.error = Status("restarting", reason), EngineUnavailableError(reason)
        else:
            self.restarts += 1

    def _serve(self) -> str:
        """Take messages until the process ends or hangs; returns why, or "" where it just ended."""
        heard = time.monotonic()
        while True:
            try:
                message = self._child.receive(0.25)
            except EOFError:
                return ""
            now = time.monotonic()
            if isinstance(message, Failed):
                if self.status.state == "loading":  # another attempt would end the same way
                    self.error = message.error
                else:
                    log.error("the engine process failed: %s", message.error)
                # Clients are told no more: its message may name files.
                return f"the engine process failed with {type(message.error).__name__}"
            if message is not None:
                self._take(message)
            is_busy = self.status.state == "ready" and (self._running or self._answers)
            if message is not None or not is_busy:
                heard = now
            elif now - heard > self.step_timeout and not self._is_held:
                return f"the engine process gave nothing for {self.step_timeout:g} s"

    def _take(self, message: FromEngine) -> None:
        with self._changed:
            if self.status.state == "closed":
                return
            waiting: list[Waiting] = []
            if isinstance(message, Step):
                waiting = self._take_outputs(message)
            else:
                self._take_other(message)
            self._changed.notify_all()
        wake(waiting)
        if isinstance(message, Step):
            for record in message.records:
                for observer in self.observers:
                    observer(record)
            interval = self._pace.changed(time.monotonic(), time.process_time())
            if interval is not None:
                self._child.send(Pace(interval))

    def _take_outputs(self, step: Step) -> list[Waiting]:
        """Add the outputs to their handles; returns who is to be woken."""
        self.metrics = step.metrics
        self._has_answered = self._has_answered or bool(step.outputs)
        now = began = time.monotonic()
        if step.records:
            self.last_record = step.records[-1]
            began -= self.last_record.seconds
            self.passes += step.records
            self.num_passes += len(step.records)
        waiting: list[Waiting] = []
        for id, sample, computed, cached in step.prefills:
            if (running := self._running.get(id)) is not None:
                handle = running.handles[sample]
                self.latency.admitted(handle.times, began)
                handle.progress(computed, cached)
                waiting += handle.waiting
        for id, sample, output in step.outputs:
            running = self._running.get(id)
            if running is not None:  # else cancelled meanwhile
                handle = running.handles[sample]
                before = handle.num_tokens
                handle.add(*output)
                self.latency.admitted(handle.times, began)
                if handle.num_tokens > before:
                    self.latency.tokens(handle.times, handle.num_tokens - before, now)
                if handle.finish_reason is not None:
                    self.latency.ended(handle.times, now)
                    self._forget_finished(id)
                waiting += handle.waiting
        return waiting

    def _take_other(self, message: FromEngine) -> None:
        if isinstance(message, Loading):
            share = 100 * message.done // message.total
            reason = f"the model is being loaded: {share} %"
            loaded = message.done, message.total
            self.status = replace(self.status, reason=reason, loaded=loaded)
        elif isinstance(message, Ready):
            self._capacity, self.description = message.capacity, message.description
            self.block_size, costs = message.block_size, message.costs
            if (known := self.costs) is not None:  # the first process has measured them
                costs = replace(costs, read_rate=known.read_rate, product_rate=known.product_rate)
            self.costs = costs
            self._pace = PaceMeter()  # as the new process
            self.status = Status("ready")
            log.info("%s", message.description)
            for id, running in self._running.items():
                self._child.send(Submit(id, running.request))
                for sample, handle in enumerate(running.handles):
                    if (ended := handle.finish_reason) is not None:  # before the process did
                        self._child.send(Cancel(id, sample, ended))
        elif isinstance(message, Refused):
            if refused := self._running.get(message.id):
                self._fail([refused], message.error)
        elif isinstance(message, Answered) and (result := self._answers.pop(message.id, None)):
            if not result.set_running_or_notify_cancel():  # its client has left
                return
            if message.error is not None:
                result.set_exception(message.error)
            else:
                result.set_result(message.value)

    # --- holding `changed` ---------------------------------------------------------------------

    def _lose(self, reason: str) -> None:
        """Note that the process is gone: keep the requests that can be replayed, end the others."""
        self.status = Status("restarting", reason)
        error = EngineUnavailableError(reason)
        lost = []
        for running in self._running.values():
            is_repeatable = running.request.params.temperature == 0 or self._is_deterministic
            # Once: the request may be what ends the process.
            if running.was_replayed or not is_repeatable:
                lost.append(running)
        self._fail(lost, error)
        self._fail_answers(error)
        for running in self._running.values():
            running.was_replayed = True
            for handle in running.handles:
                handle.begin_replay()

    def _fail(self, requests: list[_Running], error: Exception) -> None:
        handles = [handle for each in requests for handle in each.handles]
        for handle in handles:
            handle.fail(error)
        for id in list(self._running):
            self._forget_finished(id)
        self._changed.notify_all()
        wake([each for handle in handles for each in handle.waiting])

    def _fail_answers(self, error: Exception) -> None:
        for result in self._answers.values():
            if result.set_running_or_notify_cancel():
                result.set_exception(error)
        self._answers.clear()

    def _forget_finished(self, id: int) -> None:
        running = self._running.get(id)
        if running is not None and all(each.finish_reason for each in running.handles):
            del self._running[id]

    def _cancel(self, id: int, sample: int, reason: FinishReason) -> None:
        with self._changed:
            self._child.send(Cancel(id, sample, reason))
            self._forget_finished(id)

    def _handle(self, id: int, sample: int, request: GenerationRequest) -> RemoteHandle:
        params, eos_ids = request.params, () if request.params.ignore_eos else self.capacity.eos_ids
        assert params.seed is not None
        end_ids = frozenset(eos_ids) | set(params.stop_token_ids)
        return RemoteHandle(
            id,
            params.seed,
            end_ids,
            self._changed,
            partial(self._cancel, id, sample),
            lambda is_held: self._child.send(Hold(id, sample, is_held)),
            Limits.of(params),
        )

    def _check_ready(self) -> None:
        if self.status.state != "ready":
            raise self._unavailable()

    def _unavailable(self) -> CullamaError:
        if self.status.state == "closed":
            return ClosedError("the server was closed")
        return EngineUnavailableError(f"no requests are taken now: {self.status.reason}")
