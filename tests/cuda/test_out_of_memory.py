"""Out of memory, while loading or generating: the error helps, and nothing is leaked."""

from __future__ import annotations

import gc
import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cullama import LLM, SamplingParams
from cullama.checkpoint.opening import open_checkpoint
from cullama.errors import CullamaError, DeviceError, DeviceMemoryError, UsageError

PROMPTS = ["Once upon a time a small llama", "The sea"]
STEPS = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)
FEW = SamplingParams(max_tokens=5, temperature=0, ignore_eos=True)
MB = 1_000_000

OpenModel = Callable[..., LLM]
TokenLists = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def expected(small_model: Path) -> TokenLists:
    with LLM(small_model, backend="cpu", dtype="float32") as llm:
        return generated(llm)


def generated(llm: LLM, params: SamplingParams = FEW) -> TokenLists:
    return [completion.token_ids for completion in llm.generate(PROMPTS, params)]


def allocated(emulated: Any) -> tuple[int, int]:
    """Return bytes of device memory and the number of pinned host allocations."""
    return emulated.live_bytes(), emulated.pinned_allocations()


def attempt(work: Callable[[], Any]) -> Any:
    """Return the result of `work`, or the CullamaError that it raised."""
    try:
        return work()
    except CullamaError as error:
        return error.with_traceback(None)


def test_weights_that_do_not_fit_are_refused_before_any_is_read(
    emulated: Any, small_model: Path
) -> None:
    def unreadable() -> Any:
        raise AssertionError("read, although there is no room")

    checkpoint = open_checkpoint(small_model)
    tensors = {
        name: replace(tensor, shape=(1 << 20, *tensor.shape[1:]), tiles=unreadable)
        for name, tensor in checkpoint.tensors.items()
    }
    with pytest.raises(DeviceMemoryError, match=r"no room for the weights, .* MB of .* MB are"):
        LLM(replace(checkpoint, tensors=tensors), backend="cuda")
    assert allocated(emulated) == (0, 0)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ("cuMemAlloc", r"Emulated GPU \(cuda:0\) has no room for .* MB: .* MB of .* MB are free\."),
        ("cuMemHostAlloc", r"the machine has no room for .* MB of pinned memory.*ulimit -l"),
        ("cuModuleLoadDataEx", r"has no room for what cuModuleLoadDataEx needs: .* free\. Lower"),
        ("cuGraphLaunch", r"has no room for what cuGraphLaunch needs: .* free\. Lower"),
        ("cublasGemmEx", r"has no room for what cublasGemmEx needs: .* free\. Lower"),
    ],
)
def test_out_of_memory_errors_say_what_to_do(
    call: str, line: str, emulated: Any, open_model: OpenModel, expected: TokenLists
) -> None:
    """Calls fail from the n-th on, for growing n, until n is beyond the last call."""
    code = 3 if call.startswith("cublas") else 2
    leap = 1 if "Alloc" in call else 5
    for place in itertools.count(1, leap):
        emulated.fault(f"{call}:{place}+:{code}")
        llm = attempt(open_model)
        outcome = attempt(lambda: generated(llm, STEPS)) if isinstance(llm, LLM) else llm  # noqa: B023
        emulated.fault("")
        if isinstance(llm, LLM):
            assert generated(llm) == expected, "the next request works"
            llm.close()
        assert allocated(emulated) == (0, 0)
        if isinstance(outcome, list):
            assert [tokens[:5] for tokens in outcome] == expected
            break
        assert isinstance(outcome, DeviceMemoryError)
        assert re.search(line, str(outcome))
        assert "\n" not in str(outcome)
    assert place > 1, "it was never called"


def test_any_call_may_run_out_of_memory(
    emulated: Any, open_model: OpenModel, expected: TokenLists
) -> None:
    for place in [*range(1, 60, 4), *range(60, 260, 25)]:
        emulated.fault(f"*:{place}:2")
        llm = attempt(open_model)
        outcome = attempt(lambda: generated(llm)) if isinstance(llm, LLM) else llm  # noqa: B023
        assert outcome == expected or (isinstance(outcome, DeviceError) and str(outcome))
        emulated.fault("")
        if isinstance(llm, LLM):
            assert generated(llm) == expected
            llm.close()
        assert allocated(emulated) == (0, 0)


