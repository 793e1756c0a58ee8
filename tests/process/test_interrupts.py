"""Ctrl-C at every line of a pass: what is generated afterwards is what would have been generated.

A trace function sends this process a real SIGINT before a line of the engine runs, or one of the
standard library's locks. With line after line interrupted, in one thread, beside another one and
before a fork, the tokens stay the same and no lock stays taken.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import cullama
from cullama import LLM, SamplingParams
from cullama.engine.client import GenerationRequest
from cullama.engine.engine import Engine
from cullama.engine.request import Request
from cullama.process.interrupts import INTERRUPTS

SOURCE = str(Path(cullama.__file__).parent)
PARAMS = SamplingParams(max_tokens=9, seed=3, ignore_eos=True, speculation=3)
PROMPTS = [[5, 6, 7, 8] * 4, [9] * 3, [5, 6, 7, 8] * 3 + [4], list(range(3, 50))]

in_the_main_thread = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="only it gets signals"
)
pytestmark = in_the_main_thread


@pytest.fixture(params=["cpu", "cpu:numpy"])
def llm(tiny_model: Path, request: pytest.FixtureRequest) -> Iterator[LLM]:
    if request.param == "cpu":
        pytest.importorskip("llvmlite")
    with LLM(tiny_model, backend=request.param, cache_tokens=256, threads=1) as llm:
        yield llm


class Interruptions:
    """Sends SIGINT before a line that `is_next` says, or before each, counting from the last."""

    def __init__(self, is_next: Callable[[int], bool], is_repeated: bool = False) -> None:
        self._is_next, self._is_repeated = is_next, is_repeated
        self.lines = self.sent = 0

    @contextmanager
    def sent_within(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(SOURCE) and not file.endswith("threading.py"):
            return None
        if event == "line":
            self.lines += 1
            if self._is_next(self.lines):
                self.sent += 1
                self.lines = 0 if self._is_repeated else 1 << 60
                signal.raise_signal(signal.SIGINT)
        return self._trace


def submit(engine: Engine) -> list[Request]:
    handles = [
        handle
        for prompt in PROMPTS
        for handle in engine.submit(GenerationRequest(prompt, replace(PARAMS, n=2)))
    ]
    return [handle.request for handle in handles]


def run(engine: Engine, requests: list[Request], interruptions: Interruptions) -> list[list[int]]:
    steps = 0
    while not all(request.is_finished for request in requests):
        steps += 1
        assert steps < 20_000, "it does not get on"
        with suppress(KeyboardInterrupt), interruptions.sent_within():
            engine.step()
    return [request.answer for request in requests]


def check_idle(engine: Engine) -> None:
    pool = engine.prefix_cache.pool
    assert pool.referenced == 0
    assert pool.free + pool.cached == pool.count
    assert not engine.scheduler.has_work
    assert engine._lock._owner is None
    assert engine._lock.num_posted == 0
    assert INTERRUPTS.owner is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


NEVER = Interruptions(lambda lines: False)


@pytest.mark.parametrize("seed", range(6))
def test_interrupted_passes_give_the_same_tokens(llm: LLM, seed: int) -> None:
    """Ctrl-C between the launch of a pass and its mark gave wrong tokens."""
    engine = llm.engine
    expected = run(engine, submit(engine), NEVER)
    draw = random.Random(seed)
    gap = [100]

    def is_next(lines: int) -> bool:
        if lines < gap[0]:
            return False
        gap[0] = int(10 ** draw.uniform(1, 4.5))  # some passes are long enough to end
        return True

    interruptions = Interruptions(is_next, is_repeated=True)
    for _ in range(4):
        with engine.exclusive() as access:
            access.clear_prefix_cache()
        assert run(engine, submit(engine), interruptions) == expected
        check_idle(engine)
    assert interruptions.sent > 10
    assert run(engine, submit(engine), NEVER) == expected


# Python ignores an interrupt where it comes while a generator is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_call_interrupted_at_any_line_leaves_a_model_that_works(llm: LLM) -> None:
    params = SamplingParams(max_tokens=3, seed=1, ignore_eos=True)
    counted = Interruptions(lambda lines: False)
    with counted.sent_within():
        expected = [one.token_ids for one in llm.generate(PROMPTS, params)]
    lines = counted.lines
    logits = llm.logits(PROMPTS[0])
    for line in range(1, lines, max(1, lines // 150)):
        interruptions = Interruptions(lambda lines, line=line: lines == line)  # type: ignore[misc]
        with suppress(KeyboardInterrupt), interruptions.sent_within():
            llm.generate(PROMPTS, params)
        if not interruptions.sent:  # with its prompts cached, a call has fewer lines
            break
        while llm.engine.has_work:  # a request that Ctrl-C left without a reader
            llm.engine.step()
        check_idle(llm.engine)
    assert line > 2000
    assert [one.token_ids for one in llm.generate(PROMPTS, params)] == expected
    for line in range(1, 400, 7):
        interruptions = Interruptions(lambda lines, line=line: lines == line)  # type: ignore[misc]
        with suppress(KeyboardInterrupt), interruptions.sent_within():
            llm.logits(PROMPTS[0])
        check_idle(llm.engine)
    assert (llm.logits(PROMPTS[0]) == logits).all()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_another_thread_s_requests_go_on_where_one_is_interrupted(llm: LLM) -> None:
    engine, params = llm.engine, SamplingParams(max_tokens=40, seed=1, ignore_eos=True)
    expected = llm.generate(PROMPTS[3], params).token_ids
    results: list[object] = []
    stop = threading.Event()

    def generate() -> None:
        while not stop.is_set():
            results.append(llm.generate(PROMPTS[3], params).token_ids)

    draw = random.Random(1)
    interruptions = Interruptions(lambda lines: draw.random() < 1 / 300, is_repeated=True)
    thread = threading.Thread(target=generate, daemon=True)
    thread.start()
    for _ in range(60):
        with suppress(KeyboardInterrupt), interruptions.sent_within():
            llm.generate(PROMPTS[:2], replace(PARAMS, speculation=0))
    stop.set()
    thread.join(60)
    assert not thread.is_alive(), "it waits for a lock that an interrupted thread has left"
    while engine.has_work:
        engine.step()
    check_idle(engine)
    assert interruptions.sent > 10
    assert results
    assert all(result == expected for result in results)


PROGRAM = """
import os, signal, sys, threading, time
import cullama

