"""Dot products of quants and activations: exact for all values, in every instruction set."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from compiled_cpu import assembly, computed, in_each_instruction_set
from numpy.typing import NDArray

from cullama.cpu.compiled.activation_quantisation import (
    HIGH,
    LOW,
    RECORD,
    SUMS,
    WORD_ORDER,
    WORDS,
)
from cullama.cpu.compiled.dots import DOTS, concatenate, int_dot
from cullama.cpu.jit.compiler import Kernel
from cullama.cpu.jit.instruction_sets import (
    INSTRUCTION_SETS,
    InstructionSet,
    choose_instruction_set,
)
from cullama.cpu.jit.kernel_builder import I8, I32, I64, POINTER, KernelBuilder, Value, vector
from cullama.cpu.packed import FORMATS, PANEL, Grouped
from cullama.files.quantized_blocks import GROUP

CASES = 60

# What 16 bits hold, and two signed bytes as well.
MIN_QUANT, MAX_QUANT = -(2**15), 127 * 256 + 127

GROUPED = [each for each in FORMATS.values() if isinstance(each, Grouped)]


def quants_of(bits: int) -> NDArray[np.uint8]:
    """Random ones, all at one end, all at the other, and ends in turn: [cases, 16 rows, 32]."""
    quants = np.random.default_rng(bits).integers(0, 1 << bits, (CASES, PANEL, GROUP), np.uint8)
    highest = (1 << bits) - 1
    quants[0], quants[1], quants[2] = 0, highest, highest
    quants[3] = np.arange(PANEL * GROUP).reshape(PANEL, GROUP) % 2 * highest
    return quants


def all_activations() -> NDArray[np.int64]:
    """Random ones, and all at an end of 16 bits or of 8: [cases, 32]."""
    activations = np.random.default_rng(0).integers(MIN_QUANT, MAX_QUANT + 1, (CASES, GROUP))
    activations[:5] = np.array([MIN_QUANT, MIN_QUANT, MAX_QUANT, -128, 127])[:, None]
    activations[5] = np.where(np.arange(GROUP) % 2, MAX_QUANT, MIN_QUANT)
    return activations


def as_packed4(quants: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[cases, 8 words, 16 rows, 4], as a panel has them."""
    return np.ascontiguousarray(quants.reshape(CASES, PANEL, 8, 4).swapaxes(1, 2))


def as_records(name: str, activations: NDArray[np.int64]) -> NDArray[np.uint8]:
    """[cases, 80]: a group's record, as `activation_quantisation.py` says."""
    records = np.full((CASES, RECORD), 0xEE, np.uint8)

    def put(place: int, values: NDArray[np.int64], dtype: str) -> None:
        raw = np.ascontiguousarray(values.astype(dtype)).view(np.uint8)
        records[..., place : place + raw.shape[-1]] = raw

    if choose_instruction_set(name).multiplies == "words":
        words = activations.reshape(CASES, 8, 4)[..., list(WORD_ORDER)]
        put(WORDS, words.reshape(CASES, GROUP), "<i2")
    else:
        high = (activations + 128) >> 8
        put(HIGH, high, "i1")
        put(LOW, activations - (high << 8), "i1")
    put(SUMS, activations.reshape(CASES, 2, 16).sum(axis=2), "<i4")
    return records


@in_each_instruction_set
@pytest.mark.parametrize("format_", GROUPED, ids=lambda each: each.name)
def test_products_of_a_group_are_exact(name: str, format_: Grouped) -> None:
    quants, activations = quants_of(format_.layout.bits), all_activations()
    scales = format_.layout.scales_per_group
    found = np.full((CASES, scales, PANEL), -1, np.int32)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        with builder.loop(builder.load(I64, arrays.count)) as case:
            for place, sums in enumerate(
                sums_of(
                    builder, format_, arrays.packed4 + case * 512, arrays.records + case * RECORD
                )
            ):
                builder.store(sums, arrays.found + (case * scales + place) * (PANEL * 4))

    computed(
        name,
        f"int_dot_{format_.name}",
        body,
        packed4=as_packed4(quants),
        records=as_records(name, activations),
        found=found,
        count=np.array([CASES], np.int64),
    )
    columns = GROUP // scales
    meant = (quants.astype(np.int64) - format_.layout.offset).reshape(CASES, PANEL, -1, columns)
    expected = np.einsum("crsi,csi->csr", meant, activations.reshape(CASES, -1, columns))
    np.testing.assert_array_equal(found, expected)


def sums_of(builder: KernelBuilder, format_: Grouped, packed4: Value, record: Value) -> list[Value]:
    """One for each scale of a group."""
    share = 8 // format_.layout.scales_per_group
    quants = [builder.load(vector(I8, 64), packed4 + 64 * i) for i in range(8)]
    return [
        int_dot(builder, format_, quants[scale * share : (scale + 1) * share], record, scale)
        for scale in range(format_.layout.scales_per_group)
    ]


@in_each_instruction_set
def test_concatenated_vectors_keep_their_order(name: str) -> None:
    x, out = np.arange(16, dtype=np.int32), np.zeros(16, np.int32)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        low, high = builder.load(vector(I32, 16), arrays.x).halves()
        builder.store(concatenate([*high.halves(), *low.halves()]), arrays.out)

    computed(name, "concatenated", body, x=x, out=out)
    np.testing.assert_array_equal(out, np.roll(x, 8))


# A group of 32 columns for one token: a silent fallback would be twice as slow.
INSTRUCTIONS = {
    "avx512": ("vpdpbusd", 16),
    "avxvnni": ("vpdpbusd", 32),
    "avx2": ("vpmaddwd", 32),
    "neon": ("sdot", 64),
    "plain": ("pmaddwd", 64),
}


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, ids=lambda each: each.name)
def test_each_instruction_set_uses_its_own_instruction(
    monkeypatch: pytest.MonkeyPatch, instruction_set: InstructionSet
) -> None:
    """Also on processors that are not here: LLVM knows them all."""
    format_ = FORMATS["Q4_1"]
    assert isinstance(format_, Grouped)

    def body(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
        builder.store(sums_of(builder, format_, a.quants, a.group)[0], a.sums)

    kernel = Kernel("one_group", dict.fromkeys(("sums", "quants", "group"), POINTER), body)
    text = assembly(monkeypatch, instruction_set, kernel)
    found = {name: text.count(f"\t{name}\t") for name, _ in INSTRUCTIONS.values()}
    name, times = INSTRUCTIONS[instruction_set.name]
    assert found == {each: times * (each == name) for each in found}


def test_each_instruction_set_has_a_dot_product() -> None:
    assert set(DOTS) == {each.name for each in INSTRUCTION_SETS}
