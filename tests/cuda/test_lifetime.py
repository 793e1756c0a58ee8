"""Models that are closed, dropped, forked or left open return the GPU's memory, and do not hang."""

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
# Warnings are errors, except for Python 3.12's about forks of processes with threads.
WARNINGS = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
GREEDY = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
LONG = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)

OpenModel = Callable[..., LLM]
TokenList = tuple[int, ...]


@pytest.fixture(scope="module")
def expected(small_model: Path) -> TokenList:
    with LLM(small_model, backend="cpu", dtype="float32") as llm:
        return generated(llm)


def generated(llm: LLM) -> TokenList:
    return llm.generate(PROMPT, GREEDY).token_ids


def allocated(emulated: Any) -> tuple[int, int]:
    """Return bytes of device memory and the number of pinned host allocations."""
    return emulated.live_bytes(), emulated.pinned_allocations()


# --- closing --------------------------------------------------------------------------------------


def test_close_frees_all_memory_and_a_second_close_does_nothing(
    emulated: Any, open_model: OpenModel, expected: TokenList
) -> None:
    llm = open_model()
    assert generated(llm) == expected
    assert allocated(emulated) > (0, 0)
    llm.close()
    assert allocated(emulated) == (0, 0)
    calls = emulated.calls("cuMemFree")
    llm.close()
    assert emulated.calls("cuMemFree") == calls


