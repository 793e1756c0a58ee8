"""Draws the source lines of a kernel with what their execution was counted to do."""

from __future__ import annotations

from functools import cache
from html import escape
from pathlib import Path

from ...emulation.counting.counts import WARP, Counts
from ...emulation.ptx import Source
from ...emulation.timing.obstacles import place_of

SOURCES = Path(__file__).parents[4]  # of a checkout; a wheel has no kernels/
MAX_LINES = 12  # of a kernel, the slowest


def line_table(counts: Counts) -> str:
    """Return the lines at which most is waited or executed, with their counters."""
    waits, slots = sum(counts.waits.values()) or 1, counts.slots or 1
    weight = {line: c.waits / waits + c.slots / slots for line, c in counts.lines.items()}
    kept = sorted(weight, key=lambda line: -weight[line])[:MAX_LINES]
    rows = []
    for line in sorted(kept, key=str):
        found = counts.lines[line]
        mark = " class=hot" if line == kept[0] else ""
        figures = (
            *(f"{found.waits / waits:.0%}", f"{found.slots / slots:.0%}"),
            f"{WARP * (1 - found.idle_slots / found.slots):.0f}" if found.slots else "",
            *(f"{found.sectors:,}", f"{found.passes:,}"),
        )
        cells = "".join(f"<td class=num>{figure}" for figure in figures)
        texts = _texts(SOURCES / line.file) if isinstance(line, Source) else []
        number = line.line if isinstance(line, Source) else 0
        text = texts[number - 1] if 0 < number <= len(texts) else ""
        rows.append(f"<tr{mark}><td>{escape(place_of(line))}{cells}<td class=code>{escape(text)}")
    head = "<th>line" + "".join(
        f"<th class=num>{name}" for name in ("waits", "executes", "lanes", "sectors", "passes")
    )
    return f'<div class="scroll"><table><tr>{head}<th>{"".join(rows)}</table></div>'


@cache
def _texts(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
