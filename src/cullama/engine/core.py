"""The engine core: schedule, build the batch, run the model, process its outputs.

On an asynchronous backend scheduling overlaps execution: pass N + 1 is scheduled and its batch
built while pass N runs, and launched once N's tokens are read; the rest of N's outputs is processed
while N + 1 runs. Threads, the lock, and when `step` is called are engine.py's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..errors import ClosedError, NumericalError
from ..files.tensor import HostArray
from ..model.batch import Batch
from ..process.interrupts import INTERRUPTS
from ..sampling.draw import Drawn
from .metrics import Metrics
from .prompt_logprobs import PromptLogprobs
from .request import FinishReason, Request
from .runner import PassOutput, PendingPass, Runner, build_plan_batch, fill_newest_tokens
from .scheduler import Plan, Scheduler, is_far_ahead
from .trace import StepRecord, StepWatch


class EngineCore:
    """Runs the requests of one scheduler; `observers` are called after each step."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner[Any],
        metrics: Metrics,
        observers: list[Callable[[StepRecord], None]],
    ) -> None:
        self.scheduler, self.metrics, self.observers = scheduler, metrics, observers
        self._runner: Runner[Any] | None = runner  # None: closed
        self._block_size, self._is_asynchronous = runner.cache.block_size, runner.is_asynchronous
        self._causes_of_nan = runner.ops.causes_of_nan
        self._pending: PendingPass | None = None

    @property
    def runner(self) -> Runner[Any]:
        if self._runner is None:
            raise ClosedError("this LLM was closed; make a new one to go on")
        return self._runner

    @property
    def is_closed(self) -> bool:
        return self._runner is None

    @property
    def has_work(self) -> bool:
        return self._pending is not None or self.scheduler.has_work

    def step(self) -> None:
        """Run one pass over the requests that the scheduler selects, and measure it."""
        start, ops = time.perf_counter(), self.runner.ops
        watch = StepWatch(self.metrics, self.scheduler.cache.pool) if self.observers else None
        plan = self._pass()
        seconds = time.perf_counter() - start
        self.metrics.steps += 1
        self.metrics.busy_seconds += seconds
        self.metrics.compile_seconds = ops.compile_seconds
        if watch is not None:
            record = watch.record(plan, len(self.scheduler.waiting), start, seconds)
            for observer in self.observers:
                observer(record)

    def _pass(self) -> Plan:
        """Schedule, build the batch, run the model, process what it gave."""
        # Draft tokens follow from the tokens of the pass before. A synchronous backend has a pass
        # pending only where Ctrl-C came between its launch and its end.
        if self._pending is not None and (
            not self._is_asynchronous or self.scheduler.is_speculating
        ):
            self.finish_pending()
        plan = self.scheduler.schedule()
        batch = build_plan_batch(plan, self._block_size) if plan.parts else None
        # Until here, the pass before this one may have run.
        outputs = self._read_pending() if self._pending is not None else []
        failure = None
        try:
            if batch is not None:
                self._launch(plan, batch)
        except Exception as error:
            failure = error
        finally:
            for output in outputs:
                self._process(output)
        if failure is not None:  # what has finished by now takes no part in the retry
            for output in self._retry_one_by_one(plan, failure):
                self._process(output)
        if not self._is_asynchronous:
            self.finish_pending()
        return plan

    def finish_pending(self) -> None:
        """Wait for the pending pass, if there is one, and process its outputs."""
        for output in self._read_pending():
            self._process(output)

    def finish(
        self, request: Request, reason: FinishReason, error: Exception | None = None
    ) -> None:
        """Finish a request from outside; does nothing to one that has finished."""
        if request.is_finished:
            return
        request.finish(reason, error)
        self._release(request)
        if request.on_change is not None:
            request.on_change()

    def close(self) -> None:
        """Return the model's memory."""
        if self._runner is not None:
            self._runner.close()
        self._runner = None

    def drop_runner(self) -> Runner[Any] | None:
        """Close without returning the model's memory; returns what ran it, if it was open."""
        runner, self._runner = self._runner, None
        return runner

    # --- the parts of a pass -------------------------------------------------------------------

    def _launch(self, plan: Plan, batch: Batch[HostArray]) -> None:
        if self._is_asynchronous:
            fill_newest_tokens(batch, plan)
            self._pending = self.runner.launch(plan, batch)
        else:
            with INTERRUPTS.allowed:  # a pass may take seconds, and can be repeated
                pending = self.runner.launch(plan, batch)
            self._pending = pending
        self.scheduler.mark_launched(plan)

    def _read_pending(self) -> list[PassOutput]:
        """Wait for the pending pass and append its tokens, which the next pass needs."""
        pending, self._pending = self._pending, None
        if pending is None:
            return []
        try:
            drawn = pending.read()
        except BaseException as error:
            self.scheduler.roll_back(pending.plan)
            if not isinstance(error, Exception):  # Ctrl-C: the next step does it all again
                raise
            return self._retry_one_by_one(pending.plan, error)
        start = 0
        for output in pending.outputs:
            append_tokens(output, drawn[start : start + output.num_logits])
            start += output.num_logits
        return pending.outputs

    def _retry_one_by_one(self, plan: Plan, error: Exception) -> list[PassOutput]:
        """Run a failed pass again, one request at a time: only those that fail alone finish."""
        if len(plan.parts) == 1:
            [(request, *_)] = plan.parts
            self.finish(request, "error", error)
            return []
        outputs: list[PassOutput] = []
        for single in plan.one_by_one():
            [(request, *_)] = single.parts
            if not request.allocation.blocks:  # preempted while the pass ran; comes back by itself
                continue
            try:
                self._launch(single, build_plan_batch(single, self._block_size))
            except Exception as its_error:
                self.finish(request, "error", its_error)
            else:
                outputs += self._read_pending()
        return outputs

    def _process(self, output: PassOutput) -> None:
        """Do all that a request's new tokens bring about, except for the next pass."""
        request = output.request
        is_scored = request.max_tokens == 0 and request.finish_reason == "length"
        if not output.appended and output.error is None and not is_scored:
            return  # drew none, or had finished meanwhile
        self.metrics.drawn_tokens += output.appended
        accepted = max(0, output.appended - (output.error is None))
        if request.lookup is not None:
            request.lookup.learn(len(output.draft_tokens), accepted)
        if output.draft_tokens:
            self.metrics.draft_tokens += len(output.draft_tokens)
            self.metrics.accepted_tokens += accepted
        if output.error is not None:
            explained = NumericalError(f"{output.error}; {self._causes_of_nan}")
            self.finish(request, "error", explained)
            return
        self.scheduler.mark_shareable(
            request, output.computed - len(output.draft_tokens) + accepted
        )
        if request.finish_reason is not None:
            self._release(request)
        elif is_far_ahead(request):
            self.scheduler.pause(request)
            if not is_far_ahead(request):  # read in the meantime, see `Engine.read`
                self.scheduler.resume(request)
        if request.on_change is not None:
            request.on_change()

    def _release(self, request: Request) -> None:
        assert request.finish_reason is not None
        self.metrics.ended[request.finish_reason] += 1
        self.scheduler.remove(request)


