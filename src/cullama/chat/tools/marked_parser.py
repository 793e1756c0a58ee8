"""Reads calls whose names, and perhaps arguments, stand between marks of a template.

`[TOOL_CALLS]name[ARGS]{…}` and DeepSeek's form have the arguments as JSON; Qwen3-Coder's, GLM's and
others have each argument between marks of its own, as text whose type the function's schema tells.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable
from typing import Any

from .functions import FunctionTool
from .json_scanner import JsonScanner
from .scanning import NOT_FOUND, Reading, ScanningParser
from .syntax import MarkedSyntax, ParameterMarks
from .values import json_value, strict_json

CALL_ID = "[CALL_ID]"  # Mistral's may have one behind the name
MAX_KEY = 256  # characters
_NAME = re.compile(r"\s*([\w.-]{0,65})")
_ID = re.compile(r"\s*\w*")


class MarkedCallParser(ScanningParser):
    """Reads calls in one syntax of marks; arguments as for `ScanningParser`."""

    def __init__(
        self,
        syntax: MarkedSyntax,
        functions: Iterable[FunctionTool],
        is_constrained: bool = False,
        is_single: bool = False,
    ) -> None:
        super().__init__(syntax.opening, functions, is_constrained, is_single)
        self._again, self._named = syntax.again.split(), syntax.named.split()
        self._closing, self._ending = syntax.closing.split(), syntax.ending.split()
        self._parameter = syntax.parameter

    def read_calls(self, at: int) -> Reading:
        end = NOT_FOUND
        while at != NOT_FOUND:
            at = yield from self._read_call(at)
            if at == NOT_FOUND:
                break
            end = at
            if self._is_single:
                break
            marks = [mark for mark in (self._again, self._ending) if mark]
            which, at = yield from self.match_one(marks, end)
            if which != NOT_FOUND and marks[which] is self._ending:
                return at
        return end

    def _read_call(self, at: int) -> Reading:
        """Read a name, and the arguments behind it; returns where the call ends."""
        found = yield from self.match_pattern(_NAME, at)
        name = found[1] if found else ""
        if found is None or name not in self._schemas:
            return NOT_FOUND
        at = found.end()
        behind_mark = yield from self.match([CALL_ID], at)
        if behind_mark != NOT_FOUND and (
            found := (yield from self.match_pattern(_ID, behind_mark))
        ):
            at = found.end()
        at = yield from self.match(self._named, at)
        if at == NOT_FOUND:
            return NOT_FOUND
        if self._parameter is not None:
            return (yield from self._read_parameters(name, self._parameter, at))
        return (yield from self._read_json(name, at))

    # --- arguments in JSON

    def _read_json(self, name: str, at: int) -> Reading:
        at = yield from self.match(["{"], at)
        if at == NOT_FOUND:
            return NOT_FOUND
        start = told = at - 1
        scanner = JsonScanner(start)
        if self._is_constrained:
            self.tell_call(name)
        while True:
            scanner.scan(self._rest)
            if self._is_constrained:
                told, known = scanner.position, told
                self.tell_arguments(self._rest[known:told])
            if scanner.is_done or self._is_end:
                break
            yield
        if scanner.end is None:
            return NOT_FOUND
        arguments = self._rest[start : scanner.end]
        if not self._is_constrained:
            if strict_json(arguments) is None:
                return NOT_FOUND
            self.tell_call(name, arguments)
        end = yield from self.match(self._closing, scanner.end)
        return scanner.end if end == NOT_FOUND else end

    # --- arguments between marks

    def _read_parameters(self, name: str, marks: ParameterMarks, at: int) -> Reading:
        properties = self._schemas[name].get("properties")
        schemas: dict[str, Any] = properties if isinstance(properties, dict) else {}
        written: dict[str, str] = {}  # values, as JSON
        if self._is_constrained:
            self.tell_call(name, "{")
        while True:
            # The whole closing mark, or the first part of it where the rest is left out.
            choices = [marks.opening.split(), self._closing, self._closing[:1]]
            which, end = yield from self.match_one(choices, at)
            if which == NOT_FOUND:
                return NOT_FOUND
            if which > 0:
                break
            key, text, at = yield from self._read_parameter(marks, end)
            if at == NOT_FOUND or key in written:
                return NOT_FOUND
            written[key] = json_value(text, schemas.get(key), self._schemas[name], marks.is_json)
            entry = f"{json.dumps(key, ensure_ascii=False)}: {written[key]}"
            if self._is_constrained:
                self.tell_arguments(entry if len(written) == 1 else f", {entry}")
        if self._is_constrained:
            self.tell_arguments("}")
        else:
            entries = (f"{json.dumps(k, ensure_ascii=False)}: {v}" for k, v in written.items())
            self.tell_call(name, f"{{{', '.join(entries)}}}")
        return end

    def _read_parameter(
        self, marks: ParameterMarks, at: int
    ) -> Generator[None, None, tuple[str, str, int]]:
        """Return a name, the text of its value, and where it ends."""
        keyed, closing = marks.keyed.split(), marks.closing.split()
        end = yield from self.find(keyed[0], at)
        key = self._rest[at:end].strip()
        if end == NOT_FOUND or not key or len(key) > MAX_KEY:
            return "", "", NOT_FOUND
        start = yield from self.match(keyed, end)
        if start == NOT_FOUND:
            return "", "", NOT_FOUND
        end = yield from self.find(closing[0], start)
        if end == NOT_FOUND:
            return "", "", NOT_FOUND
        text = self._rest[start:end]
        # White space is the marks', as far as the template writes it; what is more is the value's.
        text = text.removeprefix(marks.keyed[len(marks.keyed.rstrip()) :])
        text = text.removesuffix(marks.closing[: -len(marks.closing.lstrip())])
        at = yield from self.match(closing, end)
        return key, text, at
