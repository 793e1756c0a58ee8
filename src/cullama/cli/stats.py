"""What `--stats` tells of a first start: the time in which kernels were compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..text.completion import Completion

MIN_SHOWN = 0.05  # seconds


def compiling_line(completion: Completion) -> str:
    """Return one line on the kernels compiled for the first token; "" where that took no time."""
    seconds = completion.timings.compiling
    if seconds < MIN_SHOWN:
        return ""
    return f"kernels: compiled in {seconds:.1f} s, which the next start is spared"
