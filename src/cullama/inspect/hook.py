"""Runs one prompt with a user's hook, which sees every operator's result and may replace it.

It checks what the hook returns; the operators that call it are in `instrumented.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..engine.validation import check_prompt_alone
from ..errors import UsageError
from .instrumented import run_instrumented
from .passes import blocks_for, prompt_passes

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..files.tensor import HostArray
    from .instrumented import Observer
    from .place import Place

Floats: TypeAlias = NDArray[np.float32]

# place, the operator's result in float32 [T, …] → numbers to continue with, or None.
Hook: TypeAlias = Callable[["Place", Floats], Any]


def watch(engine: Engine, tokens: list[int], hook: Hook, is_detailed: bool) -> Floats:
    """Run a prompt with a hook and return the logits of each token, [T, V].

    Raises:
        UsageError: an empty prompt, or ids outside the vocabulary; a hook that is not a function,
            or returns something else than an array of the result's shape.
        ContextLengthError: a prompt longer than the context.
    """
    check_prompt_alone(tokens, engine.capacity)
    observer = observer_of(hook)
    last: HostArray | None = None

    def observe(place: Place, start: int, rows: HostArray) -> HostArray | None:
        nonlocal last
        changed = observer(place, start, rows)
        last = rows if changed is None else changed
        return changed

    with engine.exclusive() as access:
        passes = prompt_passes(tokens, access.block_size)
        blocks = blocks_for(tokens, access.block_size)
        run_instrumented(access, passes, blocks, observe, is_detailed)
    return np.array(last, np.float32)  # the last operator gives the logits


def observer_of(hook: Hook) -> Observer:
    """Return an observer that calls a user's hook, with float32 arrays that are read-only."""
    if not callable(hook):
        raise UsageError(f"the hook is {hook!r:.80}, expected a function of a place and an array")

    def observe(place: Place, start: int, rows: HostArray) -> HostArray | None:
        array = rows.astype(np.float32)
        array.flags.writeable = False  # writes would be lost silently
        answer = hook(place, array)
        if answer is None:
            return None
        try:
            numbers = np.asarray(answer, np.float32)
        except (TypeError, ValueError):
            numbers = None
        if numbers is None or numbers.shape != rows.shape:
            found = type(answer).__name__ if numbers is None else f"shape {numbers.shape}"
            raise UsageError(
                f"the hook's answer at {place} is of {found}, expected {rows.shape} or None"
            )
        return numbers.astype(rows.dtype)

    return observe
