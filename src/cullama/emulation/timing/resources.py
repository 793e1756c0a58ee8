"""The registers and shared memory of kernels, and how many blocks an SM holds at once.

Registers are known where ptxas is at hand (CUDA toolkit, or `pip install 'cullama[ptx]'`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ...errors import CullamaError
from .cards import Card

REGISTERS_OF_SM = 65536
REGISTERS_AT_A_TIME = 256  # that a warp is given
SHARED_OF_BLOCK = 1024  # bytes that the system takes of each block


@dataclass(frozen=True)
class Resources:
    """What one kernel needs."""

    registers: int  # of a thread
    shared: int  # static bytes of a block
    spilled: int  # bytes


@dataclass(frozen=True)
class Occupancy:
    """How many blocks an SM holds, and what stops the next one."""

    blocks: int
    limit: str
    warps: float  # share of those that fit


def find_ptxas() -> str | None:
    """Return ptxas of PATH, of a toolkit, or of pip's nvcc."""
    for folder in (None, "/usr/local/cuda/bin"):
        if found := shutil.which("ptxas", path=folder):
            return found
    spec = find_spec("nvidia")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for path in Path(root).glob("*/bin/ptxas"):
            return str(path)
    return None


def resources_of(ptx: Path, card: Card) -> dict[str, Resources]:
    """Return the resources of a file's kernels by name; none without ptxas.

    Raises:
        CullamaError: ptxas does not assemble the file.
    """
    if not (ptxas := find_ptxas()):
        return {}
    command = [ptxas, "-v", f"-arch={card.architecture}", "-o", "/dev/null", str(ptx)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split())[:500]
        raise CullamaError(f"ptxas cannot assemble {ptx.name} for {card.architecture}: {said}")
    found: dict[str, Resources] = {}
    name, spilled = "", 0
    for line in done.stderr.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled = int(match[1]) + int(match[2])
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            found[name] = Resources(int(match[1]), int(shared[1]) if shared else 0, spilled)
    return found


def occupancy(card: Card, resources: Resources | None, threads: int, dynamic: int) -> Occupancy:
    """Return how many blocks of a launch an SM holds; `dynamic` is shared memory in bytes."""
    warps = -(-threads // 32)
    shared = (resources.shared if resources else 0) + dynamic + SHARED_OF_BLOCK
    limits = {
        "warps": card.sm.warps // warps,
        "blocks": card.sm.blocks,
        "shared memory": card.sm.shared_kilobytes * 1024 // shared,
    }
    if resources:
        of_warp = -(-resources.registers * 32 // REGISTERS_AT_A_TIME) * REGISTERS_AT_A_TIME
        limits["registers"] = REGISTERS_OF_SM // (of_warp * warps)
    limit = min(limits, key=lambda name: limits[name])
    blocks = max(1, limits[limit])
    return Occupancy(blocks, limit, blocks * warps / card.sm.warps)
