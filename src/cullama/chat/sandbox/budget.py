"""The budget of one rendering, in steps of about a microsecond.

It states what it costs to create, traverse and print values, and stops the template before an
operation that costs too much. It counts steps instead of reading a clock, so that the result does
not depend on how busy the machine is. Which operations there are is stated in the other files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from types import GeneratorType
from typing import Any, NoReturn

from jinja2 import Undefined
from jinja2.exceptions import SecurityError

from ..escape import restore_split

STEPS = 200_000  # for any conversation; common templates use one or two hundred a message
STEPS_A_MESSAGE = 1_000
CHARACTERS_A_STEP, PARTS_A_STEP = 32, 8  # created or traversed; a character takes up to 4 bytes
COPIES = 16  # how often a long conversation may be copied, trimmed and joined

MAX_NESTING = 100  # lists in lists
REPR_GROWTH = 12  # characters printed for one, as in \U0001f999, and a margin

Lists = (list, tuple)
Scalars = (str, int, float, bool, type(None), Undefined)  # without parts; may be keys
_Views: tuple[type[Any], ...] = (type({}.keys()), type({}.values()), type({}.items()))
# Types with parts and a length.
Counted: tuple[type[Any], ...] = (str, *Lists, dict, range, *_Views, Undefined)
Walked: tuple[type[Any], ...] = (*Counted, GeneratorType)  # may be iterated


class LackError(SecurityError):
    """A template uses something of jinja2 or Python that the sandbox does not have."""


def refuse(what: str) -> NoReturn:
    """Stop the template with a SecurityError; `what` completes the sentence "the template …"."""
    raise SecurityError(what)


def lack(what: str) -> NoReturn:
    """Stop the template with a LackError; `what` completes "the template uses …"."""
    raise LackError(what)


def describe(value: Any) -> str:
    """Return a value's type for an error: "a list", "none"."""
    return "none" if value is None else f"a {type(value).__name__.lower()}"


@dataclass
class Budget:
    """The steps that are left, and what each kind of work costs."""

    left: int

    @classmethod
    def for_conversation(cls, messages: int, characters: int) -> Budget:
        copies = COPIES * characters // CHARACTERS_A_STEP
        return cls(STEPS + STEPS_A_MESSAGE * messages + copies)

    def spend(self, steps: int) -> None:
        if steps < 0:
            refuse("spends a negative number of steps")
        self.left -= steps
        if self.left < 0:
            refuse("asks for more time or memory than these messages can need")

    def spend_text(self, characters: int) -> None:
        self.spend(1 + characters // CHARACTERS_A_STEP)

    def spend_list(self, parts: int) -> None:
        self.spend(1 + parts // PARTS_A_STEP)

    def spend_search(self, text: str, *needles: Any) -> None:
        """Pay for searching a text, at the worst case of Python's algorithms."""
        longest = max((len(it) for it in needles if isinstance(it, str)), default=0)
        self.spend_text(len(text) * (1 + longest // 16))

    def spend_on(self, value: Any, growth: int = 1, indent: int = 0) -> None:
        """Pay for traversing or printing a plain value, parts that occur twice counted twice.

        Args:
            growth: characters printed for each one.
            indent: characters printed before each part, for each level.
        """
        todo = [(value, 0)]
        while todo:
            part, depth = todo.pop()
            if isinstance(part, str):
                self.spend_text(growth * len(part) + depth * indent)
            elif isinstance(part, (*Scalars, range)):
                self.spend_text(depth * indent)
            elif not isinstance(part, (*Lists, dict)):
                refuse(f"uses {describe(part)} where texts, numbers or lists are expected")
            elif depth == MAX_NESTING:
                refuse(f"nests lists more than {MAX_NESTING} deep")
            else:
                self.spend(1 + 2 * len(part))
                self.spend_text(depth * indent)
                inner = chain.from_iterable(part.items()) if isinstance(part, dict) else part
                todo.extend((it, depth + 1) for it in inner)

    def text_of(self, value: Any) -> str:
        """Return a value as a template prints it."""
        if isinstance(value, str):
            self.spend_text(len(value))
            return value
        self.spend_on(value, growth=REPR_GROWTH)
        return restore_split(str(value))

    def each(self, values: Any) -> Iterator[Any]:
        """Yield the parts of a value, paying for each."""
        if not isinstance(values, Walked):
            refuse(f"iterates over {describe(values)}, expected a list")
        for value in values:
            self.spend(1)
            yield value

    def listed(self, values: Any) -> list[Any]:
        return list(self.each(values))
