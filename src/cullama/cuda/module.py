"""Loads kernels from PTX files and launches them with arguments of the right types.

Argument types are read from the PTX (`.param`), so a float cannot be sent where the kernel reads a
double, and a wrong number of arguments is refused before the launch. What a kernel computes, and
with how many threads, is up to its caller.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ..errors import DeviceError, DeviceLostError, DeviceMemoryError, DeviceUnavailableError
from .driver import Device

PTX_FOLDER = Path(__file__).parent / "ptx"
LOG_SIZE = 8192  # bytes for the error log of the driver's compiler
FIRST_LOADED = "gather"  # loaded at start: a driver that cannot load it can load none
DEFAULT_MAX_SHARED = 48 << 10  # bytes of shared memory that a kernel may use without opting in

_ENTRY = re.compile(r"\.visible \.entry (\w+)\s*\((.*?)\)", re.DOTALL)
_PARAMETER = re.compile(r"\.param (?:\.align \d+ )?\.(\w+)[^,\[]*(?:\[(\d+)\])?")
_VERSION = re.compile(r"^\.version (\d+)\.(\d+)", re.MULTILINE)

# PTX tells sizes, but not signs: kernels take int, float, pointers, u64, and small structs.
_TYPES: dict[str, type[Any]] = {
    "u64": ctypes.c_uint64,
    "b64": ctypes.c_uint64,
    "u32": ctypes.c_int32,
    "b32": ctypes.c_int32,
    "f32": ctypes.c_float,
}

Size3 = tuple[int, int, int]
LaunchFunction: TypeAlias = Callable[..., tuple[Any, ...]]  # as cuLaunchKernel


class Signature(NamedTuple):
    """The ctypes of a kernel's arguments, in order."""

    name: str
    types: tuple[type[Any], ...]


def read_signatures(ptx: str) -> dict[str, Signature]:
    """Return the signature of each kernel in a PTX file, by its name."""
    return {
        name: Signature(
            name,
            tuple(
                ctypes.c_char * int(length) if length else _TYPES[kind]
                for kind, length in _PARAMETER.findall(parameters)
            ),
        )
        for name, parameters in _ENTRY.findall(ptx)
    }


def ptx_version(ptx: str) -> tuple[int, int]:
    """Return the version of the PTX language that a driver must support to load the file."""
    found = _VERSION.search(ptx)
    assert found is not None
    return int(found[1]), int(found[2])


def ptx_folder(capability: tuple[int, int]) -> Path:
    """Return the folder of PTX for a device: 90a runs on Hopper only, 80 on Ampere and newer.

    Hopper takes 80, too, where 90a was not built.

    Raises:
        DeviceUnavailableError: the kernels were not built.
    """
    for name in (*(["compute_90a"] if capability == (9, 0) else []), "compute_80"):
        folder = PTX_FOLDER / name
        if (folder / f"{FIRST_LOADED}.ptx").is_file():
            return folder
    raise DeviceUnavailableError(
        "the CUDA kernels are not built (compute_80)",
        "run `make ptx` in the source folder, or install a wheel, which contains them",
    )


class Kernel:
    """One kernel: `kernel(grid, block, *arguments)` launches it on the device's stream.

    Argument storage is allocated once, which makes a launch cheap; so only one thread at a time may
    launch a kernel.
    """

    def __init__(
        self, device: Device, handle: Any, signature: Signature, launch: LaunchFunction
    ) -> None:
        self.name = signature.name
        self._device, self._handle, self._launch = device, handle, launch
        self._arguments = [kind() for kind in signature.types]
        self._pointers = (ctypes.c_void_p * len(self._arguments))(
            *map(ctypes.addressof, self._arguments)
        )
        self._pointers_address = ctypes.addressof(self._pointers)
        self._max_shared = DEFAULT_MAX_SHARED

    def __call__(self, grid: Size3, block: int, *arguments: Any, shared: int = 0) -> None:
        """Launch the kernel.

        Args:
            grid: blocks along x, y and z.
            block: threads of a block, along x.
            arguments: int, float, or ctypes structs.
            shared: bytes of dynamic shared memory.
        """
        device = self._device
        device.make_current()
        if len(arguments) != len(self._arguments):
            raise TypeError(
                f"{self.name} takes {len(self._arguments)} arguments, not {len(arguments)}"
            )
        for stored, argument in zip(self._arguments, arguments, strict=True):
            if isinstance(stored, ctypes.Array):
                raw, size = bytes(argument), len(stored)
                if len(raw) != size:
                    raise TypeError(f"{self.name} takes a struct of {size} bytes, not {len(raw)}")
                stored.raw = raw
            else:
                stored.value = argument
        if shared > self._max_shared:
            self._raise_max_shared(shared)
        device.last_launched = self.name
        device.check(
            "cuLaunchKernel",
            self._launch(
                self._handle, *grid, block, 1, 1, shared, device.stream, self._pointers_address, 0
            ),
        )

    def _raise_max_shared(self, size: int) -> None:
        limit = self._device.attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")
        if size > limit:
            raise DeviceError(
                f"{self.name} needs {size} bytes of shared memory, {self._device.name} has "
                f"{limit}; use --backend cpu for this model"
            )
        kind = self._device.driver.CUfunction_attribute
        name = kind.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._device.call("cuFuncSetAttribute", self._handle, name, size)
        self._max_shared = size


