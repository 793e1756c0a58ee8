"""Codes times whole numbers: exact, whatever they are, in every instruction set."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from compiled_cpu import assembly, computed, in_each_instruction_set
from numpy.typing import NDArray

from cullama.cpu.compiled.digits import HIGH, LOW, RECORD, SUMS, WORD_ORDER, WORDS
from cullama.cpu.compiled.dots import DOTS, joined, whole
from cullama.cpu.jit.compiler import Kernel
from cullama.cpu.jit.instruction_sets import (
    INSTRUCTION_SETS,
    InstructionSet,
    choose_instruction_set,
)
from cullama.cpu.jit.kernel_builder import I8, I32, I64, POINTER, KernelBuilder, Value, vector
from cullama.cpu.packed import FORMATS, GROUP, PANEL, Grouped

CASES = 60

# What 16 bits hold and two signed digits of 8 bits as well.
SMALLEST, LARGEST = -(2**15), 127 * 256 + 127

GROUPED = [each for each in FORMATS.values() if isinstance(each, Grouped)]


def codes_of(bits: int) -> NDArray[np.uint8]:
    """Random ones, all at one end, all at the other, and ends in turn: [cases, 16 rows, 32]."""
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (CASES, PANEL, GROUP), np.uint8)
    highest = (1 << bits) - 1
    codes[0], codes[1], codes[2] = 0, highest, highest
    codes[3] = np.arange(PANEL * GROUP).reshape(PANEL, GROUP) % 2 * highest
    return codes


def all_numbers() -> NDArray[np.int64]:
    """Random ones, and all at an end of 16 bits or of 8: [cases, 32]."""
    numbers = np.random.default_rng(0).integers(SMALLEST, LARGEST + 1, (CASES, GROUP))
    numbers[:5] = np.array([SMALLEST, SMALLEST, LARGEST, -128, 127])[:, None]
    numbers[5] = np.where(np.arange(GROUP) % 2, LARGEST, SMALLEST)
    return numbers


def as_quads(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[cases, 8 quads, 16 rows, 4], as a panel has them."""
    return np.ascontiguousarray(codes.reshape(CASES, PANEL, 8, 4).swapaxes(1, 2))


def as_records(name: str, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """[cases, 80]: what `digits.py` says a group's record is."""
    records = np.full((CASES, RECORD), 0xEE, np.uint8)

    def put(place: int, values: NDArray[np.int64], dtype: str) -> None:
        raw = np.ascontiguousarray(values.astype(dtype)).view(np.uint8)
        records[..., place : place + raw.shape[-1]] = raw

    if choose_instruction_set(name).multiplies == "words":
        quads = numbers.reshape(CASES, 8, 4)[..., list(WORD_ORDER)]
        put(WORDS, quads.reshape(CASES, GROUP), "<i2")
    else:
        high = (numbers + 128) >> 8
        put(HIGH, high, "i1")
        put(LOW, numbers - (high << 8), "i1")
    put(SUMS, numbers.reshape(CASES, 2, 16).sum(axis=2), "<i4")
    return records


@in_each_instruction_set
@pytest.mark.parametrize("format_", GROUPED, ids=lambda each: each.name)
def test_products_of_a_group_are_exact(name: str, format_: Grouped) -> None:
    codes, numbers = codes_of(format_.bits), all_numbers()
    found = np.full((CASES, format_.scales, PANEL), -1, np.int32)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        with builder.loop(builder.load(I64, arrays.count)) as case:
            for place, sums in enumerate(
                sums_of(builder, format_, arrays.quads + case * 512, arrays.records + case * RECORD)
            ):
                builder.store(sums, arrays.found + (case * format_.scales + place) * (PANEL * 4))

    computed(
        name,
        f"whole_{format_.name}",
        body,
        quads=as_quads(codes),
        records=as_records(name, numbers),
        found=found,
        count=np.array([CASES], np.int64),
    )
    columns = GROUP // format_.scales
    meant = (codes.astype(np.int64) - format_.offset).reshape(CASES, PANEL, -1, columns)
    expected = np.einsum("crsi,csi->csr", meant, numbers.reshape(CASES, -1, columns))
    np.testing.assert_array_equal(found, expected)


def sums_of(builder: KernelBuilder, format_: Grouped, quads: Value, record: Value) -> list[Value]:
    """One for each scale of a group."""
    share = 8 // format_.scales
    codes = [builder.load(vector(I8, 64), quads + 64 * quad) for quad in range(8)]
    return [
        whole(builder, format_, codes[scale * share : (scale + 1) * share], record, scale)
        for scale in range(format_.scales)
    ]


@in_each_instruction_set
def test_vectors_joined_lie_one_behind_the_other(name: str) -> None:
    x, out = np.arange(16, dtype=np.int32), np.zeros(16, np.int32)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        low, high = builder.load(vector(I32, 16), arrays.x).halves()
        builder.store(joined(builder, [*high.halves(), *low.halves()]), arrays.out)

    computed(name, "joined", body, x=x, out=out)
    np.testing.assert_array_equal(out, np.roll(x, 8))


# What a group of 32 columns is to one token: a quiet fall back would be twice as slow.
INSTRUCTIONS = {
    "avx512": ("vpdpbusd", 16),
    "avxvnni": ("vpdpbusd", 32),
    "avx2": ("vpmaddwd", 32),
    "neon": ("sdot", 64),
    "plain": ("pmaddwd", 64),
}


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, ids=lambda each: each.name)
def test_each_is_the_instruction_it_is_there_for(
    monkeypatch: pytest.MonkeyPatch, instruction_set: InstructionSet
) -> None:
    """Also on processors that are not here: LLVM knows them all."""
    format_ = FORMATS["Q4_1"]
    assert isinstance(format_, Grouped)

    def body(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
        builder.store(sums_of(builder, format_, a.codes, a.group)[0], a.sums)

    kernel = Kernel("one_group", dict.fromkeys(("sums", "codes", "group"), POINTER), body)
    text = assembly(monkeypatch, instruction_set, kernel)
    found = {name: text.count(f"\t{name}\t") for name, _ in INSTRUCTIONS.values()}
    name, times = INSTRUCTIONS[instruction_set.name]
    assert found == {each: times * (each == name) for each in found}


def test_there_is_one_for_each() -> None:
    assert set(DOTS) == {each.name for each in INSTRUCTION_SETS}
