"""jinja2 as transformers sets it up for chat templates: what the sandbox is compared with."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """{% generation %}, as transformers has it: a call block."""

    tags = {"generation"}  # noqa: RUF012  (as jinja2 declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> Any:
        return caller()


class RefusalError(Exception):
    """A template called `raise_exception`."""


def raise_exception(reason: str) -> NoReturn:
    raise RefusalError(reason)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def jinja_environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


class LlamaCppEnvironment(ImmutableSandboxedEnvironment):
    """With what templates may do in llama.cpp besides: lists that change, and `from_json`."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        changes_a_list = isinstance(obj, list) and attr in ("append", "pop")
        return changes_a_list or super().is_safe_attribute(obj, attr, value)


def llama_cpp_environment() -> LlamaCppEnvironment:
    transformers = jinja_environment()
    environment = LlamaCppEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters |= {"tojson": to_json, "from_json": json.loads}
    environment.globals |= transformers.globals
    return environment
