"""A small model that was trained to tell stories, where one lies beside the repository."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = Path(__file__).parents[3] / "shared" / "models" / "story"

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason=f"no story model at {MODEL}")


def story(*arguments: str) -> str:
    command = [sys.executable, "-m", "cullama", "story", "--model", str(MODEL), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_story_ends_at_the_end_token_and_does_not_show_it(seed: int) -> None:
    told = json.loads(story("Once upon a time", "--seed", str(seed), "-n", "500", "--json"))
    assert told["finish_reason"] == "stop"
    assert len(told["text"].split()) > 30
    assert "<|" not in told["text"]


def test_prompt_and_story_are_printed() -> None:
    told = json.loads(story("Once upon a time", "--temperature", "0", "--json"))
    printed = story("Once upon a time", "--temperature", "0")
    assert printed == f"Once upon a time{told['text']}\n"
