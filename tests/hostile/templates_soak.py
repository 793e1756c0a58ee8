"""Attacks on the sandbox of chat templates, and what came of them: the rows of F6.

It runs the corpus of `template_attacks` in a process of its own, and damages real templates. What
counts as an escape is decided here; what is watched, in `template_child`.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from figures import Figure
from template_attacks import INJECTIONS, RESOURCES
from template_child import MAX_SECONDS, MESSAGES, WHERE

from cullama.chat.template import ChatTemplate
from cullama.errors import ChatTemplateError, UsageError

HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parent / "fixtures"
REAL_TEMPLATES = [
    *sorted((FIXTURES / "chat").glob("*/chat_template.jinja")),
    *sorted((FIXTURES / "templates").glob("*.jinja")),
]

SLOW = 1.0  # seconds of processor time
MUCH = 64 << 20  # bytes


@dataclass(frozen=True)
class Outcome:
    """What one attack did, as the process that ran it saw it."""

    name: str
    outcome: str  # "printed", or the error's name
    message: str
    seconds: float
    touched: list[str]  # files, modules, processes
    traces: list[str]  # of objects that are no text, in what was printed
    canary: bool  # whether the file was made
    memory: int
    grown: int  # bytes, with all attacks before it

    @property
    def is_refused(self) -> bool:
        return self.outcome == "ChatTemplateError"

    @property
    def has_escaped(self) -> bool:
        is_ours = self.outcome in ("printed", "ChatTemplateError", "UsageError")
        return bool(not is_ours or self.touched or self.traces or self.canary)

    @property
    def is_named(self) -> bool:
        return not self.is_refused or self.message.startswith(f"{WHERE}: ")


def attack(kind: str) -> list[Outcome]:
    """All attacks of a kind ("injections", "resources"), or the injections on "plain" jinja2."""
    source = HERE.parents[1] / "src"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), str(HERE)])}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(HERE / "template_child.py"), kind],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=MAX_SECONDS * 30,
        )
    outcomes = [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]
    expected = len(RESOURCES if kind == "resources" else INJECTIONS)
    if len(outcomes) < expected:  # the process was killed by the one that is missing
        ended = f"ended with {done.returncode} after {len(outcomes)} of {expected}"
        raise AssertionError(f"{ended}: {done.stderr[-500:]}")
    return outcomes


# --- damaged templates

_PARTS = re.compile(r"\s+|\w+|'[^'\n]*'|\"[^\"\n]*\"|\{[{%#]-?|-?[}%#]\}|.", re.DOTALL)
_WORDS = """
messages message content role loop namespace range dict x ns 0 1 -1 99999 10**9 none
true 'a' [] {} () * ** % ~ + // | . == in not and or if else for endfor endif set macro endmacro
map select join list tojson format center replace __class__ self super raise_exception is defined
string {{ }} {% %} {# #} - , ( ) [ ] : = break continue generation endgeneration
"""
_STATEMENTS = frozenset(
    {"if", "elif", "else", "for", "endif", "endfor", "set", "in", "is", "not", "and", "or", "macro"}
)


@dataclass
class Tally:
    count: int = 0
    rendered: int = 0
    slowest: float = 0.0
    complaints: list[str] = field(default_factory=list)


def mutant(draw: random.Random, sources: list[str]) -> str:
    """A real template, damaged in one to four places: parts for others of their kind, most often,
    so that many mutants are still templates, and otherwise anything."""
    parts = _PARTS.findall(draw.choice(sources))
    for _ in range(draw.randint(1, 4)):
        other = _PARTS.findall(draw.choice(sources))
        if parts and draw.random() < 0.7:
            _exchange(draw, parts, [*other, *_WORDS.split()])
        else:
            _cut(draw, parts, other)
    return "".join(parts)


def _exchange(draw: random.Random, parts: list[str], other: list[str]) -> None:
    at = draw.randrange(len(parts))
    parts[at] = draw.choice([it for it in other if _kind(it) == _kind(parts[at])] or [""])


def _kind(part: str) -> str:
    first = part[:1]
    is_word = first.isalpha() and part not in _STATEMENTS
    return "word" if is_word else "number" if first.isdigit() else first if first in "'\"" else part


def _cut(draw: random.Random, parts: list[str], other: list[str]) -> None:
    at, begin = draw.randrange(len(parts) + 1), draw.randrange(len(other))
    end = at + draw.choice((0, 1, 1, 2, 5, 30))
    parts[at:end] = draw.choice(
        (
            [],
            [" ", draw.choice(_WORDS.split()), " "],
            parts[at:end] * draw.choice((2, 3, 50)),
            other[begin : begin + draw.choice((1, 3, 20))],
        )
    )


def damaged(count: int, seed: int) -> Iterator[str]:
    draw = random.Random(seed)
    real = [path.read_text(encoding="utf-8") for path in REAL_TEMPLATES]
    attacks = [it for it in (*INJECTIONS.values(), *RESOURCES.values()) if len(it) < 2000]
    for _ in range(count):
        yield mutant(draw, real if draw.random() < 0.7 else attacks)


def attack_damaged(count: int, seed: int) -> Tally:
    tally = Tally()
    for source in damaged(count, seed):
        tally.count += 1
        started = time.thread_time()
        try:
            ChatTemplate(source, WHERE, {"bos_token": "<s>", "eos_token": "</s>"}).render(MESSAGES)
            tally.rendered += 1
        except (ChatTemplateError, UsageError) as error:
            _check_message(error, source, tally)
        except Exception as error:  # whatever else comes out is what we are looking for
            tally.complaints.append(f"{type(error).__name__}: {error!s:.100}: {source!r}")
        seconds = time.thread_time() - started
        tally.slowest = max(tally.slowest, seconds)
        if seconds > SLOW:
            tally.complaints.append(f"{seconds:.1f} s: {source!r}")
    return tally


def _check_message(error: ChatTemplateError | UsageError, source: str, tally: Tally) -> None:
    message = str(error)
    is_named = message.startswith(WHERE) or isinstance(error, UsageError)
    if not is_named or not message.isprintable() or len(message) > 600:
        tally.complaints.append(f"says {message!r:.700}: {source!r}")


# --- the rows


def figures(count: int, seed: int) -> list[Figure]:
    return [
        injection_figure(attack("injections")),
        resource_figure(attack("resources")),
        damage_figure(attack_damaged(count, seed)),
    ]


def injection_figure(outcomes: list[Outcome]) -> Figure:
    escaped = [it.name for it in outcomes if it.has_escaped]
    return Figure(
        "F6 ways out of the sandbox",
        ">= 60 payloads, 0 escapes",
        f"{len(outcomes)} payloads, {len(escaped)} escapes",
        len(outcomes) >= 60 and not escaped,
    )


def resource_figure(outcomes: list[Outcome]) -> Figure:
    missed = [it.name for it in outcomes if not (it.is_refused and it.is_named)]
    slowest = max(it.seconds for it in outcomes)
    grown = max(it.grown for it in outcomes)
    return Figure(
        "F6 machines used up",
        f">= 30 attacks, each refused within {SLOW:g} s and {MUCH >> 20} MiB, naming the template",
        f"{len(outcomes)} attacks, {len(missed)} not refused, slowest {slowest:.2f} s, "
        f"all together {grown / (1 << 20):.0f} MiB",
        len(outcomes) >= 30 and not missed and slowest <= SLOW and grown <= MUCH,
    )


def damage_figure(tally: Tally) -> Figure:
    return Figure(
        "F6 damaged templates",
        f"only our errors, each within {SLOW:g} s",
        f"{tally.count} mutants ({tally.rendered} rendered), {len(tally.complaints)} complaints, "
        f"slowest {tally.slowest:.2f} s",
        not tally.complaints,
    )
