"""Tells how a model writes calls of functions, from how its chat template writes them.

Three forms: JSON with a name and arguments, between marks or not (`CallSyntax`); a name between
marks, behind it JSON or arguments between marks of their own (`MarkedSyntax`); and Python
(`PythonSyntax`). What the marks are is found in what the template makes of samples, so that forms
of any names are read: nothing here knows a model, but for those whose template tells of calls in
words alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

NAME_KEYS = ("name", "tool_name")
ARGUMENT_KEYS = ("arguments", "parameters")

MARK = r"[<\[][^<>\[\]\s{}]{1,60}[>\]]"
_MARKS = re.compile(rf"\s*{MARK}(?:\s*{MARK})*\s*")
_MARK_BEFORE = re.compile(rf"({MARK})(\s*)$")
_MARK_BEHIND = re.compile(rf"(\s*)({MARK})")
_OPEN = re.compile(r"[<\[][^<>\[\]\s]*$")  # a mark without its end
_CALL_ID = re.compile(r"\[CALL_ID\]\w*")
_DECODER = json.JSONDecoder()

NAME = "call_0123456789"
# Names and values that nothing else in a template's text is.
ARGUMENTS = {"first_2468": "one_97531", "second_1357": "two_86420"}


@dataclass(frozen=True)
class CallSyntax:
    """How calls are written as JSON objects.

    Attributes:
        opening: the mark before a call, or before a list of them; "" where the answer itself
            begins with the call.
        closing: the mark behind; "" for none.
        is_list: calls stand in one JSON list.
        key: what the arguments are called.
        before, behind: the white space between the marks and the JSON.
        name_key: what the function is called.
    """

    opening: str
    closing: str = ""
    is_list: bool = False
    key: str = "arguments"
    before: str = ""
    behind: str = ""
    name_key: str = "name"

    @property
    def marks(self) -> tuple[str, ...]:
        return (self.opening, self.closing)


@dataclass(frozen=True)
class ParameterMarks:
    """How one argument is written: between `opening` and `keyed` its name, then its value.

    Attributes:
        is_json: texts have quotes, as in JSON.
    """

    opening: str
    keyed: str
    closing: str
    is_json: bool = False


@dataclass(frozen=True)
class MarkedSyntax:
    """How calls are written whose names stand between marks.

    Attributes:
        opening: before the first name; `again`: before a further one, "" where there is none.
        named: between the name and the arguments.
        closing: behind the arguments of each call; `ending`: behind the last call.
        parameter: how each argument is written; None where they are one JSON object.
    """

    opening: str
    named: str = ""
    closing: str = ""
    again: str = ""
    ending: str = ""
    parameter: ParameterMarks | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        it = self.parameter
        of_parameters = (it.opening, it.keyed, it.closing) if it else ()
        ends = (self.closing, self.again, self.ending)
        return (self.opening, self.named, *ends, *of_parameters)


@dataclass(frozen=True)
class PythonSyntax:
    """How calls are written as Python.

    Attributes:
        opening, closing: the marks around them; "" where the answer itself is the list.
        is_list: calls stand in one list; else one a line.
    """

    opening: str = ""
    closing: str = ""
    is_list: bool = True

    @property
    def marks(self) -> tuple[str, ...]:
        return (self.opening, self.closing)


Syntax: TypeAlias = CallSyntax | MarkedSyntax | PythonSyntax
# Renders an answer: calls with these arguments, or a text where there are none.
Render: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], str]

HERMES = CallSyntax("<tool_call>", "</tool_call>", before="\n", behind="\n")
MISTRAL = CallSyntax("[TOOL_CALLS]", is_list=True)
LLAMA = CallSyntax("", key="parameters")
QWEN_CODER = MarkedSyntax(
    opening="<tool_call>\n<function=",
    named=">\n",
    closing="</function>\n</tool_call>",
    again="\n<tool_call>\n<function=",
    parameter=ParameterMarks("<parameter=", ">\n", "\n</parameter>\n"),
)
# What templates say that tell of calls in words, and show none.
_TOLD: tuple[tuple[str, Syntax], ...] = (
    (r"<function=.*<parameter=", QWEN_CODER),
    (re.escape(HERMES.opening), HERMES),
    (re.escape(MISTRAL.opening), MISTRAL),
    (r"\[\s*func(tion)?_?name\w*\(", PythonSyntax()),
)

FORMS = "as JSON, between marks, or as Python"


def written_syntax(render: Render, text: str, offered: str) -> Syntax | None:
    """Return how a template writes calls; None where it shows none that can be read.

    Args:
        render: renders a question, and an answer with calls of the function NAME; "" where the
            template refuses that, or writes text that no call is in.
        text: a text that `render` has as the answer without calls, whose marks are not those of
            calls.
        offered: a question with tools, where the template may say how they are called.
    """
    called, answered = render([ARGUMENTS]), render([])
    at = called.rfind(NAME)
    if at < 0:
        told = (it for pattern, it in _TOLD if re.search(pattern, offered, re.DOTALL))
        return next(told, None)
    header = answered[: answered.find(text)] if text in answered else ""
    start = len(_without_open_mark(_shared(called, header)))
    opening = called[start:at].lstrip()
    if (in_json := _in_json(called, answered, start, at)) is not None:
        return in_json
    behind = called[at + len(NAME) :]
    tail = _common_suffix(behind, answered)
    behind = behind[: len(behind) - len(tail)]
    if not opening.strip():
        return None
    return (
        _in_python(opening, behind)
        or _with_json(opening, behind, render, tail)
        or _with_parameters(opening, behind, render, tail)
    )


# --- JSON objects


def _in_json(called: str, answered: str, begun: int, at: int) -> CallSyntax | None:
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
    if start < 0 or not isinstance(call, dict):
        return None
    name_key = next((key for key in NAME_KEYS if call.get(key) == NAME), None)
    key = next((key for key in ARGUMENT_KEYS if key in call), None)
    if name_key is None or key is None:
        return None
    before, behind = called[:start].rstrip(), called[end:].lstrip()
    is_list = before.endswith("[") and behind.startswith("]")
    if is_list:
        start, end = len(before) - 1, len(called) - len(behind) + 1
    opening, space_before = _new_mark(_MARK_BEFORE.search(called[:start]), answered, (1, 2))
    closing, space_behind = _new_mark(_MARK_BEHIND.match(called[end:]), answered, (2, 1))
    whole = called[begun:start]
    if opening and _MARKS.fullmatch(whole) and whole.count(opening) == 1:  # several in a row
        opening = whole.strip()
    fence = re.fullmatch(r"\s*(\S.*```(?:json)?)(\s*)", whole, re.DOTALL)
    if fence and called[end:].lstrip().startswith("```"):  # in a block of code, behind a word
        opening, space_before, closing = fence[1], fence[2], "```"
        space_behind = re.split("```", called[end:])[0]
    return CallSyntax(opening, closing, is_list, key, space_before, space_behind, name_key)


def _new_mark(
    found: re.Match[str] | None, answered: str, groups: tuple[int, int]
) -> tuple[str, str]:
    """Return a mark and its white space; "" where texts have it, too, as headers of messages."""
    if found is None or found[groups[0]] in answered:
        return "", ""
    return found[groups[0]], found[groups[1]]


# --- Python


def _in_python(opening: str, behind: str) -> PythonSyntax | None:
    first, second = ARGUMENTS
    written = rf"\({first}=([\"']){ARGUMENTS[first]}\1, ?{second}=\1{ARGUMENTS[second]}\1\)"
    if (found := re.match(written, behind)) is None:
        return None
    mark, closing = opening.strip(), behind[found.end() :].strip()
    is_list = mark.endswith("[") and closing.startswith("]")
    if is_list:
        mark, closing = mark[:-1].strip(), closing[1:].strip()
    return PythonSyntax(mark, closing, is_list) if is_list or (mark and closing) else None


# --- names between marks


def _with_json(opening: str, behind: str, render: Render, tail: str) -> MarkedSyntax | None:
    """Find the marks around a name and a JSON object behind it."""
    start = behind.find("{")
    end = _object_end(behind, start)
    if not end:
        return None
    named = _CALL_ID.sub("", behind[:start])
    if not named.strip() and not opening.strip().startswith(("<", "[")):
        return None
    rest, between = behind[end:], ""
    two = _second_call(render, tail)
    if two is not None and (stop := _object_end(two[0], two[0].find("{"))):
        between = two[0][stop:]
    closing, again, ending = _ends(rest, between)
    return MarkedSyntax(opening, named, closing, again, ending)


def _object_end(text: str, start: int) -> int:
    """Return where the sample's arguments end as JSON; 0 where they are none."""
    if start < 0:
        return 0
    try:
        value, end = _DECODER.raw_decode(text, start)
    except ValueError:
        return 0
    return end if value == ARGUMENTS else 0


