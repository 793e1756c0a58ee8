"""The instruction sets kernels are compiled for, and which this processor has.

A kernel is the same Python for all of them; LLVM writes a vector of sixteen floats as one register
or as four. What differs in more than width is the dot product of bytes (`dots.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.binding as llvm

from ...errors import UsageError


@dataclass(frozen=True)
class InstructionSet:
    name: str
    triple: str  # what LLVM calls the kind of machine; "" is this one
    processor: str  # what LLVM compiles for, and
    needs: tuple[str, ...]  # the features that we rely on beyond it
    registers: int  # blocks of sixteen sums that a product may hold

    @property
    def has_half(self) -> bool:
        """Whether float16 becomes float32 in one instruction."""
        return self.name != "plain"

    @property
    def features(self) -> str:
        return ",".join(f"+{feature}" for feature in self.needs)


# Best first. The number of blocks leaves registers for weights and scales: 32 of 512 bits, 16 of
# 256, 32 of 128.
INSTRUCTION_SETS = (
    InstructionSet("avx512", "x86_64", "x86-64-v4", ("avx512vnni", "avx512bw", "avx512vl"), 8),
    InstructionSet("avx2", "x86_64", "x86-64-v3", ("avx2", "fma", "f16c"), 4),
    InstructionSet("neon", "aarch64", "cortex-a76", ("neon", "dotprod"), 4),
    InstructionSet("plain", "", "generic", (), 2),
)

NAMES = tuple(each.name for each in INSTRUCTION_SETS)


def usable() -> list[InstructionSet]:
    """Those that this processor has, best first."""
    architecture = llvm.get_default_triple().partition("-")[0].replace("arm64", "aarch64")
    features = llvm.get_host_cpu_features()
    return [
        each
        for each in INSTRUCTION_SETS
        if each.triple in ("", architecture)
        and all(features.get(feature, False) for feature in each.needs)
    ]


def choose(name: str) -> InstructionSet:
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
