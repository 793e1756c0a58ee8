"""Facts about CUDA: the driver, each GPU and the kernels for it, cuBLAS, the driver's cache.

The driver is called directly here, because `Device` refuses GPUs that cullama cannot use, and these
are to be described as well. Operators are tested in doctor/selftest.py.
"""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from ..cuda.cublas import find_cublas
from ..cuda.driver import MIN_CAPABILITY, NO_DEVICE, Device, load_bindings
from ..cuda.module import Kernels, ptx_folder, ptx_version, read_signatures
from ..emulation.start import start_emulation
from ..errors import (
    CullamaError,
    DeviceError,
    DeviceLostError,
    DeviceUnavailableError,
    UsageError,
)
from .findings import Fact, failing
from .host import bytes_in, gigabytes, megabytes
from .plan import DoctorPlan

STUB_LIBRARY = 34  # CUresult of the stub libcuda, which is only for linking
VERSION_LINE = "\n.version "  # of a PTX file; comments may precede it
ABSENT = (STUB_LIBRARY, NO_DEVICE)
SEE_SMI = "see what `nvidia-smi` says about it, and which other programs use it"

Version = tuple[int, int]

# PTX → the first CUDA that supports it, and that CUDA's first driver branch (PTX ISA, "Release
# notes"; CUDA toolkit release notes, "CUDA driver").
SUPPORTED_BY: dict[Version, tuple[Version, int]] = {
    (8, 0): ((12, 0), 525),
    (8, 1): ((12, 1), 530),
    (8, 2): ((12, 2), 535),
    (8, 3): ((12, 3), 545),
    (8, 4): ((12, 4), 550),
    (8, 5): ((12, 5), 555),
    (8, 6): ((12, 7), 565),
    (8, 7): ((12, 8), 570),
    (8, 8): ((12, 9), 575),
    (9, 0): ((13, 0), 580),
    (9, 1): ((13, 1), 590),
}


def check_number(plan: DoctorPlan) -> None:
    """Check that the GPU asked for exists.

    Raises:
        UsageError: it does not.
    """
    with suppress(DeviceUnavailableError):
        count = _start(load_bindings())[0] if plan.gpu else 0
        if plan.gpu and 0 < count <= plan.gpu:
            raise UsageError(f"there is no GPU cuda:{plan.gpu}, expected one below cuda:{count}")


def gpu_facts(plan: DoctorPlan, usable: list[int]) -> Iterator[Fact]:
    """Yield all facts about CUDA; append the numbers of the usable GPUs to `usable`."""
    try:
        if plan.is_emulated:
            start_emulation()
        driver = load_bindings()
    except DeviceUnavailableError as error:
        yield _absence(error, plan.needs_cuda)
        return
    yield from _driver_facts(driver)
    count, is_absent = _start(driver)
    if count == 0:
        yield _absence(_reason_for_no_device(), plan.needs_cuda or not is_absent)
        return
    for index in range(count) if plan.gpu is None else [plan.gpu]:
        yield from _gpu_facts(driver, index, usable)
    yield _cublas(_cuda_version(driver))
    yield _jit_cache()


# --- the driver ----------------------------------------------------------------------------------


def _start(driver: Any) -> tuple[int, bool]:
    """Return the number of GPUs, and whether 0 means that there is none, and not a fault."""
    try:
        status = int(driver.cuInit(0)[0])
    except RuntimeError:  # the driver lacks the function
        return 0, False
    count = int(_call(driver, "cuDeviceGetCount")) if status == 0 else 0
    return count, status in (0, *ABSENT)


def _reason_for_no_device() -> DeviceUnavailableError:
    """Return the error of `Device` where there is no GPU."""
    try:
        Device(0).close()
    except DeviceUnavailableError as error:
        return error
    raise AssertionError("a device where there is none")


def _absence(error: DeviceUnavailableError, is_problem: bool) -> Fact:
    found = f"not available: {error.reason}"
    details = {"is_available": False, "reason": error.reason}
    if is_problem:
        return failing("CUDA", found, "a GPU that cullama can use", error.remedy, **details)
    return Fact("CUDA", found, details, remedy=error.remedy)


def _driver_facts(driver: Any) -> Iterator[Fact]:
    """Yield facts about the bindings and the driver."""
    try:
        version = metadata.version("cuda-bindings")
    except metadata.PackageNotFoundError:  # not installed, but on the path
        version = "unknown"
    yield Fact("cuda-python", f"bindings {version}", {"version": version})

    # The driver's own version, as opposed to CUDA's, is stated by its kernel module only.
    stated = re.search(r"Module.*?\s(\d+\.\d+(\.\d+)?)\s", _text_of("/proc/driver/nvidia/version"))
    module = stated[1] if stated else None
    mapped = [line for line in _text_of("/proc/self/maps").splitlines() if "/libcuda.so" in line]
    path = mapped[0][mapped[0].index("/") :] if mapped else None
    try:
        cuda = _dotted(_cuda_version(driver))
    except RuntimeError:  # the driver lacks the function
        cuda = None
    words = [module, f"supports CUDA {cuda}" if cuda else "is older than CUDA 12", path]
    details = {"version": module, "cuda": cuda, "library": path}
    yield Fact("driver", " · ".join(filter(None, words)), details)


