"""Renders attacks in a process of its own, and reports the outcome of each: JSON lines on stdout.

It watches what only a process that will end can watch: an audit hook, which cannot be taken off,
sees every file, module or process that a rendering touches, and the largest memory of the process
is never forgotten. `plain` renders with jinja2 and nothing round it, to see that attacks are some.

    python template_child.py injections|resources|plain
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from template_attacks import CANARY, INJECTIONS, RESOURCES, SECRET

from cullama.chat.template import ChatTemplate
from cullama.errors import ChatTemplateError, UsageError

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
WHERE = "somewhere/tokenizer_config.json: chat_template"

# How Python writes things that are no text; none may be in what a template prints.
TRACES: tuple[str, ...] = (
    "<class",
    "<function",
    "<module",
    "<built-in",
    "<bound",
    "<generator",
    " object at 0x",
)
TRACES += ("<Macro", "<Namespace", "<LoopContext", "<TemplateReference", "dict_items(", "Callee(")
TRACES += ("str(object=''", "Create a new", "b'", "root:x:", "secret-value")

MAX_MEMORY, MAX_SECONDS = 4 << 30, 20  # what a planted mistake may cost: bytes, seconds


def render_guarded(source: str) -> str:
    return ChatTemplate(source, WHERE, {"bos_token": "<s>"}).render(MESSAGES)


def render_plainly(source: str) -> str:
    import jinja2

    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"])
    environment.globals |= {"raise_exception": render_guarded, "strftime_now": time.strftime}
    return environment.from_string(source).render(messages=[dict(it) for it in MESSAGES])


class Watch:
    """What a rendering touches outside itself."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.is_on = False
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_on and event.split(".")[0] not in ("compile", "exec", "object", "sys", "code"):
            self.seen.append(f"{event} {arguments!r:.100}")

    def attack(self, render: Callable[[str], str], source: str) -> dict[str, Any]:
        self.seen.clear()
        self.is_on, outcome, message = True, "printed", ""
        started = time.thread_time()
        signal.alarm(MAX_SECONDS)
        try:
            message = render(source)
        except (ChatTemplateError, UsageError) as error:
            outcome, message = type(error).__name__, str(error)
        except BaseException as error:  # whatever else comes out is what we are looking for
            outcome, message = f"escaped: {type(error).__name__}", str(error)[:300]
        signal.alarm(0)
        self.is_on = False
        seconds = time.thread_time() - started
        return {"outcome": outcome, "message": message[:2000], "seconds": seconds,
                "touched": self.seen[:3], "traces": [it for it in TRACES if it in message],
                "canary": os.path.exists(CANARY), "memory": most_memory()}  # fmt: skip


def most_memory() -> int:
    """The largest memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _warm_up(render: Callable[[str], str]) -> None:
    """What is imported once is imported now."""
    for source in ("{{ 'text' }}", "{% no such tag %}", "{{ '' | nosuchfilter }}"):
        with suppress(Exception):
            render(source)


def main(kind: str) -> None:
    os.environ[SECRET] = "secret-value"
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    render = render_plainly if kind == "plain" else render_guarded
    attacks = RESOURCES if kind == "resources" else INJECTIONS
    _warm_up(render)
    watch = Watch()
    before = most_memory()
    for name, source in attacks.items():
        result = watch.attack(render, source)
        print(json.dumps({"name": name, **result, "grown": result["memory"] - before}), flush=True)
        if result["canary"]:
            os.remove(CANARY)


if __name__ == "__main__":
    main(sys.argv[1])
