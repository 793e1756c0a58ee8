"""A GPU: how it is found, entered, waited for, and what it says when something is wrong.

All of cullama's calls to the CUDA driver go through `Device.call`, the one place that looks at
what they return. It knows no kernel and no operator.

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
LOST = (214, *range(700, 722))  # after one of these a context does nothing any more

MEMORY_QUERIES = ("cuCtxSetCurrent", "cuMemGetInfo")  # by which free memory is asked for

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no order with the legacy stream of other libraries
NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING

INSTALL = (
    "pip install 'cullama[cuda12]' (any driver from 525 on) or 'cullama[cuda13]' (from 580 on)"
)
FORKED = "this process was forked after CUDA was started in its parent, where it cannot be used"
SPAWN = (
    "start processes with multiprocessing's 'spawn', or load the first model only after the fork"
)
UNSEEN = ("the NVIDIA driver sees no GPU", "see whether CUDA_VISIBLE_DEVICES hides it")


class _Thread(threading.local):
    """What the driver keeps for each thread: whose context is current."""

    current: object | None = None  # that device's mark


_thread = _Thread()


def load_bindings() -> Any:
    """The module of driver functions.

    Raises:
        DeviceUnavailableError: the driver or the bindings are missing.
    """
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise DeviceUnavailableError(
            "no NVIDIA driver was found (libcuda.so.1)", "install one, from 525 on"
        ) from None
    try:
        from cuda.bindings import driver
    except ImportError:
        raise DeviceUnavailableError("the package cuda-python is not installed", INSTALL) from None
    return driver


class Device:
    """One GPU in use by this process: its primary context and one stream, in which all work lies.

    Raises:
        DeviceUnavailableError: no driver, no such device, or one below compute capability 8.0.
    """

    def __init__(self, index: int = 0) -> None:
        self.driver = load_bindings()
        self._process = os.getpid()
        self._mark = object()  # of the threads whose current context is ours; a new one: of none
        self._lost: str | None = None
        self.is_closed = False
        self._context: Any = None
        self.last_launched: str | None = (
            None  # the last kernel, to have something to say if it fails
        )
        self.index, self.name = index, "the GPU"
        self._start()
        self._handle = self._find(index)
        self.name = self.call("cuDeviceGetName", 256, self._handle).split(b"\0")[0].decode()
        self.capability = self._capability()
        self._context = self._retained()
        try:
            self.make_current()
            self.stream = self.call("cuStreamCreate", NON_BLOCKING)
        except BaseException:
            self.driver.cuDevicePrimaryCtxRelease(self._handle)
            raise

    # --- calls -----------------------------------------------------------------------------------

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a driver function; what it returns besides its status.

        Raises:
            DeviceLostError, DeviceError: what the driver reports.
        """
        try:
            result = getattr(self.driver, function)(*arguments)
        except ValueError as error:  # "… is not a valid CUresult"
            raise DeviceError(
                f"{function} of the CUDA driver failed: {error}, for cuda-python; update that"
            ) from None
        return self.check(function, result)

    def check(self, function: str, result: tuple[Any, ...]) -> Any:
        """What a driver function returned, without its status; all statuses come by here."""
        if result[0] != 0:
            self._fail(function, int(result[0]))
        return result[1] if len(result) == 2 else None

    def make_current(self, force: bool = False) -> None:
        """Make ours the calling thread's context; called before work of any kind is asked for.

        `force`: others in this thread may have entered a device of theirs, and not told us.
        """
        if _thread.current is self._mark and self.is_of_this_process and not force:
            return
        if not self.is_of_this_process:
            raise DeviceError(f"{FORKED}; {SPAWN}")
        if self.is_closed:
            raise ClosedError("the model was closed, and its GPU memory returned; make a new LLM")
        if self._lost is not None:
            raise DeviceLostError(self._lost)
        self.call("cuCtxSetCurrent", self._context)
        _thread.current = self._mark

    @contextmanager
    def temporarily_current(self) -> Iterator[None]:
        """Entered if it lets us in; afterwards the thread is where it was before.

        For what may come in the middle of another device's work, such as a garbage collection.
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
        """Not so in a forked child, which may not even return what its parent took."""
        return self._process == os.getpid()

    def synchronize(self) -> None:
        """Until all work asked for so far is done."""
        self.make_current()
        self.call("cuStreamSynchronize", self.stream)

    def close(self) -> None:
        """Let go of the context; with the last of the process, the driver frees all it holds."""
        if self.is_closed:
            return
        self.is_closed, self._mark = True, object()
        if self.is_of_this_process:
            with self.temporarily_current():
                self.driver.cuStreamDestroy(self.stream)  # of a lost device, it says so again
            self.driver.cuDevicePrimaryCtxRelease(self._handle)

    # --- facts -----------------------------------------------------------------------------------

    @property
    def free_and_total(self) -> tuple[int, int]:
        """Bytes of memory."""
        self.make_current()
        status, free, total = self.driver.cuMemGetInfo()
        self.check("cuMemGetInfo", (status,))
        return int(free), int(total)

    @property
    def driver_version(self) -> tuple[int, int]:
        """The newest CUDA version that the driver knows."""
        version = self.call("cuDriverGetVersion")
        return version // 1000, version % 1000 // 10

    def attribute(self, name: str) -> int:
        """For example MULTIPROCESSOR_COUNT."""
        kind = getattr(self.driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self.call("cuDeviceGetAttribute", kind, self._handle))

    # --- beginning -------------------------------------------------------------------------------

    def _start(self) -> None:
        try:
            status = int(self.driver.cuInit(0)[0])
        except RuntimeError as error:  # the bindings find no driver, or one without a function
            raise DeviceUnavailableError(
                f"the NVIDIA driver cannot be used ({error})", "install one from 525 on"
            ) from None
        if status == NOT_INITIALIZED:  # all that cuInit says in a child of whoever called it
            raise DeviceUnavailableError(FORKED, SPAWN)
        if status == NO_DEVICE:
            raise DeviceUnavailableError(*UNSEEN)
        if status:
            raise DeviceUnavailableError(
                f"the NVIDIA driver does not start: {self._in_words(status)}",
                "see what `nvidia-smi` says",
            )

    def _find(self, index: int) -> Any:
        count = self.call("cuDeviceGetCount")
        if count == 0:
            raise DeviceUnavailableError(*UNSEEN)
        if not 0 <= index < count:
            known = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
            raise UsageError(f"there is no GPU cuda:{index}, expected {known}")
        return self.call("cuDeviceGet", index)

    def _retained(self) -> Any:
        """The primary context, which all who use the device in this process share."""
        status, context = self.driver.cuDevicePrimaryCtxRetain(self._handle)
        if status == 0 or status in LOST:
            self.check("cuDevicePrimaryCtxRetain", (status,))
            return context
        raise DeviceUnavailableError(  # for example: it is full, or another's alone
            f"{self.name} (cuda:{self.index}) cannot be begun with: {self._in_words(int(status))}",
            "see what `nvidia-smi` says is on it",
        )

    def _capability(self) -> tuple[int, int]:
        major, minor = (self.attribute(f"COMPUTE_CAPABILITY_{part}") for part in ("MAJOR", "MINOR"))
        if (major, minor) < MIN_CAPABILITY:
            raise DeviceUnavailableError(
                f"{self.name} has compute capability {major}.{minor}, expected at least "
                f"{MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]}",
                "take a GPU from Ampere on",
            )
        return major, minor

    # --- failing ---------------------------------------------------------------------------------

    def _fail(self, function: str, status: int) -> None:
        words = self._in_words(status)
        can_tell_room = self._context is not None and function not in MEMORY_QUERIES
        if status == OUT_OF_MEMORY and can_tell_room:
            raise out_of_memory(self, f"what {function} needs")
        if status not in LOST:
            raise DeviceError(f"{function} of the CUDA driver failed: {words}")
        self._mark = object()
        launched = "no kernel was launched since the model was opened"
        if self.last_launched is not None:
            launched = (
                f"launched last was {self.last_launched} (to be sure, set CUDA_LAUNCH_BLOCKING=1)"
            )
        self._lost = (
            f"{self.name} (cuda:{self.index}) failed: {words}, found by {function}; {launched}. "
            "This process cannot use the GPU again: start it anew, or go on with --backend cpu"
        )
        raise DeviceLostError(self._lost)

    def _in_words(self, status: int) -> str:
        code = self.driver.CUresult(status)
        name, words = (
            function(code)[1]
            for function in (self.driver.cuGetErrorName, self.driver.cuGetErrorString)
        )
        return f"{(words or b'unknown').decode()} ({(name or b'?').decode()}, {status})"


def out_of_memory(device: Device, what: str) -> DeviceMemoryError:
    free, total = device.free_and_total
    return DeviceMemoryError(
        f"{device.name} (cuda:{device.index}) has no room for {what}: {megabytes(free)} of "
        f"{megabytes(total)} are free. Lower cache_tokens or context_length (--context), take a "
        "16-bit dtype, close what else is on the GPU, or use --backend cpu"
    )


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
