"""A prompt through the model with somebody watching, who may change what it goes on with.

It knows runs of one prompt, and what a user's function may answer. What it is shown comes from
`watching.py`; a model that runs without a hook never comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..engine.validation import check_prompt_alone
from ..errors import UsageError
from ..files.tensor import HostArray
from ..model.batch import Chunk, build_batch
from .watching import Pass, Place, Watch, run_watched

if TYPE_CHECKING:
    from ..llm import LLM

Floats: TypeAlias = NDArray[np.float32]

# The place of an operator's call and what it gave, float32 [T, …] → what to go on with, or None.
Hook: TypeAlias = Callable[[Place, Floats], Any]


def watch(llm: LLM, tokens: list[int], hook: Hook, is_detailed: bool) -> Floats:
    """What the model predicts behind each token, [T, V], with all it gave shown to the hook.

    Raises:
        UsageError: an empty prompt, or ids outside the vocabulary; a hook that is none, or what
            it answers.
        ContextLengthError: a prompt longer than the context.
    """
    check_prompt(llm, tokens)
    change = checked_hook(hook)
    shown: list[HostArray] = []

    def show(place: Place, start: int, rows: HostArray) -> HostArray | None:
        other = change(place, start, rows)
        shown[:] = [rows if other is None else other]  # the last ones, which are the logits
        return other

    run(llm, tokens, show, len(tokens), is_detailed)
    return np.array(shown[0], np.float32)


def run(
    llm: LLM, tokens: list[int], watch: Watch, together: int, is_detailed: bool = False
) -> None:
    """The prompt through the model, so many tokens in a pass."""
    with llm.engine.exclusive() as insider:
        block_size = insider.block_size
        room = -(-len(tokens) // block_size) * block_size
        steps = passes(tokens, together, block_size)
        run_watched(insider.model, steps, room, watch, is_detailed)


def passes(tokens: Many[int], together: int, block_size: int) -> Iterator[Pass]:
    blocks = range(-(-len(tokens) // block_size))
    for start in range(0, len(tokens), together):
        part = tokens[start : start + together]
        batch = build_batch([Chunk(part, start, blocks, len(part))], block_size)
        yield Pass(batch, start, slice(0, len(part)))


def checked_hook(hook: Hook) -> Watch:
    """A user's hook: it gets float32, not to be written to, and answers with as many numbers."""
    if not callable(hook):
        raise UsageError(f"the hook is {hook!r:.80}, expected a function of a place and an array")

    def change(place: Place, start: int, rows: HostArray) -> HostArray | None:
        shown = rows.astype(np.float32)
        shown.flags.writeable = False  # or it would be lost without a word
        answer = hook(place, shown)
        return None if answer is None else _checked_answer(place, answer, rows)

    return change


def _checked_answer(place: Place, answer: Any, rows: HostArray) -> HostArray:
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


def check_prompt(llm: LLM, tokens: list[int]) -> None:
    """As `llm.logits` does, but for the room in the cache: these runs have one of their own."""
    check_prompt_alone(tokens, llm.engine.capacity)
