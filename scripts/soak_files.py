"""Attacks cullama with hostile files, and prints the figures of F1 to F7 in docs/hostile-files.md.

    python scripts/soak_files.py [--mutants 10000] [--seed N]

One row for each goal: the goal, and what was reached. The attacks are modules of the tests.
Progress goes to standard error; the exit status is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ATTACKS = ("model_files_soak", "templates_soak", "tokenizers_soak")  # in tests/hostile


def main() -> None:
    parser = argparse.ArgumentParser(description="Attack cullama with hostile files.")
    parser.add_argument("--mutants", type=int, default=10_000, help="of each format")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "hostile")]
    print(f"seed {options.seed}, {options.mutants:,} mutants of each format")
    figures = [
        figure for name in ATTACKS for figure in _figures(name, options.mutants, options.seed)
    ]
    for figure in figures:
        _print(figure)
    sys.exit(0 if all(figure.is_met for figure in figures) else 1)


def _figures(name: str, mutants: int, seed: int) -> list[Any]:
    """Return a `list[Figure]`; the tests' modules can be imported only once the program runs."""
    print(f"{name} …", file=sys.stderr, end=" ", flush=True)
    started = time.perf_counter()
    figures: list[Any] = importlib.import_module(name).figures(mutants, seed)
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    return figures


def _print(figure: Any) -> None:
    verdict = "met   " if figure.is_met else "MISSED"
    first, *more = textwrap.wrap(figure.reached, 100)
    print(f"{figure.name:28} {verdict} goal: {figure.goal}\n{'':36}{first}")
    for line in more:
        print(f"{'':36}{line}")


if __name__ == "__main__":
    main()
