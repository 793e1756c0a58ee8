"""A recorded pass is the pass it was recorded from, bit for bit, however contexts change.

All memory that programs share is full of NaN before each pass: nothing may be left from the last.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from compiled_cpu import NAMES, in_each_instruction_set, operators
from numpy.typing import NDArray

from cullama import LLM, SamplingParams
from cullama.benchmark.shapes import random_checkpoint
from cullama.checkpoint.weights import load_weights
from cullama.cpu.backend import BLOCK_SIZE
from cullama.cpu.compiled import graph_runner
from cullama.cpu.compiled.batch import TABLE_STEP
from cullama.cpu.compiled.graph_runner import MAX_TOKENS, CpuGraphRunner
from cullama.cpu.compiled.operators import CompiledOperators
from cullama.model.batch import Batch, Chunk, build_batch
from cullama.model.llama import AnyLlama, Llama

BEST = NAMES[0]
ROOM = TABLE_STEP * BLOCK_SIZE  # tokens of context that a first recording has room for

Logits = NDArray[np.float32]


class RecordedModel:
    """A model with two caches of the same contents: one for recorded passes and one for others."""

    def __init__(self, name: str, dtype: str, threads: int = 1) -> None:
        checkpoint = random_checkpoint("tinystories-656k")
        self.ops = operators(name, dtype, threads)
        model: AnyLlama = Llama(
            checkpoint.config, load_weights(checkpoint, self.ops, 2 * ROOM + 100), self.ops
        )
        self.caches = [self.ops.cache(checkpoint.config, 16 * ROOM) for _ in range(2)]
        noise = np.random.default_rng(0).standard_normal(9973, np.float32)
        for cache in self.caches:
            for layer in cache.layers:
                for array in (layer.keys, layer.values):
                    array[:] = np.resize(noise.astype(array.dtype), array.shape)
        self.passes: list[int] = []

        def step(batch: Batch[Any]) -> Logits:
            self.passes.append(len(batch.tokens))
            return model.forward(batch, self.caches[0])

        recorded = self.ops.graph(step)
        assert isinstance(recorded, CpuGraphRunner)
        self.recorded = recorded
        self.plain: Callable[[Batch[Any]], Logits] = lambda batch: model.forward(
            batch, self.caches[1]
        )

    def check(self, *contexts: int, tokens: Sequence[int] = (), logits: int = 1) -> Logits:
        """A pass in which sequences reach these contexts, both ways."""
        chunks = [
            Chunk(
                [(7 * place + context) % 2048] * count,
                context - count,
                self.blocks(place, context),
                logits,
            )
            for place, (context, count) in enumerate(
                zip(contexts, tokens or [1] * len(contexts), strict=True)
            )
        ]
        batch = build_batch(chunks, BLOCK_SIZE)
        self.recorded._arena._memory.fill(255)
        found = self.recorded(self.ops.upload_batch(batch))
        expected = self.plain(self.ops.upload_batch(batch))
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(found, expected)
        return found

    def blocks(self, place: int, context: int) -> list[int]:
        """Scattered; no two sequences share any."""
        count, whole = -(-context // BLOCK_SIZE), self.caches[0].blocks
        if place >= 5:  # many short ones
            return [whole - 1 - 3 * place - i for i in range(count)]
        return [(place + 5 * i) * 7 % (whole - 250) for i in range(count)]

    def check_caches(self) -> None:
        for first, second in zip(*(cache.layers for cache in self.caches), strict=True):
            assert first.keys.tobytes() == second.keys.tobytes()
            assert first.values.tobytes() == second.values.tobytes()


@pytest.fixture
def model() -> RecordedModel:
    return RecordedModel(BEST, "float16")


@in_each_instruction_set
@pytest.mark.parametrize("dtype", ["auto", "q8_0"])
def test_many_steps_of_many_sequences(name: str, dtype: str) -> None:
    """The number of sequences changes, and contexts grow, end and begin again."""
    model, draw = RecordedModel(name, dtype, threads=2), random.Random(1)
    contexts = [1, 511, 33, 700, 2000]
    for _ in range(25):
        model.check(*contexts[: draw.randint(1, 5)])
        contexts = [context + 1 for context in contexts]
        contexts[draw.randrange(5)] = draw.randint(1, 1500)
    assert len(model.passes) <= 5  # each number was recorded once
    model.check_caches()


@pytest.mark.parametrize("context", [31, 32, 33, 511, 512, 513, 1023, 1025, ROOM - 1])
def test_a_context_grows_past_the_edge_of_a_block_or_split(
    model: RecordedModel, context: int
) -> None:
    for grown in range(3):
        model.check(context + grown, 5)
    model.check_caches()


def test_block_tables_that_outgrow_their_room_are_recorded_again(model: RecordedModel) -> None:
    for context in (ROOM - 2, ROOM, ROOM + 1, 7, ROOM + BLOCK_SIZE, 2 * ROOM, 2 * ROOM + 1, 12):
        model.check(context)
    assert len(model.passes) == 3
    model.check_caches()


def test_batches_with_prefills_are_not_recorded(model: RecordedModel) -> None:
    model.check(5, 6)
    for tokens in ([3, 1], [1, 2], [40, 40]):
        model.check(50, 60, tokens=tokens)
    model.check(70, 9)
    assert model.passes == [2, 4, 3, 80]
    model.check_caches()


def test_draft_tokens_are_recorded_for_each_number_of_them(model: RecordedModel) -> None:
    for context, tokens in ((9, 5), (40, 2), (515, 5), (1025, 9), (700, 5), (33, 9), (1026, 2)):
        model.check(context, tokens=[tokens], logits=tokens)
    assert model.passes == [5, 2, 9]
    model.check(9, 50, 33, 7, 90)
    model.check(700, tokens=[5], logits=5)
    assert model.passes[3:] == [5], "five sequences with a token each are another shape"
    model.check(50, 60, tokens=[3, 3], logits=3)
    assert model.passes[4:] == [6], (
        "drafts of several sequences are not recorded: such a shape seldom comes again"
    )
    model.check(MAX_TOKENS + 8, tokens=[MAX_TOKENS + 1], logits=MAX_TOKENS + 1)
    assert model.passes[5:] == [MAX_TOKENS + 1]
    model.check_caches()


def test_batches_of_more_than_max_tokens_are_not_recorded(model: RecordedModel) -> None:
    for sequences in (MAX_TOKENS, MAX_TOKENS + 1, MAX_TOKENS):
        model.check(*range(1, sequences + 1))
    assert model.passes == [MAX_TOKENS, MAX_TOKENS + 1]
    model.check_caches()


def test_results_are_the_caller_s_own(model: RecordedModel) -> None:
    """A later pass does not write over them."""
    first = model.check(9)
    before = first.copy()
    model.check(10)
    np.testing.assert_array_equal(first, before)


def test_an_arena_that_is_too_small_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was recorded in the small one goes on."""
    monkeypatch.setattr(graph_runner, "ARENA", 1 << 14)
    model = RecordedModel(BEST, "float16")
    small = model.recorded._arena
    for contexts in ([5], [6, 900], [7], [3, 4, 5], [8, 8], [9]):
        model.check(*contexts)
    assert model.recorded._arena is not small


