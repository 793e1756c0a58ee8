"""A whole model on the CUDA backend gives the CPU's tokens in every kind of batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gpu
import numpy as np
import pytest

from cullama import LLM, Completion, SamplingParams
from cullama.cuda.graph_runner import CudaGraphRunner
from cullama.cuda.memory import ALIGNMENT, ARENA_SIZE
from cullama.model.batch import Chunk

pytestmark = pytest.mark.gpu

GREEDY = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)
DRAWN = SamplingParams(max_tokens=20, temperature=0.9, top_p=0.95, seed=5, ignore_eos=True)
PROMPTS = [list(range(3, 3 + length)) for length in (1, 2, 15, 16, 17, 31, 32, 33, 40, 64)]

# Of the tiny model's prompt: gathers, two layers, the logits; products of many rows are cuBLAS's.
STEP_KERNELS = 2 + 2 * 5 + 3

Make = Callable[..., LLM]


@pytest.fixture
def make(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Opens models on the GPU; in the end all of its memory is free again."""
    gpu.require()
    before = None if gpu.IS_REAL else gpu.emulated().live_bytes()
    made: list[LLM] = []

    def make(model: Path = tiny_model, *, budget: int = 512, **options: Any) -> LLM:
        with monkeypatch.context() as patch:
            patch.setattr("cullama.engine.engine.TOKEN_BUDGET", budget)
            patch.setattr("cullama.engine.engine.MAX_RUNNING", min(budget - 1, 256))
            made.append(LLM(model, backend="cuda", **{"dtype": "float32", **options}))
        return made[-1]

    yield make
    for llm in made:
        llm.close()
    if before is not None:
        assert gpu.emulated().live_bytes() == before


@pytest.fixture(scope="module")
def cpu(tiny_model: Path) -> LLM:
    return LLM(tiny_model, backend="cpu")


def ids(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [tuple(completion.token_ids) for completion in completions]


# --- the same as on a CPU -------------------------------------------------------------------------


@pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_tokens_are_the_cpus_alone_and_in_a_batch(
    make: Make, cpu: LLM, params: SamplingParams
) -> None:
    llm = make()
    expected = ids(cpu.generate(PROMPTS, params))
    assert ids(llm.generate(PROMPTS, params)) == expected
    assert [tuple(llm.generate(prompt, params).token_ids) for prompt in PROMPTS] == expected


@pytest.mark.parametrize("budget", [2, 5, 17, 40])
def test_prefill_chunks_do_not_change_tokens(make: Make, cpu: LLM, budget: int) -> None:
    llm = make(budget=budget)
    assert ids(llm.generate(PROMPTS[3:], DRAWN)) == ids(cpu.generate(PROMPTS[3:], DRAWN))


def test_samples_of_one_prompt_are_the_cpus(make: Make, cpu: LLM) -> None:
    """They share the prompt's blocks, and copy the last one to write to it."""
    params = SamplingParams(max_tokens=12, seed=3, n=4, ignore_eos=True)
    mine, theirs = (llm.generate(PROMPTS[6], params) for llm in (make(), cpu))
    assert ids([mine, *mine.alternatives]) == ids([theirs, *theirs.alternatives])


def test_a_prompt_that_continues_an_earlier_output_uses_cached_blocks(make: Make, cpu: LLM) -> None:
    llm = make()
    first = llm.generate(PROMPTS[8], GREEDY)
    longer = [*PROMPTS[8], *first.token_ids, 7, 8]
    assert ids([llm.generate(longer, GREEDY)]) == ids([cpu.generate(longer, GREEDY)])
    assert llm.engine.metrics.cache_hit_rate > 0.5


@pytest.mark.parametrize("budget", [13, 512])
def test_prompts_are_scored_as_on_the_cpu(make: Make, cpu: LLM, budget: int) -> None:
    llm = make(budget=budget)
    params = SamplingParams(max_tokens=3, prompt_logprobs=1, temperature=0, ignore_eos=True)
    for _ in range(2):  # the second time, they are in the prefix cache
        mine, theirs = llm.generate(PROMPTS, params), cpu.generate(PROMPTS, params)
        assert ids(mine) == ids(theirs)
        for one, other in zip(mine, theirs, strict=True):
            scores = [each.logprob for each in (one.prompt_logprobs or ())[1:] if each]
            expected = [each.logprob for each in (other.prompt_logprobs or ())[1:] if each]
            assert len(scores) == one.prompt_tokens - 1
            assert scores == pytest.approx(expected, abs=1e-4)


def test_draft_tokens_change_nothing(make: Make, cpu: LLM) -> None:
    prompt = [5, 6, 7, 8] * 8
    params = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True, speculation=6)
    assert ids([make().generate(prompt, params)]) == ids([cpu.generate(prompt, params)])


