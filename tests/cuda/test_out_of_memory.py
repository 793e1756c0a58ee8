"""No memory left, in loading or in the middle of a text: a line that helps, and nothing lost."""

from __future__ import annotations

import gc
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cullama import LLM, SamplingParams
from cullama.errors import CullamaError, DeviceError, DeviceMemoryError, UsageError

PROMPTS = ["Once upon a time a small llama", "The sea"]
STEPS = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)
FEW = SamplingParams(max_tokens=5, temperature=0, ignore_eos=True)
MB = 1_000_000

OpenModel = Callable[..., LLM]
Answers = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def expected(small_model: Path) -> Answers:
    with LLM(small_model, backend="cpu", dtype="float32") as llm:
        return written(llm)


def written(llm: LLM, params: SamplingParams = FEW) -> Answers:
    return [completion.token_ids for completion in llm.generate(PROMPTS, params)]


def held(emulated: Any) -> tuple[int, int]:
    """Bytes of the device, pieces of the host."""
    return emulated.live_bytes(), emulated.pinned_allocations()


def attempt(work: Callable[[], Any]) -> Any:
    """What comes of it: a result, or an error of ours."""
    try:
        return work()
    except CullamaError as error:
        return error.with_traceback(None)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ("cuMemAlloc", r"Emulated GPU \(cuda:0\) has no room for .* MB: .* MB of .* MB are free\."),
        ("cuMemHostAlloc", r"the machine has no room for .* MB of pinned memory.*ulimit -l"),
        ("cuModuleLoadDataEx", r"has no room for what cuModuleLoadDataEx needs: .* free\. Lower"),
        ("cuGraphInstantiate", r"has no room for what cuGraphInstantiate needs: .* free\. Lower"),
        ("cuGraphLaunch", r"has no room for what cuGraphLaunch needs: .* free\. Lower"),
        ("cublasGemmEx", r"has no room for what cublasGemmEx needs: .* free\. Lower"),
    ],
)
def test_whenever_memory_runs_out_the_line_says_what_to_do(
    call: str, line: str, emulated: Any, open_model: OpenModel, expected: Answers
) -> None:
    """From the n-th time on there is none; once n is beyond the last time, all goes well."""
    code = 3 if call.startswith("cublas") else 2
    leap = 1 if "Alloc" in call else 5
    for place in itertools.count(1, leap):
        emulated.fault(f"{call}:{place}+:{code}")
        llm = attempt(open_model)
        outcome = attempt(lambda: written(llm, STEPS)) if isinstance(llm, LLM) else llm  # noqa: B023
        emulated.fault("")
        if isinstance(llm, LLM):
            assert written(llm) == expected, "the next request works"
            llm.close()
        assert held(emulated) == (0, 0)
        if isinstance(outcome, list):
            assert [tokens[:5] for tokens in outcome] == expected
            break
        assert isinstance(outcome, DeviceMemoryError)
        assert re.search(line, str(outcome))
        assert "\n" not in str(outcome)
    assert place > 1, "it was never called"


def test_any_call_may_find_no_memory(
    emulated: Any, open_model: OpenModel, expected: Answers
) -> None:
    for place in [*range(1, 60, 4), *range(60, 260, 25)]:
        emulated.fault(f"*:{place}:2")
        llm = attempt(open_model)
        outcome = attempt(lambda: written(llm)) if isinstance(llm, LLM) else llm  # noqa: B023
        assert outcome == expected or (isinstance(outcome, DeviceError) and str(outcome))
        emulated.fault("")
        if isinstance(llm, LLM):
            assert written(llm) == expected
            llm.close()
        assert held(emulated) == (0, 0)


def test_memory_that_runs_out_once_is_found_by_asking_for_less(
    emulated: Any, open_model: OpenModel, expected: Answers
) -> None:
    for place in range(1, 6):
        emulated.fault(f"cuMemAlloc:{place}:2")
        llm = open_model()
        assert written(llm) == expected
        llm.close()
        assert held(emulated) == (0, 0)


def test_one_text_that_finds_no_room_leaves_the_others_theirs(
    emulated: Any, open_model: OpenModel, expected: Answers
) -> None:
    """What is asked at once is tried again one by one."""
    llm = open_model()
    emulated.fault("cuMemAlloc:1:2,cuMemAlloc:2:2")
    assert written(llm) == expected


def test_texts_that_make_way_for_others_come_back_as_they_were(
    emulated: Any, open_model: OpenModel
) -> None:
    """All of them fit when they come in; only one does when it ends."""
    prompts = [[*range(first, first + 10)] for first in (10, 100, 200)]
    params = SamplingParams(max_tokens=80, temperature=0, ignore_eos=True)
    expected = open_model(backend="cpu").generate(prompts, params)
    llm = open_model(cache_tokens=160)
    answers = llm.generate(prompts, params)
    assert llm.engine.metrics.preemptions > 0
    assert [one.token_ids for one in answers] == [one.token_ids for one in expected]


# --- small devices --------------------------------------------------------------------------------


def test_a_smaller_device_has_room_for_fewer_contexts(
    emulated: Any, open_model: OpenModel, write_small: Callable[..., Path]
) -> None:
    """And where not even one fits, the line says so; wherever it loads, it writes."""
    model = write_small(max_position_embeddings=4096)
    expected = written(open_model(model, backend="cpu"))
    rooms, refused = [], 0
    for size in (1, 3, 5, 8, 34, 100):
        emulated.set("memory_bytes", size * MB)
        llm = attempt(lambda: open_model(model, cache_tokens=None))
        if isinstance(llm, LLM):
            rooms.append(llm.engine.cache.pool.count * llm.engine.cache.block_size)
            assert rooms[-1] >= llm.context_length
            assert written(llm) == expected
            llm.close()
        else:
            refused += 1
            assert isinstance(llm, DeviceMemoryError)
            assert re.search(rf"of {size} MB are free. Lower cache_tokens or context", str(llm))
        assert held(emulated) == (0, 0)
    assert refused
    assert rooms[0] < rooms[-1]


def test_a_cache_larger_than_the_device_is_refused_with_what_fits(
    emulated: Any, open_model: OpenModel
) -> None:
    emulated.set("memory_bytes", 100 * MB)
    with pytest.raises(UsageError, match=r"cache_tokens is 1000000, .* at most (\d+)") as caught:
        open_model(cache_tokens=1_000_000)
    assert held(emulated) == (0, 0)
    found = re.search(r"at most (\d+)", str(caught.value))
    assert found is not None
    open_model(cache_tokens=int(found[1]) // 2)


def test_a_cache_of_many_middling_parts_wastes_nothing(
    emulated: Any, open_model: OpenModel, write_small: Callable[..., Path]
) -> None:
    """Each layer's keys are just over half an arena."""
    model = write_small(num_hidden_layers=6, max_position_embeddings=1 << 15)
    emulated.set("memory_bytes", 400 * MB)
    llm = open_model(model, cache_tokens=18 * MB // 64)
    assert emulated.live_bytes() < 350 * MB
    llm.close()


def test_a_model_that_was_dropped_makes_room_for_the_next(
    emulated: Any, small_model: Path, expected: Answers
) -> None:
    """Not closed, and not found yet by the garbage collector."""
    gc.disable()
    try:
        emulated.set("memory_bytes", 110 * MB)
        for _ in range(3):
            llm = LLM(small_model, backend="cuda", dtype="float32", cache_tokens=512)
            assert written(llm) == expected
            del llm
    finally:
        gc.enable()
    gc.collect()
    assert held(emulated) == (0, 0)
