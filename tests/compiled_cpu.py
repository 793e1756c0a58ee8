"""Compiled kernels for tests: one JIT for each instruction set that this processor has.

Without llvmlite, tests that import this file are skipped. Machine code is stored beside pytest's
own cache for as long as the sources of the kernels stay the same, so that only the first run after
a change takes a minute. Arrays that kernels are to fill hold NaN before.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("llvmlite", reason="llvmlite is not installed: pip install -e '.[llvm]'")

from cullama.cpu.compiled.operators import CompiledOperators
from cullama.cpu.jit import compiler as compiling
from cullama.cpu.jit.compiler import JIT, CompiledKernel, Kernel
from cullama.cpu.jit.instruction_sets import InstructionSet, choose_instruction_set, usable
from cullama.cpu.jit.kernel_builder import POINTER, KernelBuilder, Value
from cullama.cpu.jit.program import step
from cullama.cpu.jit.thread_pool import KernelThreadPool

NAMES = [each.name for each in usable()]
in_each_instruction_set = pytest.mark.parametrize("name", NAMES)

STORED = Path(__file__).resolve().parents[1] / ".pytest_cache" / "kernels"


@cache
def folder() -> Path:
    """Return where machine code of the present sources is stored; remove that of older ones."""
    mine = STORED / compiling._sources()[:16]
    for other in STORED.glob("*"):
        if other != mine:
            shutil.rmtree(other, ignore_errors=True)
    mine.mkdir(parents=True, exist_ok=True)
    return mine


@cache
def jit(name: str) -> JIT:
    return JIT(choose_instruction_set(name), folder())


@cache
def jit_for_tests(name: str) -> JIT:
    """Return a JIT for kernels that tests define; stored code would outlive changes in them."""
    return JIT(choose_instruction_set(name), None)


@cache
def thread_pool(name: str, threads: int = 1) -> KernelThreadPool:
    return KernelThreadPool(jit(name), threads)


def run(name: str, kernel: Kernel, chunks: int = 1, threads: int = 1, **arguments: Any) -> None:
    """Run all chunks of a kernel on contiguous arrays."""
    execute(thread_pool(name, threads), jit(name).compile(kernel), chunks, arguments)


def execute(
    thread_pool: KernelThreadPool, kernel: CompiledKernel, chunks: int, arguments: dict[str, Any]
) -> None:
    record = step(kernel, chunks, arguments)
    thread_pool.execute(np.array([compiling.address_of(record)], np.int64))


def computed(
    name: str,
    title: str,
    body: Callable[[KernelBuilder, SimpleNamespace], None],
    **arrays: NDArray[Any],
) -> None:
    """Run code that a test defines, on arrays by their names. Each title stands for one code."""

    def whole(builder: KernelBuilder, arguments: SimpleNamespace, chunk: Value) -> None:
        body(builder, arguments)

    kernel = Kernel(title, dict.fromkeys(arrays, POINTER), whole)
    execute(thread_pool(name), jit_for_tests(name).compile(kernel), 1, arrays)


class PoisonedOperators(CompiledOperators):
    """Operators whose outputs start as NaN, so that numbers that a kernel does not write show."""

    def _empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray[Any]:
        array = super()._empty(shape, dtype)
        array.fill(np.nan if array.dtype.kind == "f" else 255)
        return array


def operators(name: str, dtype: str = "auto", threads: int = 1) -> PoisonedOperators:
    return PoisonedOperators(dtype, threads, jit(name))


def assembly(
    monkeypatch: pytest.MonkeyPatch, instruction_set: InstructionSet, kernel: Kernel
) -> str:
    """Return a kernel's assembly for any processor, not only this one."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple = f"{instruction_set.architecture or 'x86_64'}-unknown-linux-gnu"
    monkeypatch.setattr(llvm, "get_default_triple", lambda: triple)
    target = llvm.Target.from_triple(triple).create_target_machine(
        cpu=instruction_set.processor, features=instruction_set.features, opt=3
    )
    module = llvm.parse_assembly(str(compiling.build_module(kernel, instruction_set)))
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    passes = llvm.create_pass_builder(target, options)
    passes.getModulePassManager().run(module, passes)
    return str(target.emit_assembly(module))
