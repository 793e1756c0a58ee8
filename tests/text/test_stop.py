"""Stop strings: no part of one is ever shown, however the text is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cullama.text.stop import StopStrings


def shown(pieces: list[str], *stops: str) -> tuple[list[str], bool]:
    """The text shown for each piece, and whether there was a stop string."""
    finder, out = StopStrings(stops), []
    for piece in pieces:
        out.append(finder.add(piece))
        if finder.is_found:
            assert finder.flush() == ""
            return out, True
    return [*out, finder.flush()], False


def first_completed(text: str, stops: tuple[str, ...]) -> str | None:
    """The text before the stop string that ends first, as found letter by letter."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return None


def lies_within(inner: str, outer: str) -> bool:
    """Whether the inner stop is complete before the outer one, and begins later."""
    return inner in outer[1:-1]


def cut(text: str, at: list[int]) -> list[str]:
    """The text in pieces; some may be empty, as those of a token that ends no character are."""
    places = sorted({0, len(text), *(place % (len(text) + 1) for place in at)})
    pieces = [text[a:b] for a, b in pairwise(places)]
    return [*pieces[:1], "", *pieces[1:]]


letters = st.text("ab", max_size=24)
stop_texts = st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3).map(tuple)


@given(text=letters, stops=stop_texts, at=st.lists(st.integers(0, 30), max_size=12))
def test_results_do_not_depend_on_how_the_text_is_cut(
    text: str, stops: tuple[str, ...], at: list[int]
) -> None:
    assume(not any(lies_within(inner, outer) for inner in stops for outer in stops))
    pieces, is_found = shown(cut(text, at), *stops)
    expected = first_completed(text, stops)
    assert is_found == (expected is not None)
    assert "".join(pieces) == (text if expected is None else expected)


@given(text=letters, stops=stop_texts)
def test_letter_by_letter_the_first_complete_stop_wins(text: str, stops: tuple[str, ...]) -> None:
    pieces, is_found = shown(list(text), *stops)
    expected = first_completed(text, stops)
    assert is_found == (expected is not None)
    assert "".join(pieces) == (text if expected is None else expected)


@given(text=letters, stops=stop_texts, at=st.lists(st.integers(0, 30), max_size=12))
def test_no_part_of_a_stop_string_is_ever_shown(
    text: str, stops: tuple[str, ...], at: list[int]
) -> None:
    """At any time, the shown text is a prefix of the final text."""
    pieces, is_found = shown(cut(text, at), *stops)
    final = "".join(pieces)
    assert text.startswith(final)
    if is_found:
        assert any(text[len(final) :].startswith(stop) for stop in stops)
    assert not any(stop in final for stop in stops)


@given(text=st.text("ab", max_size=20), stop=st.text("ab", min_size=1, max_size=5))
def test_no_more_is_held_back_than_may_become_a_stop_string(text: str, stop: str) -> None:
    finder, seen = StopStrings((stop,)), ""
    for end, letter in enumerate(text, 1):
        seen += finder.add(letter)
        if finder.is_found:
            break
        held = text[len(seen) : end]
        assert stop.startswith(held)
        assert all(not stop.startswith(text[start:end]) for start in range(len(seen)))


@pytest.mark.parametrize("pieces", [["abcd"], ["ab", "cd"], ["a", "bcd"]])
def test_a_stop_string_within_another_wins_also_in_one_piece(pieces: list[str]) -> None:
    """Letter by letter "bc" is complete before "abcd" can be, and the text ends as "a"."""
    assert shown(list("abcd"), "abcd", "bc") == (["", "", "a"], True)
    out, is_found = shown(pieces, "abcd", "bc")
    assert is_found
    assert "".join(out) == "a"


def test_examples() -> None:
    assert shown(["Hello", " wor", "ld. END", " more"], "END") == (
        ["Hello", " wor", "ld. "],
        True,
    )
    assert shown(["Hello E", "N", "D"], "END") == (["Hello ", "", ""], True)
    assert shown(["Hello E", "N", "Z"], "END") == (["Hello ", "", "ENZ", ""], False)
    assert shown(["Hello E", "N"], "END") == (["Hello ", "", "EN"], False)


def test_the_earliest_stop_string_wins_whatever_the_order() -> None:
    for stops in (("two", "one"), ("one", "two")):
        assert shown(["zero one two"], *stops) == (["zero "], True)


def test_of_two_that_end_together_the_longer_wins() -> None:
    for stops in (("abc", "bc"), ("bc", "abc")):
        assert shown(["xabc"], *stops) == (["x"], True)
        assert "".join(shown(list("xabc"), *stops)[0]) == "x"


def test_of_two_that_begin_together_the_text_is_the_same() -> None:
    assert shown(["xabc"], "ab", "abc") == (["x"], True)


def test_a_stop_may_overlap_itself() -> None:
    assert shown(["aa", "ab"], "aab") == (["", "a"], True)
    assert shown(["abab", "ac"], "abac") == (["ab", ""], True)
    assert shown(["\n", "\n", "x"], "\n\n") == (["", ""], True)


def test_a_stop_string_of_one_letter_holds_nothing_back() -> None:
    assert shown(["abc", "d", "e"], "d") == (["abc", ""], True)


def test_a_stop_may_fill_the_whole_text() -> None:
    assert shown(["END"], "END") == ([""], True)
    assert shown(list("END"), "END") == (["", "", ""], True)


def test_characters_beyond_ascii() -> None:
    assert shown(["né", "e 東", "京"], "東京") == (["né", "e ", ""], True)


def test_without_stops_every_piece_passes() -> None:
    finder = StopStrings(())
    assert [finder.add(piece) for piece in ("a", "", "b")] == ["a", "", "b"]
    assert finder.flush() == ""
    assert not finder.is_found


def test_flush_returns_the_held_back_text_once() -> None:
    finder = StopStrings(("END",))
    assert finder.add("xE") == "x"
    assert not finder.is_found
    assert finder.flush() == "E"
    assert finder.flush() == ""


def test_nothing_is_shown_after_a_stop_string() -> None:
    finder = StopStrings(("END",))
    assert finder.add("xENDy") == "x"
    assert finder.add("z") + finder.flush() == ""
