"""A GPU that fails gives no wrong token, an error that names the kernel, and a usable process.

Errors that the driver's documentation calls unrecoverable are injected by number (`faults`): at a
call, or while a kernel runs, which is reported at the next synchronisation.
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
CODES = [*range(700, 703), 704, 705, *range(708, 720)]  # 703, 706 and 707 are not assigned
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
TokenLists = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def expected(small_model: Path) -> TokenLists:
    """The tokens of `generated` on the CPU."""
    with LLM(small_model, backend="cpu", dtype="float32") as llm:
        return generated(llm)


def generated(llm: LLM) -> TokenLists:
    return [completion.token_ids for completion in llm.generate(PROMPTS, GREEDY)]


def is_one_line(error: BaseException) -> bool:
    return "\n" not in str(error) and len(str(error)) > 20


def attempt(open_model: OpenModel, expected: TokenLists) -> CullamaError | None:
    """Open a model and generate: return None for the right tokens, or a CullamaError."""
    try:
        llm = open_model()
        assert generated(llm) == expected
    except CullamaError as error:
        return error.with_traceback(None)
    finally:
        gc.collect()
    return None


# --- unrecoverable errors -------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS_OF_A_STEP)
def test_a_lost_gpu_is_reported_by_whichever_call_fails(
    call: str, emulated: Any, open_model: OpenModel, expected: TokenLists
) -> None:
    places = 1 if "Capture" in call or "Graph" in call else 3
    some = CODES[CALLS_OF_A_STEP.index(call) % 4 :: 4]  # each code at several calls
    for turn, code in enumerate(some):
        emulated.reset()
        llm = open_model()
        emulated.fault(f"{call}:{1 + turn % places}:{code}")
        with pytest.raises(DeviceLostError) as caught:
            generate_thrice(llm, expected)
        assert re.search(rf"cuda:0.* {code}\).*launched", str(caught.value))
        assert is_one_line(caught.value)
        llm.close()


def generate_thrice(llm: LLM, expected: TokenLists) -> None:
    """A bucket is captured when it is met for the second time, and replayed for the third."""
    for _ in range(3):
        assert generated(llm) == expected


def test_no_token_is_wrong_whichever_call_of_all_fails(
    emulated: Any, open_model: OpenModel, expected: TokenLists
) -> None:
    """From the first call of loading to the last of generating; most are in generating."""
    outcomes = []
    for turn, place in enumerate([*range(1, 60, 5), *range(60, 420, 19)]):
        emulated.reset()
        emulated.fault(f"*:{place}:{CODES[turn % len(CODES)]}")
        outcomes.append(attempt(open_model, expected))
    assert all(is_one_line(error) for error in outcomes if error is not None)
    assert outcomes[-1] is None, "the last place is behind the last call"
    assert sum(isinstance(error, DeviceLostError) for error in outcomes) > 15


@pytest.mark.parametrize("streams", ["lazy", "eager"])
def test_the_error_names_the_kernel_launched_last(
    streams: str, emulated: Any, open_model: OpenModel
) -> None:
    llm = open_model()
    emulated.streams(streams)
    emulated.fault("cuLaunchKernel:3:719")
    with pytest.raises(
        DeviceLostError, match="reported by cuLaunchKernel; launched last was rms_norm_f32"
    ):
        generated(llm)


def test_a_captured_step_is_named_as_such(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()
    emulated.fault("cuGraphLaunch:2:700")
    with pytest.raises(DeviceLostError, match=r"ILLEGAL_ADDRESS, 700\).*was a captured step"):
        generated(llm)


def test_a_kernel_that_faults_ends_every_running_request(
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


def test_later_requests_fail_with_the_same_error(
    emulated: Any, open_model: OpenModel, expected: TokenLists
) -> None:
    llm = open_model()
    emulated.fault("cuEventSynchronize:4:716")
    with pytest.raises(DeviceLostError) as first:
        generated(llm)
    for use in (lambda: generated(llm), lambda: llm.logits("Once"), lambda: next(llm.stream("a"))):
        with pytest.raises(DeviceLostError) as again:
            use()
        assert str(again.value) == str(first.value)
    with pytest.raises(DeviceLostError, match="restart it, or continue with --backend cpu") as new:
        open_model()
    assert is_one_line(new.value)
    assert generated(open_model(backend="cpu")) == expected


def test_auto_falls_back_to_the_cpu_and_says_why(
    emulated: Any, open_model: OpenModel, expected: TokenLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cullama import backends

    monkeypatch.setattr(
        "cullama.backends._first_gpu",
        lambda dtype, deterministic: backends._cuda(dtype, 0, deterministic),
    )
    llm = open_model()
    emulated.fault("kernel:1:719")
    with pytest.raises(DeviceLostError):
        generated(llm)
    other = open_model(backend="auto", dtype="auto")
    assert "LAUNCH_FAILED" in other.description
    assert "\n" not in other.description
    assert generated(other) == expected


# --- errors reach every waiting thread ------------------------------------------------------------


def test_waiting_threads_get_the_error(emulated: Any, open_model: OpenModel) -> None:
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


def test_an_event_loop_gets_the_error(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()

    async def read(prompt: str) -> str:
        async for _ in llm.stream(prompt, LONG):
            pass
        return "all of it"

    async def read_all() -> list[Any]:
        readers = (read(prompt) for prompt in PROMPTS)
        return await asyncio.wait_for(asyncio.gather(*readers, return_exceptions=True), timeout=30)

    emulated.fault("kernel:150:719")
    for _ in range(2):  # in the second round the GPU is lost from the start
        assert [type(outcome) for outcome in asyncio.run(read_all())] == [DeviceLostError] * 3
    llm.close()  # and does not hang


def test_a_lost_model_is_freed(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()
    operators, engine = weakref.ref(llm.engine.runner.ops), weakref.ref(llm.engine)
    emulated.fault("kernel:20:719")
    with pytest.raises(DeviceLostError):
        generated(llm)
    llm.close()
    gc.collect()
    assert operators() is None
    assert engine() is None


# --- transient errors -----------------------------------------------------------------------------


def test_a_step_that_fails_once_is_retried(
    emulated: Any, open_model: OpenModel, expected: TokenLists
) -> None:
    """The step is repeated, request by request, and no token differs."""
    llm = open_model()
    for call in ("cublasGemmEx:1:13", "cuLaunchKernel:4:1", "cuEventRecord:2:304"):
        emulated.fault(call)
        assert generated(llm) == expected
    emulated.fault("")
    assert generated(llm) == expected


@pytest.mark.parametrize("call", ["cuStreamBeginCapture", "cuGraphInstantiate", "cuGraphLaunch"])
def test_a_step_that_cannot_be_captured_or_replayed_ends_only_its_request(
    call: str, emulated: Any, open_model: OpenModel, expected: TokenLists
) -> None:
    llm = open_model()
    emulated.fault(f"{call}:1+:999")
    with pytest.raises(DeviceError, match=rf"{call} of the CUDA driver failed: .*UNKNOWN, 999"):
        generated(llm)
    emulated.fault("")
    assert generated(llm) == expected
    llm.close()
    assert (emulated.live_bytes(), emulated.pinned_allocations()) == (0, 0)


def test_a_capture_that_was_not_ended_is_ended(
    emulated: Any, open_model: OpenModel, expected: TokenLists
) -> None:
    llm = open_model()
    for _ in range(2):
        emulated.fault("cuStreamEndCapture:1:999")
        assert generated(llm) == expected


@pytest.mark.parametrize("status", [1, 7, 8, 13, 14, 15])
def test_a_cublas_status_is_reported_with_the_library(
    status: int, emulated: Any, open_model: OpenModel, expected: TokenLists
) -> None:
    llm = open_model()
    emulated.fault(f"cublasGemmEx:1+:{status}")
    with pytest.raises(
        DeviceError, match=rf"cublasGemmEx of .*libcublas.*status {status}\."
    ) as one:
        generated(llm)
    assert is_one_line(one.value)
    emulated.fault("")
    assert generated(llm) == expected


def test_cublas_on_a_lost_gpu_says_that_it_is_lost(emulated: Any, open_model: OpenModel) -> None:
    llm = open_model()
    emulated.streams("eager")  # the kernel before it has failed when cuBLAS is called
    emulated.fault("kernel:2:719")
    with pytest.raises(DeviceLostError, match=r"719\), reported by cu"):
        generated(llm)
