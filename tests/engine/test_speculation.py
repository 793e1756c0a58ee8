"""Draft tokens are what followed the last time, and fewer after a rejection."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cullama.engine.speculation import MAX_NGRAM, MIN_NGRAM, PromptLookup

few_kinds = st.lists(st.integers(0, 2), max_size=40)


def drafted_slowly(tokens: list[int], most: int) -> list[int]:
    """Look for the newest few tokens from the end on, and go on as it went on there."""
    for length in range(MAX_NGRAM, MIN_NGRAM - 1, -1):
        newest = tokens[-length:]
        for start in range(len(tokens) - length - 1, -1, -1):
            if len(newest) == length and tokens[start : start + length] == newest:
                text = list(tokens)
                for place in range(start + length, start + length + most):
                    text.append(text[place])  # what is drafted may be repeated in its turn
                return text[len(tokens) :]
    return []


@given(tokens=few_kinds, most=st.integers(1, 12))
def test_draft_tokens_are_what_followed_the_last_time(tokens: list[int], most: int) -> None:
    assert PromptLookup(tokens).propose(most) == drafted_slowly(tokens, most)


@given(tokens=few_kinds, more=st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=12))
def test_the_lookup_follows_a_growing_text(tokens: list[int], more: list[list[int]]) -> None:
    lookup = PromptLookup(tokens)
    for each in more:
        tokens += each
        assert lookup.propose(5) == drafted_slowly(tokens, 5)
        assert lookup.propose(5) == drafted_slowly(tokens, 5)  # asked twice, it says the same


def test_a_text_that_repeats_itself_goes_on_repeating_itself() -> None:
    assert PromptLookup([7, 1, 2, 3, 1, 2, 3]).propose(8) == [1, 2, 3, 1, 2, 3, 1, 2]
    assert PromptLookup([5, 5, 5]).propose(4) == [5, 5, 5, 5]


def test_a_match_of_three_tokens_goes_before_one_of_two() -> None:
    assert PromptLookup([1, 2, 3, 40, 9, 2, 3, 50, 1, 2, 3]).propose(1) == [40]
    assert PromptLookup([1, 2, 3, 40, 9, 2, 3, 50, 8, 2, 3]).propose(1) == [50]


def test_the_last_occurrence_counts() -> None:
    assert PromptLookup([1, 2, 3, 1, 2, 4, 1, 2]).propose(1) == [4]


def test_where_nothing_is_repeated_nothing_is_proposed() -> None:
    for tokens in ([], [1], [1, 1], [1, 2], [1, 2, 3, 4, 5], [1, 2, 1, 3, 1]):
        assert PromptLookup(tokens).propose(9) == []


def test_there_are_never_more_draft_tokens_than_asked_for() -> None:
    lookup = PromptLookup([1, 2, 3] * 5)
    for most in range(1, 20):
        assert len(lookup.propose(most)) == most


def test_after_a_rejection_it_proposes_one_and_then_more() -> None:
    lookup = PromptLookup([1, 2, 3] * 5)
    sizes = []
    for accepted in (0, 0, 1, 2, 7, 20):
        drafted = len(lookup.propose(20))
        sizes.append(drafted)
        lookup.learn(drafted, min(accepted, drafted))
    assert sizes == [20, 1, 1, 3, 5, 11]
    # Twice as many as were accepted, and never more than asked for.
    assert len(lookup.propose(20)) == 20
    assert len(lookup.propose(4)) == 4


def test_where_nothing_was_proposed_nothing_is_learned() -> None:
    lookup = PromptLookup([1, 2, 3] * 5)
    lookup.learn(0, 0)
    assert len(lookup.propose(9)) == 9
    lookup.learn(9, 2)
    lookup.learn(0, 0)
    assert len(lookup.propose(9)) == 5
