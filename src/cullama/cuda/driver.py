"""Opens a GPU: its primary context and stream, calls to the driver, and errors as exceptions.

Statuses of driver calls are turned into exceptions here, in `Device.check`; calls that may come
after a failure, such as those that free things, ignore theirs. This file launches no kernel and
allocates no memory.

The bindings (`cuda.bindings.driver`, of cuda-python 12.9 and 13 alike) are imported when a device
is opened, never before: without them, or without a driver, `import cullama` works and the CPU
backend runs.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import (
    ClosedError,
    DeviceError,
    DeviceLostError,
    DeviceMemoryError,
    DeviceUnavailableError,
    UsageError,
)

MIN_CAPABILITY = (8, 0)  # Ampere: bfloat16, and asynchronous copies to shared memory

OUT_OF_MEMORY, NOT_INITIALIZED, NO_DEVICE = 2, 3, 100  # CUresult
LOST = (214, *range(700, 722))  # after one of these a context refuses every call

MEMORY_QUERIES = ("cuCtxSetCurrent", "cuMemGetInfo")  # what `out_of_memory` itself calls

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: not synchronised with other libraries' legacy stream
NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING

INSTALL = (
    "pip install 'cullama[cuda12]' (any driver from 525 on) or 'cullama[cuda13]' (from 580 on)"
)
FORKED = "this process was forked after CUDA was started in its parent, so it cannot use CUDA"
SPAWN = (
    "start processes with multiprocessing's 'spawn', or load the first model only after the fork"
)
NO_GPU_VISIBLE = ("the NVIDIA driver sees no GPU", "see whether CUDA_VISIBLE_DEVICES hides it")


class _Thread(threading.local):
    """The current context of each thread, as far as this file has set it."""

    current: object | None = None  # the `_token` of its device


_thread = _Thread()


def has_driver() -> bool:
    """Whether there is an NVIDIA driver here, and so perhaps a GPU."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def load_bindings() -> Any:
    """Return the module of driver functions.

    Raises:
        DeviceUnavailableError: the driver or the bindings are missing.
    """
    if not has_driver():
        raise DeviceUnavailableError(
            "no NVIDIA driver was found (libcuda.so.1)", "install one, from 525 on"
        )
    try:
        from cuda.bindings import driver
    except ImportError:
        raise DeviceUnavailableError("the package cuda-python is not installed", INSTALL) from None
    return driver


