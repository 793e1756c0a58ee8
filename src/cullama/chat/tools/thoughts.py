"""Tells what a model thinks, between <think> and </think>, from the answer behind it."""

from __future__ import annotations

from .events import Reasoning, Text

OPENING, CLOSING = "<think>", "</think>"


class ThoughtSplitter:
    """Takes an answer in pieces. Only what it begins with is reasoning; later marks are text.

    White space around the reasoning belongs to neither part.

    Args:
        is_open: the prompt has opened the reasoning already.

    Attributes:
        has_thought: the answer begins with reasoning, which may be empty.
        is_answer: what comes from now on is the answer.
        length: of the reasoning and what is around it, in characters, as far as it has come.
    """

    def __init__(self, is_open: bool) -> None:
        self.has_thought = is_open
        self.is_answer, self.length = False, 0
        self._is_begun = False  # whether there is an opening mark is decided
        self._is_spoken = False  # something but white space has come of the part that is read
        self._rest = ""  # what no event has told of

    def add(self, piece: str, is_end: bool = False) -> list[Reasoning | Text]:
        """Return what is certain with this piece, after which nothing comes if `is_end`."""
        self._rest += piece
        self.length += 0 if self.is_answer else len(piece)
        if not self._is_begun and not self._begin(is_end):
            return []
        events: list[Reasoning | Text] = []
        if not self.is_answer and (thought := self._thought(is_end)):
            events.append(Reasoning(thought))
        if self.is_answer:
            text, self._rest = self._rest if self._is_spoken else self._rest.lstrip(), ""
            self._is_spoken = self._is_spoken or bool(text)
            events += [Text(text)] if text else []
        return events

    def _begin(self, is_end: bool) -> bool:
        """Take the opening mark, if there is one; returns False where that is not decided yet."""
        begun = self._rest.lstrip()
        if OPENING.startswith(begun) and begun != OPENING and not is_end:
            return False
        if begun.startswith(OPENING):
            self.has_thought, self._rest = True, begun[len(OPENING) :]
        self._is_begun = True
        self.is_answer = self._is_spoken = not self.has_thought
        return True

    def _thought(self, is_end: bool) -> str:
        """Take the next part of the reasoning."""
        rest = self._rest if self._is_spoken else self._rest.lstrip()
        thought, closing, behind = rest.partition(CLOSING)
        if closing:
            self.is_answer, self._is_spoken, self._rest = True, False, behind
            self.length -= len(behind)
            return thought.rstrip()
        held = 0 if is_end else overlap(rest, CLOSING)
        thought = rest[: len(rest) - held].rstrip()
        self._rest = rest[len(thought) :]
        self._is_spoken = self._is_spoken or bool(thought)
        return thought


def overlap(text: str, mark: str) -> int:
    """Return how many characters at the end of a text may be the start of a mark."""
    longest = min(len(text), len(mark) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(mark[:n])), 0)
