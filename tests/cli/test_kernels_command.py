"""`cullama kernels list` and `profile`, on the emulated GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gpu
import pytest
from command_line import CommandLine, Ended


@pytest.fixture(autouse=True)
def _emulation() -> None:
    gpu.require_emulated()


def rows_of(ended: Ended) -> list[dict[str, Any]]:
    assert (ended.code, ended.err) == (0, "")
    return json.loads(ended.out)


def test_list_names_kernel_and_file_of_every_operator(
    cullama_command: CommandLine, tiny_model: Path
) -> None:
    rows = rows_of(cullama_command("kernels", "list", "-m", tiny_model, "--json"))
    kernels = {row["operator"]: (row["kernel"], row["file"]) for row in rows}
    assert kernels["rms_norm"] == ("rms_norm_bf16", "kernels/rms_norm.cu")
    assert kernels["linear, one row"] == ("gemv_bf16", "kernels/linear.cu")
    assert kernels["matmul"] == ("matmul_bf16", "kernels/broadcast.cu")
    assert all((Path(__file__).parents[2] / row["file"]).is_file() for row in rows)
    assert {"embed", "silu_mul", "attention, decode", "sample, drawn"} <= set(kernels)
    assert not any("counters" in row for row in rows)


def test_profile_counts_what_an_operator_moves(
    cullama_command: CommandLine, tiny_model: Path
) -> None:
    arguments = ("silu_mul", "-m", tiny_model, "--dtype", "float32", "--card", "a100", "--json")
    (row,) = rows_of(cullama_command("kernels", "profile", *arguments))
    rows, inner = 128, 48  # tokens of a prompt; the tiny model's inner width
    assert (row["kernel"], row["grid"]) == ("silu_mul_f32", [rows, 1, 1])
    counters = row["counters"]
    share = counters["blocks_that_ran"] / rows
    assert counters["bytes_loaded"]["global"] == rows * share * 2 * inner * 4
    assert counters["bytes_stored"]["global"] == rows * share * inner * 4
    assert counters["coalescing"] == 1
    assert row["predicted"]["microseconds"] > 0
    assert row["predicted"]["limit"] in row["predicted"]["terms"]
    lines = row["lines"]
    assert sum(line["machine_instructions"] for line in lines) == counters["machine_instructions"]
    moved = counters["sectors_loaded"] + counters["sectors_stored"]
    assert sum(line["sectors"] for line in lines) == moved
    assert any(line["line"].startswith("silu_mul.cu:") for line in lines)


def test_a_table_and_a_page_have_the_slowest_launch_first(
    cullama_command: CommandLine, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "profile.html"
    options = ("-m", tiny_model, "--html", path)
    ended = cullama_command("kernels", "profile", "rms_norm", "silu_mul", *options)
    assert ended.code == 0
    header, *rows = [line for line in ended.out.splitlines() if line.strip()]
    assert header.split()[:5] == ["operator", "kernel", "grid", "times", "µs"]
    times = [float(row[row.index("×") :].split()[2]) for row in rows if "×" in row]
    assert times == sorted(times, reverse=True)
    assert len(times) == 2
    assert "predicted for h200" in ended.out
    page = path.read_text(encoding="utf-8")
    assert page.count("<details") == page.count('<g class="dot">') == 2
    assert "squares += v * v;" in page  # a line of kernels/rms_norm.cu
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")


def test_a_decode_step_of_a_config_needs_no_weights(cullama_command: CommandLine) -> None:
    """Nine launches a layer, of which two are norms, and six more."""
    arguments = ("decode step", "--config", "llama-3.2-1b", "--shape", "context=88", "--json")
    rows = rows_of(cullama_command("kernels", "list", *arguments))
    times = {row["kernel"]: 0 for row in rows}
    for row in rows:
        times[row["kernel"]] += row["times"]
    assert times["rms_norm_bf16"] == 2 * 16 + 1
    assert times["gemv_bf16"] == 4 * 16
    assert times["attention_64_bf16"] == times["silu_mul_bf16"] == 16
    assert times["gemv_bf16_to_f32"] == times["sample_f32"] == 1
    assert sum(times.values()) == 9 * 16 + 6


def test_an_operator_is_taken_at_each_shape(cullama_command: CommandLine) -> None:
    shapes = ["rows=2,columns=64", "rows=3,columns=4096"]
    arguments = [part for shape in shapes for part in ("--shape", shape)]
    rows = rows_of(cullama_command("kernels", "list", "rms_norm", *arguments, "--json"))
    assert [(row["shape"], row["grid"]) for row in rows] == [
        ({"rows": 2, "columns": 64}, [2, 1, 1]),
        ({"rows": 3, "columns": 4096}, [3, 1, 1]),
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("list", "softmax"), "there is no operator 'softmax', expected some of embed, linear"),
        (("profile", "--card", "h300"), "card is 'h300', expected one of h200, h100"),
        (("profile", "-m", "/nowhere"), "/nowhere"),
        (("profile", "--config", "llama"), "config is 'llama', expected one of tinystories-656k"),
        (("list", "linear", "--shape", "rows=9"), "more than 8 rows are multiplied by cuBLAS"),
    ],
)
def test_what_does_not_exist_is_named(
    arguments: tuple[str, ...], complaint: str, cullama_command: CommandLine
) -> None:
    ended = cullama_command("kernels", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert complaint in ended.err
    assert ended.err.splitlines()[-1].startswith("cullama: ")
