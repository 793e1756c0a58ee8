"""HTML of the logit lens, as a table, and of attention, as maps.

It is handed numbers and texts; it runs no model and loads no tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, TypeAlias

from .page import light_colour
from .tokens import SOFT, attribute, listed, percent, quoted, scale, shade, visible

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Candidates: TypeAlias = "Sequence[tuple[int, float]]"  # token id, probability; likeliest first

MAX_LENS_ROWS = 48  # tokens, the last of the prompt
MAX_MAP_TOKENS = 64
SHOWN_CANDIDATES = 5

MIN_SHARE = 0.004  # that a map draws; less would be white


@dataclass(frozen=True, repr=False)
class Picture:
    """HTML that a notebook shows at the end of a cell."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


# --- the lens


def lens_table(
    tokens: Sequence[int],
    texts: Sequence[str],
    top: Sequence[Sequence[Candidates]],
    spelled: Mapping[int, str],
) -> str:
    """Draw the logit lens: tokens down, hidden states across, the likeliest next token in a cell.

    Args:
        tokens: the prompt's ids.
        texts: what each of them spells.
        top: candidates for each state, then for each of the prompt's last tokens.
        spelled: the text of every candidate, by id.
    """
    first = len(tokens) - len(top[0])
    states = ["embedding", *(f"after layer {layer}" for layer in range(len(top) - 1))]
    rows = []
    for row in range(first, len(tokens)):
        following = tokens[row + 1] if row + 1 < len(tokens) else None
        cells = "".join(
            _lens_cell(state[row - first], spelled, following, f"{where}, token {row}")
            for where, state in zip(states, top, strict=True)
        )
        own = f'<th style="{_CELL}">{_shown(texts[row])}</th>'
        next_text = "" if following is None else _shown(texts[row + 1])
        last = f'<td style="{_CELL};{SOFT}">{next_text}</td>'
        rows.append(f'<tr style="{_ROW}">{own}{cells}{last}</tr>')
    names = ["embedding", *map(str, range(len(top) - 1))]
    head = "".join(f'<th style="{_CELL};{SOFT}">{name}</th>' for name in ("", *names, "next"))
    missing = f"the last {len(rows)} of {len(tokens)} tokens · " if first else ""
    return (
        f'<div style="overflow-x:auto"><table style="{_TABLE}">'
        f'<tr style="{_ROW}">{head}</tr>{"".join(rows)}</table></div>'
        f'<div style="{SOFT};font-size:85%">{missing}after each token, the likeliest next one if '
        "the model ended with that layer; underlined where it is the prompt's next · "
        f"{scale()}</div>"
    )


_TABLE = "border-collapse:collapse;font-size:12px;color:inherit"
_ROW = "background:none"
_CELL = "text-align:left;padding:1px 5px;white-space:pre"
_LENS = f"{_CELL};max-width:6.5em;overflow:hidden;text-overflow:ellipsis"


def _lens_cell(
    candidates: Candidates, spelled: Mapping[int, str], following: int | None, where: str
) -> str:
    token, share = candidates[0]
    title = f"{where}\n{listed((spelled[token], share) for token, share in candidates)}"
    line = ";text-decoration:underline" if token == following else ""
    return (
        f'<td title="{attribute(title)}" style="{_LENS};{shade(share)}{line}">'
        f"{_shown(spelled[token])}</td>"
    )


def _shown(text: str) -> str:
    return escape(visible(text)).replace(" ", "·")


# --- attention


def attention_picture(
    texts: Sequence[str], layer: int, attention: Mapping[int, NDArray[np.float32]]
) -> Picture:
    """Draw a map for each head, or one with the tokens' names beside it.

    `attention`: by head, [T, T].
    """
    has_names = len(attention) == 1
    maps = "".join(_map(texts, shares, head, has_names) for head, shares in attention.items())
    return Picture(
        f'<div style="{SOFT};font-size:85%">layer {layer}: each token (down) attends to those '
        f'before it (across)</div><div style="display:flex;flex-wrap:wrap;gap:14px">{maps}</div>'
    )


def _map(texts: Sequence[str], attention: NDArray[np.float32], head: int, has_names: bool) -> str:
    size = 18 if has_names else max(2.0, 150 / len(texts))
    side, margin = size * len(texts), 90 if has_names else 1
    cells = ""
    for row in range(len(texts)):
        for column in range(row + 1):
            share = float(attention[row, column])
            if share < MIN_SHARE:
                continue
            title = f"{quoted(texts[row])} attends to {quoted(texts[column])}: {percent(share)}"
            cells += (
                f'<rect x="{column * size:.1f}" y="{row * size:.1f}" width="{size:.1f}" '
                f'height="{size:.1f}" fill="rgba({light_colour("accent")},{share:.3f})">'
                f"<title>{escape(title)}</title></rect>"
            )
    return (
        f'<div><div style="{SOFT};font-size:85%">head {head}</div>'
        f'<svg width="{margin + side + 1:.0f}" height="{margin + side + 1:.0f}" '
        'font-size="11" font-family="system-ui,sans-serif" fill="currentColor">'
        f'<g transform="translate({margin} {margin})">'
        f'<rect width="{side:.1f}" height="{side:.1f}" fill="none" stroke="rgba(128,128,128,.4)"/>'
        f"{cells}{_names(texts, size) if has_names else ''}</g></svg></div>"
    )


def _names(texts: Sequence[str], size: float) -> str:
    """Write the tokens down the left side, and slanted along the top."""
    parts = []
    for index, text in enumerate(texts):
        at, name = (index + 0.75) * size, _shown(text if len(text) <= 12 else f"{text[:11]}…")
        parts.append(f'<text x="-6" y="{at:.1f}" text-anchor="end">{name}</text>')
        turn = f'transform="translate({at:.1f} -6) rotate(-60)"'
        parts.append(f"<text {turn}>{name}</text>")
    return "".join(parts)
