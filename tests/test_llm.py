"""The library's API: the same seed, the same text; and whatever happens, it goes on working."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

import cullama
from cullama import LLM, Completion, SamplingParams
from cullama.checkpoint.opening import open_checkpoint
from cullama.errors import (
    ClosedError,
    ContextLengthError,
    CullamaError,
    ModelNotFoundError,
    NoTokenizerError,
    NumericalError,
    UsageError,
)

WriteModel: TypeAlias = Callable[..., Path]

CONTEXT, VOCABULARY, END = 128, 300, 1
PROMPT = "Once upon a time"
PARAMS = SamplingParams(max_tokens=24, seed=7, ignore_eos=True)
GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
OTHERS = ["The old clock", "東京 and", "def add(", "🦙", "In the naïve little café they sell crème"]


@pytest.fixture(scope="module")
def shared(tiny_model: Path) -> LLM:
    return LLM(tiny_model)


def is_idle(llm: LLM) -> bool:
    """Return whether no request is running, and every block of the cache is free."""
    engine = llm.engine
    return not engine.scheduler.has_work and engine.prefix_cache.pool.referenced == 0


def becomes_idle(llm: LLM) -> bool:
    """Return whether the engine is idle, at the latest after a garbage collection."""
    if not is_idle(llm):
        gc.collect()
    return is_idle(llm)


@pytest.fixture
def llm(shared: LLM) -> Iterator[LLM]:
    """Return the model that all tests share; each must leave it idle."""
    yield shared
    assert becomes_idle(shared)


@pytest.fixture(scope="module")
def alone(shared: LLM) -> Completion:
    """Return the completion of PROMPT with PARAMS as the only request."""
    return shared.generate(PROMPT, PARAMS)


@pytest.fixture(scope="module")
def without_tokenizer(tmp_path_factory: pytest.TempPathFactory, write_model: WriteModel) -> LLM:
    return LLM(write_model(tmp_path_factory.mktemp("models") / "ids only"))


@pytest.fixture
def small_cache(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLM]:
    """Yield a model with a cache of 64 tokens; its engine fails after 1000 steps."""
    with LLM(tiny_model, cache_tokens=64) as llm:
        steps, step = [0], llm.engine.step

        def counted() -> None:
            steps[0] += 1
            assert steps[0] < 1000, "the engine does not come to an end"
            step()

        monkeypatch.setattr(llm.engine, "step", counted)
        yield llm
        assert becomes_idle(llm)


def one_line(error: pytest.ExceptionInfo[CullamaError]) -> str:
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


# --- what is public


def test_the_public_names_are_these() -> None:
    names = {"LLM", "Completion", "CullamaError", "SamplingParams", "Score", "Session", "Stream"}
    assert set(cullama.__all__) == names
    assert set(dir(cullama)) == {*names, "__version__"}
    assert all(getattr(cullama, name).__name__ == name for name in names)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("answer.Stream", "text.generation.Stream"),
        ("answer.Timings", "text.completion.Timings"),
        ("chat.ChatFormat", "chat.format.ChatFormat"),
        ("chat_template.ChatTemplate", "chat.template.ChatTemplate"),
        ("config.ModelConfig", "model.config.ModelConfig"),
        ("diff.Comparison", "inspect.diff.Comparison"),
        ("inside.Inside", "inspect.inside.Inside"),
        ("llama.Llama", "model.llama.Llama"),
        ("operators.Operators", "model.operators.Operators"),
        ("sampling.TokenLogprobs", "sampling.params.TokenLogprobs"),
        ("session.Reply", "chat.session.Reply"),
        ("session.Session", "chat.session.Session"),
        ("tokenizer.Tokenizer", "text.tokenizer.Tokenizer"),
        ("watching.Place", "inspect.place.Place"),
    ],
)
def test_documented_names_are_found_where_they_were_before_modules_moved(
    old: str, new: str
) -> None:
    old_module, name = old.rsplit(".", 1)
    new_module, _ = new.rsplit(".", 1)
    moved = import_module(f"cullama.{old_module}")
    assert getattr(moved, name) is getattr(import_module(f"cullama.{new_module}"), name)


def test_modules_that_never_were_are_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"cullama\.nothing"):
        import_module("cullama.nothing")


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="'cullama' has no attribute 'Llm'"):
        _ = cullama.Llm


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, json, cullama; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    modules = {name.partition(".")[0] for name in json.loads(done.stdout)}
    heavy = {"numpy", "tokenizers", "safetensors", "gguf", "ml_dtypes", "click", "rich", "cuda"}
    assert not modules & heavy


def test_params_and_completions_have_the_documented_fields() -> None:
    params = "max_tokens temperature top_k top_p min_p repetition_penalty presence_penalty "
    params += (
        "frequency_penalty seed stop stop_token_ids logit_bias logprobs prompt_logprobs n "
        "include_stop ignore_eos speculation json_schema json_object regex grammar choice"
    )
    assert {field.name for field in fields(SamplingParams)} == set(params.split())
    completion = "text token_ids finish_reason logprobs prompt_tokens cached_tokens seed timings "
    completion += "alternatives stop_reason prompt_logprobs token_texts message"
    assert {field.name for field in fields(Completion)} == set(completion.split())


# --- the same seed, the same text


def test_a_completion_reports_tokens_seed_and_timings(llm: LLM, alone: Completion) -> None:
    assert len(alone.token_ids) == 24
    assert all(type(token) is int and 0 <= token < VOCABULARY for token in alone.token_ids)
    assert alone.text
    assert alone.finish_reason == "length"
    assert alone.prompt_tokens == len(llm.tokenizer.encode(PROMPT))
    assert alone.seed == 7
    assert alone.logprobs is None
    assert alone.alternatives == ()
    assert 0 < alone.timings.first_token <= alone.timings.total


def test_a_seed_gives_the_same_text_again(llm: LLM, alone: Completion) -> None:
    again = llm.generate(PROMPT, PARAMS)
    assert (again.text, again.token_ids) == (alone.text, alone.token_ids)


def test_another_seed_gives_another_text(llm: LLM, alone: Completion) -> None:
    assert llm.generate(PROMPT, replace(PARAMS, seed=8)).text != alone.text


def test_without_a_seed_one_is_drawn_and_reported(llm: LLM) -> None:
    first, second = (llm.generate(PROMPT, replace(PARAMS, seed=None)) for _ in range(2))
    assert first.seed != second.seed
    assert first.text != second.text
    assert llm.generate(PROMPT, replace(PARAMS, seed=first.seed)).text == first.text


def test_token_ids_give_what_their_text_gives(llm: LLM, alone: Completion) -> None:
    ids = llm.tokenizer.encode(PROMPT)
    prompts: list[Any] = [ids, tuple(ids), np.array(ids), np.array(ids, np.uint16)]
    for prompt in prompts:
        assert llm.generate(prompt, PARAMS).token_ids == alone.token_ids


def test_the_text_is_the_same_in_a_batch(llm: LLM, alone: Completion) -> None:
    single = [llm.generate(prompt, PARAMS).text for prompt in OTHERS]
    together = llm.generate([*OTHERS, PROMPT, *OTHERS], PARAMS)
    assert [one.text for one in together] == [*single, alone.text, *single]


def test_the_text_is_the_same_streamed(llm: LLM, alone: Completion) -> None:
    stream = llm.stream(PROMPT, PARAMS)
    assert "".join(stream) == alone.text
    assert stream.completion.token_ids == alone.token_ids
    assert stream.completion.finish_reason == "length"


def test_the_text_is_the_same_in_interleaved_streams(llm: LLM, alone: Completion) -> None:
    prompts = [PROMPT, *OTHERS[:2]]
    single = [llm.generate(prompt, PARAMS).text for prompt in prompts]
    streams = [llm.stream(prompt, PARAMS) for prompt in prompts]
    texts = ["", "", ""]
    for _ in range(PARAMS.max_tokens or 0):
        for index, stream in enumerate(streams):
            texts[index] += next(stream, "")
    assert texts == single
    assert texts[0] == alone.text


def test_the_text_is_the_same_while_other_requests_come_and_go(llm: LLM, alone: Completion) -> None:
    stream = llm.stream(PROMPT, PARAMS)
    text = next(stream) + next(stream)
    llm.generate(OTHERS, replace(PARAMS, seed=1))
    text += next(stream)
    with_another = llm.stream(OTHERS[0], PARAMS)
    next(with_another)
    llm.logits(list(range(100)))
    assert text + "".join(stream) == alone.text
    with_another.close()


def test_the_text_is_the_same_in_threads(llm: LLM, alone: Completion) -> None:
    prompts = [PROMPT, *OTHERS] * 3
    single = {prompt: llm.generate(prompt, PARAMS).text for prompt in OTHERS}
    single[PROMPT] = alone.text
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(lambda prompt: llm.generate(prompt, PARAMS).text, prompts))
        streamed = list(pool.map(lambda prompt: "".join(llm.stream(prompt, PARAMS)), prompts))
    assert written == streamed == [single[prompt] for prompt in prompts]


def test_the_text_is_the_same_where_the_cache_holds_one_request(
    small_cache: LLM, alone: Completion
) -> None:
    prompts = [*OTHERS[:2], PROMPT, *OTHERS[2:4]]
    assert small_cache.generate(prompts, PARAMS)[2].text == alone.text
    assert small_cache.generate(PROMPT, replace(PARAMS, n=3)).text == alone.text
    holder, waiting = small_cache.stream(OTHERS[0], PARAMS), small_cache.stream(PROMPT, PARAMS)
    next(holder)
    assert "".join(waiting) == alone.text
    holder.close()


def test_several_prompts_come_back_in_order(llm: LLM) -> None:
    params = SamplingParams(max_tokens=4, temperature=0)
    ids = [llm.tokenizer.encode(prompt) for prompt in OTHERS]
    single = [llm.generate(one, params).token_ids for one in ids]
    assert [one.token_ids for one in llm.generate(OTHERS, params)] == single
    assert [one.token_ids for one in llm.generate(ids, params)] == single
    assert [one.token_ids for one in llm.generate([OTHERS[0], ids[1]], params)] == single[:2]
    nothing: list[str] = []
    assert llm.generate(nothing, params) == []


def test_n_gives_different_samples_each_of_them_reproducible(llm: LLM, alone: Completion) -> None:
    first = llm.generate(PROMPT, replace(PARAMS, n=4))
    samples = [first, *first.alternatives]
    assert len(samples) == 4
    assert samples[0].text == alone.text
    assert len({sample.text for sample in samples}) == 4
    assert all(sample.seed == 7 and not sample.alternatives for sample in first.alternatives)
    again = llm.generate([OTHERS[0], PROMPT], replace(PARAMS, n=4))[1]
    assert [one.text for one in (again, *again.alternatives)] == [one.text for one in samples]


def test_greedy_takes_the_likeliest_token_each_time(llm: LLM) -> None:
    ids = llm.tokenizer.encode(PROMPT)
    expected: list[int] = []
    for _ in range(12):
        expected.append(int(llm.logits(ids + expected)[-1].argmax()))
    assert list(llm.generate(PROMPT, GREEDY).token_ids) == expected
    three = llm.generate(PROMPT, replace(GREEDY, n=3))
    assert all(one.token_ids == three.token_ids for one in three.alternatives)


# --- where it ends


@pytest.mark.parametrize("count", [1, 2, 23])
def test_max_tokens_is_the_number_of_tokens(llm: LLM, alone: Completion, count: int) -> None:
    completion = llm.generate(PROMPT, replace(PARAMS, max_tokens=count))
    assert completion.token_ids == alone.token_ids[:count]
    assert completion.finish_reason == "length"


def test_without_max_tokens_the_context_is_the_end(llm: LLM) -> None:
    ids = llm.tokenizer.encode(PROMPT)
    completion = llm.generate(ids, SamplingParams(seed=1, ignore_eos=True))
    assert len(completion.token_ids) == CONTEXT - len(ids)
    assert completion.finish_reason == "length"


def test_the_end_token_ends_the_completion_and_has_no_text(llm: LLM) -> None:
    params = SamplingParams(max_tokens=5, seed=1, logit_bias={END: 1000})
    completion = llm.generate(PROMPT, params)
    assert completion.token_ids == (END,)
    assert completion.text == ""
    assert completion.finish_reason == "stop"
    assert list(llm.stream(PROMPT, params)) == []


def test_the_end_token_can_be_ignored(llm: LLM) -> None:
    params = SamplingParams(max_tokens=5, seed=1, logit_bias={END: 1000}, ignore_eos=True)
    completion = llm.generate(PROMPT, params)
    assert completion.token_ids == (END,) * 5
    assert completion.finish_reason == "length"
    assert completion.text == ""


def test_a_stop_token_ends_the_completion_even_where_the_end_token_is_ignored(
    llm: LLM, alone: Completion
) -> None:
    stop = alone.token_ids[10]
    at = alone.token_ids.index(stop)
    completion = llm.generate(PROMPT, replace(PARAMS, stop_token_ids=(stop, 299)))
    assert completion.token_ids == alone.token_ids[: at + 1]
    assert completion.finish_reason == "stop"
    assert alone.text.startswith(completion.text)
    assert len(completion.text) < len(alone.text)


def test_a_bias_forces_a_token_and_forbids_one(llm: LLM) -> None:
    forced = llm.generate(PROMPT, replace(PARAMS, logit_bias={70: 1000.0}))
    assert forced.token_ids == (70,) * 24
    likeliest = llm.generate(PROMPT, GREEDY).token_ids[0]
    banned = llm.generate(PROMPT, replace(GREEDY, logit_bias={likeliest: -1000.0}))
    assert likeliest not in banned.token_ids


def test_logprobs_are_those_of_the_logits(llm: LLM) -> None:
    ids = llm.tokenizer.encode(PROMPT)
    completion = llm.generate(ids, replace(PARAMS, logprobs=5))
    assert completion.logprobs is not None
    assert [one.token_id for one in completion.logprobs] == list(completion.token_ids)
    logits = llm.logits([*ids, *completion.token_ids])[len(ids) - 1 : -1].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for one, row in zip(completion.logprobs, logprobs, strict=True):
        assert one.logprob == pytest.approx(row[one.token_id], abs=1e-4)
        assert [token for token, _ in one.top] == np.argsort(-row)[:5].tolist()
        assert [value for _, value in one.top] == pytest.approx(np.sort(-row)[:5] * -1, abs=1e-4)


def test_no_logprobs_are_reported_unless_asked_for(llm: LLM) -> None:
    assert llm.generate(PROMPT, GREEDY).logprobs is None
    without_top = llm.generate(PROMPT, replace(GREEDY, logprobs=0)).logprobs
    assert without_top is not None
    assert [one.top for one in without_top] == [()] * 12


# --- what cannot be


@pytest.mark.parametrize(
    ("length", "max_tokens", "fits"),
    [
        (CONTEXT - 1, 1, True),
        (CONTEXT - 28, 28, True),
        (CONTEXT - 1, None, True),
        (CONTEXT, None, False),
        (CONTEXT, 1, False),
        (CONTEXT - 28, 29, False),
        (CONTEXT + 1, None, False),
        (100_000, 1, False),
        (1, CONTEXT, False),
        (1, 10**18, False),
    ],
)
def test_prompt_and_answer_must_fit_the_context(
    llm: LLM, length: int, max_tokens: int | None, fits: bool
) -> None:
    ids, params = [5] * length, SamplingParams(max_tokens=max_tokens, seed=1, ignore_eos=True)
    if fits:
        assert len(llm.generate(ids, params).token_ids) == CONTEXT - length
        return
    for call in (llm.generate, llm.stream):
        with pytest.raises(ContextLengthError) as caught:
            call(ids, params)
        message = one_line(caught)
        assert f"{length} tokens" in message
        assert f"{CONTEXT} tokens" in message
        assert max_tokens is None or str(max_tokens) in message


def test_logits_take_a_whole_context_and_no_more(llm: LLM) -> None:
    assert llm.logits([5] * CONTEXT).shape == (CONTEXT, VOCABULARY)
    with pytest.raises(ContextLengthError, match=f"{CONTEXT + 1} tokens"):
        llm.logits([5] * (CONTEXT + 1))


def test_a_shorter_context_can_be_asked_for(tiny_model: Path, alone: Completion) -> None:
    with LLM(tiny_model, context_length=40) as llm:
        assert llm.generate(PROMPT, PARAMS).text == alone.text
        with pytest.raises(ContextLengthError, match="40 tokens"):
            llm.generate([5] * 17, PARAMS)


def test_an_empty_list_of_token_ids_is_refused(llm: LLM) -> None:
    no_ids: Any = np.array([], np.int64)
    for call in (
        lambda: llm.generate([[]], PARAMS),
        lambda: llm.generate([PROMPT, []], PARAMS),
        lambda: llm.stream([], PARAMS),
        lambda: llm.logits([]),
        lambda: llm.logits(no_ids),
    ):
        with pytest.raises(UsageError, match="empty"):
            call()


def test_an_empty_text_is_the_tokens_that_the_tokenizer_adds(llm: LLM) -> None:
    assert llm.generate("", PARAMS).prompt_tokens == 1
    assert llm.generate("", PARAMS).token_ids == llm.generate([0], PARAMS).token_ids


@pytest.mark.parametrize(
    "token", [-1, VOCABULARY, 2**31, 2**63, 10**30, -(10**30), 1.0, 1.5, "1", None, True, [1]]
)
def test_an_invalid_token_id_is_refused_by_name(llm: LLM, token: Any) -> None:
    for call in (
        lambda: llm.generate([5, token], PARAMS),
        lambda: llm.generate([[5], [5, token]], PARAMS),
        lambda: llm.stream([5, token], PARAMS),
        lambda: llm.logits([5, token]),
    ):
        with pytest.raises(UsageError, match=r"0 to 299|below 300") as caught:
            call()
        assert repr(token) in one_line(caught)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.int64, np.uint64])
def test_ids_may_be_numpy_integers(llm: LLM, kind: Any) -> None:
    ids = [5, 6, 7]
    expected = llm.generate(ids, GREEDY).token_ids
    assert llm.generate([kind(i) for i in ids], GREEDY).token_ids == expected
    two: Any = np.array([ids, ids], kind)
    assert llm.generate(two, GREEDY)[1].token_ids == expected
    assert "".join(llm.stream(two[0], GREEDY)) is not None
    np.testing.assert_array_equal(llm.logits(two[0]), llm.logits(ids))


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.bool_])
def test_ids_may_not_be_numpy_floats_or_bools(llm: LLM, kind: Any) -> None:
    calls: list[Callable[[Any], Any]] = [llm.generate, llm.stream, llm.logits]
    for call in calls:
        with pytest.raises(UsageError):
            call(np.array([0, 1], kind))


@pytest.mark.parametrize(
    "prompt",
    [None, 5, 1.5, b"Once", [None], [1.5], ["Once", 5], [["Once"]], {"role": "user"}, print],
    ids=str,
)
def test_an_invalid_prompt_is_refused(llm: LLM, prompt: Any) -> None:
    with pytest.raises(UsageError) as caught:
        llm.generate(prompt, PARAMS)
    one_line(caught)


@pytest.mark.parametrize("prompt", [None, 5, b"Once", [None], ["Once"], print], ids=str)
def test_an_invalid_prompt_of_a_stream_is_refused(llm: LLM, prompt: Any) -> None:
    for call in (llm.stream, llm.logits):
        with pytest.raises(UsageError) as caught:
            call(prompt)
        one_line(caught)


@pytest.mark.parametrize("params", [{"max_tokens": 5}, 5, "seed=1", SamplingParams], ids=str)
def test_invalid_params_are_refused(llm: LLM, params: Any) -> None:
    for call in (llm.generate, llm.stream):
        with pytest.raises(UsageError, match="SamplingParams"):
            call(PROMPT, params)


@pytest.mark.parametrize("text", ["\ud800", "a\udfff b", "\ude00\ud83d"])
def test_half_a_character_is_refused(llm: LLM, text: str) -> None:
    for call in (llm.generate, llm.stream, llm.logits):
        with pytest.raises(UsageError, match="well-formed") as caught:
            call(text)
        one_line(caught).encode()


def test_a_bad_prompt_among_good_ones_leaves_nothing_behind(llm: LLM) -> None:
    with pytest.raises(ContextLengthError):
        llm.generate([PROMPT, [5] * 1000, PROMPT], PARAMS)
    with pytest.raises(UsageError):
        llm.generate([PROMPT, "\ud800"], PARAMS)
    assert is_idle(llm)


def test_a_stream_has_one_sample(llm: LLM) -> None:
    with pytest.raises(UsageError, match="n is 2"):
        llm.stream(PROMPT, replace(PARAMS, n=2))


def test_a_bias_outside_of_the_vocabulary_is_refused_before_any_token(llm: LLM) -> None:
    for call in (llm.generate, llm.stream):
        with pytest.raises(UsageError, match=r"logit_bias.* 300, expected .*below 300"):
            call(PROMPT, replace(PARAMS, logit_bias={300: 1.0}))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"backend": "gpu"}, "auto, cpu"),
        ({"backend": None}, "auto, cpu"),
        ({"dtype": "int8"}, "float32, float16, bfloat16"),
        ({"dtype": None}, "float32, float16, bfloat16"),
        ({"dtype": np.float32}, "float32, float16, bfloat16"),
        ({"threads": 0}, "1 to"),
        ({"threads": -1}, "1 to"),
        ({"threads": 10**6}, "1 to"),
        ({"threads": "1"}, "1 to"),
        ({"context_length": 0}, "1 to 128"),
        ({"context_length": -1}, "1 to 128"),
        ({"context_length": 129}, "1 to 128"),
        ({"context_length": "64"}, "1 to 128"),
        ({"context_length": 64.5}, "1 to 128"),
        ({"context_length": True}, "1 to 128"),
        ({"cache_tokens": 0}, "at least 1"),
        ({"cache_tokens": -1}, "at least 1"),
        ({"cache_tokens": "64"}, "at least 1"),
        ({"cache_tokens": 64.5}, "at least 1"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named_with_what_is_expected(
    tiny_model: Path, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UsageError) as caught:
        LLM(tiny_model, **options)
    message = one_line(caught)
    [(name, value)] = options.items()
    assert f"{name} is " in message
    assert str(value) in message
    assert expected in message


@pytest.mark.parametrize("tokens", [10**15, 10**30])
def test_a_cache_larger_than_memory_is_refused(tiny_model: Path, tokens: int) -> None:
    with pytest.raises(CullamaError, match="cache_tokens") as caught:
        LLM(tiny_model, cache_tokens=tokens)
    one_line(caught)


def test_an_option_that_does_not_exist_is_refused(tiny_model: Path) -> None:
    with pytest.raises(TypeError, match="tempreature"):
        LLM(tiny_model, tempreature=1)  # type: ignore[call-arg]


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelNotFoundError, match="no/such/model"):
        LLM("no/such/model")


def test_a_request_longer_than_the_whole_cache_is_refused_at_once(small_cache: LLM) -> None:
    params = SamplingParams(max_tokens=60)
    for call in (small_cache.generate, lambda *arguments: list(small_cache.stream(*arguments))):
        with pytest.raises(UsageError) as caught:
            call([5] * 30, params)
        message = one_line(caught)
        assert "cache" in message
        assert "64 tokens" in message
    assert len(small_cache.generate([5] * 5, PARAMS).token_ids) == 24


def test_the_default_max_tokens_shrinks_to_what_the_cache_holds(small_cache: LLM) -> None:
    params = replace(PARAMS, max_tokens=None)
    written = len(small_cache.generate([5] * 30, params).token_ids)
    assert 24 < written <= 64 - 30 + 1  # the last one is never fed back


# --- whatever happens


def test_a_dropped_stream_releases_its_blocks(llm: LLM) -> None:
    stream = llm.stream(PROMPT, PARAMS)
    next(stream)
    assert not is_idle(llm)
    del stream
    gc.collect()
    assert is_idle(llm)


def test_a_stream_never_iterated_over_releases_its_blocks(llm: LLM) -> None:
    stream = llm.stream(PROMPT, PARAMS)
    llm.generate(OTHERS[0], PARAMS)  # takes the waiting one along
    del stream
    gc.collect()
    assert is_idle(llm)
    stream = llm.stream(PROMPT, PARAMS)
    del stream
    gc.collect()
    assert is_idle(llm)


def test_a_stream_can_be_closed_at_any_time_and_twice(llm: LLM, alone: Completion) -> None:
    for pieces in (0, 1, 5):
        stream = llm.stream(PROMPT, PARAMS)
        text = "".join(next(stream) for _ in range(pieces))
        stream.close()
        stream.close()
        assert is_idle(llm)
        assert next(stream, None) is None
        assert stream.completion.finish_reason == "cancelled"
        assert stream.completion.text == text
        assert alone.text.startswith(text)


def test_closing_a_stream_that_has_ended_changes_nothing(llm: LLM, alone: Completion) -> None:
    stream = llm.stream(PROMPT, PARAMS)
    assert "".join(stream) == alone.text
    stream.close()
    assert stream.completion.finish_reason == "length"
    assert stream.completion.text == alone.text


def test_a_stream_left_in_the_middle_can_be_continued(llm: LLM, alone: Completion) -> None:
    stream = llm.stream(PROMPT, PARAMS)
    text = ""
    for piece in stream:
        text += piece
        if len(text) > 5:
            break
    assert text + "".join(stream) == alone.text


class BrokenError(RuntimeError):
    pass


@pytest.fixture
def break_next_step(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Return a function that makes the next step raise an error; later ones work."""
    launch = llm.engine.runner.launch

    def arm(error: BaseException) -> None:
        def broken(plan: Any, batch: Any) -> Any:
            monkeypatch.setattr(llm.engine.runner, "launch", launch)
            raise error

        monkeypatch.setattr(llm.engine.runner, "launch", broken)

    return arm