def test_a_small_cache_delays_requests_and_does_not_change_tokens(make: Make, cpu: LLM) -> None:
    llm = make(cache_tokens=192)  # six blocks for requests that need nineteen: some are preempted
    assert ids(llm.generate(PROMPTS, DRAWN)) == ids(cpu.generate(PROMPTS, DRAWN))


def test_async_streams_of_an_engine_with_its_own_thread(make: Make, cpu: LLM) -> None:
    llm = make()
    llm.engine.start()

    async def read() -> str:
        return "".join([piece async for piece in llm.stream("Once upon a time", DRAWN)])

    assert asyncio.run(read()) == cpu.generate("Once upon a time", DRAWN).text


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_logits_in_16_bits_are_close(make: Make, cpu: LLM, dtype: str) -> None:
    expected = cpu.logits(PROMPTS[-1])
    error = np.abs(make(dtype=dtype).logits(PROMPTS[-1]) - expected)
    bound = {"float16": 0.02, "bfloat16": 0.15}[dtype]
    assert 0 < error.max() <= bound * np.abs(expected).max()


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_wide_model_with_odd_sizes(
    make: Make, write_model: Any, tmp_path: Path, deterministic: bool
) -> None:
    """9 heads over 3, as SmolLM2 has; widths that 64 does not divide; a window; biases; ties."""
    folder = write_model(
        tmp_path / "wide",
        hidden_size=216,
        intermediate_size=200,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=517,
        tie_word_embeddings=True,
    )
    llm = make(folder, deterministic=deterministic)
    with LLM(folder, backend="cpu") as cpu:
        assert ids(llm.generate(PROMPTS, DRAWN)) == ids(cpu.generate(PROMPTS, DRAWN))


# --- determinism ----------------------------------------------------------------------------------


def test_deterministic_logits_are_the_same_bits_in_any_batch_and_chunking(make: Make) -> None:
    llm = make(dtype="bfloat16", deterministic=True)
    prompt, engine = PROMPTS[-1], llm.engine
    expected = llm.logits(prompt)
    company = [engine.prefix_cache.pool.allocate(2) or [] for _ in range(4)]
    others = [Chunk(each, 0, blocks, 0) for each, blocks in zip(PROMPTS, company[1:], strict=False)]
    for chunk in (1, 7, 16, 33):
        parts = [
            engine.runner.logits([*others, Chunk(part, start, company[0], len(part))])
            for start in range(0, len(prompt), chunk)
            if (part := prompt[start : start + chunk])
        ]
        np.testing.assert_array_equal(np.concatenate(parts), expected)
    for blocks in company:
        engine.prefix_cache.pool.release(blocks)


# --- graphs ---------------------------------------------------------------------------------------


