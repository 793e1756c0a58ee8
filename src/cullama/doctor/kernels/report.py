"""Writes a profile as a page of its own: a roofline, a table, and each launch with its lines.

It draws counters and predictions; it computes none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import prod
from pathlib import Path

from ...emulation.counting.counts import Counts
from ...emulation.timing.cards import Card
from ...emulation.timing.prediction import Prediction
from ...emulation.timing.profile import ProfiledLaunch
from ...errors import UsageError
from ...notebook.page import page
from .lines import line_table
from .roofline import Point, roofline

STYLE = Path(__file__).with_name("report.css")

CAUTION = (
    "Predicted by a model from what the emulated GPU counted, not measured. Rankings, and what "
    "holds a kernel back, are what it is for."
)


def write_report(path: Path, card: Card, rows: Sequence[ProfiledLaunch]) -> None:
    """Write the page of counted launches, in their order.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        path.write_text(report(card, rows), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}, expected a file to write") from None


def report(card: Card, rows: Sequence[ProfiledLaunch]) -> str:
    """Return the page of counted launches, in their order."""
    told = [(row, row.launch.counts, row.prediction) for row in rows]
    counted = [(row, counts, each) for row, counts, each in told if counts and each]
    whole = sum(row.times * row.microseconds for row in rows)
    parts = [
        f'<p class="facts">{escape(card.name)} · reads {card.read:g} TB/s of {card.datasheet:g} · '
        f"{card.sms} SMs at {card.clock:g} GHz · {card.gap:g} µs between two launches, not counted",
        f'<p class="note">{CAUTION}',
        "<h2>Roofline</h2>",
        roofline(card, [(n, row, Point.of(c, t)) for n, (row, c, t) in enumerate(counted, 1)]),
        '<p class="note">Operations of floating-point numbers over bytes from DRAM, both axes by '
        "decades. A float instruction counts as a multiply-add. Lines: what the card reads, and "
        "its rates of float and of tensor instructions.",
        "<h2>Slowest first</h2>",
        _table(card, [row for row, _, _ in counted], whole),
        "<h2>Launches</h2>",
        *(_launch(card, n, *each) for n, each in enumerate(counted, 1)),
    ]
    return page("Kernels, predicted", "\n".join(parts), style=STYLE.read_text(encoding="utf-8"))


def _rows(head: str, rows: Iterable[str]) -> str:
    return f'<div class="scroll"><table><tr>{head}{"".join(rows)}</table></div>'


def _cells(*cells: str) -> str:
    """Return a row whose cells begin with "#" where they are figures."""
    return "<tr>" + "".join(
        f"<td class=num>{escape(cell[1:])}" if cell.startswith("#") else f"<td>{escape(cell)}"
        for cell in cells
    )


def _table(card: Card, rows: Sequence[ProfiledLaunch], whole: float) -> str:
    head = (
        "<th class=num>#<th>operator<th>kernel<th>shape<th class=num>times<th class=num>µs"
        "<th class=num>share<th>held by<th class=num>of read<th>what holds it back"
    )
    lines = []
    for number, row in enumerate(rows, 1):
        first = next(iter(row.obstacles(card)), None)
        told = row.prediction
        shape = ", ".join(f"{name} {number}" for name, number in row.shape.items())
        lines.append(
            _cells(
                *(f"#{number}", row.case, row.launch.kernel, shape, f"#{row.times}"),
                *(f"#{row.microseconds:.2f}", f"#{row.times * row.microseconds / whole:.0%}"),
                *(told.limit if told else "", f"#{row.share_of_bandwidth(card):.0%}"),
                f"{first.what} {first.place}" if first else "",
            )
        )
    return _rows(head, lines)


def _launch(card: Card, number: int, row: ProfiledLaunch, counts: Counts, told: Prediction) -> str:
    launch = row.launch
    grid = "×".join(map(str, launch.grid))
    registers = row.resources.registers if row.resources else "?"
    facts = (
        f"kernels/{launch.file}.cu · {grid} blocks of {launch.threads} threads · "
        f"{registers} registers · {row.occupancy.blocks} blocks an SM ({row.occupancy.limit})"
    )
    found = [
        f"<li>{escape(each.what)}{' at ' * bool(each.place)}<code>{escape(each.place)}</code>: "
        f"{escape(each.detail)}. <span class=note>{escape(each.remedy)}</span>"
        for each in row.obstacles(card)
    ]
    return "\n".join(
        [
            f"<details{' open' if number <= 3 else ''}><summary>{number} · {escape(row.case)} · "
            f"{escape(launch.kernel)} · {told.microseconds:.2f} µs</summary>",
            f'<p class="facts">{escape(facts)}',
            f"<ul>{''.join(found)}</ul>" if found else "<p>Nothing of note holds it back.",
            f'<div class="two">{_terms(told)}{_counters(counts)}</div>',
            line_table(counts),
            "</details>",
        ]
    )


def _terms(told: Prediction) -> str:
    longest = max(told.terms.values())
    rows = []
    for name, term in sorted(told.terms.items(), key=lambda item: -item[1]):
        kind = "bar most" if name == told.limit else "bar"
        bar = f'<i class="{kind}" style="width:{8 * term / longest:.2f}rem"></i>'
        rows.append(f"<tr><td>{escape(name)}<td class=num>{term:.2f}<td>{bar}")
    return _rows("<th>limit alone<th class=num>µs<th>", rows)


def _counters(counts: Counts) -> str:
    rows = {
        "blocks that ran": f"{counts.blocks} of {prod(counts.grid):,}",
        "global bytes loaded, stored": _both(counts, "global"),
        "shared bytes loaded, stored": _both(counts, "shared"),
        "local bytes loaded, stored": _both(counts, "local"),
        "coalescing": f"{counts.coalescing:.0%}",
        "bank conflicts": f"{counts.bank_conflicts:,}",
        "machine instructions": f"{counts.slots:,}",
        "lanes at work": f"{counts.active_lanes:.1f} of 32",
        "loads in flight a warp": f"{counts.loads_in_flight:.1f}",
    }
    rows |= {f"instructions: {kind}": f"{count:,}" for kind, count in counts.kinds.items()}
    return _rows("<th>counter<th class=num>", (_cells(name, f"#{v}") for name, v in rows.items()))


def _both(counts: Counts, space: str) -> str:
    return f"{counts.bytes(space, stored=False):,}, {counts.bytes(space, stored=True):,}"
