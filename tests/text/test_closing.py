"""A Stop button: streams and replies are closed from any thread, at any moment, and again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cullama import LLM, SamplingParams
from cullama.engine.trace import StepRecord
from cullama.text.closable import Closable

PARAMS = SamplingParams(max_tokens=400, seed=1, ignore_eos=True, logprobs=0)


@pytest.fixture(scope="module")
def llm(chat_model: Path) -> Iterator[LLM]:
    with LLM(chat_model, cache_tokens=4096) as llm:
        yield llm


def read_until_closed(
    pieces: Iterable[str], close: Callable[[], None], after: int
) -> tuple[list[str], threading.Thread]:
    """Read in another thread, and close from this one once so many pieces were read."""
    read: list[str] = []
    begun, raised = threading.Event(), []

    def run() -> None:
        try:
            for piece in pieces:
                read.append(piece)
                if len(read) >= after:
                    begun.set()
        except BaseException as error:
            raised.append(error)
        begun.set()

    reader = threading.Thread(target=run)
    reader.start()
    begun.wait()
    close()
    assert not raised
    return read, reader


@pytest.mark.parametrize("after", [0, 1, 5, 40])
def test_a_stream_is_closed_while_another_thread_reads_it(llm: LLM, after: int) -> None:
    """It raised "generator already executing", and generation went on to its end."""
    for _ in range(5):
        stream = llm.stream("Once", PARAMS)
        read, reader = read_until_closed(stream, stream.close, after)
        completion = stream.completion
        reader.join()
        assert stream.completion == completion
        assert completion.finish_reason == "cancelled"
        assert len(completion.token_ids) < 400
        assert completion.logprobs is not None
        assert [one.token_id for one in completion.logprobs] == list(completion.token_ids)
        assert completion.text == "".join(read)
        assert list(stream) == []
    assert llm.generate("Once", PARAMS).text.startswith(completion.text)


@pytest.mark.parametrize("after", [1, 5, 40])
def test_a_reply_is_closed_while_another_thread_reads_it(llm: LLM, after: int) -> None:
    session = llm.session(params=PARAMS)
    for turn in range(1, 4):
        reply = session.stream("Go on")
        read, reader = read_until_closed(reply, reply.close, after)
        assert session.turns == turn
        assert not reply.is_open
        recorded = session.messages[-1]
        assert recorded == {"role": "assistant", "content": reply.completion.text}
        reader.join()
        assert recorded["content"] == "".join(read)
        reply.close()
        assert session.turns == turn
    assert session.send("More", SamplingParams(max_tokens=3)).token_ids


def test_a_reply_closed_by_two_threads_is_one_turn(llm: LLM) -> None:
    for _ in range(20):
        session = llm.session(params=PARAMS)
        reply = session.stream("Go on")
        next(reply)
        closers = [threading.Thread(target=reply.close) for _ in range(4)]
        for closer in closers:
            closer.start()
        reply.close()
        assert session.turns == 1
        for closer in closers:
            closer.join()
        assert len(session.messages) == 2


def test_a_stream_is_closed_by_the_thread_that_waits_for_it(llm: LLM) -> None:
    """From a callback in the middle of a step."""
    stream = llm.stream("Once", PARAMS)
    steps: list[int] = []

    def close(record: StepRecord) -> None:
        steps.append(record.drawn)
        if len(steps) == 5:
            stream.close()

    llm.engine.observers.append(close)
    try:
        read = list(stream)
    finally:
        llm.engine.observers.clear()
    assert len(steps) == 5
    assert stream.completion.text == "".join(read)
    assert stream.completion.finish_reason == "cancelled"


def test_closing_a_stream_that_has_ended_changes_nothing(llm: LLM) -> None:
    stream = llm.stream("Once", SamplingParams(max_tokens=5, seed=1, ignore_eos=True))
    text = "".join(stream)
    before = stream.completion
    for _ in range(3):
        stream.close()
    assert stream.completion == before
    assert (before.finish_reason, before.text) == ("length", text)


def test_a_stream_is_closed_from_another_thread_than_its_event_loop_s(llm: LLM) -> None:
    async def read() -> tuple[str, Any]:
        stream = llm.stream("Once", PARAMS)
        text, closer = "", threading.Thread(target=stream.close)
        async for piece in stream:
            if not text:
                closer.start()
            text += piece
        closer.join()
        return text, stream.completion

    text, completion = asyncio.run(read())
    assert completion.text == text
    assert completion.finish_reason == "cancelled"
    assert len(completion.token_ids) < 400


SIGNALLED = """
import signal, sys, cullama
llm = cullama.LLM(sys.argv[1], backend="cpu", cache_tokens=4096)
params = cullama.SamplingParams(max_tokens=400, seed=1, ignore_eos=True)
whole = llm.generate("Once", params).text
session = llm.session(params=params)
for delay in range(1, 25):
    reply = session.stream("Once")
    signal.signal(signal.SIGALRM, lambda number, frame: reply.close())
    signal.setitimer(signal.ITIMER_REAL, delay / 1000)
    text = "".join(reply)
    signal.setitimer(signal.ITIMER_REAL, 0)
    reply.close()
    assert reply.completion.text == text
    assert [message["content"] for message in session.messages] == ["Once", text] * bool(text)
    session.messages.clear()
assert llm.generate("Once", params).text == whole
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such timer")
def test_a_signal_s_handler_closes_the_reply_that_it_interrupts(chat_model: Path) -> None:
    source = str(Path(sys.modules["cullama"].__file__ or "").parents[1])
    command = [sys.executable, "-c", SIGNALLED, str(chat_model)]
    environment = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run(command, timeout=100, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# --- the value beneath


def test_what_was_closed_does_not_advance() -> None:
    value = Closable(0)
    assert value.advance(1)
    assert not value.is_closed
    value.close()
    value.close()
    assert not value.advance(2)
    assert (value.latest, value.is_closed) == (1, True)


def test_an_advance_and_a_close_at_once_agree_on_which_came_first() -> None:
    for _ in range(200):
        value, start = Closable(0), threading.Barrier(3)

        def close(value: Closable[int] = value, start: threading.Barrier = start) -> None:
            start.wait()
            value.close()

        closers = [threading.Thread(target=close) for _ in range(2)]
        for closer in closers:
            closer.start()
        start.wait()
        reached = 0
        while value.advance(reached + 1):
            reached += 1
        assert value.latest == reached
        for closer in closers:
            closer.join()
        assert value.latest == reached
