"""The engine in a process of its own: the same answers, and what happens when the process ends."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from live_server import OPTIONS

import cullama.errors
from cullama import LLM, SamplingParams
from cullama.engine.client import GenerationRequest
from cullama.engine.trace import StepRecord
from cullama.errors import (
    ClosedError,
    ConstraintError,
    ContextLengthError,
    CullamaError,
    DeviceUnavailableError,
    EngineUnavailableError,
    ModelNotFoundError,
    QueueFullError,
    UsageError,
)
from cullama.server.process.engine import RemoteEngine
from cullama.server.process.messages import Load
from cullama.text.generation import Sample, Stream, generate, submit

PROMPT = [0, 40, 41, 42, 43]
LONG = SamplingParams(temperature=0, max_tokens=600, ignore_eos=True)
READY_SECONDS = 60


@pytest.fixture
def engine(chat_model: Path) -> Iterator[RemoteEngine]:
    remote = RemoteEngine(Load(str(chat_model), OPTIONS))
    remote.wait_until_ready(READY_SECONDS)
    yield remote
    remote.close()


def start(engine: RemoteEngine, params: SamplingParams) -> list[Sample]:
    return submit(engine, GenerationRequest(PROMPT, params), None)


def tokens_alone(local: LLM, params: SamplingParams) -> tuple[int, ...]:
    return local.generate(PROMPT, params).token_ids


def eventually(condition: Callable[[], bool], seconds: float = READY_SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def first_tokens(stream: Stream, number: int) -> None:
    while len(stream.completion.token_ids) < number:
        stream._sample.handle.wait()  # the tiny model's tokens are often no text yet
        output = stream._sample.handle.read()
        for token in output.token_ids:
            stream._sample.output.add(token)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0, max_tokens=30),
        SamplingParams(seed=7, max_tokens=30, logprobs=3),
        SamplingParams(seed=7, max_tokens=20, n=4),
        SamplingParams(seed=7, max_tokens=20, n=2, prompt_logprobs=2),
        SamplingParams(max_tokens=0, prompt_logprobs=2),
        SamplingParams(seed=1, max_tokens=30, speculation=4, repetition_penalty=1.2),
    ],
)
def test_answers_are_those_of_an_engine_in_this_process(
    engine: RemoteEngine, local: LLM, params: SamplingParams
) -> None:
    found = generate(start(engine, params))
    expected = generate(submit(local.client, GenerationRequest(PROMPT, params), None))
    assert [each.token_ids for each in found] == [each.token_ids for each in expected]
    assert [each.logprobs for each in found] == [each.logprobs for each in expected]
    assert [each.prompt_logprobs for each in found] == [e.prompt_logprobs for e in expected]
    assert [each.finish_reason for each in found] == [each.finish_reason for each in expected]


def test_an_answer_that_was_begun_goes_on_as_in_this_process(
    engine: RemoteEngine, local: LLM
) -> None:
    params = SamplingParams(seed=7, max_tokens=20, ignore_eos=True)
    whole = tokens_alone(local, params)
    request = GenerationRequest(PROMPT, replace(params, max_tokens=12), answer=whole[:8])
    [handle] = engine.submit(request)
    found: list[int] = []
    reason = None
    while reason is None:
        handle.wait()
        output = handle.read()
        found += output.token_ids
        reason = output.finish_reason
    assert found == list(whole[8:])


def test_logits_are_those_of_an_engine_in_this_process(engine: RemoteEngine, local: LLM) -> None:
    assert (engine.logits(PROMPT) == local.logits(PROMPT)).all()
    with pytest.raises(UsageError, match="below 300"):
        engine.logits([300])


def test_a_seed_is_drawn_where_the_request_names_none(engine: RemoteEngine, local: LLM) -> None:
    [completion] = generate(start(engine, SamplingParams(max_tokens=10)))
    again = SamplingParams(max_tokens=10, seed=completion.seed)
    assert completion.token_ids == tokens_alone(local, again)


def test_threads_and_event_loops_read_at_once(engine: RemoteEngine, local: LLM) -> None:
    params = [SamplingParams(seed=seed, max_tokens=25) for seed in range(12)]
    found: dict[int, tuple[int, ...]] = {}

    def in_thread(seed: int) -> None:
        [found[seed]] = [each.token_ids for each in generate(start(engine, params[seed]))]

    async def in_loop(seed: int) -> None:
        stream = Stream(*start(engine, params[seed]))
        async for _ in stream:
            pass
        found[seed] = stream.completion.token_ids

    async def all_in_loop() -> None:
        await asyncio.gather(*map(in_loop, range(6, 12)))

    threads = [threading.Thread(target=in_thread, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    asyncio.run(all_in_loop())
    for thread in threads:
        thread.join(READY_SECONDS)
    assert found == {seed: tokens_alone(local, params[seed]) for seed in range(12)}


def test_a_cancelled_request_ends_in_the_engine_process(engine: RemoteEngine) -> None:
    [sample] = start(engine, LONG)
    sample.handle.wait()
    sample.handle.cancel()
    assert engine.num_running == 0
    generate(start(engine, SamplingParams(max_tokens=2)))  # its step reports the metrics
    assert eventually(lambda: engine.metrics.ended["cancelled"] == 1)
    assert sample.handle.read().finish_reason == "cancelled"


def test_what_can_only_be_scored_or_continued_is_refused_before_it_is_sent(
    engine: RemoteEngine,
) -> None:
    scored = SamplingParams(max_tokens=0, prompt_logprobs=0)
    with pytest.raises(UsageError, match="where an answer goes on"):
        engine.submit(GenerationRequest(PROMPT, scored, answer=[40]))
    with pytest.raises(UsageError, match="logprobs_start is 99"):
        engine.submit(GenerationRequest(PROMPT, scored, logprobs_start=99))
    assert engine.num_running == 0


def test_tokens_that_are_not_read_are_held_back_and_go_on_when_they_are(
    engine: RemoteEngine, local: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cullama.server.process.handle.MAX_UNREAD", 20)
    params = replace(LONG, max_tokens=2500)
    [unread] = engine.submit(GenerationRequest(PROMPT, params))
    assert eventually(lambda: unread.num_tokens >= 20)
    generate(start(engine, SamplingParams(max_tokens=50, ignore_eos=True)))
    num_tokens = unread.num_tokens
    generate(start(engine, SamplingParams(max_tokens=50, ignore_eos=True)))
    assert unread.num_tokens == num_tokens < 1000
    assert engine.last_record is not None
    assert engine.last_record.decodes <= 1  # it takes part in no pass
    found, reason = list[int](), None
    while reason is None:
        unread.wait()
        output = unread.read()
        found += output.token_ids
        reason = output.finish_reason
    assert found == list(tokens_alone(local, params))


@pytest.mark.parametrize(
    ("params", "prompt", "error"),
    [
        (LONG, [], UsageError),
        (LONG, [300], UsageError),
        (SamplingParams(max_tokens=5000), PROMPT, ContextLengthError),
        (SamplingParams(stop_token_ids=(300,)), PROMPT, UsageError),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_is_sent(
    engine: RemoteEngine, params: SamplingParams, prompt: list[int], error: type[Exception]
) -> None:
    with pytest.raises(error):
        engine.submit(GenerationRequest(prompt, params))
    assert engine.num_running == 0


def test_requests_beyond_the_queue_are_refused(
    engine: RemoteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cullama.server.process.engine.MAX_RUNNING", 2)
    monkeypatch.setattr(engine, "_max_waiting", 1)
    samples = [*start(engine, LONG), *start(engine, LONG), *start(engine, LONG)]
    with pytest.raises(QueueFullError, match="try again later"):
        start(engine, LONG)
    for sample in samples:
        sample.handle.cancel()
    start(engine, LONG)


# --- when the process ends -----------------------------------------------------------------------


def test_a_greedy_request_is_replayed_exactly_by_the_next_process(
    engine: RemoteEngine, local: LLM
) -> None:
    stream = Stream(*start(engine, LONG))
    first_tokens(stream, 10)
    os.kill(engine.pid, signal.SIGKILL)
    list(stream)
    assert stream.completion.token_ids == tokens_alone(local, LONG)
    assert engine.restarts == 1


def test_a_sampled_request_ends_with_a_clear_error(engine: RemoteEngine) -> None:
    stream = Stream(*start(engine, SamplingParams(seed=1, max_tokens=600, ignore_eos=True)))
    first_tokens(stream, 3)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineUnavailableError, match=r"ended unexpectedly: .*SIGKILL"):
        list(stream)
    assert stream.completion.finish_reason == "error"
    engine.wait_until_ready(READY_SECONDS)
    three = SamplingParams(max_tokens=3, ignore_eos=True)
    assert len(generate(start(engine, three))[0].token_ids) == 3


def test_a_sampled_request_is_replayed_where_the_engine_is_deterministic(
    chat_model: Path, local: LLM
) -> None:
    engine = RemoteEngine(Load(str(chat_model), {**OPTIONS, "deterministic": True}))
    params = SamplingParams(seed=1, max_tokens=400, ignore_eos=True)
    try:
        engine.wait_until_ready(READY_SECONDS)
        expected = generate(start(engine, params))[0].token_ids
        stream = Stream(*start(engine, params))
        first_tokens(stream, 3)
        os.kill(engine.pid, signal.SIGKILL)
        list(stream)
        assert stream.completion.token_ids == expected
    finally:
        engine.close()


def test_a_sample_that_had_ended_is_not_generated_by_the_next_process(engine: RemoteEngine) -> None:
    ended, other = start(engine, replace(LONG, n=2))
    other.handle.wait()
    ended.handle.cancel("stop")
    os.kill(engine.pid, signal.SIGKILL)
    generate([other])
    assert engine.restarts == 1
    assert engine.metrics.ended["stop"] == engine.metrics.ended["length"] == 1


def test_an_observer_that_fails_leaves_no_request_waiting(engine: RemoteEngine) -> None:
    def broken(record: StepRecord) -> None:
        raise ValueError("an observer's mistake")

    engine.observers.append(broken)
    with pytest.raises(EngineUnavailableError, match="could not be served: ValueError"):
        generate(start(engine, SamplingParams(seed=1, max_tokens=600, ignore_eos=True)))
    engine.observers.clear()
    engine.wait_until_ready(READY_SECONDS)
    assert generate(start(engine, SamplingParams(max_tokens=3)))


def test_a_request_that_ends_every_process_is_replayed_once(engine: RemoteEngine) -> None:
    stream = Stream(*start(engine, LONG))
    for restarts in range(2):
        assert eventually(lambda n=restarts: engine.restarts == n)  # type: ignore[misc]
        engine.wait_until_ready(READY_SECONDS)
        os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineUnavailableError):
        list(stream)


def test_a_process_that_hangs_is_replaced(chat_model: Path, local: LLM) -> None:
    engine = RemoteEngine(Load(str(chat_model), OPTIONS), step_timeout=0.5)
    try:
        engine.wait_until_ready(READY_SECONDS)
        stream = Stream(*start(engine, LONG))
        first_tokens(stream, 5)
        os.kill(engine.pid, signal.SIGSTOP)
        list(stream)
        assert stream.completion.token_ids == tokens_alone(local, LONG)
        assert engine.restarts == 1
    finally:
        engine.close()


def test_a_pass_may_take_the_longer_the_slower_the_machine_is_for_the_model(
    engine: RemoteEngine,
) -> None:
    assert engine.costs is not None
    assert engine.step_timeout == 120  # not measured
    engine.costs = fast = replace(engine.costs, product_rate=1e9, read_rate=1e9)
    assert engine.step_timeout == 120
    engine.costs = replace(fast, product_rate=fast.token_operations)  # a token a second
    assert engine.step_timeout > 10 * 512
    engine._step_timeout = 7.0
    assert engine.step_timeout == 7


def test_a_process_that_hangs_over_logits_is_replaced_too(chat_model: Path) -> None:
    engine = RemoteEngine(Load(str(chat_model), OPTIONS), step_timeout=0.5)
    try:
        engine.wait_until_ready(READY_SECONDS)
        os.kill(engine.pid, signal.SIGSTOP)
        with pytest.raises(EngineUnavailableError, match=r"gave nothing for 0\.5 s"):
            engine.logits(PROMPT)
        engine.wait_until_ready(READY_SECONDS)
        assert engine.restarts == 1
        assert len(engine.logits(PROMPT)) == len(PROMPT)
    finally:
        engine.close()


def test_requests_are_refused_while_the_process_is_being_replaced(engine: RemoteEngine) -> None:
    os.kill(engine.pid, signal.SIGKILL)
    assert eventually(lambda: engine.status.state == "restarting")
    with pytest.raises(EngineUnavailableError, match="no requests are taken now"):
        start(engine, LONG)


def test_a_model_that_cannot_be_loaded_is_not_tried_again(tmp_path: Path) -> None:
    failures: list[int] = []
    engine = RemoteEngine(Load(str(tmp_path), OPTIONS))
    engine.on_failure = lambda: failures.append(1)
    with pytest.raises(ModelNotFoundError):
        engine.wait_until_ready(READY_SECONDS)
    assert engine.restarts == 0
    assert engine.status.state == "failed"
    assert engine.status.reason == "the engine process failed with ModelNotFoundError"
    assert eventually(lambda: failures == [1])
    engine.close()


def test_a_process_that_ends_again_and_again_is_given_up(engine: RemoteEngine) -> None:
    def kill() -> bool:
        if engine.status.state != "failed":
            os.kill(engine.pid, signal.SIGKILL)
            time.sleep(0.3)
        return engine.status.state == "failed"

    assert eventually(kill)
    assert isinstance(engine.error, EngineUnavailableError)
    with pytest.raises(EngineUnavailableError, match="SIGKILL"):
        start(engine, LONG)


def test_a_process_that_cannot_be_replaced_ends_its_requests_and_says_why(
    engine: RemoteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(load: Load) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    stream = Stream(*start(engine, LONG))
    monkeypatch.setattr("cullama.server.process.engine.Child", no_memory)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineUnavailableError, match="no other can be started: Cannot allocate"):
        list(stream)
    assert engine.status.state == "failed"


def test_closing_ends_the_process_and_its_requests(engine: RemoteEngine) -> None:
    pid = engine.pid
    [sample] = start(engine, LONG)
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ClosedError):
        generate([sample])
    with pytest.raises(ClosedError):
        start(engine, LONG)
    engine.close()


def test_the_process_ends_with_the_one_that_started_it(chat_model: Path, tmp_path: Path) -> None:
    """Also where that was killed, and can end nothing any more."""
    program = (
        "import sys, time\n"
        "from cullama.server.process.engine import RemoteEngine\n"
        "from cullama.server.process.messages import Load\n"
        f"engine = RemoteEngine(Load({str(chat_model)!r}, {OPTIONS!r}))\n"
        "engine.wait_until_ready()\n"
        "print(engine.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as front:
        assert front.stdout is not None
        pid = int(front.stdout.readline())
        front.kill()

    def is_gone() -> bool:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return True
        return status.rpartition(")")[2].split()[0] == "Z"  # ended; reaped by who adopted it

    assert eventually(is_gone, 10)


def _all_errors() -> list[type[CullamaError]]:
    found = [each for each in vars(cullama.errors).values() if isinstance(each, type)]
    return [each for each in found if issubclass(each, CullamaError)]


@pytest.mark.parametrize("kind", _all_errors())
def test_every_error_crosses_the_pipe(kind: type[CullamaError]) -> None:
    arguments: tuple[Any, ...] = ("no driver", "install one")
    takes_two = kind in (ConstraintError, DeviceUnavailableError)
    error = kind(*arguments) if takes_two else kind("the reason")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
