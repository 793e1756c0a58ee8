"""Pages of their own: whole, hostile text in them, and one source of their look."""

import re
from pathlib import Path
from typing import get_args

import pytest

from cullama.benchmark.trace import PAGE as TRACE
from cullama.engine.request import Stage
from cullama.inspect.diff.report import PAGE as DIFF
from cullama.notebook.page import design, light_colour, mark, page, page_of, stylesheet
from cullama.notebook.tokens import shade
from cullama.server.http.page import FOLDER

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/cullama/notebook"


@pytest.mark.parametrize(
    ("link", "source"),
    [
        ("web/src/styles/design.css", "design.css"),
        ("web/public/mark.svg", "mark.svg"),
        ("docs/assets/design.css", "design.css"),
        ("docs/assets/mark.svg", "mark.svg"),
    ],
)
def test_the_servers_page_and_the_manual_link_to_the_one_source(link: str, source: str) -> None:
    assert (ROOT / link).resolve() == SOURCE / source


def test_colours_of_the_look_are_spelled_in_one_file() -> None:
    spelled = set(re.findall(r"#[0-9a-f]{6}\b", design()))
    drawn = [
        *ROOT.glob("web/src/**/*.css"),
        *ROOT.glob("docs/assets/*.css"),
        *ROOT.glob("src/cullama/**/*.css"),
        *ROOT.glob("src/cullama/notebook/*.py"),
    ]
    copies = {
        str(path)
        for path in drawn
        if path.resolve() != SOURCE / "design.css"
        and not path.is_relative_to(FOLDER)  # the built page has them, too
        and spelled & set(re.findall(r"#[0-9a-f]{6}\b", path.read_text("utf-8").lower()))
    }
    assert not copies
    assert len(spelled) > 20


@pytest.mark.parametrize("files", [TRACE, DIFF], ids=["trace", "diff"])
def test_every_page_has_the_whole_stylesheet_and_names_only_its_colours(files: Path) -> None:
    text = page_of(files, "a title", {"steps": [], "requests": []})
    assert stylesheet() in text
    defined = set(re.findall(r"(--[\w-]+):", text))
    assert set(re.findall(r"var\((--[\w-]+)\)", text)) <= defined


def test_the_trace_has_a_colour_for_every_stage_but_that_of_requests_that_are_not_there() -> None:
    text = page_of(TRACE, "a title", {"steps": [], "requests": []})
    drawn = set(get_args(Stage)) - {"unscheduled"}
    assert drawn <= set(re.findall(r"--(\w+):", text))
    assert 'stage === "unscheduled"' in text


def test_a_page_loads_nothing_and_says_so_to_the_browser() -> None:
    text = page("a title", "<p>body</p>", script="draw();", data=[1])
    assert "default-src 'none'" in text
    assert not re.search(r"src=|href=(?!\"data:)|url\(|@import", text)


def test_text_in_title_and_data_ends_no_tag() -> None:
    hostile = "</title></script><img src=x onerror=alert(1)>"
    text = page(hostile, "", script=";", data={hostile: [hostile]})
    assert "<img" not in text
    assert text.count("</script>") == 1


def test_data_that_json_cannot_spell_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        page("a title", "", script=";", data=float("nan"))


def test_notebooks_shade_in_the_accent_of_the_light_theme() -> None:
    assert f"--accent: light-dark(#{bytes(map(int, light_colour('accent').split(','))).hex()}" in (
        design()
    )
    assert light_colour("accent") in shade(0.5)
    assert mark().count("<path") == 1
