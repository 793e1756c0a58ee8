"""What grammars of calls accept, by llguidance, with marks that are tokens and that are text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from cullama.chat.tools.functions import FunctionTool, ToolUse
from cullama.chat.tools.grammar import calls_grammar
from cullama.chat.tools.syntax import HERMES, LLAMA, MISTRAL, CallSyntax
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
NAMED = CallSyntax("[TOOL_CALLS]", arguments_mark="[ARGS]")
MARKS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<think>", "</think>")


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
        syntax: CallSyntax,
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
CALLS = {
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
    if syntax.opening:
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
