"""Draws the source lines of a kernel with what their execution was counted to do."""

from __future__ import annotations

from functools import cache
from html import escape
from pathlib import Path

from ...emulation.counting.counts import Counts
from ...emulation.ptx import Source
from ...emulation.timing.obstacles import place_of

SOURCES = Path(__file__).parents[4]  # of a checkout; a wheel has no kernels/
MAX_LINES = 12  # of a kernel, the slowest


def line_table(counts: Counts) -> str:
    """Return the lines at which most is waited or executed, with their counters."""
    waits, slots = sum(counts.waits.values()) or 1, counts.slots or 1
    sectors = dict.fromkeys(counts.lines, 0)
    passes = dict.fromkeys(counts.lines, 0)
    for access in counts.accesses:
        line: Source | int = access.source or access.access.line
        sectors[line] = sectors.get(line, 0) + access.sectors
        passes[line] = passes.get(line, 0) + access.passes
    lines = {*counts.lines, *counts.waits}
    weight = {
        line: counts.waits.get(line, 0) / waits
        + (counts.lines[line].slots / slots if line in counts.lines else 0)
        for line in lines
    }
    kept = sorted(lines, key=lambda line: -weight[line])[:MAX_LINES]
    rows = []
    for line in sorted(kept, key=str):
        of_line = counts.lines.get(line)
        mark = " class=hot" if line == kept[0] else ""
        executed, idle = (of_line.slots, of_line.idle_slots) if of_line else (0, 0.0)
        figures = (
            *(f"{counts.waits.get(line, 0) / waits:.0%}", f"{executed / slots:.0%}"),
            *(f"{32 * (1 - idle / executed):.0f}" if executed else "",),
            *(f"{sectors.get(line, 0):,}", f"{passes.get(line, 0):,}"),
        )
        cells = "".join(f"<td class=num>{figure}" for figure in figures)
        texts = _texts(SOURCES / line.file) if isinstance(line, Source) else []
        number = line.line if isinstance(line, Source) else 0
        text = texts[number - 1] if number <= len(texts) and number else ""
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
