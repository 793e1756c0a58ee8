"""What one rendering of a template may cost, in steps of about a microsecond.

It knows what values cost to make, to look through and to write down, and stops who asks for too
much before anything is done. It counts instead of looking at a clock: a conversation that can be
rendered at all can be on a busy machine, too. It knows no template and no operation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import GeneratorType
from typing import Any, NoReturn

from jinja2 import Undefined
from jinja2.exceptions import SecurityError

STEPS = 200_000  # for any conversation; common templates take a hundred or two a message
STEPS_A_MESSAGE = 1_000
CHARACTERS_A_STEP, PARTS_A_STEP = 32, 8  # made or looked through; characters take up to 4 bytes
COPIES = 16  # how often a long conversation may be copied, trimmed and joined

DEEPEST = 100  # lists in lists
REPR_GROWTH = 12  # a character written as \U0001f999, and a little more

Lists = (list, tuple)
Scalars = (str, int, float, bool, type(None), Undefined)  # what has no parts, and may be a key
_Views: tuple[type[Any], ...] = (type({}.keys()), type({}.values()), type({}.items()))
# What has parts and a length.
Counted: tuple[type[Any], ...] = (str, *Lists, dict, range, *_Views, Undefined)
Walked: tuple[type[Any], ...] = (*Counted, GeneratorType)  # what can be gone through


def refuse(what: str) -> NoReturn:
    """Stop the template; `what` completes the sentence "the template …"."""
    raise SecurityError(what)


def describe(value: Any) -> str:
    return "none" if value is None else f"a {type(value).__name__.lower()}"


@dataclass
class Budget:
    left: int  # steps

    @classmethod
    def for_conversation(cls, messages: int, characters: int) -> Budget:
        copies = COPIES * characters // CHARACTERS_A_STEP
        return cls(STEPS + STEPS_A_MESSAGE * messages + copies)

    def spend(self, steps: int) -> None:
        if steps < 0:
            refuse("asks to be paid for work")
        self.left -= steps
        if self.left < 0:
            refuse("asks for more time or memory than these messages can need")

    def spend_text(self, characters: int) -> None:
        self.spend(1 + characters // CHARACTERS_A_STEP)

    def spend_list(self, parts: int) -> None:
        self.spend(1 + parts // PARTS_A_STEP)

    def spend_search(self, text: str, *needles: Any) -> None:
        """Looking for something in a text: the worst that Python's ways to search can take."""
        longest = max((len(it) for it in needles if isinstance(it, str)), default=0)
        self.spend_text(len(text) * (1 + longest // 16))

    def spend_on(self, value: Any, growth: int = 1, indent: int = 0) -> None:
        """Looking through all of a plain value, or writing it down; some hold a part many times.

        `growth`: characters written for one; `indent`: characters before each part, a level.
        """
        todo = [(value, 0)]
        while todo:
            part, depth = todo.pop()
            if isinstance(part, str):
                self.spend_text(growth * len(part) + depth * indent)
            elif isinstance(part, (*Scalars, range)):
                self.spend_text(depth * indent)
            else:
                todo.extend((it, depth + 1) for it in self._parts(part, depth, indent))

    def _parts(self, value: Any, depth: int, indent: int) -> Iterable[Any]:
        if not isinstance(value, (*Lists, dict)):
            refuse(f"uses {describe(value)} where texts, numbers or lists are expected")
        if depth == DEEPEST:
            refuse(f"nests lists more than {DEEPEST} deep")
        self.spend(1 + 2 * len(value))
        self.spend_text(depth * indent)
        if isinstance(value, dict):
            return [part for item in value.items() for part in item]
        return value

    def text_of(self, value: Any) -> str:
        """A value as it is printed."""
        if isinstance(value, str):
            self.spend_text(len(value))
            return value
        self.spend_on(value, growth=REPR_GROWTH)
        return str(value)

    def each(self, values: Any) -> Iterator[Any]:
        """The parts of a value one by one; whoever takes one pays."""
        if not isinstance(values, Walked):
            refuse(f"goes through {describe(values)}, expected a list")
        for value in values:
            self.spend(1)
            yield value

    def listed(self, values: Any) -> list[Any]:
        return list(self.each(values))