class Kernels:
    """The kernels of a device; `kernels("linear", "gemv_bf16")` loads file and kernel once.

    Raises:
        DeviceUnavailableError: the kernels were not built, or the driver cannot load them.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._folder = ptx_folder(device.capability)
        self._modules: dict[str, tuple[Any, dict[str, Signature]]] = {}
        self._kernels: dict[str, Kernel] = {}
        self._replacements: dict[str, list[tuple[Any, Kernel]]] = {}  # (module, kernel), last first
        self.generation = 0  # counts replacements: what was captured before has other kernels
        self._launch_of: Callable[[str, str], LaunchFunction] | None = None
        self._module(FIRST_LOADED)

    def __call__(self, file: str, name: str) -> Kernel:
        if replacements := self._replacements.get(name):
            return replacements[0][1]
        kernel = self._kernels.get(name)
        if kernel is None:
            module, signatures = self._module(file)
            handle = self._device.call("cuModuleGetFunction", module, name.encode())
            launch = self._device.driver.cuLaunchKernel
            if self._launch_of:
                launch = self._launch_of(file, name)
            kernel = self._kernels[name] = Kernel(self._device, handle, signatures[name], launch)
        return kernel

    def replace_launches(self, launch_of: Callable[[str, str], LaunchFunction] | None) -> None:
        """Launch every kernel by the function for its file and name, with None by the driver's."""
        self._launch_of = launch_of
        self._kernels.clear()

    def replace(self, name: str, ptx: str, kernel: str) -> Callable[[], None]:
        """Launch `kernel` of a PTX text wherever `name` would be; call the result to undo it.

        Raises:
            DeviceUnavailableError: the driver cannot load it.
        """
        module = _load(self._device, kernel, ptx)
        handle = self._device.call("cuModuleGetFunction", module, kernel.encode())
        launch = self._device.driver.cuLaunchKernel
        made = module, Kernel(self._device, handle, read_signatures(ptx)[kernel], launch)
        self._replacements.setdefault(name, []).insert(0, made)
        self.generation += 1

        def undo() -> None:
            replacements = self._replacements.get(name, [])
            if made not in replacements:
                return
            self._device.synchronize()
            replacements.remove(made)
            self.generation += 1
            self._device.call("cuModuleUnload", module)

        return undo

    def close(self) -> None:
        modules = [module for module, _ in self._modules.values()]
        modules += [module for made in self._replacements.values() for module, _ in made]
        self._replacements.clear()
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
    """Have the driver compile a PTX file, and return the module."""
    options = device.driver.CUjit_option
    log = bytes(LOG_SIZE)  # the driver writes into it
    names = [options.CU_JIT_ERROR_LOG_BUFFER, options.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES]
    image = ptx.encode() + b"\0"
    try:
        return device.call("cuModuleLoadDataEx", image, len(names), names, [log, LOG_SIZE])
    except (DeviceLostError, DeviceMemoryError):
        raise
    except DeviceError as error:
        message = " ".join(log.split(b"\0")[0].decode(errors="replace").split())
        driver, file_version = (
            ".".join(map(str, version)) for version in (device.driver_version, ptx_version(ptx))
        )
        raise DeviceUnavailableError(
            f"{file}.ptx cannot be loaded: {error}{'; it says: ' if message else ''}{message}. The "
            f"driver supports CUDA {driver}, the file is PTX {file_version}",
            "install a newer driver, or build with an older toolkit (make ptx-release)",
        ) from None
