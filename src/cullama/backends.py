"""Which backend: the only place that asks. A backend is imported where it is chosen."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .cache_folder import cache_folder
from .errors import DeviceError, DeviceUnavailableError, UsageError
from .operators import Operators

BACKENDS = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "float16", "bfloat16")


def operators_for(
    backend: str,
    dtype: str,
    threads: int | None,
    weight_folder: Path | None,
    deterministic: bool = False,
) -> Operators[Any]:
    """The operators of a backend, in a storage type.

    "cuda:1" is the second GPU. `auto` takes the first GPU if it can be used, else the CPU, and the
    operators' description says why; a number of threads is for the CPU, and so asks for it. A type
    of `auto` is float32 on the CPU, since numpy multiplies nothing else at speed, and bfloat16 on
    a GPU.

    Raises:
        UsageError: a backend, type or thread count that there is not.
        DeviceUnavailableError: no GPU can be used, and one was asked for.
    """
    name, _, index = backend.partition(":") if isinstance(backend, str) else (backend, "", "")
    _check("backend", name, BACKENDS)
    _check("dtype", dtype, DTYPES)
    if name == "cpu":
        return _cpu(dtype, threads, weight_folder, deterministic, index)
    if name == "cuda":
        if threads is not None:
            raise UsageError(f"threads is {threads}, which is for the CPU: leave it out with cuda")
        return _cuda(dtype, _index(backend, index), deterministic)
    if index:
        raise UsageError(f"backend is {backend!r}: only cuda takes a number, for example cuda:1")
    return _best(dtype, threads, weight_folder, deterministic)


def _best(
    dtype: str, threads: int | None, weight_folder: Path | None, deterministic: bool
) -> Operators[Any]:
    why = "threads are for the CPU"
    if threads is None:
        try:
            return _first_gpu(dtype, deterministic)
        except DeviceUnavailableError as error:
            why = error.reason
        except DeviceError as error:  # one that was lost, or is full
            why = str(error)
    operators = _cpu(dtype, threads, weight_folder, deterministic)
    operators.description += f" · auto: {why}"
    return operators


def _first_gpu(dtype: str, deterministic: bool) -> Operators[Any]:
    return _cuda(dtype, 0, deterministic)


def _cpu(
    dtype: str,
    threads: int | None,
    weight_folder: Path | None,
    deterministic: bool,
    kernels: str = "",
) -> Operators[Any]:
    """`kernels`: "numpy", or the instruction set that compiled ones are made for."""
    if kernels != "numpy" and (kernels or find_spec("llvmlite")):
        return _compiled(dtype, threads, weight_folder, kernels)
    return _numpy(dtype, threads, weight_folder, deterministic)


def _compiled(
    dtype: str, threads: int | None, weight_folder: Path | None, instruction_set: str
) -> Operators[Any]:
    from .cpu.compiled.instruction_sets import choose
    from .cpu.compiled.machine import Machine
    from .cpu.compiled.operators import CompiledOperators
    from .cpu.threads import choose_threads

    machine = Machine(choose(instruction_set), cache_folder() / "kernels")
    return CompiledOperators(dtype, choose_threads(threads), machine, weight_folder)


def _numpy(
    dtype: str, threads: int | None, weight_folder: Path | None, deterministic: bool
) -> Operators[Any]:
    from .cpu.deterministic import DeterministicCpuOperators
    from .cpu.matrix import TILED_ARCHITECTURES
    from .cpu.operators import CpuOperators
    from .cpu.threads import blas_architecture, choose_threads, limit_blas

    count = choose_threads(threads)
    limit_blas(1)
    has_tiles = blas_architecture() in TILED_ARCHITECTURES
    operators = DeterministicCpuOperators if deterministic else CpuOperators
    return operators("float32" if dtype == "auto" else dtype, count, has_tiles, weight_folder)


def _cuda(dtype: str, index: int, deterministic: bool) -> Operators[Any]:
    from .cuda.driver import Device
    from .cuda.operators import CudaOperators

    device = Device(index)
    try:
        return CudaOperators("bfloat16" if dtype == "auto" else dtype, device, deterministic)
    except BaseException:
        device.close()
        raise


def _index(backend: str, text: str) -> int:
    if backend == "cuda":
        return 0
    if not text.isascii() or not text.isdecimal():
        raise UsageError(f"backend is {backend!r}, expected cuda, or a GPU's number as in cuda:1")
    return int(text)


def _check(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
