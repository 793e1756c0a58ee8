"""Rendered answers can be copied off the screen: no padding, no indent, code line by line."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from cullama.cli.chat.markdown import print_markdown

CODE = """def add(left, right):
    return left + right  # a comment that is longer than a row of this terminal


print(add(1, 2))"""

BLOCKS = {
    "# A title": ["A title"],
    "## Another": ["Another"],
    "words that go on and on, over the edge": ["words that go on and", "on, over the edge"],
    "- one\n- two words that go on\n  - three": [
        "• one",
        "• two words that go",
        "  on",
        "  • three",
    ],
    "1. one\n2. two": ["1. one", "2. two"],
    "10. ten\n11. eleven": ["10. ten", "11. eleven"],
    "> a quote that goes on and on": ["▌ a quote that goes", "▌ on and on"],
    "| a | b |\n|---|--:|\n| long | 1 |": ["a     b", "───────", "long  1"],
    f"```python\n{CODE}\n```": CODE.splitlines(),
    "    indented = code": ["indented = code"],
    "- item\n\n  ```\n  a line of code that is long enough\n  ```": [
        "• item",
        "  a line of code that is long enough",
    ],
    "[bank](https://evil.example)": ["bank", "(https://evil.exampl", "e)"],
}


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_is_rendered_without_padding_or_indent(block: str, colour: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, width=20, force_terminal=colour, highlight=False)
    print_markdown(console, block)
    text = out.getvalue()
    assert ("\x1b[" in text) <= colour
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert plain.strip("\n").split("\n") == BLOCKS[block]
