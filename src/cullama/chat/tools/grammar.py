"""Writes the grammar that holds a model to valid calls, in llguidance's variant of Lark.

Where a call is required, an answer is calls alone, behind reasoning where the model thinks; else
it is text, until it opens a call, which then has to be one. Marks that are tokens of the vocabulary
are named by their ids, others are written as text. How arguments are written that are no JSON
object, `argument_grammar.py` knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...errors import ConstraintError
from ...sampling.json_schema import schema_text
from .argument_grammar import Lark, marked_arguments, python_arguments
from .functions import FunctionTool, ToolUse
from .syntax import CallSyntax, MarkedSyntax, PythonSyntax, Syntax
from .thoughts import CLOSING, OPENING

MAX_CALLS = 16  # in one answer
ANY_ARGUMENTS = {"type": "object"}


def calls_grammar(
    syntax: Syntax, use: ToolUse, token_ids: Mapping[str, int], is_thinking: bool | None
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
    lark = Lark(token_ids)
    for k, function in enumerate(use.callable):
        _add_call(lark, syntax, function, k, use.choice == "required")
    lead = _add_calls(lark, syntax, use)
    answer = "calls"
    if use.choice != "required":
        answer = _text_or_calls(lark, syntax, lead, is_thinking is False)
    start = f"start: {answer}"
    if is_thinking is not None:
        opening = "" if is_thinking else f"/\\s*/ {lark.mark(OPENING)}"
        # Where it ends is known by its closing mark, which is a token, or the first of its kind.
        lazy = "" if OPENING in token_ids or CLOSING in token_ids else "[lazy]"
        lark.rules.append(f"thought{lazy}: {opening} TEXT {lark.mark(CLOSING)}")
        lark.rules.append("SPACE: /[ \\n]{0,4}/")
        thought = f"thought SPACE {answer}"
        start = f"start: {thought}" if is_thinking else f"{start} | {thought}"
    return "\n".join([start, *lark.rules, ""])


def _add_call(
    lark: Lark, syntax: Syntax, function: FunctionTool, k: int, is_required: bool
) -> None:
    """Write the rule `call` k, of one function, without the marks around calls."""
    given: dict[str, Any] = ANY_ARGUMENTS
    what = f"the parameters of {function.name}"
    if function.strict or is_required:
        given = {**ANY_ARGUMENTS, **(function.parameters or {})}
        if given["type"] != "object":
            raise ConstraintError(what, f"{what} are {given['type']!r:.60}, expected an object")
    schema, name = schema_text(given, what), lark.text(function.name)
    if isinstance(syntax, CallSyntax):
        begin = f'{{"{syntax.name_key}": {json.dumps(function.name)}, "{syntax.key}": '
        lark.rules.append(f'call{k}: {lark.text(begin)} arguments{k} "}}"')
        lark.rules.append(f"arguments{k}: %json {schema}")
    elif not isinstance(syntax, MarkedSyntax):
        arguments = python_arguments(lark, json.loads(schema), f"call{k}_", what)
        lark.rules.append(f'call{k}: {lark.text(f"{function.name}(")} {arguments} ")"')
        # One word: what begins as text does is text, up to where it can be none.
        lark.rules.append(f'first{k}: {lark.text(f"[{function.name}(")} {arguments} ")"')
    elif syntax.parameter is None:
        closing = lark.mark(syntax.closing)
        lark.rules.append(f"call{k}: {name} {lark.mark(syntax.named)} arguments{k} {closing}")
        lark.rules.append(f"arguments{k}: %json {schema}")
    else:
        marks = syntax.parameter
        arguments = marked_arguments(lark, marks, json.loads(schema), f"call{k}_", what)
        closing = lark.mark(syntax.closing)
        lark.rules.append(f"call{k}: {name} {lark.mark(syntax.named)} {arguments} {closing}")


def _add_calls(lark: Lark, syntax: Syntax, use: ToolUse) -> str:
    """Write the rules `body`, behind the mark that opens calls, and `calls`, one or several with
    it; returns that mark."""
    call = f"({' | '.join(f'call{k}' for k in range(len(use.callable)))})"
    several = f"{{0,{MAX_CALLS - 1}}}" if use.is_parallel else ""
    lead = lark.lead(syntax.opening)
    opening, begin = lark.mark(lead), lark.mark(syntax.opening.removeprefix(lead))
    closing = lark.mark(syntax.closing)
    if isinstance(syntax, MarkedSyntax):
        more = f"({lark.mark(syntax.again)} {call}){several}" if several and syntax.again else ""
        lark.rules.append(f"body: {begin} {call} {more} {lark.mark(syntax.ending)}")
        lark.rules.append(f"calls: {opening} body")
        return lead
    before, behind = begin, ""
    if isinstance(syntax, CallSyntax):
        before, behind = f"{begin} {lark.text(syntax.before)}", lark.text(syntax.behind)
    if isinstance(syntax, PythonSyntax) and syntax.is_list:
        more = f'(", " {call}){several}' if several else ""
        lark.rules.append(f'body: {begin} {call.replace("call", "first")} {more} "]" {closing}')
        lark.rules.append(f"calls: {opening} body")
    elif syntax.is_list:
        more = f'(", " {call}){several}' if several else ""
        lark.rules.append(f'body: {before} "[" {call} {more} "]" {behind} {closing}')
        lark.rules.append(f"calls: {opening} body")
    elif isinstance(syntax, CallSyntax):
        between = lark.text("\n") if syntax.closing else ""
        more = f"({between} {opening} body){several}" if several and syntax.opening else ""
        lark.rules.append(f"body: {before} {call} {behind} {closing}")
        lark.rules.append(f"calls: {opening} body {more}")
    else:  # Python, a call a line
        more = f'("\\n" {call}){several}' if several else ""
        lark.rules.append(f'body: {begin} "\\n" {call} {more} "\\n" {closing}')
        lark.rules.append(f"calls: {opening} body")
    return lead


def _text_or_calls(lark: Lark, syntax: Syntax, lead: str, may_think: bool) -> str:
    """Return what text is, which calls may follow; it does not begin like reasoning."""
    no_thought = f" & ~/\\s*{OPENING}(?s:.*)/" if may_think else ""
    if not lead:  # what begins like a call has to be one
        begin = "\\[\\s*[\\w.-]+\\("
        if isinstance(syntax, CallSyntax):
            begin = ("\\[\\s*" if syntax.is_list else "") + f'\\{{"{syntax.name_key}": '
        lark.rules.append(f"NO_CALL: /(?s:.*)/ & ~/\\s*{begin}(?s:.*)/{no_thought}")
        return "(NO_CALL | calls)"
    lark.rules.append(f"FIRST: /(?s:.*)/{no_thought}")
    if lark.begins_with_token(lead):
        lark.rules.append(f"more: {lark.mark(lead)} body TEXT")
        return "FIRST more*"
    lark.rules.append(f"opened[lazy]: TEXT {lark.text(lead)}")
    lark.rules.append(f"first[lazy]: FIRST {lark.text(lead)}")
    return "(FIRST | first body (opened body)* TEXT)"
