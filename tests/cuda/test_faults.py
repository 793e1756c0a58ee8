"""A GPU that fails: never a wrong token, one line that names the kernel, and the process goes on.

What the driver's documentation calls unrecoverable is told to it by number (`faults`): at a call,
or while a kernel runs, which is found out when somebody waits.
"""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cullama import LLM, SamplingParams
from cullama.errors import CullamaError, DeviceError, DeviceLostError

PROMPTS = ["Once upon a time a small llama", "The sea", "Zürich"]
GREEDY = SamplingParams(max_tokens=5, temperature=0, ignore_eos=True)
LONG = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)
CODES = [*range(700, 703), 704, 705, *range(708, 720)]  # 703, 706, 707 are nothing's number
CALLS_OF_A_STEP = (
    "cuCtxSetCurrent",
    "cuMemcpyHtoDAsync",
    "cuMemcpyDtoDAsync",
    "cuMemcpyDtoHAsync",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuLaunchKernel",
    "cuModuleLoadDataEx",
    "cuModuleGetFunction",
    "cuStreamBeginCapture",
    "cuStreamEndCapture",
    "cuGraphInstantiate",
    "cuGraphLaunch",
    "kernel",
)

OpenModel = Callable[..., LLM]
Answers = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def expected(small_model: Path) -> Answers:
    """The tokens of `written`, as the CPU has them."""
    with LLM(small_model, backend="cpu", dtype="float32") as llm:
        return written(llm)


def written(llm: LLM) -> Answers:
    return [completion.token_ids for completion in llm.generate(PROMPTS, GREEDY)]


def is_one_line(error: BaseException) -> bool:
    return "\n" not in str(error) and len(str(error)) > 20


def attempt(open_model: OpenModel, expected: Answers) -> CullamaError | None:
    """Load and write: right tokens, or an error of ours."""
    try:
        llm = open_model()
        assert written(llm) == expected
    except CullamaError as error:
        return error.with_traceback(None)
    finally:
        gc.collect()
    return None


# --- errors that no process recovers from ---------------------------------------------------------


@pytest.mark.parametrize("call", CALLS_OF_A_STEP)
def test_a_lost_gpu_is_told_whichever_call_finds_out(
    call: str, emulated: Any, open_model: OpenModel, expected: Answers
) -> None:
    places = 1 if "Capture" in call or "Graph" in call else 3
    some = CODES[CALLS_OF_A_STEP.index(call) % 4 :: 4]  # each code at several calls
    for turn, code in enumerate(some):
        emulated.reset()
        llm = open_model()
        emulated.fault(f"{call}:{1 + turn % places}:{code}")
        with pytest.raises(DeviceLostError) as caught:
            write_thrice(llm, expected)
        assert re.search(rf"cuda:0.* {code}\).*launched", str(caught.value))
        assert is_one_line(caught.value)
        llm.close()


def write_thrice(llm: LLM, expected: Answers) -> None:
    """A size of step is captured at its second time, and replayed at its third."""
    for _ in range(3):
        assert written(llm) == expected


def test_no_token_is_wrong_whichever_call_of_all_fails(
    emulated: Any, open_model: OpenModel, expected: Answers
) -> None:
    """From the first of loading to the last of writing; most are in what is written."""
    outcomes = []
    for turn, place in enumerate([*range(1, 60, 5), *range(60, 420, 19)]):
        emulated.reset()
        emulated.fault(f"*:{place}:{CODES[turn % len(CODES)]}")
        outcomes.append(attempt(open_model, expected))
    assert all(is_one_line(error) for error in outcomes if error is not None)
    assert outcomes[-1] is None, "the last place is behind the last call"
    assert sum(isinstance(error, DeviceLostError) for error in outcomes) > 15


@pytest.mark.parametrize("streams", ["lazy", "eager"])
def test_the_line_names_the_kernel_launched_last(
    streams: str, emulated: Any, open_model: OpenModel
) -> None:
    llm = open_model()
    emulated.streams(streams)
    emulated.fault("cuLaunchKernel:3:719")
    with pytest.raises(
        DeviceLostError, match="reported by cuLaunchKernel; launched last was rms_norm_f32"
    ):
        written(llm)


