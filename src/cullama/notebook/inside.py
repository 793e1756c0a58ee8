"""The inside of a model in a notebook: the lens as a table, attention as maps.

It knows numbers and tokens, no model, and draws with `token_html.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..text.token_texts import token_texts
from .tokens import SOFT, attribute, listed, percent, quoted, scale, shade, visible

if TYPE_CHECKING:
    from ..inspect.hook import Floats
    from ..inspect.inside import Candidates, Inside

MOST_ROWS = 48  # of a table
MOST_TOKENS = 64  # of a map
CANDIDATES = 5

FAINT = 0.004  # less than this is white


@dataclass(frozen=True, repr=False)
class Picture:
    """HTML that stands for itself: shown at the end of a notebook's cell."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


# --- the lens


def lens_table(inside: Inside) -> str:
    """Tokens down, states across; in each cell, what the model would say if it ended there."""
    top = inside.lens_top(CANDIDATES, MOST_ROWS)
    texts = token_texts(
        inside.tokenizer, (token for state in top for row in state for token, _ in row)
    )
    first = len(inside.tokens) - len(top[0])
    rows = "".join(
        _lens_row(inside, first + row, [state[row] for state in top], texts)
        for row in range(len(top[0]))
    )
    names = ["embedding", *map(str, range(inside.layers))]
    head = "".join(f'<th style="{_CELL};{SOFT}">{name}</th>' for name in ("", *names, "next"))
    missing = f"the last {MOST_ROWS} of {len(inside.tokens)} tokens · " if first else ""
    return (
        f'<div style="overflow-x:auto"><table style="{_TABLE}">'
        f'<tr style="{_ROW}">{head}</tr>{rows}</table></div>'
        f'<div style="{SOFT};font-size:85%">{missing}behind each token, what would come '
        f"next if the model ended with that layer; underlined where it does · {scale()}</div>"
    )


_TABLE = "border-collapse:collapse;font-size:12px;color:inherit"
_ROW = "background:none"
_CELL = "text-align:left;padding:1px 5px;white-space:pre"
_LENS = f"{_CELL};max-width:6.5em;overflow:hidden;text-overflow:ellipsis"


def _lens_row(inside: Inside, row: int, states: Sequence[Candidates], texts: dict[int, str]) -> str:
    is_last = row + 1 == len(inside.tokens)
    after = None if is_last else inside.tokens[row + 1]
    cells = "".join(
        _lens_cell(candidates, texts, after, f"{_state(state)}, token {row}")
        for state, candidates in enumerate(states)
    )
    own = f'<th style="{_CELL}">{_shown(inside.texts[row])}</th>'
    coming = "" if is_last else _shown(inside.texts[row + 1])
    return f'<tr style="{_ROW}">{own}{cells}<td style="{_CELL};{SOFT}">{coming}</td></tr>'


def _lens_cell(candidates: Candidates, texts: dict[int, str], after: int | None, where: str) -> str:
    token, share = candidates[0]
    title = f"{where}\n{listed((texts[token], share) for token, share in candidates)}"
    line = ";text-decoration:underline" if token == after else ""
    return (
        f'<td title="{attribute(title)}" style="{_LENS};{shade(share)}{line}">'
        f"{_shown(texts[token])}</td>"
    )


def _state(state: int) -> str:
    return f"behind layer {state - 1}" if state else "embedding"


def _shown(text: str) -> str:
    return escape(visible(text)).replace(" ", "·")


# --- attention


def attention_picture(inside: Inside, layer: int, heads: list[int]) -> Picture:
    """A square for each head, or one with the tokens beside it."""
    tokens = len(inside.tokens)
    if tokens > MOST_TOKENS:
        raise UsageError(
            f"a map of {tokens} tokens is too fine, expected at most {MOST_TOKENS}: take a shorter "
            "prompt, or the numbers of attention_in(layer)"
        )
    attention = inside.attention_in(layer)
    has_names = len(heads) == 1
    maps = "".join(_map(inside.texts, attention[head], head, has_names) for head in heads)
    return Picture(
        f'<div style="{SOFT};font-size:85%">layer {layer}: each token (down) listens to those '
        f'before it (across)</div><div style="display:flex;flex-wrap:wrap;gap:14px">{maps}</div>'
    )


def _map(texts: Sequence[str], attention: Floats, head: int, has_names: bool) -> str:
    size = 18 if has_names else max(2.0, 150 / len(texts))
    side, margin = size * len(texts), 90 if has_names else 1
    cells = "".join(
        _square(texts, row, column, float(attention[row, column]), size)
        for row in range(len(texts))
        for column in range(row + 1)
        if attention[row, column] >= FAINT
    )
    return (
        f'<div><div style="{SOFT};font-size:85%">head {head}</div>'
        f'<svg width="{margin + side + 1:.0f}" height="{margin + side + 1:.0f}" '
        'font-size="11" font-family="system-ui,sans-serif" fill="currentColor">'
        f'<g transform="translate({margin} {margin})">'
        f'<rect width="{side:.1f}" height="{side:.1f}" fill="none" stroke="rgba(128,128,128,.4)"/>'
        f"{cells}{_names(texts, size) if has_names else ''}</g></svg></div>"
    )


def _square(texts: Sequence[str], row: int, column: int, share: float, size: float) -> str:
    title = f"{quoted(texts[row])} listens to {quoted(texts[column])}: {percent(share)}"
    return (
        f'<rect x="{column * size:.1f}" y="{row * size:.1f}" width="{size:.1f}" '
        f'height="{size:.1f}" fill="rgba(59,125,216,{share:.3f})">'
        f"<title>{escape(title)}</title></rect>"
    )


def _names(texts: Sequence[str], size: float) -> str:
    """Down the left side, and slanting along the top."""
    parts = []
    for index, text in enumerate(texts):
        at, name = (index + 0.75) * size, _shown(text if len(text) <= 12 else f"{text[:11]}…")
        parts.append(f'<text x="-6" y="{at:.1f}" text-anchor="end">{name}</text>')
        turn = f'transform="translate({at:.1f} -6) rotate(-60)"'
        parts.append(f"<text {turn}>{name}</text>")
    return "".join(parts)
