"""Reads the machine code of kernels: each loop with its loads in flight, and what makes it slow.

    python tests/kernels/sass.py            print the table
    python tests/kernels/sass.py --write    write the bounds that test_sass.py holds kernels to

The compiler is NVRTC 12.0, which builds releases, and the disassembler a wheel's: `make test`
fetches both. What they give does not depend on the machine. Drivers compile anew, so it is near to
what runs, not the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from cullama.emulation.build import cache_folder

ROOT = Path(__file__).resolve().parents[2]
NVRTC = ROOT / ".venv" / "nvrtc-12.0" / "nvidia"
NVDISASM = ROOT / ".venv" / "nvdisasm" / "nvidia" / "cu13" / "bin" / "nvdisasm"
BOUNDS = Path(__file__).with_name("sass.txt")
ARCHITECTURE = "sm_90a"
MISSING = "NVRTC 12.0 or nvdisasm is not in .venv: `make test` fetches them"

# Columns of the table; of each, whether more of it is worse (1), better (-1), or neither (0).
COLUMNS = {
    "instructions": 1,
    "loads": 0,
    "bytes": 0,
    "in_flight": -1,
    "bytes_in_flight": -1,
    "narrow": 1,
    "divisions": 1,
    "cas": 1,
    "local": 1,
    "barriers": 1,
    "mma": 0,
}
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,5}\*/\s+(.*?)\s*;")
_BACK = re.compile(r"BRA.*`\((\.L_x_\d+)\)")
_PREDICATE = re.compile(r"^@!?U?P[0-9T]+ ")
_WIDTHS = {".U8": 1, ".S8": 1, ".U16": 2, ".S16": 2, ".64": 8, ".128": 16}


@dataclass(frozen=True)
class Loop:
    """A loop of a kernel's machine code, inner loops included; loads are of global memory."""

    kernel: str
    number: int  # from 1, in the order of the code
    instructions: int
    loads: int
    bytes: int  # that a lane loads in a turn
    in_flight: int  # loads issued before the first of their results is used
    bytes_in_flight: int  # of a lane
    narrow: int  # loads of less than 8 bytes
    divisions: int  # of integers
    cas: int  # loops of compare-and-swap
    local: int  # accesses to local memory
    barriers: int
    mma: int

    @property
    def per_2_kilobytes(self) -> float:
        """Return a warp's instructions for 2 KB loaded, 0 for a loop that loads nothing."""
        return self.instructions * 2048 / (32 * self.bytes) if self.bytes else 0.0


def is_available() -> bool:
    return NVDISASM.is_file() and NVRTC.is_dir()


def loops_of(source: Path) -> list[Loop]:
    """Return the loops of all kernels of a file; disassembled code is kept by content."""
    texts = [path.read_bytes() for path in sorted(source.parent.glob("*.cuh"))]
    key = hashlib.sha256(b"\0".join([source.read_bytes(), *texts, ARCHITECTURE.encode()]))
    kept = cache_folder() / "sass" / f"{source.stem}-{key.hexdigest()[:24]}.txt"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        aside = kept.with_suffix(f".{os.getpid()}")
        aside.write_text(_disassembled(_cubin(source)))
        aside.replace(kept)
    return [loop for kernel, code in _kernels(kept.read_text()) for loop in _loops(kernel, code)]


def _cubin(source: Path) -> bytes:
    """Compile a file with NVRTC to machine code."""
    for builtins in NVRTC.glob("cuda_nvrtc/lib/libnvrtc-builtins.so*"):
        ctypes.CDLL(str(builtins))
    library = ctypes.CDLL(str(next(NVRTC.glob("cuda_nvrtc/lib/libnvrtc.so.*"))))
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    arguments = (source.read_bytes(), source.name.encode(), 0, None, None)
    assert not library.nvrtcCreateProgram(ctypes.byref(program), *arguments)
    options = [f"--gpu-architecture={ARCHITECTURE}", "--std=c++17", f"-I{source.parent}"]
    options.append(f"-I{NVRTC / 'cuda_runtime' / 'include'}")
    encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    assert not library.nvrtcCompileProgram(program, len(options), encoded), source
    assert not library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    image = ctypes.create_string_buffer(size.value)
    assert not library.nvrtcGetCUBIN(program, image)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return image.raw