def test_a_captured_step_is_named_as_such(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()
    emulated.fault("cuGraphLaunch:2:700")
    with pytest.raises(DeviceLostError, match=r"ILLEGAL_ADDRESS, 700\).*was a captured step"):
        written(llm)


def test_a_kernel_that_faults_ends_every_text_under_way(
    emulated: Any, open_model: OpenModel
) -> None:
    llm = open_model()
    streams = [llm.stream(prompt, LONG) for prompt in PROMPTS]
    for stream in streams:
        next(stream)
    emulated.fault("kernel:5:719")
    for stream in streams:
        with pytest.raises(DeviceLostError, match="LAUNCH_FAILED, 719"):
            for _ in stream:
                pass
    assert all(stream.completion.finish_reason == "error" for stream in streams)
    assert not llm.engine.has_work


def test_whatever_is_asked_later_says_the_same(
    emulated: Any, open_model: OpenModel, expected: Answers
) -> None:
    llm = open_model()
    emulated.fault("cuEventSynchronize:4:716")
    with pytest.raises(DeviceLostError) as first:
        written(llm)
    for use in (lambda: written(llm), lambda: llm.logits("Once"), lambda: next(llm.stream("a"))):
        with pytest.raises(DeviceLostError) as again:
            use()
        assert str(again.value) == str(first.value)
    with pytest.raises(DeviceLostError, match="restart it, or continue with --backend cpu") as new:
        open_model()
    assert is_one_line(new.value)
    assert written(open_model(backend="cpu")) == expected


def test_auto_goes_on_with_the_cpu_and_says_why(
    emulated: Any, open_model: OpenModel, expected: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cullama import backends

    monkeypatch.setattr(
        "cullama.backends._first_gpu",
        lambda dtype, deterministic: backends._cuda(dtype, 0, deterministic),
    )
    llm = open_model()
    emulated.fault("kernel:1:719")
    with pytest.raises(DeviceLostError):
        written(llm)
    other = open_model(backend="auto", dtype="auto")
    assert "LAUNCH_FAILED" in other.description
    assert "\n" not in other.description
    assert written(other) == expected


# --- whoever waits hears of it --------------------------------------------------------------------


def test_those_who_wait_in_other_threads_hear_of_it(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()
    errors: list[BaseException] = []

    def write(prompt: str) -> None:
        try:
            llm.generate(prompt, LONG)
        except BaseException as error:
            errors.append(error)

    for starts_engine in (False, True):
        errors.clear()
        if starts_engine:
            llm.engine.start()
        else:
            emulated.fault("kernel:150:719")
        threads = [threading.Thread(target=write, args=(prompt,)) for prompt in PROMPTS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert not any(thread.is_alive() for thread in threads)
        assert [type(error) for error in errors] == [DeviceLostError] * 3


def test_an_event_loop_hears_of_it(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()

    async def read(prompt: str) -> str:
        async for _ in llm.stream(prompt, LONG):
            pass
        return "all of it"

    async def read_all() -> list[Any]:
        readers = (read(prompt) for prompt in PROMPTS)
        return await asyncio.wait_for(asyncio.gather(*readers, return_exceptions=True), timeout=30)

    emulated.fault("kernel:150:719")
    for _ in range(2):  # the second time, it is lost from the beginning
        assert [type(outcome) for outcome in asyncio.run(read_all())] == [DeviceLostError] * 3
    llm.close()  # and does not wait for what never comes


def test_nothing_of_a_lost_model_stays_behind(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()
    operators, engine = weakref.ref(llm.engine.runner.ops), weakref.ref(llm.engine)
    emulated.fault("kernel:20:719")
    with pytest.raises(DeviceLostError):
        written(llm)
    llm.close()
    gc.collect()
    assert operators() is None
    assert engine() is None


# --- errors that pass -----------------------------------------------------------------------------


def test_what_fails_once_is_tried_again(
    emulated: Any, open_model: OpenModel, expected: Answers
) -> None:
    """Not a lost GPU: the step is repeated, text by text, and no token differs."""
    llm = open_model()
    for call in ("cublasGemmEx:1:13", "cuLaunchKernel:4:1", "cuEventRecord:2:304"):
        emulated.fault(call)
        assert written(llm) == expected
    emulated.fault("")
    assert written(llm) == expected


@pytest.mark.parametrize("call", ["cuStreamBeginCapture", "cuGraphInstantiate", "cuGraphLaunch"])
def test_a_step_that_cannot_be_captured_or_replayed_ends_only_its_text(
    call: str, emulated: Any, open_model: OpenModel, expected: Answers
) -> None:
    llm = open_model()
    emulated.fault(f"{call}:1+:999")
    with pytest.raises(DeviceError, match=rf"{call} of the CUDA driver failed: .*UNKNOWN, 999"):
        written(llm)
    emulated.fault("")
    assert written(llm) == expected
    llm.close()
    assert (emulated.live_bytes(), emulated.pinned_allocations()) == (0, 0)


def test_a_capture_that_was_not_ended_is_ended(
    emulated: Any, open_model: OpenModel, expected: Answers
) -> None:
    llm = open_model()
    for _ in range(2):
        emulated.fault("cuStreamEndCapture:1:999")
        assert written(llm) == expected


@pytest.mark.parametrize("status", [1, 7, 8, 13, 14, 15])
def test_a_status_of_cublas_is_told_with_the_library(
    status: int, emulated: Any, open_model: OpenModel, expected: Answers
) -> None:
    llm = open_model()
    emulated.fault(f"cublasGemmEx:1+:{status}")
    with pytest.raises(
        DeviceError, match=rf"cublasGemmEx of .*libcublas.*status {status}\."
    ) as one:
        written(llm)
    assert is_one_line(one.value)
    emulated.fault("")
    assert written(llm) == expected


def test_cublas_on_a_lost_gpu_says_that_it_is_lost(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()
    emulated.streams("eager")  # the kernel before it has failed when cuBLAS is called
    emulated.fault("kernel:2:719")
    with pytest.raises(DeviceLostError, match=r"719\), reported by cu"):
        written(llm)
