"""The loss of a file is measured on a text, window by window, one model at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cullama
from cullama.checkpoint.opening import open_checkpoint
from cullama.errors import NoTokenizerError, NumericalError, UsageError
from cullama.inspect.divergence import divergence
from cullama.quantize import loss, measured_loss, quantize, sample_text
from cullama.text.tokenizer import Tokenizer

MODELS = Path(__file__).parents[1] / "fixtures" / "models"
TEXT = "Once upon a time a small llama went over the hill to see the sea. " * 12


def load(path: Path, context_length: int) -> cullama.LLM:
    return cullama.LLM(
        path,
        backend="cpu:numpy",
        dtype="float32",
        context_length=context_length,
        keep_converted=False,
    )


@pytest.fixture
def written(tmp_path: Path, tiny_model: Path) -> Callable[[str], Path]:
    """The tiny model in a type."""

    def write(dtype: str) -> Path:
        return quantize(open_checkpoint(tiny_model), tmp_path / f"{dtype}.gguf", dtype).path

    return write


def test_fewer_bits_lose_more(written: Any, tiny_model: Path) -> None:
    source = open_checkpoint(tiny_model)
    losses = [
        measured_loss(source, written(dtype), TEXT, load)
        for dtype in ("f32", "f16", "bf16", "q8_0", "q4_1", "q4_0")
    ]
    means = [each.mean for each in losses]
    assert means[0] == 0
    assert means == sorted(means)
    assert means[1] < 1e-5 < means[-1]
    assert (losses[0].same_top, losses[0].tokens) == (1, losses[-1].tokens)
    assert losses[-1].same_top < 1


def test_the_loss_is_that_of_the_logits_after_each_token(written: Any, tiny_model: Path) -> None:
    text = "The old clock struck twelve."
    path = written("q4_0")
    with load(tiny_model, 64) as source, load(path, 64) as coarse:
        ids = source.tokenizer.encode(text)
        expected = divergence(source.logits(ids), coarse.logits(ids), ids)
    found = measured_loss(open_checkpoint(tiny_model), path, text, load)
    assert found.as_json() == expected.as_json()


def test_one_model_at_a_time_is_open_and_progress_is_shown(written: Any, tiny_model: Path) -> None:
    happened: list[str] = []

    def watched(path: Path, context_length: int) -> cullama.LLM:
        llm = load(path, context_length)
        happened.append("open")
        close = llm.close

        def noted() -> None:
            happened.append("close")
            close()

        llm.close = noted  # type: ignore[method-assign]
        return llm

    @contextmanager
    def watch(what: str) -> Iterator[Callable[[int, int], None]]:
        happened.append(what)
        amounts: list[tuple[int, int]] = []
        yield lambda *amount: amounts.append(amount)
        assert amounts == sorted(amounts)
        assert amounts[-1][0] == amounts[-1][1] > 0

    measured_loss(open_checkpoint(tiny_model), written("q8_0"), TEXT, watched, watch)
    texts = ["reading with the model", "reading with the file"]
    assert happened == ["open", texts[0], "close", "open", texts[1], "close"]


# --- windows


def cut(text: str, **changes: Any) -> list[list[int]]:
    source = open_checkpoint(MODELS.parent / "text")
    tokenizer = Tokenizer(source.load_tokenizer())
    return loss.split_windows(tokenizer, text, replace(source.config, **changes))


def test_each_window_begins_with_bos() -> None:
    tokenizer = Tokenizer(open_checkpoint(MODELS.parent / "text").load_tokenizer())
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    [bos] = tokenizer.encode("")
    windows = cut(TEXT, context_length=50)
    assert [window[0] for window in windows] == [bos] * len(windows)
    assert [len(window) for window in windows[:-1]] == [50] * (len(windows) - 1)
    assert [index for window in windows for index in window[1:]] == ids[: loss.MAX_TOKENS]


def test_long_texts_are_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "MAX_TOKENS", 100)
    assert sum(len(window) - 1 for window in cut(TEXT, context_length=50)) == 100
    monkeypatch.setattr(loss, "MAX_LOGIT_BYTES", 70 * 4 * 600)
    assert sum(len(window) - 1 for window in cut(TEXT, context_length=50, vocab_size=600)) == 70
    assert max(len(window) for window in cut(TEXT, context_length=4096)) <= loss.WINDOW


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_of_fewer_than_two_tokens_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"holds {len(text)} tokens, expected about a page"):
        cut(text)


def test_the_sample_text_is_long_and_varied_enough() -> None:
    text = sample_text()
    assert 1000 < len(text.split()) < 1200
    assert all(kind in text for kind in ('"', "def ", "| ", "Question:", "2.25", "Dear "))
    assert text.isascii()


# --- what cannot be measured


def test_without_a_tokenizer_no_text_can_be_read(tmp_path: Path) -> None:
    source = open_checkpoint(MODELS / "llama_gqa")
    path = quantize(source, tmp_path / "m.gguf", "q8_0").path
    with pytest.raises(NoTokenizerError):
        measured_loss(source, path, TEXT, load)


def test_predictions_of_nan_raise(written: Any, tiny_model: Path) -> None:
    class Broken:
        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *ignored: object) -> None: ...

        def logits(self, ids: list[int]) -> Any:
            return np.full((len(ids), 300), np.nan, np.float32)

    def broken(path: Path, context_length: int) -> Any:
        return Broken() if path.suffix == ".gguf" else load(path, context_length)

    with pytest.raises(NumericalError, match=r"q8_0.gguf: predicts NaN"):
        measured_loss(open_checkpoint(tiny_model), written("q8_0"), TEXT, broken)
