"""HTML of a completion: every token with its probability, and all of it escaped."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from math import log
from pathlib import Path
from typing import TypeAlias

import pytest

from cullama import LLM, Completion, SamplingParams
from cullama.sampling.params import TokenLogprobs
from cullama.text.completion import Timings

WriteModel: TypeAlias = Callable[..., Path]

PARAMS = SamplingParams(max_tokens=8, seed=3, ignore_eos=True)


class Page(HTMLParser):
    """What a browser makes of it."""

    def __init__(self, completion: Completion) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.titles: list[str] = []
        self.styles: list[str] = []
        self.text = ""
        self.feed(completion._repr_html_())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.tags.add(tag)
        self.attributes |= set(values)
        if "title" in values:
            self.titles.append(values["title"] or "")
            self.styles.append(values["style"] or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def completion_of(*texts: str, shares: tuple[float, ...] = (0.5,)) -> Completion:
    """A completion of these tokens; the first two are listed as the likeliest of each step."""
    ids = tuple(range(len(texts)))
    shares = (shares * len(texts))[: len(texts)]
    top = tuple((token, log(share)) for token, share in zip(ids, shares, strict=True))[:2]
    return Completion(
        text="".join(texts),
        token_ids=ids,
        finish_reason="length",
        logprobs=tuple(TokenLogprobs(i, log(shares[i]), top) for i in ids),
        prompt_tokens=5,
        cached_tokens=0,
        seed=7,
        timings=Timings(0.5, 2.0),
        token_texts=dict(enumerate(texts)),
    )


def test_every_token_shows_its_probability_and_its_alternatives() -> None:
    page = Page(completion_of("Once", " upon", " a", shares=(0.25, 0.5, 0.00001)))
    assert page.titles == [
        " 25.0 %  “Once”\n\n 25.0 %  “Once”\n 50.0 %  “ upon”",
        " 50.0 %  “ upon”\n\n 25.0 %  “Once”\n 50.0 %  “ upon”",
        "< 0.1 %  “ a”\n\n 25.0 %  “Once”\n 50.0 %  “ upon”",
    ]
    assert page.text.startswith("Once upon a")


def test_likelier_tokens_are_darker() -> None:
    page = Page(completion_of("a", "b", "c", shares=(0.1, 0.5, 1.0)))
    depths = [
        float(re.findall(r"[\d.]+", style.partition("background:")[2])[3]) for style in page.styles
    ]
    assert depths == sorted(depths)
    assert len(set(depths)) == 3


def test_finish_reason_counts_speed_and_seed_are_shown() -> None:
    page = Page(completion_of("a", "b", "c", "d"))
    assert "length · 4 tokens · 2.0 tok/s · prompt: 5 tokens · seed 7" in page.text
    cached = replace(completion_of("a"), cached_tokens=3, finish_reason="stop")
    assert "stop · 1 token · prompt: 5 tokens, 3 of them cached · seed 7" in Page(cached).text


def test_without_logprobs_it_is_plain_text_and_says_how_to_ask() -> None:
    page = Page(replace(completion_of("a <b> ", "c\n"), logprobs=None))
    assert page.text.startswith("a <b> c\n")
    assert page.titles == []
    assert "SamplingParams(logprobs=5) shows how sure the model was" in page.text
    assert "no text" in Page(replace(completion_of("a"), text="", logprobs=None)).text


def test_all_alternatives_are_shown() -> None:
    page = Page(
        replace(completion_of("one"), alternatives=(completion_of("two"), completion_of("three")))
    )
    assert page.text.index("one") < page.text.index("two") < page.text.index("three")
    assert "1 of 3 · length" in page.text
    assert "3 of 3 · length" in page.text
    assert len(page.titles) == 3


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' style='position:fixed",
    "</span></div><h1>",
    "&lt;b&gt;",
    "\u202egnp.exe",
    "\x00\x1b[31m\x07",
    "\ud800",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_model_output_is_escaped(text: str) -> None:
    """In tokens, in tooltips, and without logprobs."""
    marked = completion_of(text, text)
    for completion in (marked, replace(marked, logprobs=None)):
        page = Page(completion)
        assert page.tags <= {"div", "span"}
        assert page.attributes <= {"style", "title", "dir"}
    assert not set("\u202e\x00\x1b\x07\ud800") & set(marked._repr_html_())


def test_invisible_characters_are_made_visible() -> None:
    page = Page(completion_of("a\n", "\t", "\u202e", "\xa0", " b"))
    assert page.text.startswith("a⏎\n⇥\\u202e\\xa0 b")


# --- from a model


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> LLM:
    return LLM(tiny_model, backend="cpu")


def test_a_models_answer_shows_each_of_its_tokens(llm: LLM) -> None:
    completion = llm.generate("Once upon a", replace(PARAMS, logprobs=3, n=2))
    page = Page(completion)
    assert len(page.titles) == 16
    assert all(title.count("%") == 4 for title in page.titles)


def test_a_partial_completion_can_be_shown(llm: LLM) -> None:
    stream = llm.stream("Once upon a", replace(PARAMS, logprobs=1))
    assert Page(stream.completion).titles == []
    next(stream)
    assert 1 <= len(Page(stream.completion).titles) < 8
    stream.close()


def test_a_model_without_a_tokenizer_shows_token_ids(
    tmp_path_factory: pytest.TempPathFactory, write_model: WriteModel
) -> None:
    with LLM(write_model(tmp_path_factory.mktemp("models") / "ids"), backend="cpu") as llm:
        completion = llm.generate([3, 1], replace(PARAMS, logprobs=0, max_tokens=1))
        assert Page(completion).text.startswith(f"#{completion.token_ids[0]}")
