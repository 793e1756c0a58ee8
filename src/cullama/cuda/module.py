"""Kernels: found in PTX files, loaded into the driver, called with arguments of the right types.

Argument types are read from the PTX (`.param`), so a float can never be sent where the kernel
reads a double, and a wrong number of arguments is found before anything is launched. It knows no
particular kernel.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DeviceError, DeviceLostError, DeviceMemoryError, DeviceUnavailableError
from .driver import Device

PTX_FOLDER = Path(__file__).parent / "ptx"
LOG_SIZE = 8192  # bytes for what the driver's compiler has to say
FIRST = "gather"  # loaded at once: a driver that cannot read it reads none
FREE_SHARED_BYTES = 48 << 10  # of shared memory a kernel gets without asking

_ENTRY = re.compile(r"\.visible \.entry (\w+)\s*\((.*?)\)", re.DOTALL)
_PARAMETER = re.compile(r"\.param (?:\.align \d+ )?\.(\w+)[^,\[]*(?:\[(\d+)\])?")
_VERSION = re.compile(r"^\.version (\d+)\.(\d+)", re.MULTILINE)

# PTX knows sizes more than signs: kernels take int, float, pointers, u64, and small structs.
_TYPES: dict[str, type[Any]] = {
    "u64": ctypes.c_uint64,
    "b64": ctypes.c_uint64,
    "u32": ctypes.c_int32,
    "b32": ctypes.c_int32,
    "f32": ctypes.c_float,
}

Size3 = tuple[int, int, int]


class Signature(NamedTuple):
    """The ctypes of a kernel's arguments, in order."""

    name: str
    types: tuple[type[Any], ...]


def read_signatures(ptx: str) -> dict[str, Signature]:
    """The kernels of a PTX file and what they take."""
    return {
        name: Signature(name, tuple(map(_type, _PARAMETER.findall(parameters))))
        for name, parameters in _ENTRY.findall(ptx)
    }


def ptx_version(ptx: str) -> tuple[int, int]:
    """The version of the PTX language that a driver must know to load it."""
    found = _VERSION.search(ptx)
    assert found is not None
    return int(found[1]), int(found[2])


def ptx_folder(capability: tuple[int, int]) -> Path:
    """Where the PTX for a device lies: 90a runs on Hopper only, 80 on everything from Ampere on.

    Raises:
        DeviceUnavailableError: it was not built.
    """
    folder = PTX_FOLDER / ("compute_90a" if capability == (9, 0) else "compute_80")
    if not any(folder.glob("*.ptx")):
        raise DeviceUnavailableError(
            f"the CUDA kernels are not built ({folder.name})",
            "run `make ptx` in the source folder, or install a wheel, which has them",
        )
    return folder


class Kernel:
    """One kernel: `kernel(grid, block, *arguments)` launches it on the device's stream.

    The cells that arguments are put into are made once, which makes a launch cheap, and are why a
    kernel belongs to one thread at a time.
    """

    def __init__(self, device: Device, handle: Any, signature: Signature) -> None:
        self.name = signature.name
        self._device, self._handle = device, handle
        self._launch: Callable[..., tuple[Any, ...]] = device.driver.cuLaunchKernel
        self._cells = [kind() for kind in signature.types]
        self._pointers = (ctypes.c_void_p * len(self._cells))(*map(ctypes.addressof, self._cells))
        self._arguments = ctypes.addressof(self._pointers)
        self._shared_allowed = FREE_SHARED_BYTES

    def __call__(self, grid: Size3, block: int, *arguments: Any, shared: int = 0) -> None:
        """`block` threads; arguments are int, float, or ctypes structs; `shared` in bytes."""
        device = self._device
        device.make_current()
        if len(arguments) != len(self._cells):
            raise TypeError(f"{self.name} takes {len(self._cells)} arguments, not {len(arguments)}")
        for cell, argument in zip(self._cells, arguments, strict=True):
            if isinstance(cell, ctypes.Array):
                cell.raw = _bytes(self.name, argument, len(cell))
            else:
                cell.value = argument
        if shared > self._shared_allowed:
            self._allow_shared(shared)
        device.last_launched = self.name
        device.check(
            "cuLaunchKernel",
            self._launch(
                self._handle, *grid, block, 1, 1, shared, device.stream, self._arguments, 0
            ),
        )

    def _allow_shared(self, size: int) -> None:
        most = self._device.attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")
        if size > most:
            raise DeviceError(
                f"{self.name} needs {size} bytes of shared memory, {self._device.name} has {most}; "
                "use --backend cpu for this model"
            )
        kind = self._device.driver.CUfunction_attribute
        name = kind.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._device.call("cuFuncSetAttribute", self._handle, name, size)
        self._shared_allowed = size


class Kernels:
    """All kernels of a device; `kernels("linear", "gemv_bf16")` loads file and kernel once.

    Raises:
        DeviceUnavailableError: they were not built, or the driver cannot read them.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._folder = ptx_folder(device.capability)
        self._modules: dict[str, tuple[Any, dict[str, Signature]]] = {}
        self._kernels: dict[str, Kernel] = {}
        self._module(FIRST)

    def __call__(self, file: str, name: str) -> Kernel:
        kernel = self._kernels.get(name)
        if kernel is None:
            module, signatures = self._module(file)
            handle = self._device.call("cuModuleGetFunction", module, name.encode())
            kernel = self._kernels[name] = Kernel(self._device, handle, signatures[name])
        return kernel

    def close(self) -> None:
        modules = [module for module, _ in self._modules.values()]
        self._modules.clear()
        self._kernels.clear()
        for module in modules:
            self._device.driver.cuModuleUnload(module)

    def _module(self, file: str) -> tuple[Any, dict[str, Signature]]:
        if file not in self._modules:
            self._device.make_current()
            ptx = (self._folder / f"{file}.ptx").read_text(encoding="utf-8")
            self._modules[file] = _load(self._device, file, ptx), read_signatures(ptx)
        return self._modules[file]


def _load(device: Device, file: str, ptx: str) -> Any:
    options = device.driver.CUjit_option
    log = bytes(LOG_SIZE)  # the driver writes into it
    names = [
        options.CU_JIT_ERROR_LOG_BUFFER,
        options.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ]
    image = ptx.encode() + b"\0"
    try:
        return device.call("cuModuleLoadDataEx", image, len(names), names, [log, LOG_SIZE])
    except (DeviceLostError, DeviceMemoryError):
        raise
    except DeviceError as error:
        said = " ".join(log.split(b"\0")[0].decode(errors="replace").split())
        raise DeviceUnavailableError(
            f"{file}.ptx cannot be loaded: {error}{'; it says: ' if said else ''}{said}. The "
            f"driver knows CUDA {_dotted(device.driver_version)}, the file is PTX "
            f"{_dotted(ptx_version(ptx))}",
            "install a newer driver, or build with an older toolkit (make ptx-release)",
        ) from None


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _type(parameter: tuple[str, str]) -> type[Any]:
    kind, length = parameter
    return ctypes.c_char * int(length) if length else _TYPES[kind]


def _bytes(kernel: str, argument: Any, size: int) -> bytes:
    raw = bytes(argument)
    if len(raw) != size:
        raise TypeError(f"{kernel} takes a struct of {size} bytes, not {len(raw)}")
    return raw