@pytest.fixture
def refuse_token(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Exception], None]:
    """Return a function that makes every pass raise that has a request with a given token."""
    launch = llm.engine.runner.launch

    def arm(token: int, error: Exception) -> None:
        def broken(plan: Any, batch: Any) -> Any:
            if any(token in sequence.tokens for sequence, *_ in plan.parts):
                raise error
            return launch(plan, batch)

        monkeypatch.setattr(llm.engine.runner, "launch", broken)

    return arm


def test_a_pass_that_fails_once_is_repeated_and_changes_no_text(
    llm: LLM, alone: Completion, break_next_step: Callable[[BaseException], None]
) -> None:
    streams = [llm.stream(PROMPT, PARAMS) for _ in range(4)]
    texts = [next(stream) for stream in streams[:3]]  # the last one has not begun
    break_next_step(BrokenError("the machine is on fire"))
    texts = [text + "".join(s) for text, s in zip([*texts, ""], streams, strict=True)]
    assert texts == [alone.text] * 4


def test_a_request_that_makes_the_pass_fail_ends_alone(
    llm: LLM, alone: Completion, refuse_token: Callable[[int, Exception], None]
) -> None:
    guilty, harmless = llm.stream([5, 299, 6], PARAMS), llm.stream(PROMPT, PARAMS)
    next(harmless)
    refuse_token(299, BrokenError("no such token"))
    with pytest.raises(BrokenError, match="no such token"):
        "".join(guilty)
    assert guilty.completion.finish_reason == "error"
    assert "".join([harmless.completion.text, *harmless]) == alone.text
    assert is_idle(llm)


