"""Counts the rows that a text takes on a terminal, where terminals agree on that.

They do on wide characters and on most marks. They do not on emoji that are joined, coloured or made
of letters, as flags are, nor on the spacing marks of Indic scripts: a cell, two, or none.
"""

from __future__ import annotations

import re
import unicodedata

from rich.cells import cell_len

# With what a joiner joins, variation selectors, skin colours, flags' letters and tags.
DISPUTED = re.compile(
    "\u200d.?|[\ufe0e\ufe0f\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
)


def rows_of(text: str, columns: int) -> int:
    """Count the rows from the start of the text to the cursor behind it."""
    rows = 0
    for line in text.split("\n"):
        rows, column = rows + 1, 0
        for character in line:
            width = cell_len(character)  # 2 for wide characters
            if column + width > columns:
                rows, column = rows + 1, 0
            column += width
    return rows


def is_row_count_certain(text: str, columns: int) -> bool:
    """Whether all terminals give the text the same number of rows."""
    if text.isascii():
        return True
    disputed = {index for found in DISPUTED.finditer(text) for index in range(*found.span())}
    disputed |= {index for index, it in enumerate(text) if unicodedata.category(it) == "Mc"}
    if not disputed:
        return True
    # Any two terminals lie between the one that gives these nothing and the one that gives two.
    without = "".join(it for index, it in enumerate(text) if index not in disputed)
    wide = "".join("東" if index in disputed else it for index, it in enumerate(text))
    return rows_of(without, columns) == rows_of(wide, columns)
