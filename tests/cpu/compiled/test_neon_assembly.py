"""Kernels for 64-bit ARM, as its assembler would read them; `scripts/check_neon.py` runs them.

A product must use SDOT for quants and fused multiply-adds for floats, convert float16 by the
processor's own instruction, and call no function for it: a fallback would be slow and silent.
"""

from __future__ import annotations

import re

import pytest
from compiled_cpu import assembly

from cullama.cpu.compiled.activation_quantisation import QUANTISE_ACTIVATIONS
from cullama.cpu.compiled.products import product_kernel
from cullama.cpu.jit.compiler import Kernel
from cullama.cpu.jit.instruction_sets import INSTRUCTION_SETS
from cullama.cpu.packed import FORMATS

NEON = next(each for each in INSTRUCTION_SETS if each.name == "neon")


C_LIBRARY = {"memcpy", "memset"}  # what loops over a row's rest may become


def instructions(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> list[str]:
    """All of them; calls must be of the C library."""
    text = assembly(monkeypatch, NEON, kernel)
    assert set(re.findall(r"^\tbl\t(\w+)", text, re.MULTILINE)) <= C_LIBRARY
    found = re.findall(r"^\t([a-z]\w*)", text, re.MULTILINE)
    assert "blr" not in found
    return found


@pytest.mark.parametrize("name", ["Q8_0", "Q4_1", "Q6_K"])
def test_a_quantised_product_is_dot_products(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    found = instructions(monkeypatch, product_kernel(FORMATS[name]))
    # Blocks of 4, 2 and 1 tokens, and 64 for each token's group of 32 columns in 16 rows.
    assert found.count("sdot") == 7 * 64
    assert {"fcvtl", "fmla", "scvtf"} <= set(found)
    assert not {"smull", "smlal", "mla"} & set(found)


def test_a_plain_product_is_fused_multiply_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = instructions(monkeypatch, product_kernel(FORMATS["F16"]))
    assert {"fcvtl", "fmla"} <= set(found)
    assert "sdot" not in found


def test_activations_are_rounded_in_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "frintx" in instructions(monkeypatch, QUANTISE_ACTIVATIONS)
