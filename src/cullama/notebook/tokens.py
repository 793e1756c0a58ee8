"""HTML of tokens: escaped, invisible characters made visible, shaded by probability.

Model output is not trusted: all of it is escaped here. There are no scripts and no style sheets,
and colours are translucent, to suit any notebook and theme. It draws no table and no page.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from .page import light_colour

_SIGNS = {"\n": "⏎", "\t": "⇥"}

SOFT = "opacity:.65"  # for notes beside the tokens


def visible(text: str) -> str:
    """Replace control and invisible characters by signs or escapes; spaces stay."""
    return "".join(
        _SIGNS.get(c)
        or (c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii"))
        for c in text
    )


def percent(probability: float) -> str:
    if 0 < probability < 0.0005:
        return "< 0.1 %"
    return f"{100 * probability:.1f} %"


def shade(probability: float) -> str:
    """Return CSS for a probability: the higher, the darker."""
    return f"background:rgba({light_colour('accent')},{0.04 + 0.56 * probability:.2f})"


def listed(candidates: Iterable[tuple[str, float]]) -> str:
    """Return texts and their probabilities line by line, for a `title`; not escaped."""
    return "\n".join(f"{percent(share):>7}  {quoted(text)}" for text, share in candidates)


def quoted(text: str) -> str:
    return f"“{visible(text)}”"


def attribute(text: str) -> str:
    """Escape a text for an attribute, with its line ends kept."""
    return escape(text).replace("\n", "&#10;")


def scale() -> str:
    """Return the legend of the shades."""
    steps = (0.01, 0.25, 0.5, 0.75, 1.0)
    return "".join(
        f'<span style="padding:0 .4em;{shade(step)}">{100 * step:.0f} %</span>' for step in steps
    )