class Device:
    """One GPU in use by this process: its primary context, and one stream for all work.

    Raises:
        DeviceUnavailableError: no driver, no such device, or one below compute capability 8.0.
    """

    def __init__(self, index: int = 0) -> None:
        self.driver = load_bindings()
        self._process = os.getpid()
        # Marks the threads in which our context is current; a new one invalidates all of them.
        self._token = object()
        self._lost: str | None = None
        self.is_closed = False
        self._context: Any = None
        # The last kernel's name, for the error of a lost device.
        self.last_launched: str | None = None
        self.index, self.name = index, "the GPU"
        self._handle = self._device_handle(index)
        self.name = self.call("cuDeviceGetName", 256, self._handle).split(b"\0")[0].decode()
        self.capability = self._checked_capability()
        self._context = self._retain_primary_context()
        try:
            self.make_current()
            self.stream = self.call("cuStreamCreate", NON_BLOCKING)
        except BaseException:
            self.driver.cuDevicePrimaryCtxRelease(self._handle)
            raise

    # --- calls -----------------------------------------------------------------------------------

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a driver function and return its result without the status.

        Raises:
            DeviceLostError: the context cannot be used any more.
            DeviceMemoryError: out of memory.
            DeviceError: any other failure that the driver reports.
        """
        try:
            result = getattr(self.driver, function)(*arguments)
        except ValueError as error:  # "… is not a valid CUresult"
            raise DeviceError(
                f"{function} of the CUDA driver failed: {error} in cuda-python; update that package"
            ) from None
        return self.check(function, result)

    def check(self, function: str, result: tuple[Any, ...]) -> Any:
        """Return a driver function's result without its status; raise if that is an error."""
        if result[0] == 0:
            return result[1] if len(result) == 2 else None
        status = int(result[0])
        found = self._describe(status)
        can_query_memory = self._context is not None and function not in MEMORY_QUERIES
        if status == OUT_OF_MEMORY and can_query_memory:
            raise out_of_memory(self, f"what {function} needs")
        if status not in LOST:
            raise DeviceError(f"{function} of the CUDA driver failed: {found}")
        self._token = object()
        launched = "no kernel was launched since the model was opened"
        if self.last_launched is not None:
            launched = (
                f"launched last was {self.last_launched} (to be sure, set CUDA_LAUNCH_BLOCKING=1)"
            )
        self._lost = (
            f"{self.name} (cuda:{self.index}) failed: {found}, reported by {function}; {launched}. "
            "This process cannot use the GPU again: restart it, or continue with --backend cpu"
        )
        raise DeviceLostError(self._lost)

    def make_current(self, force: bool = False) -> None:
        """Make our context current in the calling thread; called before any work is submitted.

        Args:
            force: also where we set it before, as another library may have set its own since.
        """
        if _thread.current is self._token and self.is_of_this_process and not force:
            return
        if not self.is_of_this_process:
            raise DeviceError(f"{FORKED}; {SPAWN}")
        if self.is_closed:
            raise ClosedError("the model was closed and its GPU memory freed; make a new LLM")
        if self._lost is not None:
            raise DeviceLostError(self._lost)
        self.call("cuCtxSetCurrent", self._context)
        _thread.current = self._token

    @contextmanager
    def temporarily_current(self) -> Iterator[None]:
        """Make our context current, if the driver allows it, and restore the previous one.

        For clean-up that may interrupt the work of another device, as garbage collection does.
        """
        status, before = self.driver.cuCtxGetCurrent()
        current = _thread.current
        self.driver.cuCtxSetCurrent(self._context)
        try:
            yield
        finally:
            if status == 0:
                self.driver.cuCtxSetCurrent(before)
            _thread.current = current

    @property
    def is_of_this_process(self) -> bool:
        """Return False in a forked child, which must not even free what its parent allocated."""
        return self._process == os.getpid()

    def synchronize(self) -> None:
        """Wait until all submitted work is done."""
        self.make_current()
        self.call("cuStreamSynchronize", self.stream)

    def close(self) -> None:
        """Release the context; when the process has no other use of it, the driver frees it all."""
        if self.is_closed:
            return
        self.is_closed, self._token = True, object()
        if self.is_of_this_process:
            with self.temporarily_current():
                self.driver.cuStreamDestroy(self.stream)  # fails again on a lost device: ignored
            self.driver.cuDevicePrimaryCtxRelease(self._handle)

    # --- facts -----------------------------------------------------------------------------------

    @property
    def free_and_total(self) -> tuple[int, int]:
        """Return the device's free and total memory, in bytes."""
        self.make_current()
        status, free, total = self.driver.cuMemGetInfo()
        self.check("cuMemGetInfo", (status,))
        return int(free), int(total)

    @property
    def driver_version(self) -> tuple[int, int]:
        """Return the newest CUDA version that the driver supports: (major, minor)."""
        version = self.call("cuDriverGetVersion")
        return version // 1000, version % 1000 // 10

    def attribute(self, name: str) -> int:
        """Return a device attribute by its name in the driver, such as MULTIPROCESSOR_COUNT."""
        kind = getattr(self.driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self.call("cuDeviceGetAttribute", kind, self._handle))

    # --- opening ---------------------------------------------------------------------------------

    def _device_handle(self, index: int) -> Any:
        """Initialise the driver, and return the handle of a device."""
        try:
            status = int(self.driver.cuInit(0)[0])
        except RuntimeError as error:  # no driver is found, or it lacks a function
            raise DeviceUnavailableError(
                f"the NVIDIA driver cannot be used ({error})", "install one from 525 on"
            ) from None
        if status == NOT_INITIALIZED:  # what cuInit returns in a forked child
            raise DeviceUnavailableError(FORKED, SPAWN)
        if status == NO_DEVICE:
            raise DeviceUnavailableError(*NO_GPU_VISIBLE)
        if status:
            raise DeviceUnavailableError(
                f"the NVIDIA driver does not start: {self._describe(status)}",
                "see what `nvidia-smi` says",
            )
        count = self.call("cuDeviceGetCount")
        if count == 0:
            raise DeviceUnavailableError(*NO_GPU_VISIBLE)
        if not 0 <= index < count:
            known = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
            raise UsageError(f"there is no GPU cuda:{index}, expected {known}")
        return self.call("cuDeviceGet", index)

    def _retain_primary_context(self) -> Any:
        """Return the context that all users of the device in this process share."""
        status, context = self.driver.cuDevicePrimaryCtxRetain(self._handle)
        if status == 0 or status in LOST:
            self.check("cuDevicePrimaryCtxRetain", (status,))
            return context
        raise DeviceUnavailableError(  # for example: out of memory, or in exclusive mode
            f"{self.name} (cuda:{self.index}) cannot be used: {self._describe(int(status))}",
            "see what `nvidia-smi` says is on it",
        )

    def _checked_capability(self) -> tuple[int, int]:
        """Return the compute capability, which must be `MIN_CAPABILITY` or newer."""
        major, minor = (self.attribute(f"COMPUTE_CAPABILITY_{part}") for part in ("MAJOR", "MINOR"))
        if (major, minor) < MIN_CAPABILITY:
            raise DeviceUnavailableError(
                f"{self.name} has compute capability {major}.{minor}, expected at least "
                f"{MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]}",
                "use a GPU of the Ampere generation or newer",
            )
        return major, minor

    def _describe(self, status: int) -> str:
        """Return the driver's text for a status, its name and its number."""
        code = self.driver.CUresult(status)
        _, name = self.driver.cuGetErrorName(code)
        _, text = self.driver.cuGetErrorString(code)
        return f"{(text or b'unknown').decode()} ({(name or b'?').decode()}, {status})"


def out_of_memory(device: Device, what: str) -> DeviceMemoryError:
    """Return the error for an allocation that failed: what it was for, and how much is free."""
    free, total = device.free_and_total
    return DeviceMemoryError(
        f"{device.name} (cuda:{device.index}) has no room for {what}: {megabytes(free)} of "
        f"{megabytes(total)} are free. Lower cache_tokens or context_length (--context), choose a "
        "16-bit dtype, close other programs on the GPU, or use --backend cpu"
    )


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
