"""How the answers of one model are written: whether they begin with reasoning, how they call.

It makes what an answer is read with, and the grammar that holds it to its calls. What it knows of
the model is found by `chat/format.py`, from its chat template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ...text.tokenizer import text_behind
from ..messages import Tools
from .events import ParsedAnswer
from .functions import Choice, FunctionTool, ToolChoice, ToolUse
from .grammar import calls_grammar
from .marked_parser import MarkedCallParser
from .parser import AnswerParser, CallParser
from .python_parser import JsonOrPythonParser, PythonCallParser
from .scanning import CallReader
from .syntax import FORMS, MARK, CallSyntax, MarkedSyntax, PythonSyntax, Syntax
from .thoughts import CLOSING, OPENING, ThoughtSplitter

if TYPE_CHECKING:
    from ...text.tokenizer import Tokenizer

END_OF_PROMPT = 16  # tokens, among which the mark is that opens the reasoning


class AnswerForm:
    """The form of a model's answers.

    Args:
        tokenizer: the model's.
        call_syntax: how it writes calls; None where its template shows none that can be read.
        has_reasoning: whether its template knows of reasoning between <think> and </think>.
        tools: what its template is given where a conversation has none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        call_syntax: Syntax | None,
        has_reasoning: bool,
        tools: Tools = None,
    ) -> None:
        self.call_syntax, self.has_reasoning = call_syntax, has_reasoning
        self._tokenizer, self._tools = tokenizer, tools

    def check_tools(self) -> Syntax:
        """Return how calls are written.

        Raises:
            UsageError: the template shows no calls that can be read.
        """
        if self.call_syntax is None:
            raise UsageError(
                "tools are given, but this model's chat template does not write them and calls of "
                f"them in a form that is read: {FORMS}; use another model, or another template: "
                "--template FILE, or chat_template="
            )
        return self.call_syntax

    def tool_use(self, tools: Tools = None, choice: ToolChoice = "auto") -> ToolUse | None:
        """Return what functions may be called; None where there are none, or the template shows no
        calls that can be read.

        Args:
            tools: JSON schemas; None takes those of the model.
            choice: "auto", "none" or "required", or the function that has to be called, or those
                that are allowed, as in OpenAI's API.

        Raises:
            UsageError: another choice; or one has to be called, and cannot be.
        """
        functions = [FunctionTool.of(tool) for tool in tools or self._tools or ()]
        known = [function for function in functions if function is not None]
        if choice == "none" or (choice == "auto" and not (known and self.call_syntax)):
            return None
        if choice == "auto":
            return ToolUse(known)
        mode, named, allowed = _chosen(choice)
        names = [function.name for function in known]
        if mode is None or not {*([named] if named else allowed or ())} <= {*names}:
            raise UsageError(
                f"tool_choice is {choice!r:.80}, expected 'auto', 'none', 'required', one of the "
                "tools, {'type': 'function', 'function': {'name': …}}, or several as "
                f"allowed_tools; there are {', '.join(names) or 'none'}"
            )
        if not known:
            raise UsageError(f"tool_choice is {choice!r:.80}, and there are no tools")
        self.check_tools()
        return ToolUse(known, mode, named, named is None, allowed)

    def parser(self, prompt: Sequence[int], use: ToolUse | None = None) -> AnswerParser:
        """Return what reads an answer to a prompt, with the functions that may be called. Raises
        as `check_tools`."""
        is_thinking = self._is_thinking(prompt)
        thoughts = None if is_thinking is None else ThoughtSplitter(is_thinking)
        return AnswerParser(thoughts, call_parser(self.check_tools(), use) if use else None)

    def message(
        self, text: str, prompt: Sequence[int], begun: Sequence[int], use: ToolUse | None
    ) -> dict[str, Any]:
        """Return an answer's text as a message, with its reasoning and calls apart.

        Args:
            prompt: what it answers.
            begun: the tokens before the text, where it goes on with an answer.
            use: what functions may be called.
        """
        parser = self.parser(prompt, use)
        before = parser.begin(text_behind(self._tokenizer, prompt, begun)) if begun else []
        return ParsedAnswer.of([*before, *parser.add(text, is_last=True)]).message()

    def grammar(self, prompt: Sequence[int], use: ToolUse) -> str | None:
        """Return the grammar that holds an answer to the schemas of its calls; None where nothing
        asks for it.

        Raises:
            UsageError: as `check_tools`; or a schema that is not supported.
        """
        if not use.is_constrained:
            return None
        ids = {mark: index for index, (mark, _) in self._mark_tokens.items()}
        return calls_grammar(self.check_tools(), use, ids, self._is_thinking(prompt))

    @cached_property
    def shown_tokens(self) -> Mapping[int, str]:
        """The control tokens, by id, that are part of an answer's text: marks around calls and
        reasoning."""
        return {index: mark for index, (mark, is_shown) in self._mark_tokens.items() if is_shown}

    def _is_thinking(self, prompt: Sequence[int]) -> bool | None:
        """Whether a prompt has opened the reasoning; None for a template that knows of none."""
        end = self._tokenizer.decode(prompt[-END_OF_PROMPT:], skip_special_tokens=False)
        return end.rstrip().endswith(OPENING) if self.has_reasoning else None

    @cached_property
    def _mark_tokens(self) -> Mapping[int, tuple[str, bool]]:
        """The marks that are tokens, by id, and whether these are control tokens."""
        marks: tuple[str, ...] = (OPENING, CLOSING) if self.has_reasoning else ()
        if (syntax := self.call_syntax) is not None:
            marks += syntax.marks
        added = self._tokenizer.tokenizer.get_added_tokens_decoder()
        return {
            index: (it.content, it.special)
            for index, it in added.items()
            if re.fullmatch(MARK, it.content) and any(it.content in mark for mark in marks)
        }


def call_parser(syntax: Syntax, use: ToolUse) -> CallReader:
    """Return what reads calls in one syntax."""
    if isinstance(syntax, CallSyntax):
        parser = CallParser(syntax, use.names, use.is_constrained, not use.is_parallel)
        if syntax.opening or syntax.is_list or use.is_constrained:
            return parser
        python = PythonCallParser(PythonSyntax(), use.callable, is_single=not use.is_parallel)
        return JsonOrPythonParser(parser, python)
    if isinstance(syntax, MarkedSyntax):
        return MarkedCallParser(syntax, use.callable, use.is_constrained, not use.is_parallel)
    return PythonCallParser(syntax, use.callable, use.is_constrained, not use.is_parallel)


def _chosen(choice: Any) -> tuple[Choice | None, str | None, frozenset[str] | None]:
    """Return whether a call is required, of which function, and which are allowed; None for a
    choice that is none."""
    if choice == "required":
        return "required", None, None
    named = choice.get("function") if isinstance(choice, Mapping) else None
    if isinstance(named, Mapping) and isinstance(name := named.get("name"), str):
        return "required", name, None
    allowed = choice.get("allowed_tools") if isinstance(choice, Mapping) else None
    if not isinstance(allowed, Mapping) or allowed.get("mode") not in ("auto", "required"):
        return None, None, None
    tools = [FunctionTool.of(tool) for tool in allowed.get("tools") or ()]
    names = frozenset(tool.name for tool in tools if tool is not None)
    return (allowed["mode"], None, names) if names else (None, None, None)
