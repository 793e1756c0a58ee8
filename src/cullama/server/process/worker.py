"""Runs the engine in a process of its own, for the front process that started it.

One thread runs the model and touches the device; another reads the pipe. The process ends when
the pipe closes, whatever the model is doing then: so it never outlives the front process.
"""

from __future__ import annotations

import gc
import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ...benchmark.roofline import measure_limits, pass_costs
from ...engine.engine import Engine, EngineHandle
from ...engine.grammars import Grammars
from ...errors import CullamaError, DeviceLostError
from ...inspect.token_layers import TokenLayers, token_layers
from ...sampling.constraint import Constraint
from .delivery import Delivery, sendable
from .messages import (
    Answered,
    Cancel,
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
    ToEngine,
)

if TYPE_CHECKING:
    FrontPipe: TypeAlias = Connection[FromEngine, ToEngine | Load]
    Inbox: TypeAlias = "queue.SimpleQueue[ToEngine | _Compiled]"

PROGRESS_STEPS = 100  # messages while weights are read, at most


def main(descriptor: int) -> None:
    """Load the model that the first message names, then serve requests until the pipe closes."""
    # Ctrl-C, and service managers, signal every process: the front decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe: FrontPipe = Connection(descriptor)
    load = pipe.recv()
    assert isinstance(load, Load)
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, inbox), daemon=True).start()
    try:
        _Worker(pipe, inbox, load).run()
    except Exception as error:
        with suppress(OSError):  # the front has gone
            pipe.send(Failed(sendable(error)))


def _receive(pipe: FrontPipe, inbox: Inbox) -> None:
    try:
        while True:
            message = pipe.recv()
            assert not isinstance(message, Load)
            inbox.put(message)
    except (EOFError, OSError):
        os._exit(0)  # in the middle of a pass, too


class _Compiled(NamedTuple):
    """The form that a request asks for is compiled, or cannot be."""

    submit: Submit
    error: Exception | None


def _compile(grammars: Grammars, constraint: Constraint, submit: Submit, inbox: Inbox) -> None:
    """Compile a form beside the passes of the model, in a thread of its own."""
    error: Exception | None = None
    try:
        grammars.check(constraint)
    except Exception as caught:
        error = sendable(caught)
    inbox.put(_Compiled(submit, error))


class _Worker:
    """Takes messages between passes, runs passes while there is work, and sends what they give."""

    def __init__(self, pipe: FrontPipe, inbox: Inbox, load: Load) -> None:
        self._pipe, self._inbox = pipe, inbox
        self._engine, description = _load(load, pipe)
        self._handles: dict[tuple[int, int], EngineHandle] = {}
        # Requests whose form is being compiled, and what of them was cancelled meanwhile.
        self._compiling: dict[int, list[Cancel]] = {}
        # The token whose layers are asked for: a pass for them runs after each of the others.
        self._looking: tuple[int, Iterator[TokenLayers | None]] | None = None
        self._delivery = Delivery(self._handles)
        self._engine.observers.append(self._delivery.add)
        with self._engine.exclusive() as access:
            # An emulated GPU has no limits of its own, and would take minutes to tell that.
            is_measured = load.measures and load.options.get("backend") != "emulated"
            limits = measure_limits(access) if is_measured else None
            costs, block_size = pass_costs(access, limits), access.block_size
        pipe.send(Ready(self._engine.capacity, description, block_size, costs))

    def run(self) -> None:
        while True:
            for message in self._messages():
                self._handle(message)
            if self._engine.has_work:
                self._engine.step()
            step = self._delivery.collect(self._engine.metrics, not self._engine.has_work)
            if step is not None:
                self._send(step)
            self._look()

    def _messages(self) -> Iterator[ToEngine | _Compiled]:
        """Return what has come; waits for a message where there is no work."""
        if not self._engine.has_work and self._looking is None:
            yield self._inbox.get()
        while True:
            try:
                yield self._inbox.get_nowait()
            except queue.Empty:
                return

    def _handle(self, message: ToEngine | _Compiled) -> None:
        if isinstance(message, Submit):
            constraint, grammars = message.request.params.constraint, self._engine.grammars
            if constraint is None or grammars is None or grammars.has(constraint):
                self._submit(message)
                return
            self._compiling[message.id] = []
            threading.Thread(
                target=_compile, args=(grammars, constraint, message, self._inbox), daemon=True
            ).start()
        elif isinstance(message, _Compiled):
            cancelled = self._compiling.pop(message.submit.id)
            if message.error is not None:
                self._pipe.send(Refused(message.submit.id, message.error))
                return
            self._submit(message.submit)
            for each in cancelled:
                self._handle(each)
        elif isinstance(message, Cancel):
            if message.id in self._compiling:
                self._compiling[message.id].append(message)
            elif handle := self._handles.pop((message.id, message.sample), None):
                handle.cancel(message.reason)
        elif isinstance(message, Hold):
            if held := self._handles.get((message.id, message.sample)):
                held.request.is_held = message.is_held
        elif isinstance(message, Pace):
            self._delivery.interval = message.interval
        elif isinstance(message, LookAtLayers):
            steps = token_layers(self._engine, message.tokens, message.token, message.count)
            self._looking = message.id, steps
        elif isinstance(message, StopLooking):
            if self._looking is not None and self._looking[0] == message.id:
                self._looking = None
        else:
            try:
                logits = Answered(message.id, self._engine.logits(message.tokens), None)
            except CullamaError as error:
                logits = Answered(message.id, None, sendable(error))
            self._pipe.send(logits)

    def _look(self) -> None:
        """Run one more pass for the layers of a token, and send them when they are there."""
        if self._looking is None:
            return
        id, steps = self._looking
        try:
            layers, error = next(steps), None
        except CullamaError as raised:
            if isinstance(raised, DeviceLostError):
                raise
            layers, error = None, sendable(raised)
        if layers is None and error is None:  # another sign that this process does not hang
            self._pipe.send(Step([], self._engine.metrics, [], []))
            return
        self._looking = None
        self._pipe.send(Answered(id, layers, error))

    def _submit(self, message: Submit) -> None:
        try:
            handles = self._engine.submit(message.request)
        except CullamaError as error:
            self._pipe.send(Refused(message.id, sendable(error)))
            return
        self._handles.update({(message.id, k): handle for k, handle in enumerate(handles)})

    def _send(self, step: Step) -> None:
        for id, sample, (*_, finish_reason, _error, _scores) in step.outputs:
            if finish_reason is not None:
                del self._handles[id, sample]
        self._pipe.send(step)


def _load(load: Load, pipe: FrontPipe) -> tuple[Engine, str]:
    from ...llm import LLM

    sent = 0

    def progress(done: int, total: int) -> None:
        nonlocal sent
        if total and (step := done * PROGRESS_STEPS // total) > sent:
            sent = step
            pipe.send(Loading(done, total))

    llm = LLM(load.model, progress=progress, **load.options)
    # Kernels are compiled when they are first used: here, rather than in someone's first request.
    llm.logits([0, 0])
    llm.logits([0])
    llm.grammars.warm_up()
    gc.freeze()  # a full collection over all that was imported takes 60 ms, between two tokens
    return llm.engine, llm.description
