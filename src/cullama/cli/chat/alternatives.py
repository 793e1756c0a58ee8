"""Writes where an answer was least sure, for /alternatives, and reads which token is taken.

    1  … the capital of France is " Paris" 62%
    a " the" 12% · b " a" 8% · c " located" 5%

The probabilities come from `cullama.chat.uncertain`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from string import ascii_lowercase
from typing import TYPE_CHECKING

from ...errors import UsageError
from ..terminal import sanitized

if TYPE_CHECKING:
    from ...chat.uncertain import Candidate, UncertainToken

CONTEXT = 40  # characters before the token


def alternative_lines(tokens: Sequence[UncertainToken]) -> Iterator[str]:
    """Yield two lines for each place: what stands there, and what else might."""
    for number, token in enumerate(tokens, 1):
        before = _one_line(token.before)
        begun = f"…{before[-CONTEXT:]}" if len(before) > CONTEXT else before
        yield f"{number:>3} {begun} {_shown(token.chosen)}"
        others = (
            f"{letter} {_shown(it)}"
            for letter, it in zip(ascii_lowercase, token.others, strict=False)
        )
        yield f"    {' · '.join(others)}"


def chosen_alternative(
    tokens: Sequence[UncertainToken], argument: str
) -> tuple[UncertainToken, Candidate]:
    """Return the place and the token that "1b" names. Raises UsageError: it names none."""
    found = re.fullmatch("([0-9]{1,3}) ?([a-z])", argument)
    if found:
        number, letter = int(found[1]), ascii_lowercase.index(found[2])
        if 1 <= number <= len(tokens) and letter < len(tokens[number - 1].others):
            return tokens[number - 1], tokens[number - 1].others[letter]
    raise UsageError(
        f"there is no alternative {argument!r:.40}, expected a place and a letter of the list that "
        "/alternatives shows, as 1a"
    )


def _shown(candidate: Candidate) -> str:
    share = f"{candidate.probability:.0%}" if candidate.probability >= 0.01 else "<1%"
    return f'"{_one_line(candidate.text)}" {share}'


def _one_line(text: str) -> str:
    return sanitized(text).replace("\n", "⏎").replace("\t", " ")
