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
from cullama.notebook.page import light_colour

PROMPT = "In the <b>naïve</b> little café 🦙"


def damage(result: HostArray) -> None:
    result[3, 5] += 2


def damage_with_nan(result: HostArray) -> None:
    result[3, 5] = nan


@pytest.fixture
def differing(llm: LLM, another: LLM) -> Comparison:
    return llm.diff(plant(another, "attention", 1, 2, damage), PROMPT)


@pytest.fixture
def with_nan(llm: LLM, another: LLM) -> Comparison:
    return llm.diff(plant(another, "attention", 1, 2, damage_with_nan), PROMPT)


@pytest.fixture(scope="module")
def agreed(llm: LLM, coarse: LLM) -> Comparison:
    return llm.diff(coarse, PROMPT, detail=True)


# --- in words


def test_the_verdict_names_the_first_operator_that_differs(differing: Comparison) -> None:
    verdict = differing.verdict
    assert verdict.startswith("differ at layer 1 · attention, token 3, column 5: error ")
    assert "beyond 2.0e-05 (float32): 1 of 12 operators" in verdict
    assert differing.drift.endswith("; first beyond the tolerance at layer 1 · attention")


def test_the_verdict_of_sides_that_agree_names_the_largest_error(agreed: Comparison) -> None:
    worst = max(agreed.operations, key=lambda each: each.own.error)
    assert agreed.verdict.startswith("agree: every operator is within 3.2e-02 (bfloat16)")
    assert str(worst.place) in agreed.verdict


def test_the_verdict_of_identical_sides(llm: LLM) -> None:
    same = llm.diff(llm, [5])
    assert same.verdict == "identical: every operator gives the same numbers on both sides"
    assert same.drift == "end to end: the same logits"


def test_a_prompt_of_one_token_has_one_likeliest_token(llm: LLM, coarse: LLM) -> None:
    assert "; the same likeliest token;" in llm.diff(coarse, [5], tolerance=1e-6).drift


def test_nan_gives_infinite_errors_in_the_table(with_nan: Comparison) -> None:
    (layer,) = (section for section in with_nan.sections if section.name == "layer 1")
    assert layer.relative == layer.accumulated == inf
    (row,) = (line for line in str(with_nan).splitlines() if "layer 1" in line and "│" in line)
    assert row.count("∞") == 3


def test_nan_logits_are_named_in_the_drift(with_nan: Comparison) -> None:
    assert with_nan.drift == "end to end: logits that are NaN or infinite"


def test_a_changed_likeliest_token_is_named_with_its_margin(llm: LLM, another: LLM) -> None:
    def damage(logits: HostArray) -> None:
        logits[2] = -logits[2]

    comparison = llm.diff(plant(another, "logits", 0, 1, damage), PROMPT)
    (turn,) = comparison.logits.turns
    assert turn.position == 2
    assert f"1 of {len(comparison.tokens)} likeliest tokens differ" in comparison.drift
    assert f"after token 2: {turn.found} for {turn.expected}, which led by" in comparison.drift


def test_a_given_tolerance_decides(llm: LLM, coarse: LLM) -> None:
    assert not llm.diff(coarse, PROMPT, tolerance=0).agree
    assert llm.diff(coarse, PROMPT, tolerance=1).agree
    assert "1.0e+00 (as asked for)" in llm.diff(coarse, PROMPT, tolerance=1).verdict


# --- for machines


def test_json_holds_every_figure(agreed: Comparison) -> None:
    result = json.loads(json.dumps(agreed.as_json(), allow_nan=False))
    assert result["agree"] is True
    assert result["identical"] is False
    assert result["first"] is None
    assert result["detail"] is True
    assert result["tolerance"] == 0.032
    assert [layer["section"] for layer in result["layers"]] == [
        *("embedding", "layer 0", "layer 1", "head")
    ]
    for operation, one in zip(agreed.operations, result["operators"], strict=True):
        assert one["layer"] == operation.place.layer
        assert one["own"]["max_error"] == operation.own.max_error
        assert one["own"]["error"] == operation.own.error
        assert one["accumulated"]["rms_error"] == operation.accumulated.rms_error
    assert len(result["logits"]["positions"]["divergence"]) == len(result["tokens"])


def test_json_gives_the_index_of_the_first_operator_that_differs(differing: Comparison) -> None:
    result = differing.as_json()
    first = result["operators"][result["first"]]
    assert (first["layer"], first["operator"]) == (1, "attention")
    assert (first["own"]["token"], first["own"]["column"]) == (3, 5)
    assert result["first_accumulated"] == result["first"]


