"""A value that one thread advances until some thread closes it: which came first is never in doubt.

It takes no lock, so that it may be closed at any moment: by a signal's handler in the middle of an
advance, or in a forked child whose other threads are gone.
"""

from __future__ import annotations

from typing import Generic, TypeVar

State = TypeVar("State")


class Closable(Generic[State]):
    """Holds the latest state. One thread calls `advance`, any thread everything else."""

    def __init__(self, state: State) -> None:
        # The states in order; None behind the last one where it is closed. A place is taken by
        # `setdefault`, which is atomic: so a state and the end cannot both take the same one.
        self._states: dict[int, State | None] = {0: state}
        self._count = 1

    @property
    def is_closed(self) -> bool:
        return self._find_end() in self._states

    @property
    def latest(self) -> State:
        state = self._states[self._find_end() - 1]
        assert state is not None, "only the end is None"
        return state

    def advance(self, state: State) -> bool:
        """Set the latest state; False, and nothing is set, where it was closed before."""
        if self._states.setdefault(self._count, state) is not state:
            return False
        self._count += 1
        return True

    def close(self) -> None:
        """Keep the latest state for good; does nothing a second time."""
        place = self._count
        while self._states.setdefault(place, None) is not None:
            place += 1

    def _find_end(self) -> int:
        """Return the place behind the latest state."""
        place = self._count  # one too few while `advance` is under way
        while self._states.get(place) is not None:
            place += 1
        return place
