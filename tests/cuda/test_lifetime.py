"""Opened, closed, dropped, forked, left open: the GPU's memory comes back, and nothing hangs."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cullama import LLM, SamplingParams
from cullama.errors import ClosedError, CullamaError, DeviceError

PROMPT = "Once upon a time a small llama"
# They are errors, but for what Python 3.12 has to say about forks of processes with threads.
WARNINGS = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
GREEDY = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
LONG = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)

OpenModel = Callable[..., LLM]
Answer = tuple[int, ...]


@pytest.fixture(scope="module")
def expected(small_model: Path) -> Answer:
    with LLM(small_model, backend="cpu", dtype="float32") as llm:
        return written(llm)


def written(llm: LLM) -> Answer:
    return llm.generate(PROMPT, GREEDY).token_ids


def held(emulated: Any) -> tuple[int, int]:
    """Bytes of the device, pieces of the host."""
    return emulated.live_bytes(), emulated.pinned_allocations()


# --- closing --------------------------------------------------------------------------------------


def test_closing_returns_all_memory_and_closing_again_does_nothing(
    emulated: Any, open_model: OpenModel, expected: Answer
) -> None:
    llm = open_model()
    assert written(llm) == expected
    assert held(emulated) > (0, 0)
    llm.close()
    assert held(emulated) == (0, 0)
    calls = emulated.calls("cuMemFree")
    llm.close()
    assert emulated.calls("cuMemFree") == calls


def test_closing_ends_a_stream_under_way(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()
    stream = llm.stream(PROMPT, LONG)
    next(stream)
    llm.close()
    assert held(emulated) == (0, 0)
    with pytest.raises(ClosedError, match="closed while this text was under way"):
        for _ in stream:
            pass


def test_an_observer_may_close(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()
    llm.engine.observers.append(lambda record: llm.close())
    with pytest.raises(ClosedError):
        llm.generate(PROMPT, LONG)
    assert held(emulated) == (0, 0)


@pytest.mark.parametrize("starts_engine", [False, True])
def test_any_thread_may_close(
    starts_engine: bool, emulated: Any, open_model: OpenModel, expected: Answer
) -> None:
    """One in which the device was never entered, while another model keeps its context alive."""
    other, llm = open_model(), open_model()
    before = emulated.live_bytes()
    if starts_engine:
        llm.engine.start()
    assert written(llm) == expected
    thread = threading.Thread(target=llm.close)
    thread.start()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert emulated.live_bytes() <= before - 64_000_000
    assert written(other) == expected
    other.close()
    assert held(emulated) == (0, 0)


def test_what_follows_the_closing_says_so(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()
    operators, array = llm.engine.runner.ops, llm.engine.runner.model.weights.norm
    llm.close()
    uses: list[Callable[[], Any]] = [
        lambda: llm.generate(PROMPT),
        lambda: llm.stream(PROMPT),
        lambda: llm.logits(PROMPT),
        lambda: operators.download(array),
        lambda: operators.rms_norm(array, array, 1e-5),
    ]
    for use in uses:
        with pytest.raises(ClosedError, match=r"closed.*make a new"):
            use()


def test_after_an_error_everything_comes_back(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()
    emulated.fault("cuLaunchKernel:7+:1")
    with pytest.raises(DeviceError):
        written(llm)
    emulated.fault("")
    llm.close()
    assert held(emulated) == (0, 0)


def test_opening_and_closing_many_times_leaves_nothing(
    emulated: Any, open_model: OpenModel, expected: Answer
) -> None:
    def once() -> int:
        with open_model() as llm:
            assert written(llm) == expected
            most = emulated.live_bytes()
        assert held(emulated) == (0, 0)
        return most

    first = once()
    assert [once() for _ in range(19)] == [first] * 19


# --- several at once ------------------------------------------------------------------------------


def test_two_models_share_a_device(emulated: Any, open_model: OpenModel, expected: Answer) -> None:
    first, second = open_model(), open_model()
    streams = [first.stream(PROMPT, GREEDY), second.stream(PROMPT, GREEDY)]
    for _ in zip(*streams, strict=False):  # step by step in turn
        pass
    for stream in streams:
        for _ in stream:
            pass
        assert stream.completion.token_ids == expected
    first.close()
    assert written(second) == expected
    second.close()
    assert held(emulated) == (0, 0)


def test_two_models_in_two_threads(emulated: Any, open_model: OpenModel, expected: Answer) -> None:
    outcomes: list[Answer] = []

    def work(llm: LLM) -> None:
        outcomes.extend(written(llm) for _ in range(3))
        llm.close()

    threads = [threading.Thread(target=work, args=(open_model(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert outcomes == [expected] * 6
    assert held(emulated) == (0, 0)


def test_two_devices_in_one_thread_keep_apart(
    emulated: Any, open_model: OpenModel, expected: Answer
) -> None:
    """What is current in a thread is the one that was entered last, whoever did it."""
    emulated.set("devices", 2)
    first, second = open_model(), open_model(backend="cuda:1")
    for _ in range(2):
        assert written(first) == expected
        assert written(second) == expected
    second.close()
    assert written(first) == expected


def test_others_may_change_the_current_context(
    emulated: Any, open_model: OpenModel, expected: Answer
) -> None:
    """PyTorch and CuPy do, in the same thread."""
    from cuda.bindings import driver

    llm = open_model()
    assert written(llm) == expected
    driver.cuCtxSetCurrent(driver.CUcontext(0))
    assert written(llm) == expected
    driver.cuCtxSetCurrent(driver.CUcontext(0))
    llm.logits(PROMPT)
    driver.cuCtxSetCurrent(driver.CUcontext(0))
    llm.close()
    assert held(emulated) == (0, 0)


def test_threads_that_come_and_go_are_not_taken_for_each_other(
    emulated: Any, open_model: OpenModel, expected: Answer
) -> None:
    """The system gives a new thread the number of one that has ended."""
    llm = open_model()
    outcomes: list[Answer] = []
    for _ in range(5):
        thread = threading.Thread(target=lambda: outcomes.append(written(llm)))
        thread.start()
        thread.join(timeout=30)
    assert outcomes == [expected] * 5


# --- dropped --------------------------------------------------------------------------------------


def test_a_model_that_is_dropped_returns_its_memory(
    emulated: Any, small_model: Path, expected: Answer
) -> None:
    llm = LLM(small_model, backend="cuda", dtype="float32", cache_tokens=512)
    assert written(llm) == expected
    assert written(llm) == expected  # graphs are captured by now
    operators = weakref.ref(llm.engine.runner.ops)
    del llm
    gc.collect()
    assert operators() is None
    assert held(emulated) == (0, 0)


def test_dropping_one_in_the_middle_of_anothers_work_disturbs_nothing(
    emulated: Any, open_model: OpenModel, small_model: Path, expected: Answer
) -> None:
    """The garbage collector comes when it likes: here whenever something is allocated."""
    emulated.set("devices", 2)
    llm = open_model()
    thresholds = gc.get_threshold()
    try:
        for _ in range(3):
            written(LLM(small_model, backend="cuda:1", dtype="float32", cache_tokens=512))
            gc.set_threshold(1, 1, 1)
            assert written(llm) == expected
            gc.set_threshold(*thresholds)
    finally:
        gc.set_threshold(*thresholds)
    llm.close()
    gc.collect()
    assert held(emulated) == (0, 0)


def test_a_model_dropped_for_an_error_in_loading_leaves_nothing(
    emulated: Any, open_model: OpenModel
) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_model(progress=stop)
    assert held(emulated) == (0, 0)


# --- processes ------------------------------------------------------------------------------------

FORK = """
import os, sys
from cullama import LLM, SamplingParams
from cullama.errors import CullamaError
params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
llm = LLM(sys.argv[1], backend="cuda", dtype="float32", cache_tokens=512)
before = llm.generate("Once", params).token_ids
child = os.fork()
if child == 0:
    for use in (
        lambda: llm.generate("Once", params),
        lambda: llm.logits("Once"),
        lambda: LLM(sys.argv[1], backend="cuda"),
    ):
        try:
            use()
        except CullamaError as error:
            print(type(error).__name__, error, flush=True)
    llm.close()
    with LLM(sys.argv[1], backend="auto") as other:
        other.generate("Once", params)
        print(other.description, flush=True)
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
assert llm.generate("Once", params).token_ids == before
llm.close()
print("the parent goes on")
"""

FORK_WITH_A_THREAD = """
import os, sys
from cullama import LLM, SamplingParams
from cullama.errors import CullamaError
params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
llm = LLM(sys.argv[1], backend="cuda", dtype="float32", cache_tokens=512)
llm.engine.start()
before = llm.generate("Once", params).token_ids
stream = llm.stream("Once", SamplingParams(max_tokens=100, ignore_eos=True))
next(stream)
child = os.fork()
if child == 0:
    for use in (lambda: llm.generate("Once", params), lambda: llm.logits("Once")):
        try:
            use()
        except CullamaError as error:
            print(type(error).__name__, error, flush=True)
    llm.close()
    os._exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
