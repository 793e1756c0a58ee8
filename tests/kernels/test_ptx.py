"""Every kernel is compiled for every GPU, with the right names and arguments, without spills."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from kernel_files import KERNELS, ROOT, TARGETS, entries, make, version
from ptxas import Assembler, Function, functions

ARCHITECTURES = {
    "compute_80": ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"],
    "compute_90a": ["sm_90a"],  # with features of that architecture only
}
TYPES = {"f32", "f16", "bf16"}
WIDENING = {"f16_to_f32", "bf16_to_f32"}  # rows of a narrow type in, float32 out
MAX_REGISTERS = 254  # 255 is the hardware's limit, at which kernels spill

# Kernels of one type only, and why.
OF_ONE_TYPE = {
    "sample_f32": "logits are float32 whatever the storage type is",
    "read_f32": "it only reads bytes",
    "nothing_f32": "it does nothing",
}
# Kernels that are allowed local memory: the bytes of stack, and why.
ALLOWED_STACK: dict[str, tuple[int, str]] = {}

PAIRS = [(target, card) for target in TARGETS for card in ARCHITECTURES[target]]


def ptx_of(folder: Path, target: str, kernel: str) -> str:
    return (folder / target / f"{kernel}.ptx").read_text()


# ------------------------------------------------------------------------------------------- build


def test_the_ptx_is_as_new_as_its_source(built: Path) -> None:
    asked = make(ROOT, "--question", "ptx")
    assert asked.returncode == 0, "run `make ptx`"
    assert {f"{target}/{kernel}.ptx" for target in TARGETS for kernel in KERNELS} == {
        str(path.relative_to(built)) for path in built.glob("*/*.ptx")
    }


@pytest.mark.parametrize("target", TARGETS)
def test_every_driver_since_cuda_12_loads_a_release(released: Path, target: str) -> None:
    versions = {kernel: version(ptx_of(released, target, kernel)) for kernel in KERNELS}
    assert all(found <= (8, 0) for found in versions.values()), versions


@pytest.mark.parametrize("target", TARGETS)
def test_ptx_names_no_folder_of_the_machine_that_built_it(folder: Path, target: str) -> None:
    for kernel in KERNELS:
        named = re.findall(r'^\s*\.file\s+\d+\s+"([^"]*)"', ptx_of(folder, target, kernel), re.M)
        assert f"kernels/{kernel}.cu" in named
        assert [name for name in named if name.startswith(("/", ".."))] == []


# ------------------------------------------------------------------------------ names and arguments


def types_of(names: Iterable[str]) -> dict[str, set[str]]:
    """Operator → types, from names like `gemv_bf16` and `gemv_bf16_to_f32`."""
    operators: dict[str, set[str]] = {}
    for name in names:
        found = re.fullmatch(r"(\w+?)_((?:bf16|f16|f32)(?:_to_f32)?)", name)
        assert found, f"{name} does not end in a type"
        operators.setdefault(found[1], set()).add(found[2])
    return operators


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_is_named_for_its_operator_and_every_type(folder: Path, kernel: str) -> None:
    names = set(entries(ptx_of(folder, "compute_80", kernel)))
    assert names
    for operator, types in types_of(names - set(OF_ONE_TYPE)).items():
        assert types in (TYPES, TYPES | WIDENING), operator


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_two_files_hold_a_kernel_of_the_same_name(built: Path, kernel: str) -> None:
    mine = set(entries(ptx_of(built, "compute_80", kernel)))
    others = [other for other in KERNELS if other != kernel]
    assert not mine & {
        name for other in others for name in entries(ptx_of(built, "compute_80", other))
    }


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_takes_the_same_arguments_for_every_type(folder: Path, kernel: str) -> None:
    arguments = entries(ptx_of(folder, "compute_80", kernel))
    for operator, types in types_of(arguments).items():
        taken = {kind: arguments[f"{operator}_{kind}"] for kind in types}
        assert all(one == taken[min(types)] for one in taken.values()), (operator, taken)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_kernel_takes_the_same_arguments_on_every_card(
    built: Path, folder: Path, target: str, kernel: str
) -> None:
    expected = entries(ptx_of(built, "compute_80", kernel))
    assert entries(ptx_of(folder, target, kernel)) == expected


# ------------------------------------------------------------------------------------------- ptxas


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("target", "card"), PAIRS)
def test_no_kernel_spills_registers_on_any_card(
    ptxas: Assembler, folder: Path, kernel: str, target: str, card: str
) -> None:
    ptx = ptx_of(folder, target, kernel)
    found = ptxas.assemble(ptx, card)
    assert {function.name for function in found} >= set(entries(ptx))
    fat = [str(function) for function in found if not is_lean(function)]
    assert not fat, "\n".join(fat)


def is_lean(function: Function) -> bool:
    stack, _ = ALLOWED_STACK.get(function.name, (0, ""))
    return function.registers <= MAX_REGISTERS and function.spilled == 0 and function.stack <= stack


def test_what_ptxas_reports_is_read_right() -> None:
    report = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'lean_f32' for 'sm_80'
ptxas info    : Function properties for lean_f32
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 15 registers, used 1 barriers, 128 bytes smem
ptxas info    : Compiling entry function 'fat_f32' for 'sm_80'
ptxas info    : Function properties for fat_f32
    8 bytes stack frame, 12 bytes spill stores, 40 bytes spill loads
ptxas info    : Used 255 registers, 384 bytes cmem[0]
"""
    lean, fat = functions(report)
    assert lean == Function("lean_f32", registers=15, stack=0, spilled=0)
    assert fat == Function("fat_f32", registers=255, stack=8, spilled=52)
    assert (is_lean(lean), is_lean(fat)) == (True, False)
