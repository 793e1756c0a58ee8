"""An answer read piece by piece, with `for` or `async for`."""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator
from contextlib import aclosing

from .completion import Completion
from .output import Answer


class Stream:
    """Iterate for the pieces of the answer; `completion` tells the rest once it has ended.

    `for` works in the thread that asks; `async for` leaves the work to a thread of the engine.
    Closing it, or letting go of it, ends the answer and returns its memory.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._pieces = answer.pieces()
        # Also for a stream that nobody ever asked for a piece: its request is already under way.
        self._finish = weakref.finalize(self, answer.engine.finish, answer.sequence, "cancelled")

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        async with aclosing(self._answer.pieces_async()) as pieces:
            async for piece in pieces:
                yield piece

    def close(self) -> None:
        self._pieces.close()
        self._finish()

    @property
    def completion(self) -> Completion:
        """What has been written so far."""
        return self._answer.completion()