assert llm.generate("Once", params).token_ids == before
llm.close()
"""

LEFT_OPEN = """
import sys, asyncio
from cullama import LLM, SamplingParams
params = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)
llm = LLM(sys.argv[1], backend="cuda", dtype="float32", cache_tokens=512)
stream = llm.stream("Once", params)
next(stream)
{more}
print("bye")
"""
WITH_A_THREAD = "llm.engine.start()\nnext(stream)"
IN_A_CYCLE = "llm.itself = llm\nllm.engine.runner.ops.itself = llm"


def run(script: str, model: Path, source: Path) -> subprocess.CompletedProcess[str]:
    from emulation import device

    return subprocess.run(
        [sys.executable, *WARNINGS, "-c", script, str(model)],
        env={**os.environ, **device.environment(), "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def source() -> Path:
    import cullama

    return Path(cullama.__file__).parents[1]


def test_a_forked_child_gets_one_line_and_the_parent_goes_on(
    emulated: Any, small_model: Path, source: Path
) -> None:
    done = run(FORK, small_model, source)
    assert (done.returncode, done.stderr) == (0, "")
    used, asked, opened, description, end = done.stdout.splitlines()
    for line in (used, asked, opened):
        assert "forked after CUDA was started in its parent" in line
        assert "spawn" in line
    assert opened.startswith("DeviceUnavailableError")
    assert "cpu" in description
    assert "auto: this process was forked" in description
    assert end == "the parent goes on"


def test_a_child_of_a_parent_that_works_in_a_thread_does_not_wait_for_it(
    emulated: Any, small_model: Path, source: Path
) -> None:
    done = run(FORK_WITH_A_THREAD, small_model, source)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("forked" in line and "spawn" in line for line in lines)


@pytest.mark.parametrize("more", ["", WITH_A_THREAD, IN_A_CYCLE, "del llm"])
def test_a_program_that_ends_without_closing_ends_in_silence(
    more: str, emulated: Any, small_model: Path, source: Path
) -> None:
    done = run(LEFT_OPEN.format(more=more), small_model, source)
    assert (done.returncode, done.stdout, done.stderr) == (0, "bye\n", "")


def test_errors_of_ours_are_all_that_comes_of_a_closed_device(
    emulated: Any, open_model: OpenModel
) -> None:
    llm = open_model()
    ops: Any = llm.engine.runner.ops
    device = ops.device
    device.close()  # not what anybody should do
    with pytest.raises(CullamaError):
        written(llm)
    llm.close()
