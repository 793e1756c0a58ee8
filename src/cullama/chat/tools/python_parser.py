"""Reads calls that are written as Python: `[weather(city="Lima", days=3), clock()]`.

The names and arguments alone are read, by Python's own parser; nothing is evaluated. Arguments are
literals with names; JSON's true, false and null are taken, too.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Generator, Iterable
from typing import Any

from .events import Event
from .functions import FunctionTool
from .scanning import NOT_FOUND, CallReader, Reading, ScanningParser
from .syntax import PythonSyntax

MAX_CHARACTERS = 64 << 10  # of a list of calls
MAX_DEPTH = 32  # brackets within brackets
_SIGN = re.compile(r"""["'\[\](){}]""")
_PARTNERS = {"]": "[", ")": "(", "}": "{"}
_NAMES = {"true": True, "false": False, "null": None}


class PythonCallParser(ScanningParser):
    """Reads calls in one syntax; arguments as for `ScanningParser`."""

    def __init__(
        self,
        syntax: PythonSyntax,
        functions: Iterable[FunctionTool],
        is_constrained: bool = False,
        is_single: bool = False,
    ) -> None:
        super().__init__(syntax.opening or "[", functions, is_constrained, is_single)
        self._syntax, self._closing = syntax, syntax.closing.split()

    def read_text(self, is_behind: bool) -> Reading:
        """As of `ScanningParser`; without an opening mark, only a whole answer is calls."""
        if self._syntax.opening:
            return (yield from super().read_text(is_behind))
        while not self._rest.strip() and not self._is_end:
            yield
        if not is_behind and self._rest.lstrip().startswith("["):
            return self._rest.find("[")
        while True:
            self.tell_text(len(self._rest))
            if self._is_end:
                return NOT_FOUND
            yield

    def read_calls(self, at: int) -> Reading:
        start = at
        if self._syntax.is_list:
            start = at - 1 if not self._syntax.opening else (yield from self.match(["["], at)) - 1
            if start < 0:
                return NOT_FOUND
        end = yield from self._find_end(start)
        calls = _calls_in(self._rest[start:end]) if end != NOT_FOUND else []
        if not calls or any(name not in self._schemas for name, _ in calls):
            return NOT_FOUND
        for name, arguments in calls[: 1 if self._is_single else None]:
            self.tell_call(name, arguments)
        behind = yield from self.match(self._closing, end)
        return end if behind == NOT_FOUND else behind

    def _find_end(self, start: int) -> Reading:
        """Return where the list ends, or where the closing mark stands outside of texts."""
        at, opened, closing = start, "", self._closing[:1]
        while True:
            while found := _SIGN.search(self._rest, at):
                if not opened and closing and not self._syntax.is_list:
                    mark = self._rest.find(closing[0], at, found.start() + len(closing[0]))
                    if mark != NOT_FOUND:
                        return mark
                sign, at = found[0], found.end()
                if sign in "\"'":
                    at = yield from self._skip_text(sign, at)
                elif sign in "[({":
                    opened += sign
                elif not opened.endswith(_PARTNERS[sign]):
                    return NOT_FOUND
                else:
                    opened = opened[:-1]
                    if not opened and self._syntax.is_list:
                        return at
                if at == NOT_FOUND or len(opened) > MAX_DEPTH or at - start > MAX_CHARACTERS:
                    return NOT_FOUND
            if not opened and closing and not self._syntax.is_list:
                mark = self._rest.find(closing[0], at)
                if mark != NOT_FOUND:
                    return mark
            if self._is_end:
                is_whole = not self._syntax.is_list and not opened
                return len(self._rest) if is_whole else NOT_FOUND
            yield

    def _skip_text(self, quote: str, at: int) -> Generator[None, None, int]:
        """Return where a text ends whose opening quote is behind us."""
        pattern = re.compile(rf"\\|{quote}")
        while True:
            found = pattern.search(self._rest, at)
            if found and found[0] == quote:
                return found.end()
            if found and found.end() < len(self._rest):
                at = found.end() + 1  # behind what is escaped
                continue
            if self._is_end:
                return NOT_FOUND
            at = found.start() if found else len(self._rest)
            yield


def _calls_in(text: str) -> list[tuple[str, str]]:
    """Return names and arguments, as JSON; none where it is anything else than calls."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            body = ast.parse(text.strip()).body
        nodes = [each.value for each in body if isinstance(each, ast.Expr)]
        if len(nodes) == 1 == len(body) and isinstance(nodes[0], ast.List):
            nodes = nodes[0].elts
        elif len(nodes) != len(body):
            return []
        return [_call(node) for node in nodes]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _call(node: ast.expr) -> tuple[str, str]:
    """Return name and arguments. Raises ValueError: no call, or one with more than literals."""
    prefix = ""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):  # a name with a hyphen
        prefix, node = f"{_name(node.left)}-", node.right
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("no call")
    given: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in given:
            raise ValueError("no argument with a name of its own")
        given[keyword.arg] = _literal(keyword.value)
    return prefix + _name(node.func), json.dumps(given, ensure_ascii=False, allow_nan=False)


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        return f"{_name(node.left)}-{_name(node.right)}"
    raise ValueError("no name")


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # Two escapes of JSON may be one character; half of one is none.
        return node.value.encode("utf-16", "surrogatepass").decode("utf-16")
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | None):
        if isinstance(node.value, float) and not math.isfinite(node.value):
            raise ValueError("infinite")
        return node.value
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _literal(node.operand)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("no number")
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(each) for each in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_literal(key) if key is not None else None for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("a key that is no text")
        return dict(zip(keys, map(_literal, node.values), strict=True))
    raise ValueError("no literal")


class JsonOrPythonParser:
    """Reads answers that are calls without a mark, as Llama's: JSON as its template writes them, or
    Python where they begin with a list, as prompts of Llama 3.2 and 4 ask for.

    Attributes:
        count, is_done: as of `ScanningParser`.
    """

    def __init__(self, json: CallReader, python: CallReader) -> None:
        self._json, self._python = json, python
        self._chosen: CallReader | None = None
        self._held = ""  # white space before what decides

    def add(self, piece: str) -> list[Event]:
        """Take the next piece; returns what is certain with it."""
        if self._chosen is None:
            self._held += piece
            if not (begun := self._held.lstrip()):
                return []
            self._chosen = self._python if begun.startswith("[") else self._json
            piece = self._held
        return self._chosen.add(piece)

    def finish(self) -> list[Event]:
        """Return the events of what was held back: nothing comes any more."""
        if self._chosen is None:
            self._chosen = self._json
            return [*self._json.add(self._held), *self._json.finish()]
        return self._chosen.finish()

    @property
    def count(self) -> int:
        return self._json.count + self._python.count

    @property
    def is_done(self) -> bool:
        return self._json.is_done or self._python.is_done
