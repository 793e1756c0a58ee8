"""What grammars of calls accept, by llguidance, with marks that are tokens and that are text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from marked_syntaxes import GLM, LFM, NAMED, OLMO
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from cullama.chat.tools.answers import call_parser
from cullama.chat.tools.events import ParsedAnswer
from cullama.chat.tools.functions import FunctionTool, ToolUse
from cullama.chat.tools.grammar import calls_grammar
from cullama.chat.tools.syntax import (
    HERMES,
    LLAMA,
    MISTRAL,
    QWEN_CODER,
    MarkedSyntax,
    PythonSyntax,
    Syntax,
)
from cullama.errors import ConstraintError

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = FunctionTool("weather", None, SCHEMA)
STRICT = FunctionTool("weather", None, SCHEMA, strict=True)
CLOCK = FunctionTool("clock")
DEEPSEEK = MarkedSyntax(
    "<｜calls｜><｜call｜>function<｜sep｜>",
    "\n```json\n",
    "\n```<｜/call｜>",
    "\n<｜call｜>function<｜sep｜>",
    "<｜/calls｜>",
)
MARKS = (
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<think>", "</think>"),
    *(
        "<｜calls｜>",
        "<｜call｜>",
        "<｜sep｜>",
        "<｜/call｜>",
        "<｜/calls｜>",
        "<|calls|>",
        "<|/calls|>",
    ),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
)


def byte_tokenizer(tokens: Sequence[str], is_special: bool) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: index for index, text in enumerate(["<|end|>", *tokens, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    tokenizer.add_tokens([AddedToken(it, special=is_special, normalized=False) for it in tokens])
    return tokenizer


class Grammar:
    """A compiled grammar of calls, over a vocabulary of bytes and some marks."""

    def __init__(
        self,
        syntax: Syntax,
        use: ToolUse,
        vocabulary: str,
        is_thinking: bool | None = None,
    ) -> None:
        tokens = () if vocabulary == "text" else MARKS
        self.tokenizer = byte_tokenizer(tokens, is_special=vocabulary == "control tokens")
        ids = {it: index for index, it in enumerate(tokens, start=1)}
        lark = calls_grammar(syntax, use, ids, is_thinking)
        size = self.tokenizer.get_vocab_size()
        words = LLTokenizer(self.tokenizer.to_str(), n_vocab=size, eos_token=0)
        self.state = LLMatcher(words, LLMatcher.grammar_from_lark(lark), log_level=0)
        assert not self.state.is_error(), self.state.get_error()

    def accepts(self, text: str) -> bool:
        ids = [*self.tokenizer.encode(text, add_special_tokens=False).ids, 0]
        return self.state.deep_copy().validate_tokens(ids) == len(ids)

    def follows(self, text: str) -> bool:
        """Whether a text may be the beginning of an answer."""
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return self.state.deep_copy().validate_tokens(ids) == len(ids)


VOCABULARIES = ("text", "tokens", "control tokens")
LIMA, WRONG = '{"city": "Lima"}', '{"town": "Lima"}'
CALLS: dict[str, tuple[Syntax, str]] = {
    "Hermes": (HERMES, '<tool_call>\n{"name": "weather", "arguments": %s}\n</tool_call>'),
    "Mistral": (MISTRAL, '[TOOL_CALLS][{"name": "weather", "arguments": %s}]'),
    "Mistral's later form": (NAMED, "[TOOL_CALLS]weather[ARGS]%s"),
    "Llama": (LLAMA, '{"name": "weather", "parameters": %s}'),
}


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("family", sorted(CALLS))
def test_a_required_call_is_all_that_is_accepted(family: str, vocabulary: str) -> None:
    syntax, call = CALLS[family]
    grammar = Grammar(syntax, ToolUse([WEATHER, CLOCK], "required"), vocabulary)
    assert grammar.accepts(call % LIMA)
    assert not grammar.follows(call % WRONG)
    assert grammar.accepts((call % '{"any": [1]}').replace("weather", "clock"))
    for text in ("", "Sunny.", call.replace("weather", "rain") % LIMA, f"{call % LIMA} so"):
        assert not grammar.accepts(text)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("family", sorted(CALLS))
def test_a_named_call_is_that_of_the_function(family: str, vocabulary: str) -> None:
    syntax, call = CALLS[family]
    use = ToolUse([WEATHER, CLOCK], "required", "weather", is_parallel=False)
    grammar = Grammar(syntax, use, vocabulary)
    assert grammar.accepts(call % LIMA)
    assert not grammar.follows((call % "{}").replace("weather", "clock"))


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_calls_follow_one_another_where_they_may(vocabulary: str) -> None:
    one = CALLS["Hermes"][1] % LIMA
    listed = CALLS["Mistral"][1] % f'{LIMA}}}, {{"name": "clock", "arguments": {{}}'
    for is_parallel in (False, True):
        use = ToolUse([WEATHER, CLOCK], "required", is_parallel=is_parallel)
        assert Grammar(HERMES, use, vocabulary).accepts(f"{one}\n{one}") is is_parallel
        assert Grammar(MISTRAL, use, vocabulary).accepts(listed) is is_parallel
        assert not Grammar(HERMES, use, vocabulary).accepts("\n".join([one] * 17))


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("family", sorted(CALLS))
def test_text_is_free_until_it_opens_a_call(family: str, vocabulary: str) -> None:
    syntax, call = CALLS[family]
    grammar = Grammar(syntax, ToolUse([STRICT, CLOCK]), vocabulary)
    for text in ("", "Sunny, \n{maybe} [so] <tool>.", '{"city": 3}', call % LIMA):
        assert grammar.accepts(text)
    assert grammar.accepts((call % '{"any": [1]}').replace("weather", "clock"))
    assert not grammar.follows(call % WRONG)
    assert not grammar.follows(call.replace("weather", "rain") % LIMA)
    if syntax.marks[0]:
        assert grammar.accepts(f"So: {call % LIMA}{call % LIMA}\nDone.")
        assert not grammar.follows(f"So: {call % LIMA} and {call % WRONG}")


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("family", sorted(CALLS))
@pytest.mark.parametrize("is_open", [False, True])
def test_reasoning_comes_before_a_required_call(
    family: str, vocabulary: str, is_open: bool
) -> None:
    syntax, call = CALLS[family]
    grammar = Grammar(syntax, ToolUse([WEATHER], "required"), vocabulary, is_open)
    thought = "They ask of rain.\n</think>" if is_open else "<think>They ask of rain.\n</think>"
    assert grammar.accepts(f"{thought}\n\n{call % LIMA}")
    assert grammar.accepts(call % LIMA) is not is_open
    assert not grammar.accepts(f"{thought} Sunny.")
    assert not grammar.accepts(thought.replace("</think>", call % LIMA)) or not is_open


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("is_open", [False, True])
def test_reasoning_that_speaks_of_calls_opens_none(vocabulary: str, is_open: bool) -> None:
    grammar = Grammar(HERMES, ToolUse([STRICT]), vocabulary, is_open)
    begin = "" if is_open else "<think>\n"
    # A mark that is a token means the call itself, in reasoning, too.
    thought = f"{begin}A <tool_call> or not?\n</think>\n\n" if vocabulary == "text" else begin
    thought = thought if vocabulary == "text" else f"{begin}Or not?</think>"
    assert grammar.accepts(f"{thought}Sunny.")
    assert grammar.accepts(f"{thought}So: {CALLS['Hermes'][1] % LIMA}")
    assert not grammar.follows(f"{thought}{CALLS['Hermes'][1] % WRONG}")


def in_marks(*entries: tuple[str, str]) -> str:
    written = (f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in entries)
    return f"<tool_call>\n<function=weather>\n{''.join(written)}</function>\n</tool_call>"


def of_glm(*entries: tuple[str, str]) -> str:
    key, value = "<arg_key>%s</arg_key>", "\n<arg_value>%s</arg_value>\n"
    written = (f"{key % name}{value % given}" for name, given in entries)
    return f"<tool_call>weather\n{''.join(written)}</tool_call>"


def in_python(*entries: tuple[str, str]) -> str:
    return f"[weather({', '.join(f'{name}={value}' for name, value in entries)})]"


FORECAST = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Lima", "Łódź"]},
        "days": {"type": "integer"},
        "wet": {"type": "boolean"},
        "note": {"type": "string"},
    },
    "required": ["city", "note"],
    "additionalProperties": False,
}
FORECASTS: dict[str, tuple[Syntax, Any, str]] = {
    "Qwen3-Coder": (QWEN_CODER, in_marks, ""),
    "GLM": (GLM, of_glm, ""),
    "LFM2": (LFM, lambda *entries: f"<|calls|>{in_python(*entries)}<|/calls|>", '"'),
    "OLMo": (OLMO, lambda *entries: f"<calls>\n{in_python(*entries)[1:-1]}\n</calls>", '"'),
    "Python": (PythonSyntax(), in_python, '"'),
}


@pytest.mark.parametrize("vocabulary", ["text", "control tokens"])
@pytest.mark.parametrize("family", sorted(FORECASTS))
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_arguments_that_are_no_json_object_keep_to_their_schema(
    family: str, vocabulary: str, choice: Any
) -> None:
    syntax, call, quote = FORECASTS[family]
    weather = FunctionTool("weather", None, FORECAST, strict=True)
    grammar = Grammar(syntax, ToolUse([weather], choice), vocabulary)
    city, days = ("city", f"{quote}Lima{quote}"), ("days", "3")
    note = ("note", f"{quote}a <b> {{c}} 'd'{quote}")
    wet = ("wet", "True" if quote else "true")
    assert grammar.accepts(call(city, note))
    assert grammar.accepts(call(city, days, note))
    assert grammar.accepts(call(city, days, wet, note))
    for wrong in (
        call(("city", f"{quote}Rome{quote}"), note),
        call(city, ("days", "3.5"), note),
        call(city, ("wet", "maybe"), note),
        call(city, ("other", "1"), note),
        call(city, days),
        call(note),
        call(city, note).replace("weather", "rain"),
    ):
        assert not grammar.accepts(wrong)
        assert not grammar.follows(wrong)
    assert grammar.accepts("Sunny.") is (choice == "auto")
    read = call_parser(syntax, ToolUse([weather], choice))
    events = [*read.add(call(city, days, wet, note)), *read.finish()]
    [told] = ParsedAnswer.of(events).calls
    expected = {"city": "Lima", "days": 3, "wet": True, "note": "a <b> {c} 'd'"}
    assert json.loads(told.arguments) == expected


@pytest.mark.parametrize("vocabulary", ["text", "control tokens"])
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_json_behind_a_name_keeps_to_its_schema(vocabulary: str, choice: Any) -> None:
    grammar = Grammar(DEEPSEEK, ToolUse([STRICT, CLOCK], choice), vocabulary)
    one = f"weather\n```json\n{LIMA}\n```<｜/call｜>"
    assert grammar.accepts(f"{DEEPSEEK.opening}{one}<｜/calls｜>")
    assert grammar.accepts(f"{DEEPSEEK.opening}{one}{DEEPSEEK.again}{one}<｜/calls｜>")
    assert not grammar.follows(f"{DEEPSEEK.opening}{one.replace('city', 'town')}")
    assert not grammar.accepts(f"{DEEPSEEK.opening}{one}")


@pytest.mark.parametrize("family", sorted(FORECASTS))
def test_functions_without_a_schema_take_any_arguments(family: str) -> None:
    syntax, call, quote = FORECASTS[family]
    grammar = Grammar(syntax, ToolUse([FunctionTool("weather")], "required"), "text")
    assert grammar.accepts(call())
    assert grammar.accepts(call(("any", f"{quote}thing{quote}"), ("more", "[1, 2]")))
    nothing = FunctionTool("weather", None, {"additionalProperties": False})
    grammar = Grammar(syntax, ToolUse([nothing], "required"), "text")
    assert grammar.accepts(call())
    assert not grammar.follows(call(("any", "1")))


@pytest.mark.parametrize("vocabulary", ["text", "control tokens"])
@pytest.mark.parametrize("family", ["Qwen3-Coder", "GLM"])
def test_texts_between_marks_have_their_length(family: str, vocabulary: str) -> None:
    syntax, call, _ = FORECASTS[family]
    properties = {"a": {"type": "string", "minLength": 2, "maxLength": 4}}
    function = FunctionTool("weather", None, {"properties": properties, "required": ["a"]})
    grammar = Grammar(syntax, ToolUse([function], "required"), vocabulary)
    found = [grammar.accepts(call(("a", "ä" * length))) for length in range(1, 7)]
    assert found == [False, True, True, True, False, False]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"properties": {"a": {"type": "string", "pattern": "a+"}}}, "/properties/a: 'pattern'"),
        (
            {"properties": {"a": {"anyOf": [{"type": "string", "format": "date"}]}}},
            "/properties/a: 'format'",
        ),
        ({"patternProperties": {"a": {}}}, "'patternProperties' cannot be followed for the arg"),
        ({"properties": {"a": {"not": {}}}}, "'not' is not supported"),
    ],
)
def test_what_texts_between_marks_cannot_be_held_to_is_refused_by_name(
    schema: Any, words: str
) -> None:
    function = FunctionTool("f", None, schema, strict=True)
    with pytest.raises(ConstraintError, match=words):
        calls_grammar(QWEN_CODER, ToolUse([function]), {}, None)


@pytest.mark.parametrize("text", ['a "b" \\ c', "naïve\n", "%json {", "/x/ | start"])
def test_names_and_schemas_cannot_write_rules(text: str) -> None:
    schema: Any = {"type": "object", "properties": {text: {"const": text}}, "required": [text]}
    use = ToolUse([FunctionTool("weather", text, schema)], "required")
    call = CALLS["Hermes"][1] % json.dumps({text: text}, ensure_ascii=False)
    assert Grammar(HERMES, use, "text").accepts(call)


def test_schemas_that_cannot_be_held_to_are_refused_by_name() -> None:
    wrong = FunctionTool("f", None, {"type": "object", "not": {}}, strict=True)
    with pytest.raises(ConstraintError, match=r"the parameters of f, at /not.*'not'"):
        calls_grammar(HERMES, ToolUse([wrong]), {}, None)
    listed = FunctionTool("f", None, {"type": "array"}, strict=True)
    with pytest.raises(ConstraintError, match="the parameters of f are 'array', expected an obj"):
        calls_grammar(HERMES, ToolUse([listed]), {}, None)
    loose = FunctionTool("f", None, {"type": "object", "not": {}})
    assert "%json" in calls_grammar(HERMES, ToolUse([loose, STRICT]), {}, None)
