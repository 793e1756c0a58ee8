"""Chooses a backend, here and nowhere else. A backend is imported only where it is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import DeviceError, DeviceUnavailableError, UsageError
from .files.cache_folder import cache_folder_or_none
from .model.choices import BACKENDS, DTYPE_CHOICES, FLOATS, QUANTISED
from .model.operators import AnyOperators

if TYPE_CHECKING:
    from .cuda.operators import CudaOperators

COMPILER = "llvmlite"
INSTALL_COMPILER = "pip install 'cullama[llvm]'"


@dataclass(frozen=True)
class BackendOptions:
    """How a model is to be run."""

    dtype: str
    threads: int | None
    weight_folder: Path | None  # where converted weights are kept; None keeps none
    deterministic: bool = False


def operators_for(
    backend: str,
    dtype: str,
    threads: int | None,
    weight_folder: Path | None,
    deterministic: bool = False,
) -> AnyOperators:
    """Make the operators of a backend, in a storage type.

    "cuda:1" is the second GPU; "emulated" runs the GPU's kernels on the CPU; "cpu:numpy" is the CPU
    without compiled kernels, "cpu:avx2" with those of an instruction set. `auto` takes the first
    GPU if it can be used, else the CPU, and the operators' description says why, where there is a
    driver; a number of threads is for the CPU, and so selects it.

    A type of `auto` is bfloat16 on a GPU; on the CPU it is each weight's own, as its file has it,
    or float32 with numpy, which is slow with anything else.

    Raises:
        UsageError: no such backend, type or number of threads.
        DeviceUnavailableError: no GPU can be used, and one was asked for.
    """
    name, colon, which = backend.partition(":") if isinstance(backend, str) else (backend, "", "")
    _check("backend", name, BACKENDS)
    _check("dtype", dtype, DTYPE_CHOICES)
    options = BackendOptions(dtype, threads, weight_folder, deterministic)
    if colon and (name in ("auto", "emulated") or not which):
        raise UsageError(f"backend is {backend!r}, expected for example cpu:numpy or cuda:1")
    if name == "cpu":
        return _cpu(options, which)
    if name in ("cuda", "emulated") and threads is not None:
        raise UsageError(f"threads is {threads}, which is for the CPU: leave it out with {name}")
    if name == "emulated":
        return _emulated(dtype, deterministic)
    if name == "cuda":
        if colon and not (which.isascii() and which.isdecimal()):
            raise UsageError(
                f"backend is {backend!r}, expected cuda, or a GPU's number as in cuda:1"
            )
        return _cuda(dtype, int(which or 0), deterministic)
    return _best(options)


def _best(options: BackendOptions) -> AnyOperators:
    why = "threads are for the CPU"
    if options.dtype in QUANTISED:
        why = f"{options.dtype} is for the CPU"
    elif options.threads is None:
        try:
            return _first_gpu(options.dtype, options.deterministic)
        except DeviceUnavailableError as error:
            why = error.reason
        except DeviceError as error:  # a GPU that was lost, or is full
            why = str(error)
    operators = _cpu(options)
    if _has_driver():  # else there is no GPU that might have been taken
        operators.description += f" · auto: {why}"
    return operators


def _has_driver() -> bool:
    from .cuda.driver import has_driver

    return has_driver()


def _first_gpu(dtype: str, deterministic: bool) -> AnyOperators:
    return _cuda(dtype, 0, deterministic)


def check_kernels(kernels: str) -> None:
    """Check that the CPU backend has these kernels: "numpy", or an instruction set.

    Raises:
        UsageError: there is no compiler, no such set, or the processor lacks it.
    """
    if kernels == "numpy":
        return
    if find_spec(COMPILER) is None:
        raise UsageError(f"backend is 'cpu:{kernels}', which needs a compiler: {INSTALL_COMPILER}")
    from .cpu.jit.instruction_sets import choose_instruction_set

    choose_instruction_set(kernels)


def _cpu(options: BackendOptions, kernels: str = "") -> AnyOperators:
    """`kernels`: as `check_kernels` has them; "" takes the best there is."""
    if kernels:
        check_kernels(kernels)
    has_compiler = find_spec(COMPILER) is not None
    if kernels == "numpy" or not has_compiler:
        return _numpy(options, has_compiler)
    return _compiled(options, kernels)


def _compiled(options: BackendOptions, instruction_set: str) -> AnyOperators:
    from .cpu.compiled.operators import CompiledOperators
    from .cpu.jit.compiler import JIT
    from .cpu.jit.instruction_sets import choose_instruction_set
    from .cpu.threads import choose_threads, limit_blas

    limit_blas(1)
    cache_root = cache_folder_or_none()
    folder = None if cache_root is None else cache_root / "kernels"
    jit = JIT(choose_instruction_set(instruction_set), folder)
    threads = choose_threads(options.threads)
    operators = CompiledOperators(options.dtype, threads, jit, options.weight_folder)
    if options.deterministic:  # as it is anyway
        operators.description += " · deterministic"
    return operators


def _numpy(options: BackendOptions, has_compiler: bool) -> AnyOperators:
    from .cpu.deterministic import DeterministicCpuOperators
    from .cpu.matrix import TILED_ARCHITECTURES
    from .cpu.operators import CpuOperators
    from .cpu.threads import blas_architecture, choose_threads, limit_blas

    if options.dtype in QUANTISED:
        remedy = "leave out :numpy" if has_compiler else INSTALL_COMPILER
        raise UsageError(f"dtype is {options.dtype!r}, which needs compiled kernels: {remedy}")
    threads = choose_threads(options.threads)
    limit_blas(1)
    has_tiles = blas_architecture() in TILED_ARCHITECTURES
    dtype = "float32" if options.dtype == "auto" else options.dtype
    make = DeterministicCpuOperators if options.deterministic else CpuOperators
    operators = make(dtype, threads, has_tiles, options.weight_folder)
    if not has_compiler:
        operators.description += f" · numpy; faster with {INSTALL_COMPILER}"
    return operators


def _emulated(dtype: str, deterministic: bool) -> AnyOperators:
    from .cuda.module import ptx_folder
    from .emulation.start import SLOWNESS, compile_kernels, start_emulation

    start_emulation()
    operators = _on_device(dtype, 0, deterministic)
    compile_kernels(ptx_folder(operators.device.capability), operators.dtype_name)
    products = operators.description.rpartition(" · ")[2]
    operators.description = f"emulated · {operators.dtype_name} · {products} · {SLOWNESS}"
    return operators


def _cuda(dtype: str, index: int, deterministic: bool) -> AnyOperators:
    from .emulation.start import check_not_emulated

    check_not_emulated()
    return _on_device(dtype, index, deterministic)


def _on_device(dtype: str, index: int, deterministic: bool) -> CudaOperators:
    if dtype in QUANTISED:
        on_gpu = ", ".join(("auto", *FLOATS))
        raise UsageError(f"dtype is {dtype!r}, which is for the CPU, expected one of {on_gpu}")
    from .cuda.driver import Device
    from .cuda.operators import CudaOperators

    device = Device(index)
    try:
        return CudaOperators("bfloat16" if dtype == "auto" else dtype, device, deterministic)
    except BaseException:
        device.close()
        raise


def _check(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
