"""The dot product of bytes: exact, whatever the codes and digits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from compiled_cpu import assembly, computed, in_each_instruction_set
from numpy.typing import NDArray

from cullama.cpu.compiled.code import I8, I32, I64, POINTER, Code, Value, vector
from cullama.cpu.compiled.dots import DOTS, joined
from cullama.cpu.compiled.instruction_sets import INSTRUCTION_SETS, InstructionSet
from cullama.cpu.compiled.machine import Kernel

CASES = 200


def codes_of(bits: int) -> NDArray[np.uint8]:
    """Random ones, all at one end, all at the other, and ends in turn: [cases, 16 rows, 4]."""
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (CASES, 16, 4), np.uint8)
    highest = (1 << bits) - 1
    codes[0], codes[1], codes[2] = 0, highest, highest
    codes[3] = np.arange(64).reshape(16, 4) % 2 * highest
    return codes


def all_digits() -> NDArray[np.int8]:
    """[cases, 4]"""
    digits = np.random.default_rng(0).integers(-128, 128, (CASES, 4), np.int8)
    digits[0], digits[1], digits[2], digits[3] = -128, -128, 127, (127, -128, 127, -128)
    return digits


@in_each_instruction_set
@pytest.mark.parametrize("bits", [4, 5, 6, 8])
def test_a_sum_gains_four_products(name: str, bits: int) -> None:
    codes, digits = codes_of(bits), all_digits()
    before = np.random.default_rng(1).integers(-(2**28), 2**28, (CASES, 16)).astype(np.int32)
    found = np.zeros_like(before)

    def body(code: Code, arrays: SimpleNamespace) -> None:
        with code.loop(code.load(I64, arrays.count)) as case:
            sums = code.load(vector(I32, 16), arrays.before + case * 64)
            quads = code.load(vector(I8, 64), arrays.codes + case * 64)
            four = code.load(I32, arrays.digits + case * 4)
            dot = DOTS[code.instruction_set.name]
            code.store(dot(code, sums, quads, four, bits), arrays.found + case * 64)

    computed(
        name,
        f"dot_{bits}",
        body,
        codes=codes,
        digits=digits,
        before=before,
        found=found,
        count=np.array([CASES], np.int64),
    )
    gained = np.einsum("crq,cq->cr", codes.astype(np.int64), digits.astype(np.int64))
    np.testing.assert_array_equal(found, before + gained)


@in_each_instruction_set
def test_two_vectors_joined_lie_one_behind_the_other(name: str) -> None:
    x, out = np.arange(16, dtype=np.int32), np.zeros(16, np.int32)

    def body(code: Code, arrays: SimpleNamespace) -> None:
        low, high = code.load(vector(I32, 16), arrays.x).folded()
        code.store(joined(code, [high, low]), arrays.out)

    computed(name, "joined", body, x=x, out=out)
    np.testing.assert_array_equal(out, np.roll(x, 8))


# How often a dot product of sixteen rows takes them: a quiet fall back would be twice as slow.
INSTRUCTIONS = {"avx512": ("vpdpbusd", 1), "avx2": ("vpmaddubsw", 2), "neon": ("sdot", 4)}


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, ids=lambda each: each.name)
def test_each_is_the_instruction_it_is_there_for(
    monkeypatch: pytest.MonkeyPatch, instruction_set: InstructionSet
) -> None:
    """Also on processors that are not here: LLVM knows them all."""

    def body(code: Code, a: SimpleNamespace, chunk: Value) -> None:
        sums, quads = code.load(vector(I32, 16), a.sums), code.load(vector(I8, 64), a.codes)
        dot = DOTS[instruction_set.name]
        code.store(dot(code, sums, quads, code.load(I32, a.digits), 4), a.sums)

    kernel = Kernel("one_dot", dict.fromkeys(("sums", "codes", "digits"), POINTER), body)
    text = assembly(monkeypatch, instruction_set, kernel)
    found = {name: text.count(f"\t{name}\t") for name, _ in INSTRUCTIONS.values()}
    expected = INSTRUCTIONS.get(instruction_set.name, ("", 0))
    assert found == {name: expected[1] * (name == expected[0]) for name in found}


def test_there_is_one_for_each() -> None:
    assert set(DOTS) == {each.name for each in INSTRUCTION_SETS}
