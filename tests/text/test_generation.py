"""Tokens become text: pieces add up, stop strings never show, and a completion tells the rest."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cullama import LLM, Completion, SamplingParams, Stream
from cullama.errors import UsageError
from cullama.text.completion import Timings

PROMPT = "Once upon a time"
PARAMS = SamplingParams(max_tokens=40, seed=3, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> LLM:
    return LLM(tiny_model)


@pytest.fixture(scope="module")
def whole(llm: LLM) -> Completion:
    """The text without any stop string."""
    return llm.generate(PROMPT, PARAMS)


@pytest.fixture(scope="module")
def pieces(llm: LLM) -> list[str]:
    return list(llm.stream(PROMPT, PARAMS))


# --- pieces


def test_pieces_add_up_to_the_text(whole: Completion, pieces: list[str]) -> None:
    assert "".join(pieces) == whole.text
    assert all(pieces)
    assert len(pieces) > 5


def test_a_completion_can_be_read_during_generation(llm: LLM, pieces: list[str]) -> None:
    stream = llm.stream(PROMPT, PARAMS)
    assert stream.completion.text == ""
    assert stream.completion.token_ids == ()
    text = ""
    for piece in stream:
        text += piece
        assert stream.completion.text == text
    assert stream.completion.finish_reason == "length"
    assert len(stream.completion.token_ids) == 40


def test_an_answer_read_to_its_last_piece_has_its_finish_reason(
    llm: LLM, pieces: list[str]
) -> None:
    stream = llm.stream(PROMPT, PARAMS)
    for _ in pieces[:-1]:
        next(stream)
    reasons = [stream.completion.finish_reason]
    assert next(stream) == pieces[-1]
    reasons.append(stream.completion.finish_reason)
    stream.close()
    assert [*reasons, stream.completion.finish_reason] == ["cancelled", "length", "length"]


def test_a_stream_is_an_iterator_that_stays_at_its_end(llm: LLM) -> None:
    stream = llm.stream(PROMPT, replace(PARAMS, max_tokens=3))
    assert isinstance(stream, Stream)
    assert iter(stream) is stream
    list(stream)
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(stream)


def test_an_answer_of_control_tokens_has_no_pieces(llm: LLM) -> None:
    stream = llm.stream(PROMPT, replace(PARAMS, logit_bias={2: 1000.0}))
    assert list(stream) == []
    assert stream.completion.token_ids == (2,) * 40


def test_the_first_word_keeps_its_space(llm: LLM) -> None:
    """It continues a sentence; the text of a token depends on what stands before it."""
    [token] = llm.tokenizer.encode(" the", add_special_tokens=False)
    params = SamplingParams(max_tokens=3, logit_bias={token: 1000.0})
    assert llm.generate(PROMPT, params).text == " the the the"
    assert list(llm.stream(PROMPT, params)) == [" the"] * 3


def test_a_character_shows_when_its_last_byte_has_come(llm: LLM) -> None:
    ids = llm.tokenizer.encode("☃", add_special_tokens=False)
    assert len(ids) == 3
    params = SamplingParams(max_tokens=1, logit_bias={ids[2]: 1000.0})
    assert list(llm.stream([*llm.tokenizer.encode(PROMPT), *ids[:2]], params)) == ["☃"]
    params = SamplingParams(max_tokens=3, logit_bias={ids[0]: 1000.0})
    assert llm.generate(PROMPT, params).text == ""


# --- stop strings


def stopped(llm: LLM, *stops: str) -> Completion:
    """The same from `generate` and, piece by piece, from `stream`."""
    params = replace(PARAMS, stop=stops)
    completion = llm.generate(PROMPT, params)
    stream = llm.stream(PROMPT, params)
    assert "".join(stream) == completion.text
    assert stream.completion.token_ids == completion.token_ids
    assert stream.completion.finish_reason == completion.finish_reason
    return completion


@given(begin=st.integers(0, 30), length=st.integers(1, 6))
def test_any_part_of_the_text_can_end_it(
    llm: LLM, whole: Completion, begin: int, length: int
) -> None:
    stop = whole.text[begin : begin + length]
    completion = stopped(llm, stop)
    assert completion.text == whole.text[: whole.text.index(stop)]
    assert completion.finish_reason == "stop"
    assert completion.token_ids == whole.token_ids[: len(completion.token_ids)]


def test_a_stop_string_across_tokens_is_found(
    llm: LLM, whole: Completion, pieces: list[str]
) -> None:
    for index in range(1, len(pieces)):
        stop = pieces[index - 1][-1] + pieces[index][0]
        assert stopped(llm, stop).text == whole.text[: whole.text.index(stop)]


def test_a_stop_string_of_many_tokens_is_found(llm: LLM, whole: Completion) -> None:
    assert stopped(llm, whole.text[5:20]).text == whole.text[:5]


def test_the_whole_text_can_be_a_stop_string(llm: LLM, whole: Completion) -> None:
    completion = stopped(llm, whole.text)
    assert completion.text == ""
    assert completion.finish_reason == "stop"


def test_a_stop_string_that_the_last_token_completes_is_a_stop(
    llm: LLM, whole: Completion, pieces: list[str]
) -> None:
    completion = stopped(llm, whole.text[-3:])
    assert completion.finish_reason == "stop"
    assert completion.text == whole.text[: whole.text.index(whole.text[-3:])]


def test_a_stop_string_that_only_begins_does_not_end_it(llm: LLM, whole: Completion) -> None:
    completion = stopped(llm, whole.text[-3:] + "more")
    assert completion.text == whole.text
    assert completion.finish_reason == "length"


def test_a_stop_string_that_never_comes_changes_nothing(llm: LLM, whole: Completion) -> None:
    completion = stopped(llm, "never to be seen", "\N{SNOWMAN}")
    assert (completion.text, completion.token_ids) == (whole.text, whole.token_ids)
    assert completion.finish_reason == "length"


def test_the_first_of_several_stop_strings_ends_it(llm: LLM, whole: Completion) -> None:
    early, late = whole.text[4:6], whole.text[15:18]
    first = min(whole.text.index(stop) for stop in (early, late))
    for stops in ((early, late), (late, early), (late, "never", early)):
        assert stopped(llm, *stops).text == whole.text[:first]


def test_a_stop_string_may_be_given_as_a_text(llm: LLM, whole: Completion) -> None:
    stop: Any = whole.text[5:7]
    as_text = SamplingParams(max_tokens=40, seed=3, ignore_eos=True, stop=stop)
    assert llm.generate(PROMPT, as_text).text == stopped(llm, whole.text[5:7]).text


def test_a_stop_string_in_the_prompt_does_not_count(llm: LLM, whole: Completion) -> None:
    assert stopped(llm, "upon").text == whole.text
    begins_in_the_prompt = "time" + whole.text[:2]
    assert stopped(llm, begins_in_the_prompt).text == whole.text


def test_a_stop_string_is_a_text_and_no_pattern(llm: LLM, whole: Completion) -> None:
    assert stopped(llm, ".*", ".", "[^a]", "(", "\\").text == whole.text.split(".")[0]


def test_no_piece_shows_a_part_of_a_stop_string(llm: LLM, whole: Completion) -> None:
    stop = whole.text[8:16]
    stream = llm.stream(PROMPT, replace(PARAMS, stop=(stop,)))
    shown = ""
    for piece in stream:
        shown += piece
        assert whole.text[: whole.text.index(stop)].startswith(shown)
    assert shown == whole.text[: whole.text.index(stop)]


def test_a_stopped_request_releases_its_blocks_at_once(llm: LLM, whole: Completion) -> None:
    stream = llm.stream(PROMPT, replace(PARAMS, stop=(whole.text[5:8],)))
    list(stream)
    assert llm.engine.prefix_cache.pool.referenced == 0
    assert not llm.engine.scheduler.has_work


def test_one_of_a_batch_may_stop_early(llm: LLM, whole: Completion) -> None:
    params = replace(PARAMS, stop=(whole.text[5:8],))
    other = llm.generate("The old clock", params).text
    both = llm.generate([PROMPT, "The old clock"], params)
    assert [one.text for one in both] == [stopped(llm, whole.text[5:8]).text, other]


@pytest.mark.parametrize("stop", ["", ("a", ""), (1,), (None,), (b"a",), 5, {"a": 1}])
def test_an_invalid_stop_string_is_refused(stop: object) -> None:
    with pytest.raises(UsageError, match="stop is"):
        SamplingParams(stop=stop)  # type: ignore[arg-type]


# --- what ended it


def both(llm: LLM, params: SamplingParams) -> Completion:
    """The same from `generate`, from a stream and in a list."""
    completion = llm.generate(PROMPT, params)
    with llm.stream(PROMPT, params) as stream:
        assert "".join(stream) == completion.text
    assert stream.completion == completion
    assert llm.generate([PROMPT, "The old clock"], [params, PARAMS])[0] == completion
    return completion


@given(begin=st.integers(0, 30), length=st.integers(1, 6))
def test_the_stop_string_is_named_and_kept_where_that_is_asked(
    llm: LLM, whole: Completion, begin: int, length: int
) -> None:
    stop = whole.text[begin : begin + length]
    end = whole.text.index(stop) + length
    for keeps in (False, True):
        completion = both(llm, replace(PARAMS, stop=("never", stop), include_stop=keeps))
        assert completion.stop_reason == stop
        assert completion.text == whole.text[: end if keeps else end - length]


def test_of_several_stop_strings_the_one_that_came_is_named(llm: LLM, whole: Completion) -> None:
    early, late = whole.text[4:6], whole.text[15:18]
    first = min(early, late, key=whole.text.index)
    assert both(llm, replace(PARAMS, stop=(late, early))).stop_reason == first


def test_the_end_token_is_named_by_its_id(llm: LLM, whole: Completion) -> None:
    stop = whole.token_ids[12]
    at = whole.token_ids.index(stop)
    without = both(llm, replace(PARAMS, stop_token_ids=(299, stop)))
    kept = both(llm, replace(PARAMS, stop_token_ids=(299, stop), include_stop=True))
    assert without.stop_reason == kept.stop_reason == stop
    assert without.text == llm.generate(PROMPT, replace(PARAMS, max_tokens=at)).text
    assert kept.text == llm.generate(PROMPT, replace(PARAMS, max_tokens=at + 1)).text
    ends = SamplingParams(logit_bias={1: 1000.0}, include_stop=True, seed=1)
    assert (both(llm, ends).stop_reason, both(llm, ends).text) == (1, "")


def test_what_did_not_stop_has_no_stop_reason(llm: LLM, whole: Completion) -> None:
    assert whole.finish_reason == "length"
    assert whole.stop_reason is None
    with llm.stream(PROMPT, replace(PARAMS, stop=("never",))) as stream:
        next(stream)
    assert stream.completion.finish_reason == "cancelled"
    assert stream.completion.stop_reason is None


def test_unlimited_tokens_are_all_that_there_is_room_for(llm: LLM) -> None:
    completion = llm.generate([5] * 100, replace(PARAMS, max_tokens=-1))
    assert len(completion.token_ids) == 28
    assert completion.finish_reason == "length"
    with pytest.raises(UsageError, match="does not fit"):
        llm.generate([5] * 128, replace(PARAMS, max_tokens=-1))


# --- the completion


def test_every_finish_reason_is_reported(llm: LLM, whole: Completion) -> None:
    assert whole.finish_reason == "length"
    assert llm.generate(PROMPT, replace(PARAMS, stop_token_ids=whole.token_ids[:1])).text == ""
    ends = SamplingParams(logit_bias={1: 1000.0})
    assert llm.generate(PROMPT, ends).finish_reason == "stop"
    stream = llm.stream(PROMPT, PARAMS)
    stream.close()
    assert stream.completion.finish_reason == "cancelled"


def test_the_end_token_does_not_change_the_text_before_it(llm: LLM, whole: Completion) -> None:
    at = whole.token_ids.index(whole.token_ids[12])
    params = replace(PARAMS, stop_token_ids=(whole.token_ids[12],))
    completion = llm.generate(PROMPT, params)
    assert completion.token_ids == whole.token_ids[: at + 1]
    shorter = llm.generate(PROMPT, replace(PARAMS, max_tokens=at))
    assert completion.text == shorter.text


def test_logprobs_come_one_a_token_also_where_the_text_is_cut(llm: LLM, whole: Completion) -> None:
    params = replace(PARAMS, stop=(whole.text[10:14],), logprobs=2)
    completion = llm.generate(PROMPT, params)
    assert completion.logprobs is not None
    assert [one.token_id for one in completion.logprobs] == list(completion.token_ids)


def test_every_token_that_logprobs_name_has_its_text(llm: LLM, whole: Completion) -> None:
    completion = llm.generate(PROMPT, replace(PARAMS, logprobs=2))
    assert completion.logprobs is not None
    named = {token for one in completion.logprobs for token, _ in one.top}
    assert set(completion.token_texts) == named | set(completion.token_ids)
    [token] = llm.tokenizer.encode(" the", add_special_tokens=False)
    likely = llm.generate(PROMPT, SamplingParams(max_tokens=1, logprobs=0, logit_bias={token: 1e3}))
    assert likely.token_texts == {token: " the"}
    assert whole.token_texts == {}


def test_the_repr_is_short_and_str_is_the_text(whole: Completion) -> None:
    assert str(whole) == whole.text
    shown = repr(whole)
    assert shown.startswith("Completion(")
    assert shown.endswith(", 40 tokens, length)")
    assert len(shown) < 200
    several = replace(whole, text="Hi", alternatives=(whole, whole))
    assert repr(several) == "Completion('Hi', 40 tokens, length, 2 alternatives)"


def test_a_completion_can_be_kept_in_a_set_and_written_as_json(llm: LLM) -> None:
    completion = llm.generate(PROMPT, replace(PARAMS, logprobs=2, n=2))
    assert completion in {completion}
    assert json.loads(json.dumps(asdict(completion)))["text"] == completion.text


def test_a_completion_can_be_pickled_and_equals_another_of_the_same(llm: LLM) -> None:
    params = replace(PARAMS, logprobs=2, n=2)
    completion = llm.generate(PROMPT, params)
    again = llm.generate(PROMPT, params)
    assert completion == again == pickle.loads(pickle.dumps(completion))
    assert completion.timings != again.timings
    assert completion != llm.generate(PROMPT, params.replace(seed=4))


def test_timings_are_reported_for_every_finish_reason(llm: LLM, whole: Completion) -> None:
    for completion in (whole, stopped(llm, whole.text[3:5])):
        assert 0 < completion.timings.first_token <= completion.timings.total
    stream = llm.stream(PROMPT, PARAMS)
    assert stream.completion.timings == Timings(0.0, 0.0)
    next(stream)
    stream.close()
    assert 0 < stream.completion.timings.first_token <= stream.completion.timings.total


@pytest.mark.parametrize(
    ("tokens", "timings", "rate"),
    [
        (11, Timings(1.0, 3.0), 5.0),
        (2, Timings(0.5, 0.75), 4.0),
        (1, Timings(1.0, 1.0), 0.0),
        (0, Timings(0.0, 0.0), 0.0),
        (5, Timings(1.0, 1.0), 0.0),
    ],
)
def test_the_rate_counts_the_tokens_after_the_first(
    tokens: int, timings: Timings, rate: float
) -> None:
    assert timings.decode_rate(tokens) == rate