def _text_of(path: str) -> str:
    """Return a file's text, "" where it cannot be read."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _cuda_version(driver: Any) -> Version:
    version = int(_call(driver, "cuDriverGetVersion"))
    return version // 1000, version % 1000 // 10


def _call(driver: Any, function: str, *arguments: Any) -> Any:
    status, result = getattr(driver, function)(*arguments)
    if status != 0:
        raise DeviceError(f"{function} of the CUDA driver failed ({status!s}); {SEE_SMI}")
    return result


# --- each GPU ------------------------------------------------------------------------------------


def _gpu_facts(driver: Any, index: int, usable: list[int]) -> Iterator[Fact]:
    """Yield facts about a GPU and the kernels for it; append its number to `usable` if they load.

    `Device` refuses some GPUs; those are described by what the driver says of them.
    """
    attributes = _attributes(driver, index)
    name = f"cuda:{index}"
    major, minor = attributes["compute_capability"]
    described = (
        f"{attributes['name']} · compute capability {major}.{minor} · "
        f"{attributes['multiprocessors']} multiprocessors · PCI {attributes['pci']}"
    )
    try:
        device = Device(index)
    except DeviceUnavailableError as error:
        expected = f"compute capability {_dotted(MIN_CAPABILITY)} or newer"
        yield failing(name, described, expected, error.remedy, **attributes)
        return
    except CullamaError as error:
        yield failing(name, f"{described} · {error}", "a GPU that starts", SEE_SMI, **attributes)
        return
    try:
        free, total = device.free_and_total
        found = f"{described} · {gigabytes(free)} of {gigabytes(total)} free"
        yield Fact(name, found, {**attributes, "free_bytes": free})
        kernels = _kernels(device)
        yield kernels
    finally:
        device.close()
    if kernels.problem is None:
        usable.append(index)


def _attributes(driver: Any, index: int) -> dict[str, Any]:
    handle = _call(driver, "cuDeviceGet", index)

    def number(name: str) -> int:
        kind = getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(_call(driver, "cuDeviceGetAttribute", kind, handle))

    domain, bus, slot = (number(f"PCI_{part}_ID") for part in ("DOMAIN", "BUS", "DEVICE"))
    return {
        "index": index,
        "name": _call(driver, "cuDeviceGetName", 256, handle).split(b"\0")[0].decode(),
        "compute_capability": [number(f"COMPUTE_CAPABILITY_{part}") for part in ("MAJOR", "MINOR")],
        "multiprocessors": number("MULTIPROCESSOR_COUNT"),
        "pci": f"{domain:04x}:{bus:02x}:{slot:02x}.0",
        "total_bytes": int(_call(driver, "cuDeviceTotalMem", handle)),
    }


# --- kernels -------------------------------------------------------------------------------------


def _kernels(device: Device) -> Fact:
    """Load every kernel file into the driver, and describe the files or the driver's error."""
    name = f"cuda:{device.index} PTX"
    try:
        paths = sorted(ptx_folder(device.capability).glob("*.ptx"))
        texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in paths}
        started = time.perf_counter()
        _load(device, texts)
        return _loaded_kernels(name, texts, time.perf_counter() - started)
    except DeviceUnavailableError as error:
        if "not built" in error.reason:
            return failing(name, error.reason, "kernels for this GPU", error.remedy)
        return _refused_kernels(name, texts, device.driver_version, error)
    except CullamaError as error:
        return failing(name, str(error), "kernels that load", SEE_SMI)


def _load(device: Device, texts: dict[Path, str]) -> None:
    """Load every file and one kernel of it: some drivers compile at the first, some at the second.

    Raises:
        DeviceUnavailableError: a file holds no kernels, or the driver refuses it.
    """
    with closing(Kernels(device)) as kernels:
        for path, text in texts.items():
            names = list(read_signatures(text))
            if not names or VERSION_LINE not in text:
                reason = f"{path.name} holds no kernels"
                raise DeviceUnavailableError(reason, "nothing else will help")
            try:
                kernels(path.stem, names[0])
            except (DeviceUnavailableError, DeviceLostError):
                raise
            except DeviceError as error:
                reason = f"{path.name} cannot be loaded: {error}"
                raise DeviceUnavailableError(reason, "install a newer driver") from None


