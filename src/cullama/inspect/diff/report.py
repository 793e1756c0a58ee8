"""Draws a comparison: a table for terminals, a table for notebooks, an HTML page with charts.

It formats and colours figures; it computes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import isfinite, log10
from pathlib import Path
from typing import Any, Protocol

from ...notebook.page import light_colour, page_of
from .figures import Figures
from .logits import LogitFigures
from .section import Section

PAGE = Path(__file__).with_name("page")

LEGEND = (
    "max, RMS and relative RMS error, and the error that is held against the tolerance: of each "
    "operator\nof the second side, given the first side's inputs. Accumulated: the relative RMS "
    "error when the second\nside goes its own way."
)

DECADES = 5  # below the tolerance, over which errors are shaded; smaller ones look like zero


class DrawnTolerance(Protocol):
    """What is drawn of a `Tolerance`."""

    @property
    def share(self) -> float: ...
    @property
    def source(self) -> str: ...


class DrawnComparison(Protocol):
    """What is drawn of a `Comparison`."""

    @property
    def sides(self) -> tuple[str, str]: ...
    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def texts(self) -> Sequence[str]: ...
    @property
    def tolerance(self) -> DrawnTolerance: ...
    @property
    def sections(self) -> Sequence[Section]: ...
    @property
    def logits(self) -> LogitFigures: ...
    @property
    def is_detailed(self) -> bool: ...
    @property
    def bypassed(self) -> tuple[Sequence[str], Sequence[str]]: ...
    @property
    def agree(self) -> bool: ...
    @property
    def verdict(self) -> str: ...
    @property
    def drift(self) -> str: ...


# --- in a terminal


def table(comparison: DrawnComparison) -> str:
    """Return a table with a row for each layer, of its worst operator; in detail, with a row
    for each operator."""
    from rich.console import Console
    from rich.table import Table

    rows = Table(
        "layer",
        "operator" if comparison.is_detailed else "worst operator",
        "max\nerror",
        "RMS\nerror",
        "relative\nRMS error",
        f"error\n≤ {_number(comparison.tolerance.share)}",
        "at token,\ncolumn",
        "accumulated\nRMS error",
        "verdict",
    )
    for section in comparison.sections:
        shown = section.operations if comparison.is_detailed else (section.worst,)
        for operation in shown:
            own, accumulated = operation.own, operation.accumulated.relative
            rows.add_row(
                section.name,
                operation.place.name if comparison.is_detailed or own.error else "",
                *map(_number, (own.max_error, own.rms_error, own.relative, own.error)),
                f"{own.point.token}, {own.point.column}" if own.point else "",
                _number(accumulated if comparison.is_detailed else section.accumulated),
                "differs" if own.error > comparison.tolerance.share else "agrees",
            )
    console = Console(width=120)
    with console.capture() as capture:
        console.print(rows)
    drawn = capture.get().rstrip("\n")
    return "\n".join([*_head(comparison), drawn, LEGEND, comparison.verdict, comparison.drift])


def _head(comparison: DrawnComparison) -> list[str]:
    first, second = comparison.sides
    tokens = len(comparison.tokens)
    lines = [f"first   {first}", f"second  {second}"]
    lines += [
        f"{side}'s own {', '.join(names)} not run: spelled out in smaller operators"
        for side, names in zip(("first", "second"), comparison.bypassed, strict=True)
        if names
    ]
    return [*lines, f"prompt  {tokens} token{'s' if tokens > 1 else ''}"]


def _number(value: float) -> str:
    if not isfinite(value):
        return "∞"
    return f"{value:.1e}" if value else "0"


# --- in a notebook


def notebook(comparison: DrawnComparison) -> str:
    """Return an HTML table without scripts and style sheets, which viewers may drop."""
    rows = ""
    for section in comparison.sections:
        cells = "".join(
            f'<td style="background:{_colour(each.own, comparison)}">'
            f"{escape(each.place.name)}<br>{_number(each.own.error)}</td>"
            for each in section.operations
        )
        accumulated = _number(section.accumulated)
        rows += f"<tr><th>{section.name}</th>{cells}<td>{accumulated}</td></tr>"
    lines = "<br>".join(map(escape, _head(comparison)))
    return (
        f"<p>{lines}</p><p><b>{escape(comparison.verdict)}</b><br>{escape(comparison.drift)}</p>"
        "<table><caption>each operator's own error; on the right, the relative RMS error that "
        f"accumulates</caption>{rows}</table>"
    )


def _colour(figures: Figures, comparison: DrawnComparison) -> str:
    """Return a CSS colour: green up to the tolerance, red beyond; translucent, for any theme."""
    error, tolerance = figures.error, comparison.tolerance.share
    if error > tolerance:
        return f"rgba({light_colour('danger')},.65)"
    if error == 0:
        return "transparent"
    decades = max(0.0, DECADES + log10(error / tolerance))
    return f"rgba({light_colour('accent')},{0.06 + 0.44 * decades / DECADES:.2f})"


# --- as a page


def page(comparison: DrawnComparison) -> str:
    """Return an HTML page with charts, which loads nothing else."""
    data = {
        "head": _head(comparison),
        "verdict": comparison.verdict,
        "drift": comparison.drift,
        "agree": comparison.agree,
        "tolerance": comparison.tolerance.share,
        "source": comparison.tolerance.source,
        "texts": list(comparison.texts),
        "sections": [_section(section) for section in comparison.sections],
        "logits": comparison.logits.as_json(),
    }
    return page_of(PAGE, "Two settings, operator by operator", data)


def _section(section: Section) -> dict[str, Any]:
    return {
        "name": section.name,
        "operators": [
            {
                "name": each.place.name,
                "own": _figures(each.own),
                "accumulated": _figures(each.accumulated),
            }
            for each in section.operations
        ],
        "tokens": {
            "own": _tokens([each.own for each in section.operations]),
            "accumulated": _tokens([each.accumulated for each in section.operations]),
        },
    }


def _figures(figures: Figures) -> dict[str, Any]:
    return {key: _short(value) for key, value in figures.as_json().items()}


def _tokens(figures: list[Figures]) -> list[Any]:
    """Return the largest error of each token over a section's operators."""
    by_token = zip(*(each.token_errors.tolist() for each in figures), strict=True)
    return [_short(max(errors)) for errors in by_token]


def _short(value: Any) -> Any:
    """Round a number to three digits, enough for a chart; NaN and infinity become null."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.3g}") if isfinite(value) else None
