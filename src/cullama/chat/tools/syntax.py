"""Tells how a model writes calls of functions, from how its chat template writes them.

A call is JSON with a name and arguments, between marks: `<tool_call>` for Hermes and Qwen, a list
behind `[TOOL_CALLS]` for Mistral, none at all for Llama 3. The marks are found in what the template
makes of a sample; calls in other forms (XML, Python, TypeScript) are not read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

ARGUMENT_KEYS = ("arguments", "parameters")

MARK = r"[<\[][^<>\[\]\s{}]{1,60}[>\]]"
_MARK_BEFORE = re.compile(rf"({MARK})(\s*)$")
_MARK_BEHIND = re.compile(rf"(\s*)({MARK})")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class CallSyntax:
    """How calls are written.

    Attributes:
        opening: the mark before a call, or before a list of them; "" where the answer itself
            begins with the call.
        closing: the mark behind; "" for none.
        is_list: calls stand in one JSON list.
        key: what the arguments are called.
        arguments_mark: stands between the name and the arguments, where these are not in one JSON
            object: `[TOOL_CALLS]name[ARGS]{…}`; else "".
        before, behind: the white space between the marks and the JSON.
    """

    opening: str
    closing: str = ""
    is_list: bool = False
    key: str = "arguments"
    arguments_mark: str = ""
    before: str = ""
    behind: str = ""


HERMES = CallSyntax("<tool_call>", "</tool_call>", before="\n", behind="\n")
MISTRAL = CallSyntax("[TOOL_CALLS]", is_list=True)
LLAMA = CallSyntax("", key="parameters")

FAMILIES = "as those of Hermes, Qwen, Llama 3.1 and Mistral do"


def written_syntax(called: str, answered: str, offered: str, name: str) -> CallSyntax | None:
    """Return how a template writes calls; None where it shows none that can be read.

    Args:
        called: a question, and an answer that is a call of the function `name`.
        answered: a question, and an answer that is a text: its marks are not those of calls.
        offered: a question with tools, where the template may say how they are called.
        name: of the function in `called`.
    """
    at = called.rfind(name)
    if at >= 0:
        return _in_json(called, answered, name, at) or _behind_mark(called, answered, name, at)
    told = (syntax for syntax in (HERMES, MISTRAL) if syntax.opening in offered)
    return next(told, None)


def _in_json(called: str, answered: str, name: str, at: int) -> CallSyntax | None:
    """Find the object around the name, and the marks around that."""
    start = called.rfind("{", 0, at)
    while start >= 0:
        try:
            call, end = _DECODER.raw_decode(called, start)
        except ValueError:
            call, end = None, 0
        if end > at:
            break
        start = called.rfind("{", 0, start)
    if start < 0 or not isinstance(call, dict) or call.get("name") != name:
        return None
    key = next((key for key in ARGUMENT_KEYS if key in call), None)
    before, behind = called[:start].rstrip(), called[end:].lstrip()
    is_list = before.endswith("[") and behind.startswith("]")
    if is_list:
        start, end = len(before) - 1, len(called) - len(behind) + 1
    opening, space_before = _new_mark(_MARK_BEFORE.search(called[:start]), answered, (1, 2))
    closing, space_behind = _new_mark(_MARK_BEHIND.match(called[end:]), answered, (2, 1))
    if key is None:
        return None
    return CallSyntax(opening, closing, is_list, key, "", space_before, space_behind)


def _behind_mark(called: str, answered: str, name: str, at: int) -> CallSyntax | None:
    """Find a name that stands by itself between two marks, of which the first opens the call."""
    opening, _ = _new_mark(_MARK_BEFORE.search(called[:at]), answered, (1, 2))
    behind = re.match(rf"({MARK})\s*\{{", called[at + len(name) :])
    if not opening or behind is None or opening[0] != "[":  # "<": XML
        return None
    return CallSyntax(opening, arguments_mark=behind[1])


def _new_mark(
    found: re.Match[str] | None, answered: str, groups: tuple[int, int]
) -> tuple[str, str]:
    """Return a mark and its white space; "" where texts have it, too, as headers of messages."""
    if found is None or found[groups[0]] in answered:
        return "", ""
    return found[groups[0]], found[groups[1]]