def _with_parameters(opening: str, behind: str, render: Render, tail: str) -> MarkedSyntax | None:
    """Find the marks around a name, and those around the names and values of its arguments."""
    parts = _between_arguments(behind)
    if parts is None:
        return None
    begin, keyed, between, rest = parts
    is_json = keyed.endswith('"') and between.startswith('"') and rest.startswith('"')
    if is_json:
        keyed, between, rest = keyed[:-1], between[1:], rest[1:]
    shared = _common_suffix(begin, between)
    if not shared.strip() or not keyed.strip():
        return None
    named, closed = begin[: len(begin) - len(shared)], between[: len(between) - len(shared)]
    if not closed.strip() or not rest.lstrip().startswith(closed.strip()):
        return None
    # At the end there may be less white space than between two arguments.
    closed = _shared(closed, rest)
    marks = ParameterMarks(shared, keyed, closed, is_json)
    two, further = _second_call(render, tail), ""
    if two is not None and (again := _between_arguments(two[0])) is not None:
        further = again[3].removeprefix('"' if is_json else "").removeprefix(closed)
    closing, before, ending = _ends(rest.removeprefix(closed), further)
    return MarkedSyntax(opening, named, closing, before, ending, marks)


def _between_arguments(text: str) -> tuple[str, str, str, str] | None:
    """Return what stands before the first argument, between name and value, between the two
    arguments, and behind them; None where they are not written one by one."""
    (first, one), (second, two) = ARGUMENTS.items()
    found = re.match(rf"(.*?){first}(.*?){one}(.*?){second}(.*?){two}(.*)", text, re.DOTALL)
    if found is None or found[2] != found[4]:
        return None
    return found[1], found[2], found[3], found[5]


