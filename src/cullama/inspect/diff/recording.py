"""Records one side's results, then runs the other and compares it, pass by pass.

The first side's results are kept on the host; of the second side only errors are kept, so its
model may be loaded after the first one is closed. The second side runs twice:

    accumulated   undisturbed: an error travels on through all layers
    own           after each operator the model continues with the first side's numbers, so that
                  every operator gets the first side's inputs, and its error is its own

In the second run the keys and values in the cache are the second side's, computed from the first
side's inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import NoTokenizerError, UsageError
from ..instrumented import overridden_composites
from .comparison import Comparison, Tolerance
from .figures import Gap
from .logits import LogitGap
from .section import Operation
from .storage import TOLERANCES, coarser, storage_type

if TYPE_CHECKING:
    from ...files.tensor import HostArray
    from ...model.config import ModelConfig
    from ..place import Place
    from .side import Side

# Fields of the config that must be equal for two models' operators to be comparable.
SHAPE_FIELDS = (
    "layers",
    "hidden_size",
    "intermediate_size",
    "heads",
    "kv_heads",
    "head_dim",
    "vocab_size",
)


@dataclass(frozen=True)
class Recording:
    """What a side's operators gave for a prompt."""

    description: str
    config: ModelConfig
    text: str | None  # the prompt, where it was a text
    tokens: list[int]
    texts: list[str]  # what each token spells
    is_detailed: bool
    storage: str
    overridden: tuple[str, ...]  # composite operators of the backend's own
    rows: dict[Place, HostArray] = field(repr=False)


def record(side: Side, prompt: str | Sequence[int], is_detailed: bool = False) -> Recording:
    """Run a text or token ids through a side and keep every operator's result.

    Raises:
        UsageError: an empty prompt, or ids outside the vocabulary.
        ContextLengthError: a prompt longer than the context.
        NoTokenizerError: a text, for a model without a tokenizer.
    """
    text = prompt if isinstance(prompt, str) else None
    tokens = _encoded(side, prompt) if isinstance(prompt, str) else list(prompt)
    side.check(tokens)
    parts: dict[Place, list[HostArray]] = {}

    def keep(place: Place, start: int, rows: HostArray) -> None:
        parts.setdefault(place, []).append(rows.copy())

    side.run(tokens, keep, is_detailed)
    storage, overridden = _backend_facts(side)
    return Recording(
        description=side.description,
        config=side.llm.config,
        text=text,
        tokens=list(map(int, tokens)),
        texts=_texts(side, tokens),
        is_detailed=is_detailed,
        storage=storage,
        overridden=overridden,
        rows={place: np.concatenate(parts.pop(place)) for place in list(parts)},
    )


def _encoded(side: Side, text: str) -> list[int]:
    return side.llm.tokenizer.encode_prompt(text, side.llm.config.bos_id)


def compare(recording: Recording, side: Side, tolerance: float | None = None) -> Comparison:
    """Run the recorded prompt through another side and return its errors.

    Args:
        recording: the first side's results, the reference.
        side: the second side.
        tolerance: of relative errors; None takes that of the coarser storage type.

    Raises:
        UsageError: models of different shapes or vocabularies, or a tolerance out of range.
        ContextLengthError: a prompt longer than this side's context.
    """
    _check_shapes(recording, side)
    _check_tokenizer(recording, side)
    side.check(recording.tokens)
    storage, overridden = _backend_facts(side)
    checked_tolerance = _tolerance(tolerance, coarser(recording.storage, storage))
    accumulated, own = _Gaps(recording, corrects=False), _Gaps(recording, corrects=True)
    for gaps in (accumulated, own):
        side.run(recording.tokens, gaps.observe, recording.is_detailed)
    return Comparison(
        sides=(recording.description, side.description),
        tokens=tuple(recording.tokens),
        texts=tuple(recording.texts),
        tolerance=checked_tolerance,
        operations=tuple(
            Operation(place, own.by_place[place].figures(), accumulated.by_place[place].figures())
            for place in recording.rows
        ),
        logits=accumulated.logits.figures(),
        is_detailed=recording.is_detailed,
        bypassed=(recording.overridden, overridden) if recording.is_detailed else ((), ()),
    )


class _Gaps:
    """Observes a run and sums up its errors; where it `corrects`, the model continues with the
    recorded numbers."""

    def __init__(self, recording: Recording, corrects: bool) -> None:
        self._rows, self._corrects = recording.rows, corrects
        self.by_place = {place: Gap(rows) for place, rows in recording.rows.items()}
        self._last = list(recording.rows)[-1]
        self.logits = LogitGap(recording.rows[self._last])

    def observe(self, place: Place, start: int, found: HostArray) -> HostArray | None:
        self.by_place[place].add(start, found)
        if place == self._last and not self._corrects:
            self.logits.add(start, found)
        return self._rows[place][start : start + len(found)] if self._corrects else None


def _backend_facts(side: Side) -> tuple[str, tuple[str, ...]]:
    """Return a side's storage type, and the composite operators of its backend's own."""
    with side.llm.engine.exclusive() as access:
        return storage_type(access.ops), overridden_composites(access.ops)


def _texts(side: Side, tokens: list[int]) -> list[str]:
    try:
        tokenizer = side.llm.tokenizer
    except NoTokenizerError:
        return [f"#{token}" for token in tokens]
    return [tokenizer.decode([token], skip_special_tokens=False) for token in tokens]


def _check_shapes(recording: Recording, side: Side) -> None:
    for name in SHAPE_FIELDS:
        expected, found = getattr(recording.config, name), getattr(side.llm.config, name)
        if expected != found:
            raise UsageError(
                f"{name} of the second side's model is {found}, of the first's {expected}; "
                "expected two models of one shape, such as a GGUF file and what it was made from"
            )


def _check_tokenizer(recording: Recording, side: Side) -> None:
    """Check that both sides encode a text alike: then their token ids mean the same."""
    if recording.text is None:
        return
    try:
        tokens = _encoded(side, recording.text)
    except NoTokenizerError:
        return
    if tokens != recording.tokens:
        raise UsageError(
            f"the second side's tokenizer reads the prompt as {_beginning(tokens)}, the first's as "
            f"{_beginning(recording.tokens)}; expected one vocabulary, or token ids as the prompt"
        )


def _beginning(tokens: list[int]) -> str:
    more = f" … ({len(tokens)} tokens)" if len(tokens) > 8 else ""
    return f"{tokens[:8]}{more}"


def _tolerance(asked: Any, storage: str) -> Tolerance:
    if asked is None:
        return Tolerance(TOLERANCES[storage], storage)
    if isinstance(asked, bool) or not isinstance(asked, int | float) or not 0 <= asked < 1e9:
        raise UsageError(f"tolerance is {asked!r}, expected a share like 1e-5, or 0 for equal bits")
    return Tolerance(float(asked), "as asked for")