signal.alarm(60)
params = cullama.SamplingParams(max_tokens=30, seed=1, ignore_eos=True)
llm = cullama.LLM(sys.argv[1], backend="cpu", cache_tokens=1024)
wanted = llm.generate("Once", params).text

def interrupted():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    except KeyboardInterrupt:
        return True
    return False

def child():
    signal.alarm(20)
    assert llm.generate("Once", params).text == wanted
    assert interrupted(), "Ctrl-C is lost in the child"
    os._exit(7)

codes = []
def fork_often():
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            try:
                child()
            finally:
                os._exit(1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

forker = threading.Thread(target=fork_often)
forker.start()
while forker.is_alive():  # the main thread is in the middle of passes at each fork
    try:
        assert llm.generate("Once", params).text == wanted
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        pass
assert codes == [7] * 10, codes
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_forked_in_the_middle_of_a_pass_is_interrupted_as_any(tiny_model: Path) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM, str(tiny_model)]
    environment = {**os.environ, "PYTHONPATH": str(Path(SOURCE).parent)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- the means


def test_a_deferred_interrupt_comes_at_the_end() -> None:
    done = []

    def work() -> None:
        with INTERRUPTS.deferred:
            signal.raise_signal(signal.SIGINT)
            with INTERRUPTS.deferred:
                done.append(1)
            done.append(2)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1, 2]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_allowed_interrupt_comes_at_once_and_the_next_one_at_the_end() -> None:
    cleaned = []

    def work() -> None:
        with INTERRUPTS.deferred:
            try:
                with INTERRUPTS.allowed:
                    signal.raise_signal(signal.SIGINT)
                    raise AssertionError("not interrupted")
            except KeyboardInterrupt:
                signal.raise_signal(signal.SIGINT)
                cleaned.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert cleaned == [True]


def test_a_pending_interrupt_comes_where_it_is_allowed() -> None:
    with INTERRUPTS.deferred:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), INTERRUPTS.allowed:
            raise AssertionError("not interrupted")


def test_a_program_s_own_handler_is_called_later(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:
        with INTERRUPTS.deferred:
            signal.raise_signal(signal.SIGINT)
            assert calls == []
            with INTERRUPTS.allowed:
                assert len(calls) == 1
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
                assert len(calls) == 3
        signal.raise_signal(signal.SIGINT)
        assert len(calls) == 4
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_signal_that_python_does_not_handle_is_left_alone(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        with INTERRUPTS.deferred, INTERRUPTS.allowed:
            assert signal.getsignal(signal.SIGINT) is handler
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_defer_nothing_and_take_nothing() -> None:
    seen: list[object] = []

    def work() -> None:
        with INTERRUPTS.deferred, INTERRUPTS.allowed:
            seen.append(INTERRUPTS.owner)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.999])
def test_an_interrupted_compilation_leaves_a_compiler_that_works(share: float) -> None:
    """A kernel that was linked, and not noted, could never be linked again in that process."""
    pytest.importorskip("llvmlite")
    from cullama.cpu.compiled.rows import COPY_ROWS
    from cullama.cpu.jit.compiler import JIT
    from cullama.cpu.jit.instruction_sets import choose_instruction_set

    counted = Interruptions(lambda lines: False)
    with counted.sent_within():
        JIT(choose_instruction_set(""), None).compile(COPY_ROWS)
    at = int(share * counted.lines) + 1
    for line in range(at, at + 3):
        interruptions = Interruptions(lambda lines, line=line: lines == line)  # type: ignore[misc]
        jit = JIT(choose_instruction_set(""), None)
        with suppress(KeyboardInterrupt), interruptions.sent_within():
            jit.compile(COPY_ROWS)
        assert jit.compile(COPY_ROWS).address
        assert INTERRUPTS.owner is None
