"""What /alternatives shows, and how a choice of it is read."""

from __future__ import annotations

import pytest

from cullama.chat.uncertain import Candidate, UncertainToken
from cullama.cli.chat.alternatives import alternative_lines, chosen_alternative
from cullama.errors import UsageError

LYON, ESC = Candidate(8, " Lyon", 0.121), Candidate(9, "\x1b[2J", 0.05)
PLACES = [
    UncertainToken(5, "The capital is", Candidate(7, " Paris", 0.62), (LYON, ESC)),
    UncertainToken(9, "x" * 50 + "\n", Candidate(7, "\n\n", 0.999), (LYON,)),
]


def test_a_place_is_two_lines() -> None:
    assert [*alternative_lines(PLACES)] == [
        '  1 The capital is " Paris" 62%',
        '    a " Lyon" 12% · b "�[2J" 5%',
        f'  2 …{"x" * 39}⏎ "⏎⏎" 100%',
        '    a " Lyon" 12%',
    ]


def test_what_was_drawn_although_improbable_is_not_shown_as_impossible() -> None:
    rare = UncertainToken(0, "", Candidate(7, " Oslo", 0.0004), (LYON,))
    assert next(alternative_lines([rare])) == '  1  " Oslo" <1%'


@pytest.mark.parametrize(("text", "place", "token"), [("1a", 5, 8), ("1 b", 5, 9), ("2a", 9, 8)])
def test_a_choice_names_a_place_and_a_token(text: str, place: int, token: int) -> None:
    uncertain, candidate = chosen_alternative(PLACES, text)
    assert (uncertain.index, candidate.token_id) == (place, token)


@pytest.mark.parametrize("text", ["0a", "3a", "2b", "1", "a", "1A", "99999a", "one"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="there is no alternative"):
        chosen_alternative(PLACES, text)
