"""Finds stop strings in text that is being generated.

The end of the text so far may be the start of a stop string; that much is held back until the
next piece decides. It handles text, not tokens: stop tokens end a request in the engine.
"""

from __future__ import annotations


class StopStrings:
    """Passes text through piece by piece, up to the first stop string.

    Attributes:
        found: the stop string that has come, or None.
    """

    def __init__(self, stops: tuple[str, ...], is_included: bool = False) -> None:
        self._stops, self._is_included = stops, is_included
        self._held_back = ""
        self.found: str | None = None

    @property
    def is_found(self) -> bool:
        return self.found is not None

    def add(self, piece: str) -> str:
        """Return the text that can be shown now: nothing of a stop string, unless it is to be
        included, and nothing after it."""
        if self.is_found or not self._stops:
            return "" if self.is_found else piece
        text = self._held_back + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            # The stop string that ends first, which does not depend on how the text is cut.
            end, start = min(found)
            self.found, self._held_back = text[start:end], ""
            return text[: end if self._is_included else start]
        # The longest proper prefix of a stop string that ends the text.
        overlap = max(
            length
            for stop in self._stops
            for length in range(min(len(text) + 1, len(stop)))
            if text.endswith(stop[:length])
        )
        self._held_back = text[len(text) - overlap :]
        return text[: len(text) - overlap]

    def flush(self) -> str:
        """Return the text that is held back, at the end of generation."""
        held_back, self._held_back = self._held_back, ""
        return held_back
