"""The instruction sets that kernels are compiled for, and which of them this processor has.

A kernel is the same Python for all of them; LLVM maps a vector of sixteen floats to one register or
to four. What differs in more than width is how integers are multiplied (`../compiled/dots.py`).
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import llvmlite.binding as llvm

from ...errors import UsageError


@dataclass(frozen=True)
class InstructionSet:
    name: str
    architecture: str  # the first part of LLVM's triple; "" is any
    processor: str  # that LLVM compiles for
    needs: tuple[str, ...]  # features used beyond that processor's
    multiplies: str  # "bytes", four at once, or "words" of 16 bits, two at once
    lanes: int  # of 32 bits in a register
    max_accumulators: int  # vectors of sixteen sums that a kernel may hold in registers

    @property
    def has_half(self) -> bool:
        """Whether one instruction converts between float16 and float32."""
        return self.name != "plain"

    @property
    def has_fma(self) -> bool:
        """Whether there is a fused multiply-add."""
        return self.name != "plain"

    @property
    def features(self) -> str:
        return ",".join(f"+{feature}" for feature in self.needs)


# Best first. `max_accumulators` leaves registers for weights and scales: there are 32 registers of
# 512 bits, 16 of 256, 32 of 128 (NEON) or 16 (any x86).
INSTRUCTION_SETS = (
    InstructionSet(
        "avx512", "x86_64", "x86-64-v4", ("avx512vnni", "avx512bw", "avx512vl"), "bytes", 16, 8
    ),
    InstructionSet(
        "avxvnni", "x86_64", "x86-64-v3", ("avxvnni", "avx2", "fma", "f16c"), "bytes", 8, 4
    ),
    InstructionSet("avx2", "x86_64", "x86-64-v3", ("avx2", "fma", "f16c"), "words", 8, 4),
    InstructionSet("neon", "aarch64", "cortex-a76", ("dotprod",), "bytes", 4, 4),
    InstructionSet("plain", "", "generic", (), "words", 4, 2),
)

NAMES = tuple(each.name for each in INSTRUCTION_SETS)


def architecture_of(triple: str) -> str:
    """Return the first part of a triple in one spelling: those of macOS and BSD differ."""
    first = triple.partition("-")[0]
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(first, first)


def usable() -> list[InstructionSet]:
    """Return the instruction sets that this processor has, best first."""
    here = architecture_of(llvm.get_default_triple())
    features = dict(llvm.get_host_cpu_features())  # on macOS, none
    if here == "aarch64" and not features.get("dotprod", False):
        features["dotprod"] = _has_dotprod()
    return [
        each
        for each in INSTRUCTION_SETS
        if each.architecture in ("", here)
        and all(features.get(feature, False) for feature in each.needs)
    ]


def _has_dotprod() -> bool:
    """Return whether this ARM has integer dot products, which LLVM does not detect everywhere."""
    if sys.platform == "darwin":
        return True  # every Mac with an ARM has it
    if sys.platform == "win32":
        return bool(ctypes.windll.kernel32.IsProcessorFeaturePresent(WINDOWS_DOTPROD))
    with suppress(OSError):
        return "asimddp" in CPUINFO.read_text().split()
    return False


CPUINFO = Path("/proc/cpuinfo")
WINDOWS_DOTPROD = 43  # PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE in winnt.h


def choose_instruction_set(name: str) -> InstructionSet:
    """Return the instruction set of that name; for "", the best.

    Raises:
        UsageError: there is none of that name, or this processor lacks it.
    """
    available = usable()
    if not name:
        return available[0]
    for each in available:
        if each.name == name:
            return each
    names = ", ".join(f"cpu:{each.name}" for each in available)
    raise UsageError(
        f"backend is 'cpu:{name}', expected cpu, cpu:numpy or kernels for this processor: {names}"
    )