def test_the_number_of_threads_may_change_in_between(model: RecordedModel) -> None:
    for threads in (1, 3, 2, 1):
        model.ops.use_threads(threads)
        model.check(600 + threads, 40)
        model.check(40 + threads)
    model.check_caches()


# --- steps that are not all kernels --------------------------------------------------------------


def one_token(ops: Any, token: int) -> Batch[Any]:
    batch: Batch[Any] = ops.upload_batch(build_batch([Chunk([token], 0, [0], 1)], BLOCK_SIZE))
    return batch


def check_graph(ops: Any, step: Callable[[Batch[Any]], Logits]) -> None:
    graph = ops.graph(step)
    for token in (3, 8, 3, 0):
        batch = one_token(ops, token)
        np.testing.assert_array_equal(graph(batch), step(batch))


@pytest.mark.parametrize("operator", ["add", "mul", "matmul"])
def test_numpy_s_own_operators_are_not_recorded(operator: str) -> None:
    ops: Any = operators(BEST, "float32")
    table = np.random.default_rng(0).standard_normal((9, 16), np.float32)
    square = np.eye(16, dtype=np.float32) * 3

    def step(batch: Batch[Any]) -> Logits:
        x = ops.gather(table, batch.tokens)
        return getattr(ops, operator)(x, square if operator == "matmul" else x)

    check_graph(ops, step)


def test_arithmetic_behind_the_operators_back_is_not_recorded() -> None:
    """What a step returns may be an array that no kernel has written."""
    ops: Any = operators(BEST, "float32")
    table = np.random.default_rng(0).standard_normal((9, 16), np.float32)

    def step(batch: Batch[Any]) -> Logits:
        x: Logits = ops.gather(table, batch.tokens) * 2
        return x

    check_graph(ops, step)


def test_an_error_in_a_step_leaves_nothing_recording() -> None:
    ops: Any = operators(BEST, "float32")
    table = np.ones((3, 16), np.float32)

    def broken(batch: Batch[Any]) -> Logits:
        ops.gather(table, batch.tokens)
        raise ZeroDivisionError("mine")

    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="mine"):
            ops.graph(broken)(one_token(ops, 1))
    assert (ops.gather(table, np.array([1], np.int32)) == 1).all()


# --- whole requests ------------------------------------------------------------------------------

GREEDY = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True, logprobs=3)
DRAWN = SamplingParams(max_tokens=40, seed=3, ignore_eos=True, logprobs=3)
DRAFTING = replace(GREEDY, speculation=5)


@pytest.mark.parametrize("params", [GREEDY, DRAWN, DRAFTING], ids=["greedy", "drawn", "drafting"])
def test_a_request_gives_the_same_bits_in_any_batch(
    monkeypatch: pytest.MonkeyPatch, params: SamplingParams
) -> None:
    """Alone, beside others, in chunks; recorded or not; with any number of threads."""

    def llm(threads: int) -> LLM:
        make = lambda *wishes: operators(BEST, "q8_0", threads)  # noqa: E731
        monkeypatch.setattr("cullama.llm.operators_for", make)
        return LLM(random_checkpoint("tinystories-656k"))

    draw = random.Random(5)
    prompts = [[draw.randrange(2048) for _ in range(length)] for length in (1, 33, 90, 7, 150)]
    with llm(1) as alone:
        assert isinstance(alone.engine.runner.ops, CompiledOperators)
        expected = [alone.generate(prompt, params).logprobs for prompt in prompts]
        assert bool(alone.engine.metrics.accepted_tokens) == bool(params.speculation)
    monkeypatch.setattr("cullama.engine.engine.TOKEN_BUDGET", 50)
    monkeypatch.setattr("cullama.engine.engine.MAX_RUNNING", 8)
    with llm(2) as crowd:
        assert [each.logprobs for each in crowd.generate(prompts, params)] == expected
    monkeypatch.setattr(graph_runner, "MAX_TOKENS", 0)
    with llm(1) as unrecorded:
        assert [each.logprobs for each in unrecorded.generate(prompts, params)] == expected
