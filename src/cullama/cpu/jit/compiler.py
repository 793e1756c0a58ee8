"""Compiles kernels to functions in memory, with LLVM's optimiser and code generator.

Machine code is stored under a digest of everything it was made from, so that a second start
compiles nothing; a kernel without a source file, as in a notebook, is compiled at each start. This
file contains no kernel.
"""

from __future__ import annotations

import hashlib
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import llvmlite
import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from ...files import quantized_blocks
from ...files.tensor import HostArray
from ...process.forks import hold_during_fork
from ...process.interrupts import INTERRUPTS
from .instruction_sets import InstructionSet
from .kernel_builder import F32, I64, POINTER, KernelBuilder, Type, Value
from .store import CodeStore

Body: TypeAlias = Callable[[KernelBuilder, SimpleNamespace, Value], None]

OPTIMISATION = 3
CPU_FOLDER = Path(__file__).parents[1]

# llvmlite's own, reentrant, which it takes for each call of LLVM; it has no other name. A child
# that is forked while a thread is in LLVM would wait for it for ever.
LLVM_LOCK = getattr(llvm.ffi.lib, "_lock", None) or threading.RLock()
hold_during_fork(LLVM_LOCK)


@dataclass(frozen=True)
class Kernel:
    """A function of a record of arguments and the index of a chunk, one share of the work.

    `body(builder, a, chunk)` emits its code; `a` has the arguments as attributes, by their names.
    """

    name: str
    fields: Mapping[str, Type]  # of the record, eight bytes each, in this order
    body: Body  # emits the code for one chunk


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel's machine code in memory."""

    name: str
    address: int
    fields: Mapping[str, Type]
    code_owner: object = field(default=None, kw_only=True)  # unmaps the code when it is dropped

    def record(self, arguments: Mapping[str, Any]) -> bytes:
        """Return arguments as the kernel reads them; arrays by their addresses."""
        assert arguments.keys() == self.fields.keys(), (
            self.name,
            set(arguments) ^ set(self.fields),
        )
        words = []
        for name, type_ in self.fields.items():
            argument = arguments[name]
            if type_ == F32:
                words.append(_FLOAT(argument))
            elif isinstance(argument, np.ndarray):
                words.append(_INTEGER(address_of(argument)))
            else:
                words.append(_INTEGER(int(argument or 0)))
        return b"".join(words)


_FLOAT, _INTEGER = struct.Struct("<f4x").pack, struct.Struct("<q").pack


def address_of(array: HostArray) -> int:
    return int(array.__array_interface__["data"][0])


class JIT:
    """Compiles kernels for one instruction set, each once."""

    def __init__(self, instruction_set: InstructionSet, folder: Path | None) -> None:
        """
        Args:
            folder: where machine code is stored; None stores none.
        """
        self.instruction_set = instruction_set
        self._store = None if folder is None else CodeStore(folder)
        self._compiled: dict[str, CompiledKernel] = {}
        self.compile_seconds = 0.0  # so far; machine code that was stored takes none
        with INTERRUPTS.deferred, LLVM_LOCK:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            target = llvm.Target.from_default_triple()
            self._target = target.create_target_machine(
                cpu=instruction_set.processor,
                features=instruction_set.features,
                opt=OPTIMISATION,
                reloc="pic",
            )
            self._linker = llvm.create_lljit_compiler()

    def compile(self, kernel: Kernel) -> CompiledKernel:
        """Return the compiled kernel of that name, compiling it the first time.

        Kernels made for different shapes or types must have different names.
        """
        compiled = self._compiled.get(kernel.name)
        if compiled is not None:
            return compiled
        # Ctrl-C waits: a kernel that is linked and not known here could never be linked again.
        with INTERRUPTS.deferred, LLVM_LOCK:
            if kernel.name not in self._compiled:
                self._compiled[kernel.name] = self._link(kernel)
        return self._compiled[kernel.name]

    def _link(self, kernel: Kernel) -> CompiledKernel:
        library = llvm.JITLibraryBuilder().add_object_img(self._machine_code(kernel))
        library.add_current_process().export_symbol(kernel.name)  # the C library is found there
        loaded = library.link(self._linker, kernel.name)
        owner = (loaded, self._linker)
        return CompiledKernel(kernel.name, loaded[kernel.name], kernel.fields, code_owner=owner)

    def _machine_code(self, kernel: Kernel) -> bytes:
        source = Path(kernel.body.__code__.co_filename)  # no file if typed into a notebook
        if self._store is None or not source.is_file():
            return self._generate_code(kernel)
        made_for = [llvm.get_default_triple(), repr(self.instruction_set), kernel.name]
        made_from = [llvmlite.__version__, *made_for, _sources()]
        digest = hashlib.sha256("\n".join(made_from).encode())
        if not source.is_relative_to(CPU_FOLDER):  # a kernel from outside cullama
            digest.update(source.read_bytes())
        name = f"{kernel.name}-{self.instruction_set.name}-{digest.hexdigest()[:16]}"
        return self._store.get(name, lambda: self._generate_code(kernel))

    def _generate_code(self, kernel: Kernel) -> bytes:
        start = time.perf_counter()
        module = llvm.parse_assembly(str(build_module(kernel, self.instruction_set)))
        module.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=OPTIMISATION)
        passes = llvm.create_pass_builder(self._target, options)
        passes.getModulePassManager().run(module, passes)
        code = bytes(self._target.emit_object(module))
        self.compile_seconds += time.perf_counter() - start
        return code


def build_module(kernel: Kernel, instruction_set: InstructionSet) -> ir.Module:
    """Return the kernel as an LLVM module, not yet optimised."""
    module = ir.Module(kernel.name)
    module.triple = llvm.get_default_triple()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, I64]), kernel.name)
    builder = KernelBuilder(function, instruction_set)
    record, chunk = (Value(builder, argument) for argument in function.args)
    kernel.body(builder, builder.arguments(record, kernel.fields), chunk)
    builder.finish()
    return module


@cache
def _sources() -> str:
    """Digest the CPU backend and the block layouts: a change there compiles every kernel again."""
    digest = hashlib.sha256()
    for path in [*sorted(CPU_FOLDER.rglob("*.py")), Path(quantized_blocks.__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
