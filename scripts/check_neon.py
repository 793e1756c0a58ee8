"""Runs the tests of the compiled CPU kernels on those of 64-bit ARM, on any machine, under QEMU.

LLVM is told that it is on an ARM with dot products. Each kernel it writes becomes a shared library,
and a small program under QEMU runs it on copies of its arrays; the tests are those of every
instruction set, and know nothing of it. An array ends where memory does, so that a kernel which
reads or writes behind one is caught. A thread pool runs chunk by chunk: what several cores do at
once is not tested here.

    python scripts/check_neon.py [pytest's options and files]

Needs qemu-aarch64 and aarch64-linux-gnu-gcc (Debian's qemu-user and gcc-aarch64-linux-gnu); where
one is missing, it says so and ends well.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

from cullama.cpu.jit import compiler as compiling
from cullama.cpu.jit.compiler import JIT, CompiledKernel, Kernel, address_of
from cullama.cpu.jit.instruction_sets import InstructionSet, usable
from cullama.cpu.jit.kernel_builder import POINTER

QEMU, COMPILER = "qemu-aarch64", "aarch64-linux-gnu-gcc"
TRIPLE, SYSROOT = "aarch64-unknown-linux-gnu", "/usr/aarch64-linux-gnu"
FEATURES = {"neon": True, "dotprod": True}

ROOT = Path(__file__).resolve().parents[1]
KERNELS = (
    "activation_quantisation",
    "attention",
    "dots",
    "packing",
    "products",
    "rows",
    "unpacking",
)
TESTS = ["tests/cpu/jit/test_jit_kernel_builder.py"]
TESTS += [f"tests/cpu/compiled/test_compiled_{name}.py" for name in KERNELS]
TESTS += ["tests/operators", "-k", "compiled"]

# Requests come in eight-byte words and bytes: library, kernel, record, segments, pointers, chunks.
RUNNER = r"""
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { PAGE = 4096, MOST = 64 };

static void take(void *bytes, uint64_t size) {
    if (size && fread(bytes, size, 1, stdin) != 1) exit(0);
}

static uint64_t number(void) {
    uint64_t n;
    take(&n, sizeof n);
    return n;
}

static void text(char *out) {
    uint64_t size = number();
    take(out, size);
    out[size] = 0;
}

/* So many bytes, and nothing behind them. */
static char *segment(uint64_t size) {
    uint64_t room = (size + PAGE - 1) / PAGE * PAGE;
    char *start = mmap(0, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) exit(2);
    mprotect(start + room, PAGE, PROT_NONE);
    return start + room - size;
}

static void release(char *bytes, uint64_t size) {
    uint64_t room = (size + PAGE - 1) / PAGE * PAGE;
    munmap(bytes + size - room, room + PAGE);
}

