"""The instruction sets kernels are compiled for, and which this processor has.

A kernel is the same Python for all of them; LLVM writes a vector of sixteen floats as one register
or as four. What differs in more than width is how whole numbers are multiplied (`dots.py`).
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
    triple: str  # what LLVM calls the kind of machine; "" is any
    processor: str  # what LLVM compiles for, and
    needs: tuple[str, ...]  # the features that we rely on beyond it
    multiplies: str  # "bytes", four at once, or "words" of 16 bits, two at once
    lanes: int  # of 32 bits in a register
    registers: int  # blocks of sixteen sums that a product may hold

    @property
    def has_half(self) -> bool:
        """Whether float16 becomes float32 in one instruction."""
        return self.name != "plain"

    @property
    def has_fma(self) -> bool:
        """Whether a product and a sum are rounded once."""
        return self.name != "plain"

    @property
    def features(self) -> str:
        return ",".join(f"+{feature}" for feature in self.needs)


# Best first. The number of blocks leaves registers for weights and scales: 32 of 512 bits, 16 of
# 256, 32 of 128 (NEON) or 16 (any x86).
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


def architecture(triple: str) -> str:
    """The first part of a triple, in one spelling: Apple's tools and BSD's have their own."""
    first = triple.partition("-")[0]
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(first, first)


def usable() -> list[InstructionSet]:
    """Those that this processor has, best first."""
    here = architecture(llvm.get_default_triple())
    features = _features(here)
    return [
        each
        for each in INSTRUCTION_SETS
        if each.triple in ("", here) and all(features.get(feature, False) for feature in each.needs)
    ]


def _features(here: str) -> dict[str, bool]:
    """What LLVM finds; of an ARM it does not look for dot products, and on macOS for nothing."""
    features = dict(llvm.get_host_cpu_features())
    if here == "aarch64":
        features["dotprod"] = features.get("dotprod", False) or _has_dotprod()
    return features


def _has_dotprod() -> bool:
    if sys.platform == "darwin":
        return True  # as has every Mac with an ARM
    if sys.platform == "win32":
        return bool(ctypes.windll.kernel32.IsProcessorFeaturePresent(WINDOWS_DOTPROD))
    with suppress(OSError):
        return "asimddp" in CPUINFO.read_text().split()
    return False


CPUINFO = Path("/proc/cpuinfo")
WINDOWS_DOTPROD = 43  # PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE in winnt.h


def choose_instruction_set(name: str) -> InstructionSet:
    """The one asked for by name, or with "" the best.

    Raises:
        UsageError: there is none of that name, or this processor lacks it.
    """
    have = usable()
    if not name:
        return have[0]
    for each in have:
        if each.name == name:
            return each
    names = ", ".join(f"cpu:{each.name}" for each in have)
    raise UsageError(
        f"backend is 'cpu:{name}', expected cpu, cpu:numpy or kernels for this processor: {names}"
    )
