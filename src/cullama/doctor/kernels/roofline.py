"""Draws launches below the roofs of a card: operations a second over operations a byte.

Williams et al., "Roofline", CACM 2009.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import log10, prod
from typing import TypeAlias

from ...emulation.counting.counts import Counts
from ...emulation.timing.cards import Card
from ...emulation.timing.prediction import TENSOR_PRODUCTS, Prediction
from ...emulation.timing.profile import ProfiledLaunch

Scale: TypeAlias = Callable[[float], float]

WIDTH, HEIGHT, LEFT, BOTTOM = 900, 340, 56, 34
RIGHT = WIDTH - 20
DECADES = (-2, 3)  # of operations a byte


@dataclass(frozen=True)
class Point:
    """A launch on the roofline: floating-point operations a byte of DRAM, and a second."""

    operations: float
    intensity: float

    @classmethod
    def of(cls, counts: Counts, told: Prediction) -> Point:
        """Count a float instruction of a lane as a multiply-add, 2 operations."""
        kinds, scale = counts.kinds, prod(counts.grid) / counts.blocks
        floats = (kinds.get("float", 0) + kinds.get("half", 0)) * counts.active_lanes
        products = kinds.get("tensor", 0) * TENSOR_PRODUCTS
        operations = 2 * (floats + products) * scale
        return cls(operations / told.microseconds * 1e6, operations / max(told.dram_bytes, 1.0))


def roofline(card: Card, points: Sequence[tuple[int, ProfiledLaunch, Point]]) -> str:
    """Return the chart; launches without floating-point operations are not on it."""
    rate = card.sms * card.clock * 1e9 * 2
    roofs = {"float": rate * card.sm.float_lanes, "tensor": rate * card.sm.tensor}
    top = log10(max(roofs.values())) + 0.3
    low = min([top - 5, *(log10(p.operations) - 0.3 for _, _, p in points if p.operations)])

    def x(intensity: float) -> float:
        at = min(max(log10(intensity), DECADES[0]), DECADES[1])
        return LEFT + (at - DECADES[0]) / (DECADES[1] - DECADES[0]) * (RIGHT - LEFT)

    def y(operations: float) -> float:
        return (top - max(log10(operations), low)) / (top - low) * (HEIGHT - BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 -8 {WIDTH} {HEIGHT + 8}" role="img">']
    parts += _axes(x, y, low, top)
    for name, roof in roofs.items():
        ridge = roof / (card.read * 1e12)
        start = max(10.0 ** DECADES[0], 10**low / (card.read * 1e12))
        begin = f"M{x(start):.1f} {y(start * card.read * 1e12):.1f}"
        path = f"{begin}L{x(ridge):.1f} {y(roof):.1f}H{RIGHT}"
        parts.append(f'<path class="roof" d="{path}"/>')
        parts.append(f'<text x="{RIGHT}" y="{y(roof) - 4:.1f}" text-anchor="end">{name}</text>')
    for number, row, point in points:
        if not point.operations:
            continue
        at = f"{x(point.intensity):.1f}", f"{y(point.operations):.1f}"
        title = escape(f"{row.case}, {row.launch.kernel}: {row.microseconds:.2f} µs")
        parts.append(
            f'<g class="dot"><title>{title}</title><circle cx="{at[0]}" cy="{at[1]}" r="5"/>'
            f'<text x="{at[0]}" y="{float(at[1]) - 8:.1f}">{number}</text></g>'
        )
    return f'<div class="scroll">{"".join(parts)}</svg></div>'


def _axes(x: Scale, y: Scale, low: float, top: float) -> Iterator[str]:
    floor = HEIGHT - BOTTOM
    for decade in range(DECADES[0], DECADES[1] + 1):
        at = x(10.0**decade)
        yield f'<path class="grid" d="M{at:.1f} 0V{floor}"/>'
        yield f'<text x="{at:.1f}" y="{floor + 14}" text-anchor="middle">{10.0**decade:g}</text>'
    names = {9: "1 GFLOP/s", 10: "10", 11: "100", 12: "1 TFLOP/s", 13: "10", 14: "100", 15: "1000"}
    for decade, name in names.items():
        if low <= decade <= top:
            at = y(10.0**decade)
            yield f'<path class="grid" d="M{LEFT} {at:.1f}H{RIGHT}"/>'
            yield f'<text x="{LEFT - 4}" y="{at + 4:.1f}" text-anchor="end">{name}</text>'
    yield f'<text x="{RIGHT}" y="{floor + 30}" text-anchor="end">operations a byte</text>'