def test_a_repeated_step_is_replayed(make: Make, cpu: LLM) -> None:
    if gpu.IS_REAL:
        pytest.skip("counts the driver's calls, which only an emulated one tells")
    device = gpu.emulated()
    llm = make()
    params = SamplingParams(max_tokens=16, temperature=0, ignore_eos=True)  # within one block
    llm.generate(PROMPTS[2], params)
    names = ("cuGraphLaunch", "cuLaunchKernel", "cuMemcpyHtoDAsync", "cuMemAlloc")
    before = {name: device.calls(name) for name in names}
    completion = llm.generate(PROMPTS[2][::-1], params)
    launched, kernels, up, allocated = (device.calls(name) - before[name] for name in names)
    assert launched == 15  # all but the prefill
    assert kernels == 16 + STEP_KERNELS  # the samplers', and that step's
    assert up == 16  # the batch, once a step
    assert allocated == 0
    assert ids([completion]) == ids([cpu.generate(PROMPTS[2][::-1], params)])


def test_graphs_serve_batches_that_shrink_and_grow(make: Make, cpu: LLM) -> None:
    llm = make()
    for count in (1, 3, 10, 2, 7, 10, 1):
        params = [
            SamplingParams(max_tokens=4 + 3 * i, seed=i, ignore_eos=True) for i in range(count)
        ]
        mine = [llm.stream(PROMPTS[i], params[i]) for i in range(count)]
        theirs = [cpu.stream(PROMPTS[i], params[i]) for i in range(count)]
        assert ["".join(stream) for stream in mine] == ["".join(stream) for stream in theirs]


def test_all_graphs_share_one_buffer_of_logits(make: Make) -> None:
    llm = make()
    runner = llm.engine.runner.forward
    assert isinstance(runner, CudaGraphRunner)
    for count in (1, 2, 4, 8, 10):
        for _ in range(2):
            llm.generate(PROMPTS[:count], GREEDY)
    batches = [graph._batch.whole.nbytes for graph in runner._graphs.values() if graph]
    assert len(batches) >= 4
    kept = sum(-(-size // ALIGNMENT) * ALIGNMENT for size in batches)
    pool = runner._pool
    assert pool.arenas == 1
    assert pool._free.has_room_for(ARENA_SIZE - kept)  # nothing else is held between steps


def test_long_contexts_are_split_and_merged(make: Make, write_model: Any, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "long", max_position_embeddings=1024)
    prompt = [3 + i * 7 % 290 for i in range(700)]
    llm = make(folder)
    with LLM(folder, backend="cpu") as cpu:
        for llm_prompt in (prompt, prompt[:256], prompt[:257], prompt[:511]):
            assert ids([llm.generate(llm_prompt, GREEDY)]) == ids(
                [cpu.generate(llm_prompt, GREEDY)]
            )


FORMS: list[dict[str, Any]] = [
    {"regex": "[a-z]{12,20}", "temperature": 0},
    {"regex": "[0-9]{2}:[0-9]{2}", "speculation": 3},
    {"choice": ["a small llama went over the hill", "nobody"], "logprobs": 2},
    {"json_schema": {"enum": [12345, "see the sea", None]}, "logit_bias": {40: 3.0}},
]


def test_answers_of_a_given_form_are_those_of_the_cpu(make: Make, cpu: LLM) -> None:
    """Masked draws on the device, forced tokens in one pass, beside answers of no form."""
    params = [SamplingParams(**{"seed": 3, "max_tokens": 40, **form}) for form in FORMS]
    params.insert(2, DRAWN)
    prompts = PROMPTS[3 : 3 + len(params)]
    expected = [cpu.generate(prompt, each) for prompt, each in zip(prompts, params, strict=True)]
    llm = make()
    together = llm.generate(prompts, params)
    assert ids(together) == ids(expected)
    assert [each.text for each in together] == [each.text for each in expected]
    assert together[3].text in FORMS[2]["choice"]
    assert llm.engine.metrics.accepted_tokens > 0
    for prompt, each, answer in zip(prompts, params, expected, strict=True):
        assert llm.generate(prompt, each).token_ids == answer.token_ids