def _second_call(render: Render, tail: str) -> tuple[str, str] | None:
    """Return what stands between the names of two calls, and behind the second one; None where
    the template writes one call alone."""
    parts = render([ARGUMENTS, ARGUMENTS]).split(NAME)
    return (parts[-2], parts[-1].removesuffix(tail)) if len(parts) > 2 else None


def _ends(rest: str, between: str) -> tuple[str, str, str]:
    """Return what closes a call, what begins a further one, and what ends the last one."""
    if not between:
        return rest.rstrip(), "", ""
    closing = _without_open_mark(_shared(rest, between))
    closing = closing.rstrip() if closing.strip() else ""
    return closing, between[len(closing) :], rest[len(closing) :].rstrip()


def _without_open_mark(text: str) -> str:
    """Return the beginning of a text that does not end within a mark."""
    return _OPEN.sub("", text)


def _shared(one: str, other: str) -> str:
    """Return what both texts begin with."""
    length = next(
        (k for k, pair in enumerate(zip(one, other, strict=False)) if len({*pair}) > 1), None
    )
    return one[: min(len(one), len(other)) if length is None else length]


def _common_suffix(one: str, other: str) -> str:
    """Return what both texts end with, from the beginning of a mark, or white space, on."""
    shared = _shared(one[::-1], other[::-1])[::-1]
    found = re.search(r"[<\[\s]", shared)
    return shared[found.start() :].lstrip() if found else ""