@pytest.mark.parametrize("error", [BrokenError("fire"), MemoryError()], ids=repr)
def test_a_batch_in_which_one_fails_leaves_nothing_behind(
    llm: LLM, alone: Completion, refuse_token: Callable[[int, Exception], None], error: Exception
) -> None:
    refuse_token(299, error)
    with pytest.raises(type(error)):
        llm.generate([[5, 299], [7, 8], [9]], replace(PARAMS, n=2))
    assert is_idle(llm)
    assert llm.generate(PROMPT, PARAMS).text == alone.text


def test_an_interrupted_batch_leaves_nothing_behind(
    llm: LLM, alone: Completion, break_next_step: Callable[[BaseException], None]
) -> None:
    break_next_step(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        llm.generate([PROMPT, *OTHERS], replace(PARAMS, n=2))
    assert is_idle(llm)
    assert llm.generate(PROMPT, PARAMS).text == alone.text


def test_an_interrupt_ends_the_stream_being_read_and_no_other(
    llm: LLM, alone: Completion, break_next_step: Callable[[BaseException], None]
) -> None:
    interrupted, other = llm.stream(OTHERS[0], PARAMS), llm.stream(PROMPT, PARAMS)
    text = next(other)
    next(interrupted)
    break_next_step(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        "".join(interrupted)
    assert interrupted.completion.finish_reason == "cancelled"
    assert text + "".join(other) == alone.text


def test_logits_that_fail_release_their_blocks(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(pieces: Any) -> Any:
        raise BrokenError("fire")

    with monkeypatch.context() as patch:
        patch.setattr(llm.engine.runner, "logits", broken)
        with pytest.raises(BrokenError):
            llm.logits([1, 2, 3])
    assert is_idle(llm)
    assert llm.logits([1, 2, 3]).shape == (3, VOCABULARY)


@pytest.fixture
def with_nan(tmp_path: Path, write_model: WriteModel, tiny_tensors: dict[str, Any]) -> LLM:
    """Return a model in which token 42's embedding is NaN."""
    tiny_tensors["model.embed_tokens.weight"][42] = np.nan
    return LLM(write_model(tmp_path, tiny_tensors))


@pytest.mark.parametrize("params", [PARAMS, GREEDY, replace(PARAMS, logprobs=2)])
def test_a_model_of_nan_draws_no_token(with_nan: LLM, params: SamplingParams) -> None:
    for call in (with_nan.generate, lambda *arguments: list(with_nan.stream(*arguments))):
        with pytest.raises(NumericalError) as caught:
            call([1, 42], params)
        assert "finite" in one_line(caught)
    assert is_idle(with_nan)


def test_nan_ends_its_own_request_and_no_other(with_nan: LLM) -> None:
    expected = with_nan.generate([5, 6], PARAMS).token_ids
    sound, unsound = with_nan.stream([5, 6], PARAMS), with_nan.stream([5, 42], PARAMS)
    with pytest.raises(NumericalError):
        list(unsound)
    assert unsound.completion.token_ids == ()
    list(sound)
    assert sound.completion.token_ids == expected


# --- closing


def test_using_a_closed_model_raises_closed_error(tiny_model: Path) -> None:
    llm = LLM(tiny_model)
    assert "closed" not in repr(llm)
    llm.close()
    llm.close()
    assert "closed" in repr(llm)
    for call in (
        lambda: llm.generate(PROMPT),
        lambda: llm.generate([5]),
        lambda: llm.stream(PROMPT),
        lambda: llm.logits([5]),
    ):
        with pytest.raises(ClosedError, match="closed") as caught:
            call()
        one_line(caught)


def test_a_with_block_closes_the_model_also_after_an_error(tiny_model: Path) -> None:
    with pytest.raises(BrokenError), LLM(tiny_model) as llm:
        raise BrokenError
    with pytest.raises(ClosedError):
        llm.generate(PROMPT)


def test_running_requests_end_when_the_model_is_closed(tiny_model: Path) -> None:
    llm = LLM(tiny_model)
    streams = [llm.stream(prompt, PARAMS) for prompt in (PROMPT, OTHERS[0])]
    next(streams[0])
    llm.close()
    for stream in streams:
        with pytest.raises(ClosedError, match="while this request was running"):
            list(stream)  # what was drawn before may still be read
        assert stream.completion.finish_reason == "error"
        assert len(stream.completion.token_ids) == 1
        stream.close()


@pytest.mark.parametrize("has_stream", [False, True])
def test_closing_returns_the_memory(tiny_model: Path, has_stream: bool) -> None:
    llm = LLM(tiny_model)
    llm.generate(PROMPT, PARAMS)
    kept = llm.stream(PROMPT, PARAMS) if has_stream else None
    weights = weakref.ref(llm.engine.runner.model.weights)
    llm.close()
    gc.collect()
    is_gone = weights() is None  # a failing assert would show every weight
    assert is_gone
    del kept


def test_a_model_can_be_closed_while_another_thread_generates(tiny_model: Path) -> None:
    llm = LLM(tiny_model)
    begun, ended = threading.Event(), []

    def write() -> None:
        try:
            for _ in llm.stream(PROMPT, replace(PARAMS, max_tokens=100)):
                begun.set()
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait(10)
    llm.close()
    thread.join(10)
    assert not thread.is_alive()
    assert all(isinstance(error, ClosedError) for error in ended)


# --- without a tokenizer


def test_ids_need_no_tokenizer(without_tokenizer: LLM, llm: LLM, alone: Completion) -> None:
    ids = llm.tokenizer.encode(PROMPT)
    completion = without_tokenizer.generate(ids, PARAMS)
    assert completion.token_ids == alone.token_ids
    assert completion.text == ""
    stream = without_tokenizer.stream(ids, PARAMS)
    assert list(stream) == []
    assert stream.completion.token_ids == alone.token_ids
    np.testing.assert_array_equal(without_tokenizer.logits(ids), llm.logits(ids))


def test_text_needs_a_tokenizer(without_tokenizer: LLM) -> None:
    for call in (
        lambda: without_tokenizer.generate(PROMPT),
        lambda: without_tokenizer.generate([[5], PROMPT]),
        lambda: without_tokenizer.stream(PROMPT),
        lambda: without_tokenizer.logits(PROMPT),
        lambda: without_tokenizer.generate([5], SamplingParams(stop=("a",))),
        lambda: without_tokenizer.tokenizer,
    ):
        with pytest.raises(NoTokenizerError, match=r"tokenizer\.json") as caught:
            call()
        one_line(caught)
    assert is_idle(without_tokenizer)


def test_a_vocabulary_may_be_larger_than_the_tokenizer(
    tmp_path: Path, write_model: WriteModel, tokenizer_file: Path
) -> None:
    """Many are padded to a round number; a padding token drawn is no text."""
    with LLM(write_model(tmp_path, tokenizer=tokenizer_file, vocab_size=320)) as llm:
        drawn = llm.generate(PROMPT, replace(PARAMS, logit_bias={310: 1000.0}))
        assert drawn.token_ids == (310,) * 24
        assert drawn.text == ""
        assert llm.generate(PROMPT, PARAMS).text


# --- control tokens that a prompt spells


SPELLED = "<|user|>Hi<|end|>there"


def test_raw_prompts_read_the_control_tokens_that_they_spell(llm: LLM) -> None:
    ids = [0, 2, *plain(llm, "Hi"), END, *plain(llm, "there")]
    assert llm.tokenizer.encode(SPELLED, allow_special=True) == ids
    expected = llm.generate(ids, GREEDY).token_ids
    assert llm.generate(SPELLED, GREEDY).token_ids == expected
    assert llm.generate([PROMPT, SPELLED], GREEDY)[1].token_ids == expected
    stream = llm.stream(SPELLED, GREEDY)
    assert list(stream)
    assert stream.completion.token_ids == expected
    np.testing.assert_array_equal(llm.logits(SPELLED), llm.logits(ids))
    assert list(llm.inside(SPELLED).tokens) == ids


def test_they_stay_text_where_they_are_not_allowed(llm: LLM) -> None:
    ids = [0, *plain(llm, SPELLED)]
    assert not {END, 2} & set(ids)
    expected = llm.generate(ids, GREEDY).token_ids
    assert llm.generate(SPELLED, GREEDY, allow_special=False).token_ids == expected
    assert llm.generate([SPELLED], GREEDY, allow_special=False)[0].token_ids == expected
    stream = llm.stream(SPELLED, GREEDY, allow_special=False)
    assert "".join(stream) == stream.completion.text
    assert stream.completion.token_ids == expected


def test_a_prompt_that_spells_its_bos_gets_no_second_one(llm: LLM) -> None:
    assert llm.generate(f"<|begin|>{PROMPT}", GREEDY).prompt_tokens == len(plain(llm, PROMPT)) + 1


def plain(llm: LLM, text: str) -> list[int]:
    return llm.tokenizer.encode(text, add_special_tokens=False)


# --- logits and loading


def test_logits_are_float32_one_row_a_token(llm: LLM) -> None:
    logits = llm.logits([5, 6, 7])
    assert logits.shape == (3, VOCABULARY)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    text = llm.logits(PROMPT)
    np.testing.assert_array_equal(text, llm.logits(llm.tokenizer.encode(PROMPT)))


@pytest.mark.parametrize("budget", [1, 3, 31, 32, 33, 99])
def test_logits_do_not_depend_on_how_the_prompt_is_cut(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 100).tolist()
    whole = llm.logits(ids)
    monkeypatch.setattr("cullama.engine.engine.TOKEN_BUDGET", budget)
    np.testing.assert_allclose(llm.logits(ids), whole, atol=1e-5)


def test_logits_of_a_token_do_not_depend_on_those_after_it(llm: LLM) -> None:
    np.testing.assert_allclose(llm.logits([5, 6, 7, 8])[:2], llm.logits([5, 6]), atol=1e-5)


def test_logits_that_find_no_blocks_are_refused(small_cache: LLM) -> None:
    stream = small_cache.stream([5] * 33, PARAMS)  # both of its blocks
    next(stream)
    with pytest.raises(UsageError, match="no room"):
        small_cache.logits([5])
    stream.close()
    assert small_cache.logits([5]).shape == (1, VOCABULARY)


def weight_bytes(llm: LLM) -> int:
    """Return the bytes of the weight matrices; a tied one counts once, vectors do not count."""
    weights = llm.engine.runner.model.weights
    matrices = [weights.embedding, weights.head.weight]
    for layer in weights.layers:
        linears = layer.attention.qkv, layer.attention.output, layer.mlp.gate_up, layer.mlp.down
        matrices += [linear.weight for linear in linears]
    return sum({id(matrix): matrix.nbytes for matrix in matrices}.values())


def numbers(count: int) -> Any:
    """Return the bytes of `count` float32 numbers, give or take the padding of rows to panels."""
    return pytest.approx(4 * count, rel=0.02)


@pytest.mark.parametrize(("dtype", "error"), [("float16", 0.01), ("bfloat16", 0.08)])
def test_16_bit_storage_takes_half_the_bytes(
    tiny_model: Path, llm: LLM, dtype: str, error: float
) -> None:
    with LLM(tiny_model, dtype=dtype) as half:
        assert weight_bytes(half) * 2 == weight_bytes(llm) == numbers(llm.config.parameters)
        keys, full = half.engine.runner.cache.layers[0].keys, llm.engine.runner.cache.layers[0].keys
        assert keys.itemsize * 2 == full.itemsize
        assert dtype in half.description
        ids = list(range(3, 60))
        expected, logits = llm.logits(ids), half.logits(ids)
        assert logits.dtype == np.float32
        assert np.abs(logits - expected).max() < error * np.sqrt((expected**2).mean()) * 10
        assert not np.array_equal(logits, expected)


def test_a_tied_model_holds_its_embedding_once(tmp_path: Path, write_model: WriteModel) -> None:
    with LLM(write_model(tmp_path, tie_word_embeddings=True)) as llm:
        assert weight_bytes(llm) == numbers(llm.config.parameters)
        assert (
            llm.engine.runner.model.weights.head.weight is llm.engine.runner.model.weights.embedding
        )


def test_a_model_is_named_by_path_text_or_open_checkpoint(
    tiny_model: Path, alone: Completion
) -> None:
    for model in (tiny_model, str(tiny_model), f"{tiny_model}/", open_checkpoint(tiny_model)):
        with LLM(model) as llm:
            assert llm.generate(PROMPT, PARAMS).text == alone.text
            assert llm.description.startswith("tiny · safetensors F32 · cpu · ")


def test_progress_is_reported_up_to_the_end(tiny_model: Path) -> None:
    told: list[tuple[int, int]] = []
    with LLM(tiny_model, progress=lambda done, total: told.append((done, total))) as llm:
        elements = sum(tensor.size for tensor in open_checkpoint(tiny_model).tensors.values())
        assert told[-1] == (elements, elements)
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert llm.config.parameters <= elements


def test_many_requests_leave_nothing_behind(llm: LLM) -> None:
    params = SamplingParams(max_tokens=2, seed=1)
    for number in range(100):
        llm.generate([[number + 3] * 40, [5]], params)
    assert is_idle(llm)


# --- what the model's files recommend of sampling


def with_generation(
    folder: Path, write_model: WriteModel, tokenizer_file: Path, **values: Any
) -> Path:
    write_model(folder, tokenizer=tokenizer_file)
    (folder / "generation_config.json").write_text(json.dumps(values))
    return folder


def test_the_default_params_are_what_the_models_files_recommend(
    tmp_path: Path, write_model: WriteModel, tokenizer_file: Path
) -> None:
    values: dict[str, Any] = {"do_sample": True, "temperature": 0.6, "top_k": 20}
    folder = with_generation(
        tmp_path / "m", write_model, tokenizer_file, **values, max_new_tokens=40
    )
    with LLM(folder) as llm:
        assert llm.default_params == SamplingParams(temperature=0.6, top_k=20)
        assert llm.sampling_defaults == {"temperature": 0.6, "top_k": 20, "max_tokens": 40}
        assert llm.session().params == llm.default_params
        explicit = SamplingParams(temperature=2.0)
        assert llm.session(params=explicit).params == explicit


def test_a_model_without_recommendations_draws_from_its_own_distribution(shared: LLM) -> None:
    assert shared.default_params == SamplingParams()
    assert shared.sampling_defaults == {}


def test_without_params_a_model_generates_as_its_files_recommend(
    tmp_path: Path, write_model: WriteModel, tokenizer_file: Path
) -> None:
    folder = with_generation(
        tmp_path / "m", write_model, tokenizer_file, do_sample=False, eos_token_id=[]
    )
    with LLM(folder) as llm:
        greedy = llm.generate(PROMPT, SamplingParams(temperature=0)).text
        messages = [{"role": "user", "content": "hi"}]
        assert [llm.generate(PROMPT).text for _ in range(3)] == [greedy] * 3
        assert "".join(llm.stream(PROMPT)) == greedy
        assert llm.chat(messages).text == llm.chat(messages, SamplingParams(temperature=0)).text
        assert llm.session().send("hi").text == "".join(llm.stream_chat(messages))
        drawn = llm.generate(PROMPT, SamplingParams(seed=1)).text
        assert drawn != greedy


@pytest.mark.parametrize(("limit", "tokens"), [(5, 5), (10_000, CONTEXT - 4)])
def test_the_recommended_length_holds_where_the_context_has_room_for_it(
    tmp_path: Path, write_model: WriteModel, tokenizer_file: Path, limit: int, tokens: int
) -> None:
    folder = with_generation(
        tmp_path / "m", write_model, tokenizer_file, max_new_tokens=limit, eos_token_id=[]
    )
    with LLM(folder) as llm:
        params = SamplingParams(ignore_eos=True)
        seeded = replace(llm.default_params, seed=1)
        for given in (None, seeded, params):
            completion = llm.generate([5, 6, 7, 8], given)
            if completion.finish_reason == "length":
                assert len(completion.token_ids) == tokens
        assert len(llm.generate([5, 6, 7, 8], params).token_ids) == tokens
        assert len(llm.generate([5, 6, 7, 8], replace(params, max_tokens=3)).token_ids) == 3
