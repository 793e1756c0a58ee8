"""The registers and shared memory of kernels, and how many blocks an SM holds at once.

Registers are known where ptxas is at hand (CUDA toolkit, or `pip install 'cullama[ptx]'`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ...errors import CullamaError
from .. import build
from ..ptx import alone
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


def resources_of(ptx: Path | str, kernel: str, card: Card) -> Resources | None:
    """Return the resources of one kernel of a file or text; None without ptxas.

    Raises:
        CullamaError: ptxas does not assemble it.
    """
    if not (ptxas := find_ptxas()):
        return None
    whole = ptx.read_text(encoding="utf-8") if isinstance(ptx, Path) else ptx
    text = alone(whole, kernel)
    report = _report(ptxas, text, card.architecture)
    if report is None:
        raise CullamaError(f"ptxas cannot assemble {kernel} for {card.architecture}")
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    shared = re.search(r"(\d+) bytes smem", report)
    return Resources(
        registers=int(re.findall(r"Used (\d+) registers", report)[-1]),
        shared=int(shared[1]) if shared else 0,
        spilled=int(spills[1]) + int(spills[2]) if spills else 0,
    )


def _report(ptxas: str, text: str, architecture: str) -> str | None:
    """Return what ptxas says of PTX, kept by content; None where it cannot assemble it."""
    key = hashlib.sha256(f"{ptxas} {architecture} {text}".encode()).hexdigest()[:32]
    kept = build.folder() / f"{key}.ptxas"
    if kept.is_file():
        return kept.read_text()
    command = [ptxas, "-v", f"-arch={architecture}", "-o", os.devnull, "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    build.folder().mkdir(parents=True, exist_ok=True)
    aside = kept.with_suffix(f".{os.getpid()}")
    aside.write_text(done.stderr)
    aside.replace(kept)
    return done.stderr


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
