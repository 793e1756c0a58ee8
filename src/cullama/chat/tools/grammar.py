"""Writes the grammar that holds a model to valid calls, in llguidance's variant of Lark.

Where a call is required, an answer is calls alone, behind reasoning where the model thinks; else
it is text, until it opens a call, which then has to be one. Marks that are tokens of the vocabulary
are named by their ids, others are written as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...errors import ConstraintError
from ...sampling.json_schema import schema_text
from .functions import ToolUse
from .syntax import CallSyntax
from .thoughts import CLOSING, OPENING

MAX_CALLS = 16  # in one answer
ANY_ARGUMENTS = {"type": "object"}

_TEXT = "TEXT: /(?s:.*)/"


def calls_grammar(
    syntax: CallSyntax, use: ToolUse, token_ids: Mapping[str, int], is_thinking: bool | None
) -> str:
    """Return the grammar of an answer.

    Args:
        syntax: how the model writes calls.
        use: the functions; the arguments of those that are strict, or required, have their schema.
        token_ids: of marks that are tokens.
        is_thinking: whether the prompt has opened the reasoning; None for a model that has none.

    Raises:
        ConstraintError: parameters that are no schema, or with keywords that are not supported.
    """
    marks = {mark: f"<[{index}]>" for mark, index in token_ids.items()}
    functions = [it for it in use.functions if it.name in use.names]
    rules = [_TEXT]
    _calls(syntax, use, marks, len(functions), rules)
    for k, function in enumerate(functions):
        if syntax.arguments_mark:
            begin, end = _text(function.name) + f" {_mark(syntax.arguments_mark, marks)}", ""
        else:
            begin = _text(f'{{"name": {json.dumps(function.name)}, "{syntax.key}": ')
            end = _text("}")
        schema = json.dumps(ANY_ARGUMENTS)
        if function.strict or use.choice == "required":
            given: dict[str, Any] = {**ANY_ARGUMENTS, **(function.parameters or {})}
            what = f"the parameters of {function.name}"
            if given["type"] != "object":
                raise ConstraintError(what, f"{what} are {given['type']!r:.60}, expected an object")
            schema = schema_text(given, what)
        rules.append(f"call{k}: {begin} arguments{k} {end}")
        rules.append(f"arguments{k}: %json {schema}")
    answer = "calls"
    if use.choice != "required":
        answer = _text_or_calls(syntax, marks, is_thinking is False, rules)
    start = f"start: {answer}"
    if is_thinking is not None:
        opening = "" if is_thinking else f"/\\s*/ {_mark(OPENING, marks)}"
        # Where it ends is known by its closing mark, which is a token, or the first of its kind.
        lazy = "" if OPENING in marks or CLOSING in marks else "[lazy]"
        rules.append(f"thought{lazy}: {opening} TEXT {_mark(CLOSING, marks)}")
        rules.append("SPACE: /[ \\n]{0,4}/")
        thought = f"thought SPACE {answer}"
        start = f"start: {thought}" if is_thinking else f"{start} | {thought}"
    return "\n".join([start, *rules, ""])


def _calls(
    syntax: CallSyntax, use: ToolUse, marks: Mapping[str, str], count: int, rules: list[str]
) -> None:
    """Write the rules `body`, behind an opening mark, and `calls`, one or several with it."""
    opening, closing = _mark(syntax.opening, marks), _mark(syntax.closing, marks)
    before, behind = _text(syntax.before), _text(syntax.behind)
    has_several = use.is_parallel and bool(syntax.opening or syntax.is_list)
    call = f"({' | '.join(f'call{k}' for k in range(count))})"
    if syntax.is_list:
        more = f'(", " {call}){{0,{MAX_CALLS - 1}}}' if has_several else ""
        rules.append(f'body: {before} "[" {call} {more} "]" {behind} {closing}')
        rules.append(f"calls: {opening} body")
        return
    between = _text("\n") if syntax.closing else ""
    more = f"({between} {opening} body){{0,{MAX_CALLS - 1}}}" if has_several else ""
    rules.append(f"body: {before} {call} {behind} {closing}")
    rules.append(f"calls: {opening} body {more}")


def _text_or_calls(
    syntax: CallSyntax, marks: Mapping[str, str], may_think: bool, rules: list[str]
) -> str:
    """Return what text is, which calls may follow; it does not begin like reasoning."""
    no_thought = f" & ~/\\s*{OPENING}(?s:.*)/" if may_think else ""
    if not syntax.opening:  # what begins like a call has to be one
        begin = '\\s*\\[\\s*\\{"name": ' if syntax.is_list else '\\s*\\{"name": '
        rules.append(f"NO_CALL: /(?s:.*)/ & ~/{begin}(?s:.*)/{no_thought}")
        return "(NO_CALL | calls)"
    rules.append(f"FIRST: /(?s:.*)/{no_thought}")
    if syntax.opening in marks:
        rules.append(f"more: {marks[syntax.opening]} body TEXT")
        return "FIRST more*"
    rules.append(f"opened[lazy]: TEXT {_text(syntax.opening)}")
    rules.append(f"first[lazy]: FIRST {_text(syntax.opening)}")
    return "(FIRST | first body (opened body)* TEXT)"


def _mark(mark: str, marks: Mapping[str, str]) -> str:
    return marks.get(mark) or _text(mark)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
