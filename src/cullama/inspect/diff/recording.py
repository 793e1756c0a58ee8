"""One side on record, the other held against it, pass by pass as it runs.

The record of the first side lies on the host; of the second nothing is kept but figures, so its
model may be loaded after the first one's is gone. The second side runs twice:

    accumulated   it goes its own way, and an error travels on through all layers
    own           after each operator it is put back on the first side's numbers, so that every
                  operator gets the inputs that the first side's got, and answers for itself alone

In the second run the keys and values in the cache are the second side's own, made from the first
one's inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import NoTokenizerError, UsageError
from ...files.tensor import HostArray
from ...model.config import ModelConfig
from ..watching import Place, own_words
from .comparison import Comparison, Operation, Tolerance
from .figures import Gap
from .logits import LogitGap
from .side import Side
from .storage import TOLERANCES, coarser, storage_type

# What must be the same for the operators of two models to have anything to do with each other.
SHAPE = (
    *("layers", "hidden_size", "intermediate_size"),
    *("heads", "kv_heads", "head_dim", "vocab_size"),
)


@dataclass(frozen=True)
class Recording:
    """What a side's operators gave for a prompt."""

    description: str
    config: ModelConfig
    text: str | None  # the prompt, where it was one
    tokens: list[int]
    texts: list[str]  # of each token, for people
    is_detailed: bool
    storage: str
    own_words: tuple[str, ...]
    rows: dict[Place, HostArray] = field(repr=False)


def record(side: Side, prompt: str | Sequence[int], is_detailed: bool = False) -> Recording:
    """What the side gives for a text, or token ids.

    Raises:
        UsageError: an empty prompt, or ids outside the vocabulary.
        ContextLengthError: a prompt longer than the context.
        NoTokenizerError: a text, for a model that knows only ids.
    """
    text = prompt if isinstance(prompt, str) else None
    tokens = side.llm.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
    side.check(tokens)
    parts: dict[Place, list[HostArray]] = {}

    def keep(place: Place, start: int, rows: HostArray) -> None:
        parts.setdefault(place, []).append(rows.copy())

    side.run(tokens, keep, is_detailed)
    ops = side.llm.engine.runner.ops
    return Recording(
        description=side.description,
        config=side.llm.config,
        text=text,
        tokens=list(map(int, tokens)),
        texts=_texts(side, tokens),
        is_detailed=is_detailed,
        storage=storage_type(ops),
        own_words=own_words(ops),
        rows={place: np.concatenate(parts.pop(place)) for place in list(parts)},
    )


def compare(recording: Recording, side: Side, tolerance: float | None = None) -> Comparison:
    """The side held against the record; `tolerance`: None takes the coarser storage type's.

    Raises:
        UsageError: models of different shapes or vocabularies, or a tolerance that is none.
        ContextLengthError: a prompt longer than this side's context.
    """
    _check_shapes(recording, side)
    _check_reading(recording, side)
    side.check(recording.tokens)
    ops = side.llm.engine.runner.ops
    tolerated = _tolerance(tolerance, coarser(recording.storage, storage_type(ops)))
    accumulated, own = _Held(recording, corrects=False), _Held(recording, corrects=True)
    for held in (accumulated, own):
        side.run(recording.tokens, held.watch, recording.is_detailed)
    return Comparison(
        sides=(recording.description, side.description),
        tokens=tuple(recording.tokens),
        texts=tuple(recording.texts),
        tolerance=tolerated,
        operations=tuple(
            Operation(place, own.gaps[place].figures(), accumulated.gaps[place].figures())
            for place in recording.rows
        ),
        logits=accumulated.logits.figures(),
        is_detailed=recording.is_detailed,
        bypassed=(recording.own_words, own_words(ops)) if recording.is_detailed else ((), ()),
    )


class _Held:
    """Compares rows with those on record as they come; `corrects` has the record go on."""

    def __init__(self, recording: Recording, corrects: bool) -> None:
        self._rows, self._corrects = recording.rows, corrects
        self.gaps = {place: Gap(rows) for place, rows in recording.rows.items()}
        self._last = list(recording.rows)[-1]
        self.logits = LogitGap(recording.rows[self._last])

    def watch(self, place: Place, start: int, found: HostArray) -> HostArray | None:
        self.gaps[place].add(start, found)
        if place == self._last and not self._corrects:
            self.logits.add(start, found)
        return self._rows[place][start : start + len(found)] if self._corrects else None


def _texts(side: Side, tokens: list[int]) -> list[str]:
    try:
        tokenizer = side.llm.tokenizer
    except NoTokenizerError:
        return [f"#{token}" for token in tokens]
    return [tokenizer.decode([token], skip_special_tokens=False) for token in tokens]


def _check_shapes(recording: Recording, side: Side) -> None:
    for name in SHAPE:
        expected, found = getattr(recording.config, name), getattr(side.llm.config, name)
        if expected != found:
            raise UsageError(
                f"{name} of the second side's model is {found}, of the first's {expected}; "
                "expected two models of one shape, such as a GGUF file and what it was made of"
            )


def _check_reading(recording: Recording, side: Side) -> None:
    """Whether the same ids mean the same text to both."""
    if recording.text is None:
        return
    try:
        tokens = side.llm.tokenizer.encode(recording.text)
    except NoTokenizerError:
        return
    if tokens != recording.tokens:
        raise UsageError(
            f"the second side's tokenizer reads the prompt as {_some(tokens)}, the first's as "
            f"{_some(recording.tokens)}; expected one vocabulary, or token ids as the prompt"
        )


def _some(tokens: list[int]) -> str:
    more = f" … ({len(tokens)} tokens)" if len(tokens) > 8 else ""
    return f"{tokens[:8]}{more}"


def _tolerance(asked: Any, storage: str) -> Tolerance:
    if asked is None:
        return Tolerance(TOLERANCES[storage], storage)
    if isinstance(asked, bool) or not isinstance(asked, int | float) or not 0 <= asked < 1e9:
        raise UsageError(f"tolerance is {asked!r}, expected a share like 1e-5, or 0 for equal bits")
    return Tolerance(float(asked), "as asked for")
