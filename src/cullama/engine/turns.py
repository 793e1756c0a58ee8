"""One thread at a time: who has the engine, who is next, and what is to be done in between.

Whoever wants to work on the engine seizes it, in order of asking. What others want done meanwhile
is an order: it is carried out by whoever has the engine, before they let go, or at once if nobody
has. It knows no engine.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

Order: TypeAlias = Callable[[], None]


class Turns:
    def __init__(self) -> None:
        self._owner: int | None = None  # the thread that has the engine
        self._queue: deque[object] = deque()  # those that wait for it: a mark of each
        self._orders: deque[Order] = deque()
        # Guards all of these; told whenever the engine is let go of. Reentrant: an order may be
        # given by the garbage collector, in the middle of anything.
        self.changed = threading.Condition()

    @property
    def orders(self) -> int:
        """That have not been carried out."""
        return len(self._orders)

    @property
    def is_mine(self) -> bool:
        return self._owner == threading.get_ident()

    def seize(self, is_needless: Callable[[], bool] = lambda: False) -> bool:
        """Have the engine; False where meanwhile there is no need to."""
        with self.changed:
            if not is_needless() and not (self._owner is None and not self._queue):
                self._wait_in_line(is_needless)
            if is_needless():
                return False
            self._owner = threading.get_ident()
            return True

    def _wait_in_line(self, is_needless: Callable[[], bool]) -> None:
        mark = object()
        self._queue.append(mark)
        try:
            self.changed.wait_for(
                lambda: is_needless() or (self._owner is None and self._queue[0] is mark)
            )
        finally:
            self._queue.remove(mark)
            if self._queue and self._owner is None:
                self.changed.notify_all()

    def let_go(self) -> None:
        with self.changed:
            try:
                self.carry_out_orders()
            finally:
                self._owner = None
                self.changed.notify_all()

    def order(self, order: Order) -> None:
        """Have something done by whoever has the engine; at once, if nobody has."""
        self._orders.append(order)
        with self.changed:
            if self._owner is None:
                self._owner = threading.get_ident()
                self.let_go()

    def carry_out_orders(self) -> None:
        while self._orders:
            self._orders.popleft()()

    def wait_for(self, has_happened: Callable[[], bool]) -> None:
        with self.changed:
            self.changed.wait_for(has_happened)
