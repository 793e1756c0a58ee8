"""A comparison in words and as JSON, a table, a notebook's cell and a page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from planted import plant

from cullama import LLM
from cullama.files.tensor import HostArray
from cullama.inspect.diff import Comparison

PROMPT = "In the <b>naïve</b> little café 🦙"


def damage(result: HostArray) -> None:
    result[3, 5] += 2


def damage_with_nan(result: HostArray) -> None:
    result[3, 5] = nan


@pytest.fixture
def parted(llm: LLM, another: LLM) -> Comparison:
    return llm.diff(plant(another, "attention", 1, 2, damage), PROMPT)


@pytest.fixture
def with_nan(llm: LLM, another: LLM) -> Comparison:
    return llm.diff(plant(another, "attention", 1, 2, damage_with_nan), PROMPT)


@pytest.fixture(scope="module")
def agreed(llm: LLM, coarse: LLM) -> Comparison:
    return llm.diff(coarse, PROMPT, detail=True)


# --- in words


def test_the_verdict_names_the_first_place(parted: Comparison) -> None:
    verdict = parted.verdict
    assert verdict.startswith("differ at layer 1 · attention, token 3, column 5: error ")
    assert "beyond 2.0e-05 (float32): 1 of 12 operators" in verdict
    assert parted.drift.endswith("; first beyond the tolerance at layer 1 · attention")


def test_the_verdict_of_those_that_agree_names_the_largest_error(agreed: Comparison) -> None:
    worst = max(agreed.operations, key=lambda each: each.own.error)
    assert agreed.verdict.startswith("agree: every operator is within 3.2e-02 (bfloat16)")
    assert str(worst.place) in agreed.verdict


def test_the_verdict_of_equals(llm: LLM) -> None:
    same = llm.diff(llm, [5])
    assert same.verdict == "identical: every operator gives the same numbers on both sides"
    assert same.drift == "end to end: the same logits"


def test_one_token_has_one_next_token(llm: LLM, coarse: LLM) -> None:
    assert "; the same likeliest token;" in llm.diff(coarse, [5], tolerance=1e-6).drift


def test_what_is_no_number_is_no_small_error_either(with_nan: Comparison) -> None:
    (layer,) = (section for section in with_nan.sections if section.name == "layer 1")
    assert layer.relative == layer.accumulated == inf
    (row,) = (line for line in str(with_nan).splitlines() if "layer 1" in line and "│" in line)
    assert row.count("∞") == 3


def test_what_is_no_number_is_in_the_words_for_the_end_too(with_nan: Comparison) -> None:
    assert with_nan.drift == "end to end: logits that are NaN or infinite"


def test_tokens_that_turn_are_told_with_the_lead_they_lost(llm: LLM, another: LLM) -> None:
    def damage(logits: HostArray) -> None:
        logits[2] = -logits[2]

    comparison = llm.diff(plant(another, "logits", 0, 1, damage), PROMPT)
    (turn,) = comparison.logits.turns
    assert turn.position == 2
    assert f"1 of {len(comparison.tokens)} likeliest tokens differ" in comparison.drift
    assert f"after token 2: {turn.found} for {turn.expected}, which led by" in comparison.drift


def test_a_tolerance_can_be_asked_for(llm: LLM, coarse: LLM) -> None:
    assert not llm.diff(coarse, PROMPT, tolerance=0).agree
    assert llm.diff(coarse, PROMPT, tolerance=1).agree
    assert "1.0e+00 (as asked for)" in llm.diff(coarse, PROMPT, tolerance=1).verdict


# --- for machines


def test_json_holds_every_figure(agreed: Comparison) -> None:
    told = json.loads(json.dumps(agreed.as_json(), allow_nan=False))
    assert told["agree"] is True
    assert told["identical"] is False
    assert told["first"] is None
    assert told["detail"] is True
    assert told["tolerance"] == 0.032
    assert [layer["section"] for layer in told["layers"]] == [
        *("embedding", "layer 0", "layer 1", "head")
    ]
    for operation, one in zip(agreed.operations, told["operators"], strict=True):
        assert one["layer"] == operation.place.layer
        assert one["own"]["max_error"] == operation.own.max_error
        assert one["own"]["error"] == operation.own.error
        assert one["accumulated"]["rms_error"] == operation.accumulated.rms_error
    assert len(told["logits"]["positions"]["divergence"]) == len(told["tokens"])


def test_json_points_at_the_first_place(parted: Comparison) -> None:
    told = parted.as_json()
    first = told["operators"][told["first"]]
    assert (first["layer"], first["operator"]) == (1, "attention")
    assert (first["own"]["token"], first["own"]["column"]) == (3, 5)
    assert told["first_accumulated"] == told["first"]


def test_json_has_no_nan(with_nan: Comparison) -> None:
    told = json.loads(json.dumps(with_nan.as_json(), allow_nan=False))
    first = told["operators"][told["first"]]["own"]
    assert first["error"] is None
    assert first["found"] == "nan"
    assert first["not_finite"] == [0, 1]
    assert told["logits"]["max_divergence"] is None


def test_layers_add_up_their_operators(agreed: Comparison) -> None:
    for section in agreed.sections:
        own = [each.own for each in section.operations]
        assert section.worst.own.error == max(each.error for each in own)
        squares = sum(each.rms_error**2 * each.elements for each in own)
        sizes = sum(each.rms**2 * each.elements for each in own)
        assert section.relative == pytest.approx(np.sqrt(squares / sizes))


# --- for people


def test_the_table_has_a_row_for_each_layer_and_says_which_parts(parted: Comparison) -> None:
    lines = str(parted).splitlines()
    assert lines[0].startswith("first   tiny · safetensors F32")
    assert lines[1].startswith("second  tiny")
    rows = [line for line in lines if line.startswith("│ ")]
    assert [row.split("│")[1].strip() for row in rows] == [
        "embedding",
        "layer 0",
        "layer 1",
        "head",
    ]
    assert [row.split("│")[9].strip() for row in rows] == ["", "", "differs", ""]
    assert lines[-2:] == [parted.verdict, parted.drift]


def test_the_table_in_detail_has_a_row_for_each_operator(agreed: Comparison) -> None:
    text = str(agreed)
    assert len([line for line in text.splitlines() if line.startswith("│ ")]) == 23
    assert "second's own project_qkv, feed_forward not run" in text
    assert "rms_norm attention_norm" in text


class Tags(HTMLParser):
    """Whether every tag that is opened is closed, in order."""

    VOID = ("meta", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.links: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.seen.add(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def data_of(page: str) -> Any:
    found = re.search(r"^const data = (.*);$", page, re.MULTILINE)
    assert found is not None
    return json.loads(found[1])


def test_the_page_needs_nothing_else(agreed: Comparison) -> None:
    page = agreed.page()
    assert page.startswith("<!doctype html>")
    tags = Tags(page)
    assert {"script", "style", "h1"} <= tags.seen
    assert tags.links == []
    assert page.count("http") == page.count("http://www.w3.org/2000/svg"), "nothing is fetched"


def test_the_page_holds_the_figures(parted: Comparison) -> None:
    data = data_of(parted.page())
    assert data["verdict"] == parted.verdict
    assert not data["agree"]
    layer = data["sections"][2]
    attention = layer["operators"][1]
    assert (layer["name"], attention["name"]) == ("layer 1", "attention")
    assert parted.first is not None
    assert attention["own"]["error"] == pytest.approx(parted.first.own.error, rel=1e-2)
    assert layer["tokens"]["own"][3] == attention["own"]["error"]
    assert len(layer["tokens"]["accumulated"]) == len(data["texts"]) == len(parted.tokens)


def test_a_prompt_cannot_end_the_page_s_script(llm: LLM) -> None:
    page = llm.diff(llm, "</script><script>alert(1)</script>").page()
    assert page.count("</script>") == 1
    Tags(page)


def test_a_page_without_numbers_is_still_one(with_nan: Comparison) -> None:
    data = data_of(with_nan.page())
    assert data["sections"][2]["operators"][1]["own"]["error"] is None
    assert data["sections"][2]["tokens"]["own"][3] is None


@pytest.mark.parametrize("name", ["agreed", "parted", "with_nan"])
def test_a_notebook_shows_a_table_without_scripts(
    request: pytest.FixtureRequest, name: str
) -> None:
    comparison: Comparison = request.getfixturevalue(name)
    html = comparison._repr_html_()
    tags = Tags(html)
    assert {"table", "td"} <= tags.seen
    assert "script" not in tags.seen
    assert html.count("<tr>") == len(comparison.sections)
    assert ("rgba(214" in html) == (not comparison.agree)
