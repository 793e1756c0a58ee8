"""A token as notebooks show it: visible, harmless, and shaded by how likely it was.

Model output is not to be trusted: all of it is escaped here. There is no script and no style
sheet, and colours let the page shine through, so that it suits any notebook and any theme.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_SIGNS = {"\n": "⏎", "\t": "⇥"}

SOFT = "opacity:.65"  # what is said about the tokens, beside them


def visible(text: str) -> str:
    """Nothing in it acts, or cannot be seen; spaces stay spaces."""
    return "".join(_SIGNS.get(c) or (c if c.isprintable() else _code(c)) for c in text)


def _code(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def percent(probability: float) -> str:
    if 0 < probability < 0.0005:
        return "< 0.1 %"
    return f"{100 * probability:.1f} %"


def shade(probability: float) -> str:
    """CSS: the surer, the darker."""
    return f"background:rgba(59,125,216,{0.04 + 0.56 * probability:.2f})"


def listed(candidates: Iterable[tuple[str, float]]) -> str:
    """Texts and their probabilities, line by line, for a `title`; not escaped yet."""
    return "\n".join(f"{percent(share):>7}  {quoted(text)}" for text, share in candidates)


def quoted(text: str) -> str:
    return f"“{visible(text)}”"


def attribute(text: str) -> str:
    """Escaped, line ends kept."""
    return escape(text).replace("\n", "&#10;")


def scale() -> str:
    """What the shades mean."""
    steps = (0.01, 0.25, 0.5, 0.75, 1.0)
    return "".join(
        f'<span style="padding:0 .4em;{shade(step)}">{100 * step:.0f} %</span>' for step in steps
    )
