"""Which tokens of a rendered conversation are whose, for templates of several families."""

from __future__ import annotations

from typing import Any

import pytest

from cullama import LLM
from cullama.chat.format import ChatFormat
from cullama.chat.template import ChatTemplate
from cullama.chat.turns import prompt_turns

MESSAGES: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi <|end|> you "},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": [{"type": "text", "text": "Bye"}]},
]
CHATML = (
    "{% for m in messages %}<|begin|>{{ m.role }}\n{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)
WITH_DEFAULT = "<|begin|>system\nDefault<|end|>\n" + CHATML


def _format(llm: LLM, source: str | None) -> ChatFormat:
    template = source and ChatTemplate(source, "a test")
    return ChatFormat(template or None, llm.tokenizer, llm.config.bos_id)


@pytest.fixture(scope="module")
def llm(chat_model: Any) -> LLM:
    return LLM(chat_model, backend="cpu:numpy", threads=1)


def _shown(llm: LLM, source: str | None, messages: Any) -> list[tuple[int | None, str]] | None:
    format = _format(llm, source)
    ids = format.encode(format.write(messages))
    turns = prompt_turns(format, messages, ids)
    if turns is None:
        return None
    assert [turn.start for turn in turns] == [0, *(turn.end for turn in turns[:-1])]
    assert turns[-1].end == len(ids)
    decode = llm.tokenizer.decode
    return [(turn.message, decode(ids[turn.start : turn.end], False)) for turn in turns]


def test_each_message_has_its_turn_and_the_header_of_the_answer_is_the_last(llm: LLM) -> None:
    assert _shown(llm, CHATML, MESSAGES) == [
        (0, "<|begin|>system\nBe brief.<|end|>\n"),
        (1, "<|begin|>user\nHi <|end|> you<|end|>\n"),
        (2, "<|begin|>assistant\nHello<|end|>\n"),
        (3, "<|begin|>user\nBye<|end|>\n"),
        (None, "<|begin|>assistant\n"),
    ]


def test_what_the_template_says_itself_is_no_message(llm: LLM) -> None:
    shown = _shown(llm, WITH_DEFAULT, MESSAGES[1:2])
    assert shown is not None
    assert [message for message, _ in shown] == [None, 0, None]
    assert shown[0][1] == "<|begin|>system\nDefault<|end|>\n"


def test_a_tool_call_without_text_lies_between_its_neighbours(llm: LLM) -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    source = CHATML.replace("m.content | trim", "(m.content or m.tool_calls[0].name) | trim")
    shown = _shown(llm, source, [MESSAGES[1], called, {"role": "tool", "content": "4"}])
    assert shown is not None
    assert [message for message, _ in shown] == [0, 1, 2, None]


def test_a_template_that_counts_characters_leaves_it_open(llm: LLM) -> None:
    source = CHATML.replace("m.content | trim", "(m.content | trim) ~ (m.content | length)")
    assert _shown(llm, source, MESSAGES[1:2]) is None


def test_a_message_that_spells_a_mark_leaves_it_open(llm: LLM) -> None:
    assert _shown(llm, CHATML, [{"role": "user", "content": "a\ufdd20\ufdd3b"}]) is None