def append_tokens(output: PassOutput, drawn: list[Drawn | NumericalError]) -> None:
    """Append what was drawn, up to the first token that differs from its draft token, or an error.

    The keys and values of the draft tokens before it are those of the request's tokens.
    """
    request = output.request
    request.in_flight = 0
    request.draft_tokens = []
    if request.finish_reason is not None:
        return
    if request.prompt_logprobs is not None:
        drawn = add_scores(output, request.prompt_logprobs, drawn)
        if output.error is not None:
            return
        if request.max_tokens == 0 and request.unscored is None:
            request.finish("length")
    for token, draft in zip(drawn, [*output.draft_tokens, None], strict=False):
        if isinstance(token, NumericalError):
            output.error = token
            break
        request.append(token)
        output.appended += 1
        if token.token != draft or request.finish_reason is not None:
            break
    request.computed += max(0, output.appended - (output.error is None))


def add_scores(
    output: PassOutput, scored: PromptLogprobs, drawn: list[Drawn | NumericalError]
) -> list[Drawn | NumericalError]:
    """Add the log-probabilities of the prompt's tokens, up to an error; returns what follows."""
    for index, token in enumerate(drawn[: output.num_scored]):
        if isinstance(token, NumericalError):
            output.error = token
            break
        assert token.logprobs is not None
        scored.add(output.first_scored + index, token.logprobs)
    return drawn[output.num_scored :]