def test_closing_ends_a_running_stream(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()
    stream = llm.stream(PROMPT, LONG)
    next(stream)
    llm.close()
    assert allocated(emulated) == (0, 0)
    with pytest.raises(ClosedError, match="closed while this request was running"):
        for _ in stream:
            pass


def test_an_observer_may_close(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()
    llm.engine.observers.append(lambda record: llm.close())
    with pytest.raises(ClosedError):
        llm.generate(PROMPT, LONG)
    assert allocated(emulated) == (0, 0)


@pytest.mark.parametrize("starts_engine", [False, True])
def test_any_thread_may_close(
    starts_engine: bool, emulated: Any, open_model: OpenModel, expected: TokenList
) -> None:
    """Also a thread that never used the device, while another model keeps the context alive."""
    other, llm = open_model(), open_model()
    before = emulated.live_bytes()
    if starts_engine:
        llm.engine.start()
    assert generated(llm) == expected
    thread = threading.Thread(target=llm.close)
    thread.start()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert emulated.live_bytes() <= before - 64_000_000
    assert generated(other) == expected
    other.close()
    assert allocated(emulated) == (0, 0)


def test_use_after_close_raises_closed_error(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()
    operators, norm = llm.engine.runner.ops, llm.engine.runner.model.weights.norm
    llm.close()
    uses: list[Callable[[], Any]] = [
        lambda: llm.generate(PROMPT),
        lambda: llm.stream(PROMPT),
        lambda: llm.logits(PROMPT),
        lambda: operators.download(norm.weight),
        lambda: operators.rms_norm(norm.weight, norm),
    ]
    for use in uses:
        with pytest.raises(ClosedError, match=r"closed.*make a new"):
            use()


def test_all_memory_is_freed_after_an_error(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()
    emulated.fault("cuLaunchKernel:7+:1")
    with pytest.raises(DeviceError):
        generated(llm)
    emulated.fault("")
    llm.close()
    assert allocated(emulated) == (0, 0)


def test_opening_and_closing_many_times_leaves_nothing(
    emulated: Any, open_model: OpenModel, expected: TokenList
) -> None:
    def once() -> int:
        with open_model() as llm:
            assert generated(llm) == expected
            most = emulated.live_bytes()
        assert allocated(emulated) == (0, 0)
        return most

    first = once()
    assert [once() for _ in range(19)] == [first] * 19


# --- several at once ------------------------------------------------------------------------------


def test_two_models_share_a_device(
    emulated: Any, open_model: OpenModel, expected: TokenList
) -> None:
    first, second = open_model(), open_model()
    streams = [first.stream(PROMPT, GREEDY), second.stream(PROMPT, GREEDY)]
    for _ in zip(*streams, strict=False):  # step by step in turn
        pass
    for stream in streams:
        for _ in stream:
            pass
        assert stream.completion.token_ids == expected
    first.close()
    assert generated(second) == expected
    second.close()
    assert allocated(emulated) == (0, 0)


def test_two_models_in_two_threads(
    emulated: Any, open_model: OpenModel, expected: TokenList
) -> None:
    outcomes: list[TokenList] = []

    def work(llm: LLM) -> None:
        outcomes.extend(generated(llm) for _ in range(3))
        llm.close()

    threads = [threading.Thread(target=work, args=(open_model(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert outcomes == [expected] * 6
    assert allocated(emulated) == (0, 0)


def test_two_devices_in_one_thread_keep_apart(
    emulated: Any, open_model: OpenModel, expected: TokenList
) -> None:
    """A thread has one current context, and each model makes its own current when it needs it."""
    emulated.set("devices", 2)
    first, second = open_model(), open_model(backend="cuda:1")
    for _ in range(2):
        assert generated(first) == expected
        assert generated(second) == expected
    second.close()
    assert generated(first) == expected


def test_other_libraries_may_change_the_current_context(
    emulated: Any, open_model: OpenModel, expected: TokenList
) -> None:
    """PyTorch and CuPy do, in the same thread."""
    from cuda.bindings import driver

    llm = open_model()
    assert generated(llm) == expected
    driver.cuCtxSetCurrent(driver.CUcontext(0))
    assert generated(llm) == expected
    driver.cuCtxSetCurrent(driver.CUcontext(0))
    llm.logits(PROMPT)
    driver.cuCtxSetCurrent(driver.CUcontext(0))
    llm.close()
    assert allocated(emulated) == (0, 0)


def test_a_new_thread_with_the_id_of_an_old_one_makes_the_context_current(
    emulated: Any, open_model: OpenModel, expected: TokenList
) -> None:
    """The system reuses the ids of threads that have ended."""
    llm = open_model()
    outcomes: list[TokenList] = []
    for _ in range(5):
        thread = threading.Thread(target=lambda: outcomes.append(generated(llm)))
        thread.start()
        thread.join(timeout=30)
    assert outcomes == [expected] * 5


# --- garbage collection ---------------------------------------------------------------------------


def test_a_model_that_is_garbage_collected_frees_its_memory(
    emulated: Any, small_model: Path, expected: TokenList
) -> None:
    llm = LLM(small_model, backend="cuda", dtype="float32", cache_tokens=512)
    assert generated(llm) == expected
    assert generated(llm) == expected  # graphs are captured by now
    operators = weakref.ref(llm.engine.runner.ops)
    del llm
    gc.collect()
    assert operators() is None
    assert allocated(emulated) == (0, 0)


def test_collecting_one_model_does_not_disturb_another_that_works(
    emulated: Any, open_model: OpenModel, small_model: Path, expected: TokenList
) -> None:
    """The garbage collector may run at any moment; here it runs at every allocation."""
    emulated.set("devices", 2)
    llm = open_model()
    thresholds = gc.get_threshold()
    try:
        for _ in range(3):
            generated(LLM(small_model, backend="cuda:1", dtype="float32", cache_tokens=512))
            gc.set_threshold(1, 1, 1)
            assert generated(llm) == expected
            gc.set_threshold(*thresholds)
    finally:
        gc.set_threshold(*thresholds)
    llm.close()
    gc.collect()
    assert allocated(emulated) == (0, 0)


def test_an_error_while_loading_frees_everything(emulated: Any, open_model: OpenModel) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_model(progress=stop)
    assert allocated(emulated) == (0, 0)


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
    from cullama.emulation import device

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


def test_a_forked_child_gets_an_error_and_the_parent_continues(
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


def test_a_forked_child_does_not_wait_for_the_engine_thread_of_its_parent(
    emulated: Any, small_model: Path, source: Path
) -> None:
    done = run(FORK_WITH_A_THREAD, small_model, source)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("forked" in line and "spawn" in line for line in lines)


@pytest.mark.parametrize("more", ["", WITH_A_THREAD, IN_A_CYCLE, "del llm"])
def test_a_program_that_ends_without_closing_prints_nothing(
    more: str, emulated: Any, small_model: Path, source: Path
) -> None:
    done = run(LEFT_OPEN.format(more=more), small_model, source)
    assert (done.returncode, done.stdout, done.stderr) == (0, "bye\n", "")


def test_a_closed_device_raises_only_cullama_errors(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()
    ops: Any = llm.engine.runner.ops
    ops.device.close()  # behind the model's back
    with pytest.raises(CullamaError):
        generated(llm)
    llm.close()