int main(void) {
    static char library[4096], name[4096], *segments[MOST];
    static uint64_t record[MOST], sizes[MOST];
    for (;;) {
        text(library);
        text(name);
        uint64_t words = number();
        take(record, 8 * words);
        uint64_t count = number();
        for (uint64_t i = 0; i < count; i++) {
            sizes[i] = number();
            segments[i] = segment(sizes[i]);
            take(segments[i], sizes[i]);
        }
        for (uint64_t i = 0; i < words; i++) {
            uint64_t which = number(), offset = number();
            if (which < count) record[i] = (uint64_t)(segments[which] + offset);
        }
        uint64_t chunks = number();
        void *loaded = dlopen(library, RTLD_NOW);
        if (!loaded) {
            fprintf(stderr, "%s\n", dlerror());
            return 1;
        }
        void (*kernel)(uint64_t *, int64_t) = (void (*)(uint64_t *, int64_t))dlsym(loaded, name);
        for (uint64_t chunk = 0; chunk < chunks; chunk++) kernel(record, chunk);
        for (uint64_t i = 0; i < count; i++) {
            fwrite(segments[i], 1, sizes[i], stdout);
            release(segments[i], sizes[i]);
        }
        fflush(stdout);
        dlclose(loaded);
    }
}
"""

Span = tuple[int, int]  # an array's first byte and its size


@dataclass(frozen=True)
class Arm(CompiledKernel):
    """A kernel that only QEMU can run; `address` is its index there."""

    library: Path
    sizes: dict[int, int] = field(repr=False)  # in bytes, of arrays that records were made of

    def record(self, arguments: Mapping[str, Any]) -> bytes:
        for argument in arguments.values():
            if isinstance(argument, np.ndarray):
                self.sizes[address_of(argument)] = _size(argument)
        return super().record(arguments)


def _size(array: np.ndarray[Any, Any]) -> int:
    """From the first byte of an array, or of a part of one, to its last."""
    if not array.size:
        return 0
    steps = zip(array.shape, array.strides, strict=True)
    return array.itemsize + sum((length - 1) * stride for length, stride in steps)


class ArmJIT(JIT):
    """Compiles for ARM; its kernels run under QEMU."""

    qemu: Qemu

    def __init__(self, instruction_set: InstructionSet, folder: Path | None) -> None:
        super().__init__(instruction_set, folder / "aarch64" if folder else None)

    def _link(self, kernel: Kernel) -> CompiledKernel:
        return self.qemu.link(kernel, self._machine_code(kernel))


class Qemu:
    """A program under QEMU, and the kernels that it can run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        source, program = folder / "runner.c", folder / "runner"
        source.write_text(RUNNER)
        _compile("-O1", "-o", str(program), str(source), "-ldl")
        self._process = subprocess.Popen(
            [QEMU, "-cpu", "max", "-L", SYSROOT, program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._errors = os.dup(2)  # before pytest takes it
        self._kernels: list[Arm] = []
        self._sizes: dict[int, int] = {}
        self._callbacks = {
            "execute": CALL(self._execute),
            "worker_loop": CALL(lambda record, chunk: None),
        }

    def link(self, kernel: Kernel, code: bytes) -> CompiledKernel:
        """Link a kernel with the C library alone: a call to anything else is an error."""
        place = len(self._kernels)
        code_file = self._folder / f"{place}.o"
        code_file.write_bytes(code)
        library = code_file.with_suffix(".so")
        _compile("-shared", "-Wl,-z,defs", "-o", str(library), str(code_file), "-lc")
        arm = Arm(kernel.name, place, kernel.fields, library, self._sizes)
        self._kernels.append(arm)
        callback = self._callbacks.get(kernel.name)  # kernels that a thread pool calls directly
        return replace(arm, address=_address_of(callback)) if callback else arm

    def _execute(self, record: int, chunk: int) -> None:
        """Do what `thread_pool._execute` does, one step and one chunk after the other."""
        _, steps, count = _words(record, 3)
        for step in _words(steps, count):
            place, chunks = _words(step, 2)
            kernel = self._kernels[place]
            self._run(kernel, _words(step + 16, len(kernel.fields)), _words(chunks, 1)[0])

    def _run(self, kernel: Arm, words: list[int], chunks: int) -> None:
        """Run all chunks of a kernel; its arrays are copied there and back."""
        types = kernel.fields.values()
        arrays = [word if type_ == POINTER else 0 for word, type_ in zip(words, types, strict=True)]
        segments = _joined([(array, kernel.sizes[array]) for array in arrays if array])
        request = [_text(str(kernel.library)), _text(kernel.name), _numbers(len(words), *words)]
        request.append(_numbers(len(segments)))
        for start, size in segments:
            request += [_numbers(size), ctypes.string_at(start, size)]
        request += [_numbers(*_place_in(segments, array)) for array in arrays]
        request.append(_numbers(chunks))
        self._send(b"".join(request), kernel)
        for start, size in segments:
            ctypes.memmove(start, self._receive(size, kernel), size)

    def _send(self, request: bytes, kernel: Arm) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
        except BrokenPipeError:
            self._is_gone(kernel)

    def _receive(self, size: int, kernel: Arm) -> bytes:
        assert self._process.stdout is not None
        received = self._process.stdout.read(size)
        if len(received) < size:
            self._is_gone(kernel)
        return received

    def _is_gone(self, kernel: Arm) -> None:
        """A kernel that crashed ends everything: it is called from C, where nothing is raised."""
        os.write(self._errors, f"\n{kernel.name} ended QEMU\n".encode())
        os._exit(1)


CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)


def _compile(*arguments: str) -> None:
    subprocess.run([COMPILER, *arguments], check=True)


def _address_of(callback: Any) -> int:
    address = ctypes.cast(callback, ctypes.c_void_p).value
    assert address is not None
    return address


def _words(address: int, count: int) -> list[int]:
    return list((ctypes.c_int64 * count).from_address(address))


def _joined(spans: list[Span]) -> list[Span]:
    """Join spans that touch or overlap, in order."""
    joined: list[Span] = []
    for start, size in sorted(set(spans)):
        if joined and start <= sum(joined[-1]):
            first, before = joined.pop()
            start, size = first, max(before, start + size - first)
        joined.append((start, size))
    return joined


def _place_in(segments: list[Span], address: int) -> tuple[int, int]:
    """Return an address's segment and its offset there; −1 for 0, which is no array."""
    for which, (start, size) in enumerate(segments):
        if start <= address <= start + size:
            return which, address - start
    return -1, 0


def _numbers(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}q", *numbers)


def _text(text: str) -> bytes:
    return _numbers(len(text.encode())) + text.encode()


def pretend() -> None:
    """Make llvmlite and the JIT take this machine for an ARM."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    arm = llvm.Target.from_triple(TRIPLE)
    vars(llvm).update(
        get_default_triple=lambda: TRIPLE, get_host_cpu_features=lambda: dict(FEATURES)
    )
    vars(compiling).update(JIT=ArmJIT)
    llvm.Target.from_default_triple = staticmethod(lambda: arm)


def main() -> int:
    absent = [name for name in (QEMU, COMPILER) if shutil.which(name) is None]
    if absent:
        print(f"kernels of 64-bit ARM are not tested: {' and '.join(absent)} not found")
        return 0
    pretend()
    print("instruction sets:", ", ".join(each.name for each in usable()))
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        ArmJIT.qemu = Qemu(Path(folder))
        return int(pytest.main(sys.argv[1:] or [*TESTS, "-q", "-p", "no:cacheprovider"]))


if __name__ == "__main__":
    sys.exit(main())