def _disassembled(image: bytes) -> str:
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(image)
        file.flush()
        command = [str(NVDISASM), "-c", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _kernels(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each kernel's instructions; labels end with a colon."""
    name, code = "", list[str]()
    for line in text.splitlines():
        if found := re.match(r"\.text\.(\w+):", line):
            if name:
                yield name, code
            name, code = found[1], []
        elif name and (found := re.match(r"(\.L_x_\d+):", line)):
            code.append(found[1] + ":")
        elif name and (found := _INSTRUCTION.match(line)):
            code.append(_PREDICATE.sub("", found[1]))
    if name:
        yield name, code


def _loops(kernel: str, code: list[str]) -> Iterator[Loop]:
    """Yield what lies between a label and a later jump back to it."""
    at = {line[:-1]: place for place, line in enumerate(code) if line.endswith(":")}
    ends = {  # the last jump back ends the loop; one to itself stands behind a kernel's end
        at[found[1]]: place
        for place, line in enumerate(code)
        if (found := re.search(r"BRA.*`\((\.L_x_\d+)\)", line))
        and at.get(found[1], place) < place - 1
    }
    for number, (start, end) in enumerate(sorted(ends.items()), 1):
        body = [line for line in code[start : end + 1] if not line.endswith(":")]
        yield _loop(kernel, number, body)


def _loop(kernel: str, number: int, body: list[str]) -> Loop:
    def count(*names: str) -> int:
        return sum(line.startswith(names) for line in body)

    widths = [width for line in body if (width := _loaded(line))]
    in_flight, bytes_in_flight = _in_flight(body)
    return Loop(
        *(kernel, number, len(body), len(widths), sum(widths), in_flight, bytes_in_flight),
        narrow=sum(width < 8 for width in widths),
        divisions=count("I2F.U32.RP", "I2F.RP", "I2F.U64.RP"),  # each begins with a reciprocal
        cas=count("ATOMS.CAST", "ATOMS.CAS", "ATOM.E.CAS", "ATOMG.E.CAS"),
        local=count("LDL", "STL"),
        barriers=count("BAR.SYNC"),
        mma=count("HMMA", "IMMA"),
    )


def _loaded(line: str) -> int:
    """Return the bytes that an instruction loads from global memory, 0 if it is no such load."""
    name = line.split()[0]
    if not name.startswith(("LDG", "LDGSTS")) or name.startswith("LDGDEPBAR"):
        return 0
    return next((size for mark, size in _WIDTHS.items() if mark in name), 4)


def _in_flight(body: list[str]) -> tuple[int, int]:
    """Return the most loads, and bytes, issued before one of their results is used.

    The loop is gone round twice: loads of one turn may be used in the next.
    """
    flying: list[tuple[set[str], int]] = []
    most = most_bytes = 0
    for line in body + body:
        operands = line.partition(",")[2] if not line.startswith(("ST", "RED")) else line
        used = set(re.findall(r"\bR\d+\b", operands))
        if "HMMA" in line:  # its operands are several registers
            used |= {f"R{int(name[1:]) + more}" for name in used for more in (1, 2, 3)}
        if line.startswith(("DEPBAR", "LDGDEPBAR")) or any(used & names for names, _ in flying):
            flying = []
        if width := _loaded(line):
            first = re.match(r"LDG\S* R(\d+)", line)
            names = {f"R{int(first[1]) + i}" for i in range(max(1, width // 4))} if first else set()
            flying.append((names, width))
        most = max(most, len(flying))
        most_bytes = max(most_bytes, sum(width for _, width in flying))
    return most, most_bytes


def table(loops: list[Loop]) -> str:
    """Return the loops as the text of the table of bounds."""
    head = f"{'kernel':28} loop " + " ".join(f"{name:>12}" for name in COLUMNS)
    rows = [
        f"{loop.kernel:28} {loop.number:4} "
        + " ".join(f"{getattr(loop, name):12}" for name in COLUMNS)
        for loop in loops
    ]
    return "\n".join([head, *rows]) + "\n"


def bounds() -> dict[tuple[str, int], dict[str, int]]:
    """Return the bounds of each loop, by kernel and number."""
    rows = [line.split() for line in BOUNDS.read_text().splitlines()[1:]]
    return {
        (name, int(number)): dict(zip(COLUMNS, map(int, numbers), strict=True))
        for name, number, *numbers in rows
    }


def main(arguments: list[str]) -> int:
    if not is_available():
        print(MISSING, file=sys.stderr)
        return 1
    loops = [
        loop for source in sorted((ROOT / "kernels").glob("*.cu")) for loop in loops_of(source)
    ]
    text = table(loops)
    if arguments == ["--write"]:
        BOUNDS.write_text(text)
    else:
        ends = ["   per 2 KB", *(f"{loop.per_2_kilobytes:11.0f}" for loop in loops)]
        for line, end in zip(text.splitlines(), ends, strict=True):
            print(line + end)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
