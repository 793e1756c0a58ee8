"""The prompts of one call: in a list, streamed or awaited, each gets what it gets alone."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cullama import LLM, Completion, SamplingParams
from cullama.errors import ChatTemplateError, ClosedError, ContextLengthError, NumericalError
from cullama.errors import UsageError as Wrong

PROMPTS: list[Any] = ["Once upon a time", "The old clock", [5, 6, 7], "東京 and", "def add("]
HI, BYE = [{"role": "user", "content": "Hi"}], [{"role": "user", "content": "the llama"}]
PARAMS = SamplingParams(max_tokens=12, seed=7, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(chat_model: Path) -> Iterator[LLM]:
    with LLM(chat_model, context_length=128, deterministic=True) as llm:
        yield llm


@pytest.fixture
def idle_after(llm: LLM) -> Iterator[LLM]:
    yield llm
    gc.collect()
    deadline = time.monotonic() + 20  # an engine thread may have cancellations yet to do
    while llm.engine.scheduler.has_work and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not llm.engine.scheduler.has_work
    assert llm.engine.prefix_cache.pool.referenced == 0


any_params = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 12),
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    top_k=st.sampled_from([0, 1, 5]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 3),
    logprobs=st.sampled_from([None, 0, 2]),
    n=st.integers(1, 3),
    ignore_eos=st.booleans(),
    stop=st.sampled_from([(), ("a",), (" ",)]),
)
requests = st.lists(st.tuples(st.sampled_from(PROMPTS), any_params), max_size=5)


@settings(max_examples=25)
@given(requests)
def test_a_list_with_params_of_each_equals_single_calls(llm: LLM, asked: list[Any]) -> None:
    prompts, params = [prompt for prompt, _ in asked], [its_params for _, its_params in asked]
    single = [llm.generate(prompt, its_params) for prompt, its_params in asked]
    assert llm.generate(prompts, params) == single
    assert asyncio.run(llm.agenerate(prompts, params)) == single


@settings(max_examples=25)
@given(st.sampled_from(PROMPTS), any_params)
def test_a_stream_in_a_thread_or_an_event_loop_equals_generate(
    llm: LLM, prompt: Any, params: SamplingParams
) -> None:
    params = replace(params, n=1)
    expected = llm.generate(prompt, params)

    async def read() -> Completion:
        stream = llm.stream(prompt, params)
        text = "".join([piece async for piece in stream])
        assert text == stream.completion.text
        return stream.completion

    with llm.stream(prompt, params) as stream:
        assert "".join(stream) == expected.text
    assert stream.completion == asyncio.run(read()) == expected


def test_several_conversations_are_answered_as_each_alone(llm: LLM) -> None:
    params = [PARAMS, replace(PARAMS, seed=8, n=2)]
    single = [llm.chat(messages, its) for messages, its in zip([HI, BYE], params, strict=True)]
    assert llm.chat([HI, BYE], params) == single
    assert llm.chat((messages for messages in (HI, BYE)), PARAMS)[0] == single[0]
    assert asyncio.run(llm.achat([HI, BYE], params)) == single
    assert asyncio.run(llm.achat(HI, PARAMS)) == single[0]
    assert llm.chat(iter(HI), PARAMS) == single[0]


def test_one_prompt_gives_one_completion_and_a_list_of_one_a_list(llm: LLM) -> None:
    one = llm.generate("Once", PARAMS)
    assert isinstance(one, Completion)
    assert llm.generate(["Once"], PARAMS) == [one]
    assert llm.generate(iter(["Once"]), [PARAMS]) == [one]
    assert llm.generate(np.array(["Once"]), [PARAMS]) == [one]
    nothing: list[str] = []
    assert llm.generate(nothing) == llm.generate(nothing, []) == []
    assert asyncio.run(llm.agenerate(nothing)) == []


# --- what is at fault, and where


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        (["A", "B", [], "D"], Wrong, r"^prompts\[2\]: the prompt is empty"),
        (["A", [5, 10**6]], Wrong, r"^prompts\[1\]: the prompt holds 1000000"),
        (["A", None], Wrong, r"^prompts\[1\]: the prompt is None"),
        (["A", "\ud800"], Wrong, r"^prompts\[1\]: .*well-formed"),
        (["A", "B", [5] * 500, "D"], ContextLengthError, r"^prompts\[2\]: .*500 tokens"),
        ([[5] * 500], ContextLengthError, r"^prompts\[0\]: .*500 tokens"),
        ([5] * 500, ContextLengthError, "^a prompt of 500 tokens"),
    ],
)
def test_an_error_begins_with_the_prompt_s_place_in_the_list(
    idle_after: LLM, prompts: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        idle_after.generate(prompts, PARAMS)
    with pytest.raises(error, match=message):
        asyncio.run(idle_after.agenerate(prompts, PARAMS))


def test_an_error_begins_with_the_conversation_s_place_in_the_list(idle_after: LLM) -> None:
    bad: Any = [HI, [*HI, {"role": "user"}]]
    with pytest.raises(Wrong, match=r"^messages\[1\]: message 1 has no content"):
        idle_after.chat(bad, PARAMS)
    with pytest.raises(Wrong, match=r"^messages\[2\]: the messages are \[\]"):
        idle_after.chat([HI, HI, []], PARAMS)
    with pytest.raises(Wrong, match=r"^the messages are \[\]"):
        idle_after.chat([], PARAMS)
    question: Any = "Hi"
    with pytest.raises(Wrong, match=r"^the messages are 'Hi', .*session\(\)\.send\(text\)"):
        idle_after.chat(question, PARAMS)


def test_a_template_s_refusal_names_the_conversation(chat_model: Path, tmp_path: Path) -> None:
    template = tmp_path / "own.jinja"
    template.write_text("{% if messages[0].content == 'x' %}{{ none.a.b }}{% endif %}{{ 'Hi' }}")
    with (
        LLM(chat_model, context_length=128, chat_template=template) as llm,
        pytest.raises((ChatTemplateError, Wrong), match=r"^messages\[1\]: "),
    ):
        llm.chat([HI, [{"role": "user", "content": "x"}]], PARAMS)


def test_nan_names_the_prompt_in_whose_text_it_came(
    tmp_path: Path, write_model: Any, tiny_tensors: dict[str, Any]
) -> None:
    tiny_tensors["model.embed_tokens.weight"][42] = np.nan
    with LLM(write_model(tmp_path, tiny_tensors)) as llm:
        for prompts in ([[5], [42], [6]], [[5], [42], [42]]):
            with pytest.raises(NumericalError, match=r"^prompts\[1\]: .*finite"):
                llm.generate(prompts, PARAMS)
            with pytest.raises(NumericalError, match=r"^prompts\[1\]: .*finite"):
                asyncio.run(llm.agenerate(prompts, PARAMS))
        with pytest.raises(NumericalError, match="finite") as caught:
            llm.generate([42], PARAMS)
        assert "prompts" not in str(caught.value)


def test_a_closed_model_names_no_prompt(chat_model: Path) -> None:
    llm = LLM(chat_model, context_length=128)
    llm.close()
    with pytest.raises(ClosedError, match=r"^this LLM was closed"):
        llm.generate(["A", "B"], PARAMS)


# --- with, and in an event loop


def test_with_closes_a_stream_that_is_left_early(idle_after: LLM) -> None:
    with idle_after.stream(PROMPTS[0], PARAMS) as stream:
        next(stream)
    assert stream.completion.finish_reason == "cancelled"
    assert next(stream, None) is None
    stream = idle_after.stream(PROMPTS[0], PARAMS)
    with pytest.raises(ZeroDivisionError), stream:
        _ = len(next(stream)) / 0
    assert stream.completion.finish_reason == "cancelled"


def test_other_tasks_run_while_a_list_is_generated(llm: LLM) -> None:
    async def main() -> tuple[int, Sequence[Completion]]:
        task = asyncio.ensure_future(llm.agenerate(PROMPTS, replace(PARAMS, max_tokens=60)))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        return turns, await task

    turns, completions = asyncio.run(main())
    assert turns > 20
    assert [len(one.token_ids) for one in completions] == [60] * len(PROMPTS)


def test_a_cancelled_task_cancels_its_requests(idle_after: LLM) -> None:
    async def main() -> None:
        before = idle_after.engine.metrics.drawn_tokens
        task = asyncio.ensure_future(idle_after.agenerate(PROMPTS, replace(PARAMS, n=3)))
        while idle_after.engine.metrics.drawn_tokens == before:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while idle_after.engine.scheduler.has_work:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_many_tasks_share_the_engine(llm: LLM) -> None:
    expected = [llm.generate(prompt, PARAMS) for prompt in PROMPTS]

    async def main() -> list[Completion]:
        return await asyncio.gather(*(llm.agenerate(prompt, PARAMS) for prompt in PROMPTS))

    assert asyncio.run(main()) == expected