def test_json_has_no_nan(with_nan: Comparison) -> None:
    result = json.loads(json.dumps(with_nan.as_json(), allow_nan=False))
    first = result["operators"][result["first"]]["own"]
    assert first["error"] is None
    assert first["found"] == "nan"
    assert first["not_finite"] == [0, 1]
    assert result["logits"]["max_divergence"] is None


def test_a_sections_error_is_the_rms_over_its_operators(agreed: Comparison) -> None:
    for section in agreed.sections:
        own = [each.own for each in section.operations]
        assert section.worst.own.error == max(each.error for each in own)
        squares = sum(each.rms_error**2 * each.elements for each in own)
        sizes = sum(each.rms**2 * each.elements for each in own)
        assert section.relative == pytest.approx(np.sqrt(squares / sizes))


# --- for people


def test_the_table_has_a_row_for_each_layer_and_marks_those_that_differ(
    differing: Comparison,
) -> None:
    lines = str(differing).splitlines()
    assert lines[0].startswith("first   tiny · safetensors F32")
    assert lines[1].startswith("second  tiny")
    rows = [line for line in lines if line.startswith("│ ")]
    assert [row.split("│")[1].strip() for row in rows] == [
        "embedding",
        "layer 0",
        "layer 1",
        "head",
    ]
    assert [row.split("│")[9].strip() for row in rows] == ["agrees", "agrees", "differs", "agrees"]
    assert lines[-2:] == [differing.verdict, differing.drift]


def test_the_table_in_detail_has_a_row_for_each_operator(agreed: Comparison) -> None:
    text = str(agreed)
    assert len([line for line in text.splitlines() if line.startswith("│ ")]) == 23
    assert "rms_norm attention_norm" in text


def test_the_table_in_detail_names_a_backend_s_own_composites(llm: LLM, numpys: LLM) -> None:
    text = str(llm.diff(numpys, PROMPT, detail=True))
    assert "second's own project_qkv, feed_forward not run" in text


class Tags(HTMLParser):
    """Whether every tag that is opened is closed, in order."""

    VOID = ("meta", "link", "br")

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


def test_the_page_loads_nothing_else(agreed: Comparison) -> None:
    page = agreed.page()
    assert page.startswith("<!doctype html>")
    tags = Tags(page)
    assert {"script", "style", "h1"} <= tags.seen
    assert all(link.startswith("data:") for link in tags.links)
    assert page.count("://") == page.count("http://www.w3.org/2000/svg"), "nothing is fetched"


def test_the_page_holds_the_figures(differing: Comparison) -> None:
    data = data_of(differing.page())
    assert data["verdict"] == differing.verdict
    assert not data["agree"]
    layer = data["sections"][2]
    attention = layer["operators"][1]
    assert (layer["name"], attention["name"]) == ("layer 1", "attention")
    assert differing.first is not None
    assert attention["own"]["error"] == pytest.approx(differing.first.own.error, rel=1e-2)
    assert layer["tokens"]["own"][3] == attention["own"]["error"]
    assert len(layer["tokens"]["accumulated"]) == len(data["texts"]) == len(differing.tokens)


def test_a_prompt_cannot_end_the_pages_script(llm: LLM) -> None:
    page = llm.diff(llm, "</script><script>alert(1)</script>").page()
    assert page.count("</script>") == 1
    Tags(page)


def test_a_page_holds_null_for_nan(with_nan: Comparison) -> None:
    data = data_of(with_nan.page())
    assert data["sections"][2]["operators"][1]["own"]["error"] is None
    assert data["sections"][2]["tokens"]["own"][3] is None


@pytest.mark.parametrize("name", ["agreed", "differing", "with_nan"])
def test_a_notebook_shows_a_table_without_scripts(
    request: pytest.FixtureRequest, name: str
) -> None:
    comparison: Comparison = request.getfixturevalue(name)
    html = comparison._repr_html_()
    tags = Tags(html)
    assert {"table", "td"} <= tags.seen
    assert "script" not in tags.seen
    assert html.count("<tr>") == len(comparison.sections)
    assert (f"rgba({light_colour('danger')}" in html) == (not comparison.agree)


def test_every_column_of_the_table_has_a_heading(differing: Comparison) -> None:
    lines = str(differing).splitlines()
    headings = [row.strip("┃").split("┃") for row in lines if row.startswith("┃")]
    assert len(headings) == 2
    named = [" ".join(map(str.strip, column)).strip() for column in zip(*headings, strict=True)]
    assert named[:2] == ["layer", "worst operator"]
    assert all(named)
    assert "agrees" in str(differing)
    assert any("given the first side's inputs" in line for line in lines)
