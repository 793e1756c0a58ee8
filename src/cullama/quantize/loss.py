"""Measures what a file's types lose: source and file on one text, both computed in float32.

The text is read in windows. One model is in memory at a time, beside the logits of the first. The
divergence itself is computed by `inspect/divergence.py`.
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
Load = Callable[[Path, int], "LLM"]  # (path, context length) → the model, in float32
ShowProgress = Callable[[str], AbstractContextManager[Progress]]  # of a task named in words

WINDOW = 512  # tokens; each starts with an empty context
MAX_TOKENS = 2048  # of a text …
MAX_LOGIT_BYTES = (
    512 << 20
)  # … and of the logits that are kept: fewer tokens for large vocabularies


def measured_loss(
    source: Checkpoint,
    path: Path,
    text: str,
    load: Load,
    show_progress: ShowProgress = lambda what: nullcontext(lambda done, total: None),
) -> Divergence:
    """Measure how the predictions of the file at `path` diverge from its source's on a text.

    Raises:
        NoTokenizerError: the source has none.
        UsageError: the text holds fewer than two tokens.
        NumericalError: one of the two predicts NaN.
    """
    windows = split_windows(Tokenizer(source.load_tokenizer()), text, source.config)
    length = max(map(len, windows))
    with (
        load(source.path, length) as llm,
        show_progress("reading with the model") as progress,
    ):
        expected = list(_predictions(llm, windows, progress))
    with load(path, length) as llm, show_progress("reading with the file") as progress:
        found = _predictions(llm, windows, progress)
        parts = [
            divergence(expected.pop(0), logits, window)
            for window, logits in zip(windows, found, strict=True)
        ]
    whole = Divergence.joined(parts)
    if np.isnan(whole.mean):
        raise NumericalError(f"{path}: predicts NaN; choose a type of more bits")
    return whole


def split_windows(tokenizer: Tokenizer, text: str, config: ModelConfig) -> list[list[int]]:
    """Split the first tokens of a text into windows, each after BOS if the model has one."""
    before = tokenizer.encode("")[:1]
    max_tokens = min(MAX_TOKENS, MAX_LOGIT_BYTES // (4 * config.vocab_size))
    ids = tokenizer.encode(text, add_special_tokens=False)[:max_tokens]
    if len(ids) < 2:
        raise UsageError(f"the text holds {len(ids)} tokens, expected about a page of text")
    step = max(1, min(WINDOW, config.context_length) - len(before))
    return [before + ids[first : first + step] for first in range(0, len(ids), step)]


def _predictions(
    llm: LLM, windows: list[list[int]], progress: Progress
) -> Iterator[NDArray[np.float32]]:
    """Yield the logits of each window, float32 [T, V]."""
    done, total = 0, sum(map(len, windows))
    for window in windows:
        yield llm.logits(window)
        done += len(window)
        progress(done, total)
