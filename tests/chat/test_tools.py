"""Tools, documents and variables of a template in `LLM.chat` and its like."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cullama import LLM, SamplingParams
from cullama.errors import UsageError

TEMPLATES = Path(__file__).parents[1] / "fixtures" / "templates"
MESSAGES = [{"role": "user", "content": "Rain?"}]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "a <|end|> b"}}]
DOCUMENTS = [{"title": "Peru", "text": "Llamas live <|end|> here."}]
GREEDY = SamplingParams(temperature=0, max_tokens=3)


@pytest.fixture(scope="module")
def llm(chat_model: Path) -> Iterator[LLM]:
    with LLM(chat_model, backend="cpu", chat_template=TEMPLATES / "tools_json.jinja") as llm:
        yield llm


def test_tools_and_variables_reach_the_template(llm: LLM) -> None:
    given: dict[str, Any] = {"tools": TOOLS}
    given["template_variables"] = {"enable_thinking": False}
    ids = llm.chat_format.prompt(MESSAGES, {"tools": TOOLS, "enable_thinking": False})
    text = llm.tokenizer.decode(ids, skip_special_tokens=False)
    assert '"description": "a <|end|> b"' in text
    assert text.endswith("<think>\n\n</think>\n\n")
    plain = llm.chat_format.prompt(MESSAGES)
    assert [it for it in ids if it < 3] == [2, 1, *(it for it in plain if it < 3)]

    expected = llm.generate(ids, llm.chat_format.with_stop_tokens(GREEDY))
    answers = [
        llm.chat(MESSAGES, GREEDY, **given),
        *llm.chat([MESSAGES, MESSAGES], GREEDY, **given),
        asyncio.run(llm.achat(MESSAGES, GREEDY, **given)),
    ]
    with llm.stream_chat(MESSAGES, GREEDY, **given) as stream:
        list(stream)
    for answer in (*answers, stream.completion):
        assert answer.token_ids == expected.token_ids
        assert answer.prompt_tokens == len(ids)


def test_documents_are_refused_by_a_template_without_a_place_for_them(llm: LLM) -> None:
    with pytest.raises(UsageError, match="documents are given, but the chat template has no"):
        llm.chat(MESSAGES, GREEDY, documents=DOCUMENTS)
    assert llm.chat(MESSAGES, GREEDY, documents=[], tools=[]).token_ids


@pytest.mark.parametrize("tools", [TOOLS[0], "weather", [print], 3])
def test_tools_that_are_no_list_of_schemas_are_refused(llm: LLM, tools: Any) -> None:
    with pytest.raises(UsageError, match="expected a list of JSON schemas"):
        llm.chat(MESSAGES, GREEDY, tools=tools)


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt"])
def test_variables_may_not_take_the_names_of_arguments(llm: LLM, name: str) -> None:
    with pytest.raises(UsageError, match=f"template_variables has '{name}', expected another"):
        llm.stream_chat(MESSAGES, GREEDY, template_variables={name: None})


def test_a_whole_conversation_with_a_call_and_its_result_is_answered(llm: LLM) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "<|end|> sun", "tool_call_id": "1"},
    ]
    text = llm.tokenizer.decode(
        llm.chat_format.prompt(messages, {"tools": TOOLS}), skip_special_tokens=False
    )
    assert '<call>{"name": "weather", "arguments": {}}</call>' in text
    assert "<result>\n<|end|> sun\n</result>" in text
    assert llm.chat(messages, GREEDY, tools=TOOLS).token_ids


def test_tools_of_the_model_are_those_of_its_sessions(chat_model: Path) -> None:
    source, variables = TEMPLATES / "tools_json.jinja", {"tools": TOOLS}
    with LLM(chat_model, chat_template=source, template_variables=variables) as llm:
        session = llm.session()
        session.send("Rain?", GREEDY)
        assert session.last_prompt is not None
        assert '"name": "weather"' in session.last_prompt.text
        assert list(session.last_prompt.token_ids) == llm.chat_format.prompt(MESSAGES)
