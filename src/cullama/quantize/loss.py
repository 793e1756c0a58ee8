"""What the types of a file cost: the source and the file, both computed in float32, on one text.

It knows how a text goes through a model, window by window; how far two predictions lie apart is
`divergence`'s. One model at a time is in memory, and beside it what the first one predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.checkpoint import Checkpoint
from ..errors import NumericalError, UsageError
from ..inspect.divergence import Divergence, divergence
from ..model.config import ModelConfig
from ..text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from ..llm import LLM

Progress = Callable[[int, int], None]  # (tokens done, tokens in all)
Load = Callable[[Path, int], "LLM"]  # a model's file, for a context of so many tokens, in float32
Watch = Callable[[str], AbstractContextManager[Progress]]  # what is under way, in words

WINDOW = 512  # tokens; each is read by itself, from the beginning of its context
MAX_TOKENS = 2048  # of a text …
MAX_LOGIT_BYTES = (
    512 << 20
)  # … and of the logits that are kept: fewer tokens for large vocabularies


def measured_loss(
    source: Checkpoint,
    path: Path,
    text: str,
    load: Load,
    watch: Watch = lambda what: nullcontext(lambda done, total: None),
) -> Divergence:
    """How far the file at `path` predicts otherwise than its source, over a text's beginning.

    Raises:
        NoTokenizerError: the source has none.
        UsageError: the text holds too few tokens to tell.
        NumericalError: what one of the two predicts is no number.
    """
    windows = cut(Tokenizer(source.load_tokenizer()), text, source.config)
    length = max(map(len, windows))
    with load(source.path, length) as llm, watch("reading a text with the model") as progress:
        expected = list(_predictions(llm, windows, progress))
    with load(path, length) as llm, watch("and with the file") as progress:
        found = _predictions(llm, windows, progress)
        parts = [
            divergence(expected.pop(0), logits, window)
            for window, logits in zip(windows, found, strict=True)
        ]
    whole = Divergence.joined(parts)
    if np.isnan(whole.mean):
        raise NumericalError(f"{path}: predicts what is no number; choose a type of more bits")
    return whole


def cut(tokenizer: Tokenizer, text: str, config: ModelConfig) -> list[list[int]]:
    """A text's beginning in windows, each behind the token that begins a text, if there is one."""
    before = tokenizer.encode("")[:1]
    most = min(MAX_TOKENS, MAX_LOGIT_BYTES // (4 * config.vocab_size))
    ids = tokenizer.encode(text, add_special_tokens=False)[:most]
    if len(ids) < 2:
        raise UsageError(f"the text holds {len(ids)} tokens, expected a page or so to tell a loss")
    step = max(1, min(WINDOW, config.context_length) - len(before))
    return [before + ids[first : first + step] for first in range(0, len(ids), step)]


def _predictions(
    llm: LLM, windows: list[list[int]], progress: Progress
) -> Iterator[NDArray[np.float32]]:
    """Logits of one window after the other, [T, V]."""
    done, total = 0, sum(map(len, windows))
    for window in windows:
        yield llm.logits(window)
        done += len(window)
        progress(done, total)
