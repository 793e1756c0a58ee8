"""Whatever order the device works in, the tokens are the CPU's: nothing is read before it is there.

The emulated driver does queued work as late as it may (lazy), as early (eager, issued), or by
chance; blocks and threads come in ascending, descending or random order. Staging memory that is
written to again too early, and a missing wait, show in the tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cullama import LLM, SamplingParams

PROMPTS = ["Once upon a time a small llama", "The sea", "def add(left, right):", "Zürich"]
GREEDY = SamplingParams(max_tokens=5, temperature=0, ignore_eos=True)
DRAWN = SamplingParams(
    max_tokens=5, temperature=0.9, top_p=0.9, seed=3, ignore_eos=True, repetition_penalty=1.2
)

OpenModel = Callable[..., LLM]
Answers = list[tuple[int, ...]]


def written(llm: LLM) -> Answers:
    """Texts of several lengths, greedy and drawn, some of them begun while others are under way."""
    early = llm.stream(PROMPTS[0], DRAWN)
    next(early)
    completions = llm.generate(PROMPTS, GREEDY) + llm.generate(PROMPTS[:2], DRAWN)
    for _ in early:
        pass
    return [completion.token_ids for completion in (*completions, early.completion)]


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> Answers:
    with LLM(tiny_model, backend="cpu", dtype="float32") as llm:
        return written(llm)


@pytest.mark.parametrize(
    ("streams", "seed"),
    [("lazy", 0), ("issued", 0), ("eager", 0), *(("random", seed) for seed in range(3))],
)
def test_work_may_be_done_early_or_late(
    streams: str,
    seed: int,
    emulated: Any,
    open_model: OpenModel,
    tiny_model: Path,
    expected: Answers,
) -> None:
    emulated.streams(streams, seed)
    assert written(open_model(tiny_model)) == expected


@pytest.mark.parametrize(
    ("order", "seed"),
    [("ascending", 0), ("descending", 0), ("random", 0), ("random", 1)],
)
def test_threads_and_blocks_may_come_in_any_order(
    order: str, seed: int, emulated: Any, open_model: OpenModel, tiny_model: Path, expected: Answers
) -> None:
    emulated.schedule(order, seed, has_eager_copies=bool(seed))
    assert written(open_model(tiny_model)) == expected


def test_a_step_without_graphs_is_the_same(
    emulated: Any,
    open_model: OpenModel,
    tiny_model: Path,
    expected: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cullama.cuda.operators import CudaOperators

    monkeypatch.setattr(CudaOperators, "graph", lambda operators, step: step)
    emulated.streams("random", 1)
    assert written(open_model(tiny_model)) == expected
    assert emulated.calls("cuGraphLaunch") == 0
