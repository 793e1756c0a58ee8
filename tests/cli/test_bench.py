"""`cullama bench` as a process: a short run of a small shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

QUICK = ["--contexts", "4,40", "--prefill", "20", "--tokens", "3", "--repeats", "1"]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cullama", "bench", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ)
    )


def test_a_report_for_machines_holds_limits_and_runs() -> None:
    shape = ("--config", "tinystories-656k", "--dtype", "float32")
    ended = bench(*shape, "--thread-counts", "1", "--json", *QUICK)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert [limit["threads"] for limit in report["yardsticks"]] == [1]
    assert [row["what"] for row in report["rows"]] == ["prefill 20", "decode at 4", "decode at 40"]
    assert report["weight_bytes"] == 2_621_440
    for row in report["rows"]:
        assert row["tokens_per_second"] > 0
        assert 0 < row["share"] < 5
        assert row["limit"] == ("sgemm" if row["what"].startswith("prefill") else "read")


def test_speculation_is_measured_where_asked_for() -> None:
    ended = bench(
        *("--config", "tinystories-656k", "--thread-counts", "1", "--json", *QUICK),
        *("--tokens", "40", "--speculation", "6"),
    )
    assert ended.returncode == 0, ended.stderr
    repetitive, varied = json.loads(ended.stdout)["guessing"]
    assert repetitive["text"] == "repeats itself"
    assert 0 < repetitive["right"] <= 1
    assert 1 < repetitive["tokens_per_step"] <= 7
    assert varied["tokens_per_step"] >= 1
    assert min(repetitive["speed_up"], varied["speed_up"]) > 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--config", "gpt-5"], "'gpt-5'"),
        (["--config", "tinystories-656k", "--model", "x"], "--config"),
        (["--config", "tinystories-656k", "--contexts", "9000"], "9048 tokens"),
        (["--contexts", "many"], "'many'"),
        (["--contexts", "0"], "'0'"),
        (["--thread-counts", "9999", "--config", "tinystories-656k"], "9999"),
        (["--tokens", "1"], "--tokens"),
        (["--threads", "1", "--thread-counts", "1"], "--thread-counts"),
    ],
)
def test_options_that_cannot_be_measured_are_misuse_in_one_line(
    arguments: list[str], named: str
) -> None:
    ended = bench(*arguments, "--quiet")
    assert ended.returncode == 2
    assert named in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert ended.stdout == ""