def _loaded_kernels(name: str, texts: dict[Path, str], seconds: float) -> Fact:
    folder, version = next(iter(texts)).parent, _newest(texts)
    count = sum(len(read_signatures(text)) for text in texts.values())
    details = {
        "folder": str(folder),
        "ptx": _dotted(version),
        "files": len(texts),
        "kernels": count,
        "load_seconds": seconds,
    }
    needs = ""
    if version in SUPPORTED_BY:
        cuda, branch = SUPPORTED_BY[version]
        needs = f", for drivers from {branch} (CUDA {_dotted(cuda)}) on"
    found = (
        f"{folder.name} · PTX {_dotted(version)}{needs} · {count} kernels in "
        f"{len(texts)} files, loaded in {seconds:.2f} s"
    )
    return Fact(name, found, details)


def _newest(texts: dict[Path, str]) -> Version:
    versions = [ptx_version(text) for text in texts.values() if VERSION_LINE in text]
    return max(versions, default=(0, 0))


def _refused_kernels(
    name: str, texts: dict[Path, str], known: Version, error: DeviceUnavailableError
) -> Fact:
    """Explain why the driver refuses the kernels: it is too old, or the files are damaged."""
    version = _newest(texts)
    details = {"ptx": _dotted(version), "driver_cuda": _dotted(known)}
    cuda, branch = SUPPORTED_BY.get(version, (known, 0))
    if cuda <= known:
        remedy = f"run `make ptx`, or reinstall cullama; or {error.remedy}"
        return failing(name, error.reason, "kernels that load", remedy, **details)
    newest = max((ptx for ptx, (by, _) in SUPPORTED_BY.items() if by <= known), default=(7, 8))
    return failing(
        name,
        f"the kernels are PTX {_dotted(version)}; this driver supports CUDA {_dotted(known)}",
        f"PTX {_dotted(newest)} or older",
        f"install a driver from {branch} on (CUDA {_dotted(cuda)}), or build the kernels for older "
        "ones with `make ptx-release`, or use --backend cpu",
        **details,
    )


# --- cuBLAS, and the driver's cache --------------------------------------------------------------


def _cublas(known: Version) -> Fact:
    try:
        found = find_cublas()
    except DeviceError as error:
        return failing("cuBLAS", str(error), "a library that loads", _wheel(known))
    if found is None:
        return Fact(
            "cuBLAS",
            "not found: long prompts are prefilled with cullama's own kernels, which are slower",
            {"is_available": False},
            remedy=_wheel(known),
        )
    library, path = found
    numbers = []
    for kind in range(3):  # libraryPropertyType: major, minor, patch; it needs no handle
        value = ctypes.c_int()
        try:
            library.cublasGetProperty(kind, ctypes.byref(value))
        except AttributeError:  # no such function
            return failing("cuBLAS", f"{path} is another library", "cuBLAS", _wheel(known))
        numbers.append(value.value)
    major, minor, patch = numbers
    details = {"is_available": True, "version": f"{major}.{minor}.{patch}", "library": path}
    words = f"{major}.{minor}.{patch} (CUDA {major}) · {path}"
    if major > known[0]:
        expected = f"one for CUDA {known[0]}, as the driver supports"
        return failing("cuBLAS", words, expected, _wheel(known), **details)
    return Fact("cuBLAS", words, details)


def _wheel(known: Version) -> str:
    return f"pip install {'nvidia-cublas-cu12' if known[0] < 13 else 'nvidia-cublas'}"


def _jit_cache() -> Fact:
    """Describe the folder in which the driver caches the code that it compiles from PTX."""
    folder = Path(os.path.expanduser(os.environ.get("CUDA_CACHE_PATH") or "~/.nv/ComputeCache"))
    size, is_disabled = bytes_in(folder), os.environ.get("CUDA_CACHE_DISABLE") == "1"
    details = {"folder": str(folder), "bytes": size, "is_disabled": is_disabled}
    if is_disabled:
        found = "disabled by CUDA_CACHE_DISABLE: kernels are compiled at each start"
        return Fact("JIT cache", found, details, remedy="unset CUDA_CACHE_DISABLE")
    return Fact("JIT cache", f"{folder} · {megabytes(size)}", details)


def _dotted(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def fact_about_auto(plan: DoctorPlan) -> Iterator[Fact]:
    """Yield which backend `--backend auto` chooses here, and why."""
    from ..backends import operators_for

    if plan.backend != "auto":
        return
    try:
        ops = operators_for("auto", plan.dtype, plan.threads, None, plan.is_deterministic)
    except Exception as error:  # for example a missing file of kernels
        yield failing("auto", f"fails: {error}", "a backend", "name one with --backend")
        return
    why = "" if ops.description.startswith("cpu") else " · auto: the first GPU can be used"
    yield Fact("auto", f"chooses {ops.description}{why}", {"description": ops.description})
    ops.close()
