"""In every order of the device's work the tokens are the CPU's: nothing is read too early.

The emulated driver runs queued work as late as allowed (lazy), as early (eager, issued), or at
random; blocks and threads run in ascending, descending or random order. Staging memory that is
reused too early and missing synchronisation show as wrong tokens.
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
TokenLists = list[tuple[int, ...]]


def generated(llm: LLM) -> TokenLists:
    """Generate several lengths, greedy and sampled; some requests start while another runs."""
    early = llm.stream(PROMPTS[0], DRAWN)
    next(early)
    completions = llm.generate(PROMPTS, GREEDY) + llm.generate(PROMPTS[:2], DRAWN)
    for _ in early:
        pass
    return [completion.token_ids for completion in (*completions, early.completion)]


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> TokenLists:
    with LLM(tiny_model, backend="cpu", dtype="float32") as llm:
        return generated(llm)


@pytest.mark.parametrize(
    ("streams", "seed"),
    [("lazy", 0), ("issued", 0), ("eager", 0), *(("random", seed) for seed in range(3))],
)
def test_queued_work_may_run_early_or_late(
    streams: str,
    seed: int,
    emulated: Any,
    open_model: OpenModel,
    tiny_model: Path,
    expected: TokenLists,
) -> None:
    emulated.streams(streams, seed)
    assert generated(open_model(tiny_model)) == expected


@pytest.mark.parametrize(
    ("order", "seed"),
    [("ascending", 0), ("descending", 0), ("random", 0), ("random", 1)],
)
def test_threads_and_blocks_may_run_in_any_order(
    order: str,
    seed: int,
    emulated: Any,
    open_model: OpenModel,
    tiny_model: Path,
    expected: TokenLists,
) -> None:
    emulated.schedule(order, seed, has_eager_copies=bool(seed))
    assert generated(open_model(tiny_model)) == expected


def test_steps_without_graphs_give_the_same_tokens(
    emulated: Any,
    open_model: OpenModel,
    tiny_model: Path,
    expected: TokenLists,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cullama.cuda.operators import CudaOperators

    monkeypatch.setattr(CudaOperators, "graph", lambda operators, step: step)
    emulated.streams("random", 1)
    assert generated(open_model(tiny_model)) == expected
    assert emulated.calls("cuGraphLaunch") == 0
