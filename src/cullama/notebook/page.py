"""A page of its own: HTML that loads nothing, in the colours and type of every page cullama writes.

It draws no chart: the body, and the script that draws in it, are handed in. `design.css` beside
this file is the one source of colours and type: the server's page and the manual use it, too.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent

# Nothing is fetched, whatever a model's text or a file's name spells.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def page(title: str, body: str, *, style: str = "", script: str = "", data: Any = None) -> str:
    """Return a whole page with a mark and a heading before `body`, light or dark as its reader's
    system is.

        rows = "".join(f"<tr><td>{escape(name)}<td class=num>{us:.1f}" for name, us in times)
        table = f"<table><tr><th>kernel<th class=num>µs{rows}</table>"
        path.write_text(page("Where the time went", table), encoding="utf-8")

    `report.css` has what bodies are made of: tables (`.num` for figures), `.note` for small print,
    `.facts` for what was run, `.ok` and `.bad`, `pre` and `code`, `.scroll` around what is wide,
    `svg.chart` with `.axis`, `.key` with `<i>` for legends, and `.tip`. Colours are `var(--ink)`,
    `--ink2`, `--ink3`, `--accent`, `--copper`, `--danger`, `--soft`, `--sink`, `--line`, `--edge`.

    Args:
        title: text, which is escaped; the window's title and the page's heading.
        body: HTML, in which the caller has escaped what is text.
        style: more CSS.
        script: JavaScript that runs after the body; it must not contain "</script".
        data: for the script, which finds it as `data`; anything that JSON can spell.

    Raises:
        ValueError: `data` holds NaN or infinity.
    """
    parts = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>cullama: {escape(title)}</title>",
        f'<link rel="icon" href="data:image/svg+xml;base64,{b64encode(mark().encode()).decode()}">',
        f"<style>\n{stylesheet()}{style}</style>",
        f"<header>{mark_element()}<h1>{escape(title)}</h1></header>",
        body,
    ]
    if script:
        # "<" is escaped: text that spells "</script>" would end the script.
        text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        parts.append(f'<script>\n"use strict";\nconst data = {text};\n{script}</script>')
    return "\n".join([*parts, "</html>\n"])


def page_of(files: Path, title: str, data: Any) -> str:
    """Return the page whose body, style and script lie in `files` with .html, .css and .js."""
    body, style, script = (
        files.with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".html", ".css", ".js")
    )
    return page(title, body, style=style, script=script, data=data)


@cache
def stylesheet() -> str:
    """Return the look of these pages: `design.css`, then `report.css`."""
    return design() + (_FOLDER / "report.css").read_text(encoding="utf-8")


@cache
def design() -> str:
    return (_FOLDER / "design.css").read_text(encoding="utf-8")


@cache
def mark() -> str:
    """Return the mark as an SVG file: a llama whose ears are the two l of the name."""
    return (_FOLDER / "mark.svg").read_text(encoding="utf-8")


def mark_element() -> str:
    """Return the mark without a colour of its own: the page's style fills it."""
    path = mark()[mark().index("<path") : mark().index("</svg>")].strip()
    return f'<svg viewBox="0 0 24 24" aria-hidden="true">{path}</svg>'


@cache
def light_colour(name: str) -> str:
    """Return a colour of the light theme as "r,g,b", for HTML that may have no style sheet."""
    found = re.search(rf"--{re.escape(name)}: light-dark\(#([0-9a-f]{{6}})", design())
    assert found, f"design.css has no colour {name}"
    return ",".join(str(byte) for byte in bytes.fromhex(found[1]))
