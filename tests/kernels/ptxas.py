"""Runs ptxas, NVIDIA's assembler, on a PTX file, as the driver's compiler will do.

It parses registers, stack and spills, and caches reports by content, because assembling every file
for every architecture takes half a minute.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cullama.emulation.build import cache_folder

HEAD = re.compile(r"Function properties for (\w+)\n\s*(.*)")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Compiling entry function '(\w+)'.*?Used (\d+) registers", re.DOTALL)


@dataclass(frozen=True)
class Function:
    """The resources that a kernel needs."""

    name: str
    registers: int
    stack: int  # bytes of local memory a thread, spills included
    spilled: int  # bytes of stores and loads


@dataclass(frozen=True)
class Assembler:
    path: str
    version: str
    cache: Path

    def assemble(self, ptx: str, card: str) -> list[Function]:
        """Return every kernel in `ptx`, assembled for an architecture such as `sm_80`."""
        key = hashlib.sha256("\0".join((self.version, card, ptx)).encode()).hexdigest()[:32]
        kept = self.cache / f"{key}.txt"
        if not kept.is_file():
            report = self._run(ptx, card)
            aside = kept.with_suffix(f".{os.getpid()}")
            aside.write_text(report)
            aside.replace(kept)
        return functions(kept.read_text())

    def _run(self, ptx: str, card: str) -> str:
        done = subprocess.run(
            [self.path, "-v", f"-arch={card}", "-o", os.devnull, "-"],
            input=ptx,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"ptxas for {card}:\n{done.stdout}"
        return done.stdout


def functions(report: str) -> list[Function]:
    """Parse the output of `ptxas -v`."""
    registers = {name: int(count) for name, count in USED.findall(report)}
    found = []
    # A function that was not inlined is reported too, without registers of its own.
    for name, properties in HEAD.findall(report):
        frame = FRAME.search(properties)
        assert frame, f"ptxas says of {name}: {properties}"
        stack, stores, loads = map(int, frame.groups())
        found.append(Function(name, registers.get(name, 0), stack, stores + loads))
    return found


def find_ptxas() -> str | None:
    return shutil.which("ptxas") or shutil.which("ptxas", path="/usr/local/cuda/bin")


def assembler(path: str) -> Assembler:
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    cache = cache_folder() / "ptxas"
    cache.mkdir(parents=True, exist_ok=True)
    return Assembler(path, told.stdout.strip().splitlines()[-1], cache)