def test_a_smaller_arena_is_allocated_where_a_large_one_does_not_fit(
    emulated: Any, open_model: OpenModel, expected: TokenLists
) -> None:
    for place in range(1, 6):
        emulated.fault(f"cuMemAlloc:{place}:2")
        llm = open_model()
        assert generated(llm) == expected
        llm.close()
        assert allocated(emulated) == (0, 0)


def test_a_batch_that_runs_out_of_memory_is_retried_request_by_request(
    emulated: Any, open_model: OpenModel, expected: TokenLists
) -> None:
    """A step of several requests is retried with one at a time."""
    llm = open_model()
    emulated.fault("cuMemAlloc:1:2,cuMemAlloc:2:2")
    assert generated(llm) == expected


def test_preempted_requests_give_the_same_tokens(emulated: Any, open_model: OpenModel) -> None:
    """All fit when they start; only one does when it ends."""
    prompts = [[*range(first, first + 10)] for first in (10, 100, 200)]
    params = SamplingParams(max_tokens=80, temperature=0, ignore_eos=True)
    expected = open_model(backend="cpu").generate(prompts, params)
    llm = open_model(cache_tokens=160)
    answers = llm.generate(prompts, params)
    assert llm.engine.metrics.preemptions > 0
    assert [one.token_ids for one in answers] == [one.token_ids for one in expected]


def test_steps_for_which_no_graph_fits_go_kernel_by_kernel(
    emulated: Any, open_model: OpenModel, caplog: pytest.LogCaptureFixture
) -> None:
    expected = generated(open_model())
    llm = open_model()
    emulated.fault("cuGraphInstantiate:1+:2")
    assert generated(llm) == expected
    (record,) = caplog.records
    assert "go kernel by kernel, which is slower: Emulated GPU" in record.message


# --- small devices --------------------------------------------------------------------------------


def test_a_smaller_device_has_room_for_fewer_contexts(
    emulated: Any, open_model: OpenModel, write_small: Callable[..., Path]
) -> None:
    """Where not even one fits, the error says so; where the model loads, it generates."""
    model = write_small(max_position_embeddings=4096)
    expected = generated(open_model(model, backend="cpu"))
    rooms, refused = [], 0
    for size in (1, 3, 5, 8, 34, 100):
        emulated.set("memory_bytes", size * MB)
        llm = attempt(lambda: open_model(model, cache_tokens=None))
        if isinstance(llm, LLM):
            rooms.append(llm.engine.prefix_cache.pool.count * llm.engine.prefix_cache.block_size)
            assert rooms[-1] >= llm.context_length
            assert generated(llm) == expected
            llm.close()
        else:
            refused += 1
            assert isinstance(llm, DeviceMemoryError)
            assert re.search(rf"of {size} MB are free. Lower cache_tokens or context", str(llm))
        assert allocated(emulated) == (0, 0)
    assert refused
    assert rooms[0] < rooms[-1]


def test_a_cache_larger_than_the_device_is_refused_with_what_fits(
    emulated: Any, open_model: OpenModel
) -> None:
    emulated.set("memory_bytes", 100 * MB)
    with pytest.raises(UsageError, match=r"cache_tokens is 1000000, .* at most (\d+)") as caught:
        open_model(cache_tokens=1_000_000)
    assert allocated(emulated) == (0, 0)
    found = re.search(r"at most (\d+)", str(caught.value))
    assert found is not None
    open_model(cache_tokens=int(found[1]) // 2)


def test_a_cache_of_layers_larger_than_half_an_arena_wastes_nothing(
    emulated: Any, open_model: OpenModel, write_small: Callable[..., Path]
) -> None:
    """Each layer's keys are just over half an arena."""
    model = write_small(num_hidden_layers=6, max_position_embeddings=1 << 15)
    emulated.set("memory_bytes", 400 * MB)
    llm = open_model(model, cache_tokens=18 * MB // 64)
    assert emulated.live_bytes() < 350 * MB
    llm.close()


def test_a_dropped_model_is_collected_when_memory_is_needed(
    emulated: Any, small_model: Path, expected: TokenLists
) -> None:
    """It was neither closed nor collected before."""
    gc.disable()
    try:
        emulated.set("memory_bytes", 110 * MB)
        for _ in range(3):
            llm = LLM(small_model, backend="cuda", dtype="float32", cache_tokens=512)
            assert generated(llm) == expected
            del llm
    finally:
        gc.enable()
    gc.collect()
    assert allocated(emulated) == (0, 0)
