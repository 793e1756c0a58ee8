"""Which instruction sets a processor has, and the error for one that it lacks."""

from __future__ import annotations

import sys
from pathlib import Path

import compiled_cpu
import llvmlite.binding as llvm
import pytest

from cullama.cpu.jit import instruction_sets
from cullama.cpu.jit.instruction_sets import INSTRUCTION_SETS, NAMES, choose_instruction_set, usable
from cullama.errors import UsageError

ZEN_2 = ["sse2", "avx", "avx2", "fma", "f16c", "bmi2"]
ICE_LAKE = [*ZEN_2, "avx512f", "avx512bw", "avx512vl", "avx512vnni"]
ALDER_LAKE = [*ZEN_2, "avxvnni"]
SAPPHIRE_RAPIDS = [*ICE_LAKE, "avxvnni"]
SKYLAKE_X = [*ZEN_2, "avx512f", "avx512bw", "avx512vl"]  # AVX-512, but no VNNI
APPLE_M1 = ["neon", "dotprod", "fp-armv8"]
RASPBERRY_PI_4 = ["neon", "fp-armv8"]


def on(monkeypatch: pytest.MonkeyPatch, triple: str, features: list[str]) -> list[str]:
    monkeypatch.setattr(llvm, "get_default_triple", lambda: triple)
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: dict.fromkeys(features, True))
    return [each.name for each in usable()]


@pytest.mark.parametrize(
    ("triple", "features", "names"),
    [
        ("x86_64-unknown-linux-gnu", ICE_LAKE, ["avx512", "avx2", "plain"]),
        ("x86_64-unknown-linux-gnu", SAPPHIRE_RAPIDS, ["avx512", "avxvnni", "avx2", "plain"]),
        ("x86_64-unknown-linux-gnu", ALDER_LAKE, ["avxvnni", "avx2", "plain"]),
        ("amd64-unknown-freebsd14", ZEN_2, ["avx2", "plain"]),  # as BSD calls it
        ("x86_64-unknown-linux-gnu", SKYLAKE_X, ["avx2", "plain"]),
        ("x86_64-pc-windows-msvc", ZEN_2, ["avx2", "plain"]),
        ("x86_64-apple-darwin20", ["sse2", "avx"], ["plain"]),
        ("aarch64-apple-darwin23", APPLE_M1, ["neon", "plain"]),
        ("arm64-apple-darwin23", APPLE_M1, ["neon", "plain"]),  # as Apple's own tools call it
        ("aarch64-unknown-linux-gnu", RASPBERRY_PI_4, ["plain"]),
        ("riscv64-unknown-linux-gnu", [], ["plain"]),
    ],
)
def test_a_processor_s_features_say_what_it_has(
    monkeypatch: pytest.MonkeyPatch, triple: str, features: list[str], names: list[str]
) -> None:
    assert on(monkeypatch, triple, features) == names
    assert choose_instruction_set("").name == names[0]


@pytest.mark.parametrize("missing", ["avx2", "fma", "f16c"])
def test_every_feature_counts(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    features = [each for each in ZEN_2 if each != missing]
    assert on(monkeypatch, "x86_64-unknown-linux-gnu", features) == ["plain"]


# What LLVM finds on ARM: never the dot products, on a Mac nothing.
@pytest.mark.parametrize(
    ("platform", "triple", "features", "cpuinfo", "names"),
    [
        ("linux", "aarch64-unknown-linux-gnu", ["neon"], "fp asimd asimddp\n", ["neon", "plain"]),
        ("linux", "aarch64-unknown-linux-gnu", ["neon"], "fp asimd asimddpx\n", ["plain"]),
        ("linux", "aarch64-unknown-linux-gnu", [], None, ["plain"]),
        ("darwin", "arm64-apple-darwin23", [], None, ["neon", "plain"]),
        ("darwin", "x86_64-apple-darwin20", ["sse2"], None, ["plain"]),
    ],
)
def test_dot_products_of_an_arm_are_detected(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    platform: str,
    triple: str,
    features: list[str],
    cpuinfo: str | None,
    names: list[str],
) -> None:
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nFeatures\t: {cpuinfo}")
    monkeypatch.setattr(instruction_sets, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(sys, "platform", platform)
    assert on(monkeypatch, triple, features) == names


def test_each_usable_instruction_set_can_be_asked_for() -> None:
    assert compiled_cpu.NAMES[-1] == "plain"
    assert set(compiled_cpu.NAMES) <= set(NAMES)
    for name in compiled_cpu.NAMES:
        assert choose_instruction_set(name).name == name


@pytest.mark.parametrize("name", ["mmx", "AVX2", "neon", " ", "numpy"])
def test_an_instruction_set_that_is_missing_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    on(monkeypatch, "x86_64-unknown-linux-gnu", ZEN_2)
    with pytest.raises(UsageError) as caught:
        choose_instruction_set(name)
    message = str(caught.value)
    assert name in message
    assert "avx2" in message
    assert "plain" in message
    assert "avx512" not in message
    assert "\n" not in message


def test_features_are_spelled_as_llvm_takes_them() -> None:
    by_name = {each.name: each for each in INSTRUCTION_SETS}
    assert by_name["avx2"].features == "+avx2,+fma,+f16c"
    assert by_name["plain"].features == ""
    assert [each.name for each in INSTRUCTION_SETS if not each.has_half] == ["plain"]
