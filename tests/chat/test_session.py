"""Sessions: the prompts they render, undo, retry, fork, truncation, saving."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cullama import LLM, SamplingParams
from cullama.chat.messages import Content, Message
from cullama.chat.saved import load, save
from cullama.chat.session import Reply, Session
from cullama.errors import ContextLengthError, CullamaError, NumericalError, UsageError
from cullama.text.generation import submit

LETTERS = range(67, 93)  # so that what a random model writes is text: see `test_letters`
SHORT = SamplingParams(temperature=0, max_tokens=6, logit_bias=dict.fromkeys(LETTERS, 100.0))
QUESTIONS = ("Once upon a time", "the llama", "naïve 🦙 <|end|>", "", "a\n\nb")


@pytest.fixture(scope="module")
def llm(chat_model: Path) -> Iterator[LLM]:
    with LLM(chat_model, backend="cpu", context_length=512) as llm:
        yield llm


@pytest.fixture
def session(llm: LLM) -> Session:
    return llm.session(params=SHORT)


def said(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def talk(session: Session, *questions: str) -> list[str]:
    return [session.send(question).text for question in questions]


def test_letters_are_letters(llm: LLM) -> None:
    assert llm.tokenizer.decode(LETTERS) == "abcdefghijklmnopqrstuvwxyz"


class TestATurn:
    def test_is_two_messages(self, session: Session) -> None:
        answer = session.send("Hi").text
        assert session.messages == [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": answer},
        ]
        assert session.turns == 1

    def test_answers_as_chat_does(self, llm: LLM, session: Session) -> None:
        assert session.send("Hi").text == llm.chat([{"role": "user", "content": "Hi"}], SHORT).text

    def test_prefills_only_new_tokens(self, session: Session) -> None:
        read = 0
        for question in QUESTIONS:
            completion = session.send(question)
            # All that was read, and written but for the last token, which is never fed back.
            if read:
                assert completion.cached_tokens >= read
            assert completion.cached_tokens < completion.prompt_tokens
            ends = completion.finish_reason == "stop"
            read = completion.prompt_tokens + len(completion.token_ids) - 1 - ends

    def test_continues_with_the_token_ids_the_model_generated(self, session: Session) -> None:
        first = session.send("Hi")
        written = first.token_ids[: -1 if first.finish_reason == "stop" else None]
        session.send("And?")
        assert session.last_prompt is not None
        ids = session.last_prompt.token_ids
        assert ids[first.prompt_tokens :][: len(written)] == written

    def test_renders_the_whole_conversation(self, llm: LLM, session: Session) -> None:
        talk(session, *QUESTIONS)
        assert session.last_prompt is not None
        expected = llm.chat_format.write(session.messages[:-1])
        assert session.last_prompt.text == expected
        decoded = llm.tokenizer.decode(session.last_prompt.token_ids, skip_special_tokens=False)
        assert decoded == expected.replace("\ufdd0", "")

    def test_streams_the_answer_in_pieces(self, llm: LLM) -> None:
        session, twin = llm.session(params=SHORT), llm.session(params=SHORT)
        reply = session.stream("Hi")
        assert "".join(reply) == reply.completion.text == twin.send("Hi").text
        assert session.messages == twin.messages

    def test_takes_parameters_of_its_own(self, session: Session) -> None:
        assert len(session.send("Hi", SamplingParams(max_tokens=2, ignore_eos=True)).token_ids) == 2

    def test_ends_before_a_stop_string_and_the_next_still_reads_right(
        self, llm: LLM, session: Session
    ) -> None:
        whole = session.send("Hi").text
        session.undo()
        stopped = session.send("Hi", replace(SHORT, stop=(whole[1:3],)))
        assert stopped.text == whole[: whole.index(whole[1:3])]
        session.send("And?")
        assert session.last_prompt is not None
        decoded = llm.tokenizer.decode(session.last_prompt.token_ids, skip_special_tokens=False)
        assert decoded == llm.chat_format.write(session.messages[:-1])


SAMPLED = SamplingParams(
    temperature=1.5,
    seed=11,
    max_tokens=14,
    repetition_penalty=1.2,
    presence_penalty=0.5,
    frequency_penalty=0.3,
    ignore_eos=True,
)


@pytest.fixture(scope="module")
def exact(chat_model: Path) -> Iterator[LLM]:
    with LLM(chat_model, backend="cpu", context_length=512, deterministic=True) as llm:
        yield llm


class TestContinuing:
    @pytest.mark.parametrize("cut", [1, 5, 13])
    @pytest.mark.parametrize("params", [replace(SAMPLED, temperature=0), SAMPLED])
    def test_goes_on_with_the_very_next_token(
        self, exact: LLM, params: SamplingParams, cut: int
    ) -> None:
        uncut, session = exact.session(params=params), exact.session(params=params)
        whole = uncut.send("Hi")
        first = session.send("Hi", replace(params, max_tokens=cut))
        rest = session.continue_(replace(params, max_tokens=14 - cut))
        assert (*first.token_ids, *rest.token_ids) == whole.token_ids
        assert session.messages == uncut.messages
        assert session.turns == 1

    def test_in_small_steps_comes_to_the_same_answer(self, exact: LLM) -> None:
        uncut, session = exact.session(params=SAMPLED), exact.session(params=SAMPLED)
        uncut.send("Hi")
        one = replace(SAMPLED, max_tokens=1)
        session.send("Hi", one)
        for _ in range(13):
            session.continue_(one)
        assert session.messages == uncut.messages
        assert session.send("And?", one).prompt_tokens == uncut.send("And?", one).prompt_tokens

    def test_draws_by_the_seed_that_was_drawn_for_the_answer(self, exact: LLM) -> None:
        session = exact.session(params=replace(SAMPLED, seed=None))
        first = session.send("Hi", replace(SAMPLED, seed=None, max_tokens=5))
        assert session.continue_().seed == first.seed

    def test_works_where_the_answer_was_stopped(self, exact: LLM) -> None:
        params = replace(SHORT, max_tokens=40, ignore_eos=True)
        uncut, session = exact.session(params=params), exact.session(params=params)
        whole = uncut.send("Hi").text
        reply = session.stream("Hi")
        for _ in range(3):
            next(reply)
        reply.close()
        told = session.messages[-1]["content"]
        assert whole.startswith(told)
        more = session.stream_continue(replace(params, max_tokens=5))
        assert whole.startswith(told + "".join(more))
        assert more.begun.text == told

    def test_keeps_the_log_probabilities_of_the_new_tokens(self, exact: LLM) -> None:
        params = replace(SAMPLED, logprobs=1)
        uncut, session = exact.session(params=params), exact.session(params=params)
        whole = uncut.send("Hi")
        session.send("Hi", replace(params, max_tokens=4))
        rest = session.continue_(replace(params, max_tokens=10))
        assert whole.logprobs is not None
        assert rest.logprobs == whole.logprobs[4:]

    def test_goes_on_with_answers_whose_tokens_are_not_known(self, llm: LLM) -> None:
        session = llm.session("Be brief.", SHORT, messages=said("Hi", "once upon"))
        added = session.continue_()
        assert session.messages[-1]["content"] == "once upon" + added.text
        assert len(added.text) == 6
        [ids] = [turn.rendered.token_ids for turn in session._turns]
        decoded = llm.tokenizer.decode(ids, skip_special_tokens=False)
        assert decoded.endswith("assistant\nonce upon" + added.text)

    def test_adds_nothing_where_the_model_has_ended(self, llm: LLM) -> None:
        session = llm.session(params=replace(SHORT, logit_bias={1: 1000.0}))  # <|end|>
        session.messages = said("Hi", "once upon")
        completion = session.continue_()
        assert (completion.text, completion.finish_reason) == ("", "stop")
        assert session.messages == said("Hi", "once upon")

    def test_needs_an_answer(self, session: Session) -> None:
        with pytest.raises(UsageError, match="nothing has been answered yet"):
            session.continue_()
        session.messages = [{"role": "user", "content": "Hi"}]
        with pytest.raises(UsageError, match="nothing has been answered yet"):
            session.continue_()

    def test_leaves_out_old_turns_where_the_context_is_full(self, chat_model: Path) -> None:
        with LLM(chat_model, backend="cpu", context_length=64) as llm:
            session = llm.session(params=SHORT, messages=[*said("a" * 8, "b" * 8)])
            session.send("c")
            while not session.left_out:
                session.continue_()
            assert session.messages[0]["content"] == "a" * 8
            while len(session._turns[-1].rendered.token_ids) < llm.longest_text:
                session.continue_()
            with pytest.raises(ContextLengthError, match="leaves no room for more in a context"):
                session.continue_()

    def test_an_undone_continuation_is_undone_with_its_question(self, session: Session) -> None:
        session.send("Hi")
        session.continue_()
        assert len(session.undo()) == 2
        assert session.messages == []


class TestAlternatives:
    @pytest.fixture
    def session(self, exact: LLM) -> Session:
        session = exact.session("Be brief.", replace(SAMPLED, temperature=0))
        talk(session, "Hi", "And?")
        return session

    def test_are_where_the_model_s_own_probabilities_are_least(
        self, exact: LLM, session: Session
    ) -> None:
        again = exact.session("Be brief.", replace(SAMPLED, temperature=0, logprobs=4))
        again.send("Hi")
        completion = again.send("And?")
        logprobs = completion.logprobs
        assert logprobs is not None
        places = session.uncertain_tokens(count=3)
        ordered = sorted(range(14), key=lambda i: logprobs[i].logprob)
        assert [place.index for place in places] == ordered[:3]
        for place in places:
            known = logprobs[place.index]
            assert place.chosen.token_id == completion.token_ids[place.index]
            assert place.chosen.probability == pytest.approx(math.exp(known.logprob), rel=1e-5)
            rest = [it for it in known.top if it[0] != place.chosen.token_id][:3]
            assert [it.token_id for it in place.others] == [token for token, _ in rest]
            assert completion.text.startswith(place.before)

    def test_are_found_in_answers_whose_tokens_are_not_known(self, exact: LLM) -> None:
        session = exact.session(messages=said("Hi", "once upon a time"))
        places = session.uncertain_tokens(count=99, others=2)
        assert "".join(it.chosen.text for it in sorted(places, key=lambda it: it.index)) == (
            "once upon a time"
        )
        assert all(len(place.others) == 2 for place in places)

    def test_change_nothing(self, session: Session) -> None:
        before = [*session.messages]
        session.uncertain_tokens()
        assert session.messages == before

    def test_a_branch_keeps_what_comes_before_and_goes_on_behind_the_token(
        self, exact: LLM, session: Session
    ) -> None:
        [place] = session.uncertain_tokens(count=1)
        other = place.others[0]
        old = session._turns[-1].answer
        with session.stream_branch(place.index, other.token_id) as reply:
            text = "".join(reply)
        ids = session._turns[-1].answer.token_ids
        assert ids[: place.index + 1] == (*old.token_ids[: place.index], other.token_id)
        assert len(ids) == place.index + 1 + 14
        assert session.messages[-1]["content"] == reply.begun.text + text
        assert session.turns == 2
        bias = replace(SAMPLED, temperature=0, max_tokens=1, logit_bias={other.token_id: 1e6})
        twin = exact.session("Be brief.", replace(SAMPLED, temperature=0))
        talk(twin, "Hi")
        begin = replace(SAMPLED, temperature=0, max_tokens=max(1, place.index))
        twin.send("And?", begin if place.index else bias)
        if place.index:
            twin.continue_(bias)
        twin.continue_()
        assert twin.messages == session.messages

    def test_a_branch_by_an_end_token_ends_the_answer_there(self, session: Session) -> None:
        before = session.messages[-1]["content"]
        with session.stream_branch(4, 1) as reply:  # <|end|>
            assert "".join(reply) == ""
        assert reply.completion.finish_reason == "stop"
        told = session.messages[-1]["content"]
        assert len(told) < len(before)
        assert before.startswith(told)

    def test_a_place_outside_the_answer_is_refused(self, exact: LLM, session: Session) -> None:
        with pytest.raises(UsageError, match="index is 14, expected 0 to 13"):
            session.stream_branch(14, 70)
        with pytest.raises(UsageError, match="expected token ids below 300"):
            session.stream_branch(0, 300)
        with pytest.raises(UsageError, match="nothing has been answered yet"):
            exact.session().uncertain_tokens()


def test_a_turn_has_one_answer(session: Session) -> None:
    with pytest.raises(UsageError, match="n is 2, expected 1"):
        session.send("Hi", replace(SHORT, n=2))


class TestStopping:
    def test_in_the_middle_keeps_the_answer_so_far(self, session: Session) -> None:
        reply = session.stream("Hi", SamplingParams(max_tokens=100, temperature=0, ignore_eos=True))
        piece = next(reply)
        reply.close()
        assert session.messages[-1]["content"].startswith(piece)
        assert reply.completion.finish_reason == "cancelled"
        session.send("And?")
        assert session.turns == 2

    def test_before_the_first_piece_leaves_no_turn(self, session: Session) -> None:
        session.stream("Hi").close()
        assert session.messages == []

    def test_by_dropping_the_reply_leaves_no_turn(self, llm: LLM, session: Session) -> None:
        reply = session.stream("Hi")
        del reply
        gc.collect()
        session.send("Hi")
        assert session.turns == 1
        assert llm.engine.metrics.ended["cancelled"] > 0

    def test_a_running_answer_must_end_before_the_next_question(self, session: Session) -> None:
        session.send("Hi")
        reply = session.stream("Hi")
        for act in (lambda: session.send("And?"), session.retry, session.undo):
            with pytest.raises(UsageError, match="still being generated"):
                act()
        reply.close()
        session.send("And?")

    def test_an_answer_that_fails_leaves_no_turn(
        self, llm: LLM, session: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session.send("Hi")
        before = list(session.messages)

        def fail(*arguments: object) -> None:
            raise NumericalError("planted")

        monkeypatch.setattr(llm.engine.runner, "forward", fail)
        with pytest.raises(NumericalError, match="planted"):
            session.send("And?")
        monkeypatch.undo()
        assert session.messages == before
        session.send("And?")


class TestTakingBack:
    def test_after_undo_everything_is_as_without_the_turn(self, llm: LLM) -> None:
        session, other = llm.session(params=SHORT), llm.session(params=SHORT)
        talk(session, "Hi", "And?", "the sea", "the hill")
        session.undo(2)
        talk(other, "Hi", "And?")
        assert session.messages == other.messages
        assert session.send("then").token_ids == other.send("then").token_ids
        assert session.last_prompt == other.last_prompt

    def test_undo_returns_the_removed_messages(self, session: Session) -> None:
        talk(session, "Hi", "And?")
        assert next(message["content"] for message in session.undo()) == "And?"

    @pytest.mark.parametrize("turns", [0, -1, 3])
    def test_more_turns_than_there_are_cannot_be_taken_back(
        self, session: Session, turns: int
    ) -> None:
        talk(session, "Hi", "And?")
        with pytest.raises(UsageError, match="expected 1 to 2"):
            session.undo(turns)
        assert session.turns == 2

    def test_retry_finds_its_prompt_in_the_cache(self, session: Session) -> None:
        talk(session, "Hi")
        first = session.send("And?")
        again = session.retry()
        assert again.token_ids == first.token_ids
        assert again.cached_tokens == again.prompt_tokens - 1
        assert session.turns == 2

    def test_retry_with_another_seed_replaces_the_answer(self, session: Session) -> None:
        talk(session, "Hi")
        wild = SamplingParams(seed=3, temperature=2.0, max_tokens=6, ignore_eos=True)
        answer = session.retry(wild)
        assert session.messages[-1]["content"] == answer.text
        assert session.turns == 1

    def test_retry_that_is_stopped_at_once_keeps_the_old_answer(self, session: Session) -> None:
        talk(session, "Hi")
        before = list(session.messages)
        session.stream_retry().close()
        assert session.messages == before

    def test_an_edited_question_replaces_the_last(self, session: Session) -> None:
        talk(session, "Hi", "And?")
        answer = "".join(session.stream_edit("But?"))
        assert session.messages[-2:] == said("But?", answer)
        assert session.turns == 2

    def test_an_edit_that_fails_or_is_stopped_loses_nothing(self, session: Session) -> None:
        talk(session, "Hi", "And?")
        before = list(session.messages)
        with pytest.raises(ContextLengthError):
            session.stream_edit("xyzzy " * 500)
        session.stream_edit("But?").close()
        assert session.messages == before

    def test_retry_without_a_turn_is_refused(self, session: Session) -> None:
        with pytest.raises(UsageError):
            session.retry()

    def test_a_fork_is_independent_and_finds_its_prompt_in_the_cache(
        self, session: Session
    ) -> None:
        talk(session, "Hi", "And?")
        twin = session.fork()
        assert twin.send("left").cached_tokens > 20
        assert session.turns == 2
        session.send("right")
        assert [m["content"] for m in twin.messages][4] == "left"
        assert [m["content"] for m in session.messages][4] == "right"


STEPS = ["Hi", "<|end|> there", "🦙", "undo", "retry", "fork", "Be brief.", "stop"]


@given(st.lists(st.sampled_from(STEPS), max_size=8))
@settings(max_examples=40)
def test_after_any_steps_the_prompt_is_the_conversation_as_it_stands(
    llm: LLM, steps: list[str]
) -> None:
    session = llm.session(params=SHORT)
    expected: list[dict[str, str]] = []
    for step in steps:
        if step == "undo" and session.turns:
            assert session.undo() == expected[-2:]
            expected = expected[:-2]
        elif step == "fork":
            session = session.fork()
        elif step == "Be brief.":
            session.system = None if session.system else step
            expected = [m for m in expected if m["role"] != "system"]
            expected = [{"role": "system", "content": step}, *expected][session.system is None :]
        elif step == "stop":
            session.stream("never asked").close()
        elif step not in ("undo", "retry") or session.turns:
            asked = expected[-2]["content"] if step == "retry" else step
            before = expected[:-2] if step == "retry" else expected
            answer = session.retry() if step == "retry" else session.send(step)
            expected = [*before, *said(asked, answer.text)]
            assert session.last_prompt is not None
            assert session.last_prompt.text == llm.chat_format.write(expected[:-1])
            ids = session.last_prompt.token_ids
            read = llm.tokenizer.decode(ids, skip_special_tokens=False)
            assert read == session.last_prompt.text.replace("\ufdd0", "")
        assert session.messages == expected


class TestTheSystemMessage:
    def test_comes_first(self, llm: LLM) -> None:
        session = llm.session("Be brief.", SHORT)
        session.send("Hi")
        assert session.messages[0] == {"role": "system", "content": "Be brief."}

    def test_can_be_changed_and_removed(self, session: Session) -> None:
        talk(session, "Hi")
        session.system = "Be brief."
        session.system = "Be long."
        assert [m["role"] for m in session.messages] == ["system", "user", "assistant"]
        session.send("And?")
        session.system = None
        assert session.system is None
        assert session.turns == 2


class TestAFullContext:
    @pytest.fixture
    def small(self, chat_model: Path) -> Iterator[LLM]:
        with LLM(chat_model, backend="cpu", context_length=160) as llm:
            yield llm

    def test_truncates_the_oldest_turns_and_counts_them(self, small: LLM) -> None:
        session = small.session("Be brief.", SHORT)
        left_out = []
        for index in range(12):
            session.send(f"Number {index}")
            left_out.append(session.left_out)
        assert left_out[0] == 0
        assert left_out[-1] > 0
        assert left_out == sorted(left_out)
        assert all(count % 2 == 0 for count in left_out)  # whole turns
        assert len(session.messages) == 25  # all are kept

    def test_keeps_the_system_message_and_the_newest(self, small: LLM) -> None:
        session = small.session("Be brief.", SHORT)
        talk(session, *(f"Number {index}" for index in range(12)))
        assert session.last_prompt is not None
        assert "Be brief." in session.last_prompt.text
        assert "Number 11" in session.last_prompt.text
        assert "Number 0" not in session.last_prompt.text

    def test_frees_a_quarter_so_that_not_every_turn_truncates(self, small: LLM) -> None:
        session = small.session(params=SHORT)
        talk(session, *(f"Number {index}" for index in range(8)))
        starts = set()
        for index in range(12):
            session.send(f"Number {index}")
            starts.add(session.left_out)
        assert 1 < len(starts) < 12

    def test_truncated_messages_return_when_there_is_room(self, small: LLM) -> None:
        session = small.session(params=SHORT)
        talk(session, *(f"Number {index}" for index in range(12)))
        session.undo(11)
        session.send("And?")
        assert session.left_out == 0

    def test_a_message_that_alone_is_too_long_is_refused_and_loses_nothing(
        self, small: LLM
    ) -> None:
        session = small.session(params=SHORT)
        talk(session, "Hi")
        before = list(session.messages)
        with pytest.raises(ContextLengthError, match="fewer words"):
            session.send("xyzzy " * 100)
        assert session.messages == before
        session.send("And?")

    def test_a_long_answer_ends_with_the_context(self, small: LLM) -> None:
        session = small.session(params=SamplingParams(max_tokens=100_000, ignore_eos=True, seed=1))
        assert session.send("Hi").finish_reason == "length"


class TestBadMessages:
    @pytest.mark.parametrize(
        "message",
        [
            "Hi",
            {"role": "user"},
            {"content": "Hi"},
            {"role": "user", "content": None},
            {"role": 3, "content": "Hi"},
            {"role": "user", "content": []},
        ],
    )
    def test_are_refused_in_one_line(self, llm: LLM, message: object) -> None:
        with pytest.raises(UsageError, match="expected a role and a text"):
            llm.session(messages=[message])  # type: ignore[list-item]

    def test_content_that_is_not_well_formed_text_is_refused(self, session: Session) -> None:
        with pytest.raises(UsageError):
            session.send(3)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="well-formed"):
            session.send("half \ud83e")
        assert session.messages == []


class TestParts:
    PARTS: ClassVar[list[dict[str, Any]]] = [
        {"type": "text", "text": "Once"},
        {"type": "text", "text": "upon"},
    ]

    def test_of_type_text_are_read_as_one_text(self, llm: LLM) -> None:
        params = SamplingParams(max_tokens=3, temperature=0)
        ids = []
        contents: list[Content] = [self.PARTS, "Once\nupon"]
        for content in contents:
            session = llm.session("Be kind", params)
            ids.append(session.send(content).token_ids)
            assert session.messages[1]["content"] == content
            assert session.turns == 1
        assert ids[0] == ids[1]

    def test_of_a_system_message_are_its_text(self, llm: LLM) -> None:
        session = llm.session(messages=[{"role": "developer", "content": self.PARTS}])
        assert session.system == "Once\nupon"
        session.system = "Twice"
        assert session.messages == [{"role": "system", "content": "Twice"}]

    def test_are_saved_and_loaded(self, llm: LLM, tmp_path: Path) -> None:
        messages: list[Message] = [
            {"role": "user", "content": self.PARTS},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            {"role": "tool", "content": "3", "tool_call_id": "1"},
        ]
        save(llm.session(messages=messages), tmp_path / "chat.json")
        assert load(llm, tmp_path / "chat.json").messages == messages

    def test_of_another_type_are_refused_by_name(self, session: Session) -> None:
        image: dict[str, Any] = {"type": "image_url", "image_url": {"url": "llama.png"}}
        with pytest.raises(UsageError, match="has a part of type 'image_url', expected text"):
            session.send([*self.PARTS, image])
        assert session.messages == []


class TestSavedConversations:
    def test_are_loaded_as_they_were_saved(
        self, llm: LLM, session: Session, tmp_path: Path
    ) -> None:
        session.params = SamplingParams(temperature=0.5, logit_bias={7: -1.5}, stop=("x",), seed=4)
        session.system = "Be brief. 🦙"
        talk(session, "naïve", "<|end|>")
        save(session, tmp_path / "chat.json")
        back = load(llm, tmp_path / "chat.json")
        assert back.messages == session.messages
        assert back.params == session.params
        for each in (back, session):
            each.send("then")
        assert back.last_prompt is not None
        assert session.last_prompt is not None
        assert back.last_prompt.text == session.last_prompt.text

    def test_are_overwritten_but_no_other_file_is(self, session: Session, tmp_path: Path) -> None:
        path = tmp_path / "chat.json"
        save(session, path)
        talk(session, "Hi")
        save(session, path)
        assert len(json.loads(path.read_text())["messages"]) == 2
        (tmp_path / "letter.txt").write_text("dear")
        with pytest.raises(UsageError, match="not a saved conversation"):
            save(session, tmp_path / "letter.txt")
        assert (tmp_path / "letter.txt").read_text() == "dear"

    def test_that_cannot_be_written_say_why(self, session: Session, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="cannot write"):
            save(session, tmp_path / "nowhere" / "chat.json")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{}",
            "[" * 100_000,
            '{"kind": "cullama chat", "version": 2}',
            '{"kind": "cullama chat", "version": 1}',
            '{"kind": "cullama chat", "version": 1, "params": {}, "messages": [3]}',
            '{"kind": "cullama chat", "version": 1, "params": {"heat": 1}, "messages": []}',
            '{"kind": "cullama chat", "version": 1, "params": {"n": "x"}, "messages": []}',
            '{"kind": "cullama chat", "version": 1, "params": {"logit_bias": {"²": 1}},'
            ' "messages": []}',
        ],
    )
    def test_files_that_are_none_are_refused_in_one_line(
        self, llm: LLM, tmp_path: Path, text: str
    ) -> None:
        (tmp_path / "chat.json").write_text(text)
        with pytest.raises(CullamaError) as caught:
            load(llm, tmp_path / "chat.json")
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="only it gets signals"
)
def test_ctrl_c_right_after_a_question_was_submitted_cancels_it(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> Any:
        samples = submit(*arguments)
        signal.raise_signal(signal.SIGINT)
        return samples

    monkeypatch.setattr("cullama.chat.session.submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.session(params=SHORT).stream("Hi")
    gc.collect()
    assert not llm.engine.has_work


class TestInAnEventLoop:
    def test_a_reply_is_read_with_async_for(self, llm: LLM) -> None:
        session, twin = llm.session(params=SHORT), llm.session(params=SHORT)

        async def main() -> list[str]:
            return [piece async for piece in session.stream("Hi")]

        assert asyncio.run(main()) == list(twin.stream("Hi"))
        assert session.messages == twin.messages
        assert asyncio.run(session.asend("And?")).text == twin.send("And?").text
        assert session.messages == twin.messages

    def test_leaving_the_loop_keeps_the_answer_so_far(self, llm: LLM) -> None:
        session = llm.session(params=replace(SHORT, max_tokens=100, ignore_eos=True))

        async def main() -> str:
            reply = session.stream("Hi")
            async for piece in reply:
                first = piece
                break
            while reply.is_open:  # until the event loop has closed the generator
                await asyncio.sleep(0)
            return first

        piece = asyncio.run(asyncio.wait_for(main(), 60))
        assert session.messages == said("Hi", piece)
        assert session.send("And?").text

    def test_a_turn_that_fails_leaves_the_conversation_as_it_was(
        self, llm: LLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = llm.session(params=SHORT)
        reply = session.stream("Hi")

        def broken(*arguments: object) -> None:
            raise NumericalError("NaN")

        monkeypatch.setattr(llm.engine.runner, "launch", broken)
        with pytest.raises(NumericalError):
            asyncio.run(_read(reply))
        monkeypatch.undo()
        assert session.messages == []
        assert session.send("Hi").text


async def _read(reply: Reply) -> str:
    return "".join([piece async for piece in reply])
