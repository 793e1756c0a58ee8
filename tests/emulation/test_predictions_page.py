"""docs/gpu/predictions.md says what the model says, and the model is as good as it claims."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def printed() -> str:
    command = [sys.executable, str(ROOT / "scripts" / "predictions.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "no CUDA compiler found" in done.stderr:
        pytest.skip("needs nvcc or NVRTC")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_says_what_the_model_says(printed: str) -> None:
    """But for what compilers of kernels differ in."""
    page = (ROOT / "docs" / "gpu" / "predictions.md").read_text(encoding="utf-8")
    for table in printed.strip().split("\n\n| step")[0], printed[printed.index("| step") :]:
        first = table.splitlines()[0]
        written = page[page.index(first) :][: len(table) + 200].splitlines()
        expected = table.strip().splitlines()
        numbers = [
            [float(n) for n in NUMBER.findall("\n".join(lines))]
            for lines in (written[: len(expected)], expected)
        ]
        renew = "run scripts/predictions.py with --write"
        for line, new in zip(written, expected, strict=False):
            assert NUMBER.sub("#", line) == NUMBER.sub("#", new), renew
        assert numbers[0] == pytest.approx(numbers[1], rel=0.03, abs=2), renew


def test_bandwidth_is_predicted_within_what_is_claimed(printed: str) -> None:
    fitted, tested = re.findall(r"([\d.]+)% over \d+", printed)
    assert float(fitted) < 10
    assert float(tested) < 10
    rows = [
        row.split("|") for row in printed.splitlines() if " → " in row and "by threads" not in row
    ]
    means = [float(row[5].strip().rstrip("%")) for row in rows]
    assert len(means) == 16
    assert max(means) < 15


def test_steps_of_others_are_predicted_within_a_fifth(printed: str) -> None:
    errors = re.findall(r"\| [\d.]+ (?:µs|tok/s) \| \d+ \| ([+-][\d.]+)% \|", printed)
    assert len(errors) == 10
    assert max(abs(float(error)) for error in errors) < 20
