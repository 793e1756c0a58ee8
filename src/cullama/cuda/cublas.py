"""Calls cuBLAS through ctypes, for large matrix products where it is installed.

The library is found by `cuda.pathfinder`: the wheels nvidia-cublas-cu12 and nvidia-cublas, or a
system's own CUDA. Its constants and argument orders are those of the cuBLAS reference manual
(https://docs.nvidia.com/cuda/cublas/). Which products go to cuBLAS is decided by the callers.

cuBLAS matrices are column-major. A row-major C = A · Bᵀ is, column-major, Cᵀ = B · Aᵀ.
"""

from __future__ import annotations

import ctypes
import logging
from typing import Any

import numpy as np

from ..errors import DeviceError, DeviceLostError, DeviceMemoryError
from .driver import LOST, Device, out_of_memory
from .memory import DeviceArray, Pool, empty

NORMAL, TRANSPOSED = 0, 1  # cublasOperation_t
COMPUTE_32F = 68  # cublasComputeType_t: sums in float32 …
FLOAT32_SUMS = 16  # cublasMath_t: … also where several blocks share one, instead of in C's type
DEFAULT_ALGORITHM = -1
ALLOC_FAILED = 3  # cublasStatus_t
LAUNCHING = ("cublasGemmEx", "cublasGemmStridedBatchedEx")  # what needs a current context
TYPES = {"float32": 0, "float16": 2, "bfloat16": 14}  # cudaDataType_t

# Bytes, as NVIDIA recommends for Hopper. Our own memory, so that graphs can be captured.
WORKSPACE_SIZE = 32 << 20

_ONE, _ZERO = ctypes.c_float(1), ctypes.c_float(0)


class Cublas:
    """A cuBLAS handle on a device's stream, with its own workspace.

    Raises:
        DeviceError: the library was found, but does not start.
    """

    def __init__(self, device: Device, pool: Pool, library: ctypes.CDLL, path: str) -> None:
        self._device, self._library, self.path = device, library, path
        self._handle = ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        try:
            self._call("cublasSetMathMode", self._handle, FLOAT32_SUMS)
            stream = ctypes.c_void_p(int(device.stream))
            self._call("cublasSetStream_v2", self._handle, stream)
            # After the stream: setting that resets the workspace.
            self._workspace = empty(pool, (WORKSPACE_SIZE,), np.uint8)
            address = ctypes.c_void_p(self._workspace.address)
            size = ctypes.c_size_t(WORKSPACE_SIZE)
            self._call("cublasSetWorkspace_v2", self._handle, address, size)
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> str:
        """Return the library's version, such as 12.4.5."""
        number = ctypes.c_int()
        self._call("cublasGetVersion_v2", self._handle, ctypes.byref(number))
        return f"{number.value // 10000}.{number.value // 100 % 100}.{number.value % 100}"

    def linear(self, out: DeviceArray, x: DeviceArray, weight: DeviceArray, add: bool) -> None:
        """Compute out = x · weightᵀ, or out += where `add`: [T, I], [O, I] → [T, O]."""
        (rows, inner), outputs = x.shape, weight.shape[0]
        beta = _ONE if add else _ZERO
        self._call(
            "cublasGemmEx",
            self._handle,
            *(TRANSPOSED, NORMAL, outputs, rows, inner),
            ctypes.byref(_ONE),
            *_matrix(weight, inner),
            *_matrix(x, inner),
            ctypes.byref(beta),
            *_matrix(out, outputs),
            *(COMPUTE_32F, DEFAULT_ALGORITHM),
        )

    def matmul(
        self,
        out: DeviceArray,
        x: DeviceArray,
        y: DeviceArray,
        sizes: tuple[int, int, int],
        batch: tuple[int, int, int],
    ) -> None:
        """Compute out = x · y for a batch of matrices: [M, N], [N, P] → [M, P].

        Args:
            sizes: M, N and P.
            batch: the number of products, and the strides of x and of y in elements; with 0 the
                same matrix is used in all of them.
        """
        (rows, inner, columns), (count, x_stride, y_stride) = sizes, batch
        self._call(
            "cublasGemmStridedBatchedEx",
            self._handle,
            *(NORMAL, NORMAL, columns, rows, inner),
            ctypes.byref(_ONE),
            *_matrix(y, columns),
            ctypes.c_longlong(y_stride),
            *_matrix(x, inner),
            ctypes.c_longlong(x_stride),
            ctypes.byref(_ZERO),
            *_matrix(out, columns),
            ctypes.c_longlong(rows * columns),
            count,
            *(COMPUTE_32F, DEFAULT_ALGORITHM),
        )

    def close(self) -> None:
        self._library.cublasDestroy_v2(self._handle)

    def _call(self, function: str, *arguments: Any) -> None:
        device = self._device
        if function in LAUNCHING:
            device.make_current()
        device.last_launched = f"cuBLAS's {function}"
        status = getattr(self._library, function)(*arguments)
        if status == 0:
            return
        state = device.driver.cuStreamQuery(device.stream)
        if int(state[0]) in LOST:
            device.check(function, state)
        if status == ALLOC_FAILED:
            raise out_of_memory(device, f"what {function} needs")
        driver = ".".join(map(str, device.driver_version))
        raise DeviceError(
            f"{function} of {self.path} failed with status {status}. The library must not be newer "
            f"than the driver's CUDA, {driver}: install the matching one (nvidia-cublas-cu12 or "
            "nvidia-cublas)"
        )


def open_cublas(device: Device, pool: Pool) -> Cublas | None:
    """Return a handle of the installed library; None where there is none.

    One that cannot be loaded or does not start is logged as a warning and left out: cullama's own
    kernels compute the same products.

    Raises:
        DeviceLostError, DeviceMemoryError: not the library's fault.
    """
    try:
        found = find_cublas()
        return None if found is None else Cublas(device, pool, *found)
    except (DeviceLostError, DeviceMemoryError):
        raise
    except DeviceError as error:
        logging.getLogger("cullama").warning("%s. Own kernels multiply in its place", error)
        return None


def _matrix(array: DeviceArray, pitch: int) -> tuple[Any, int, int]:
    return ctypes.c_void_p(array.address), TYPES[array.dtype.name], pitch


def find_cublas() -> tuple[ctypes.CDLL, str] | None:
    """Return the library and its path; None where it is not installed.

    Raises:
        DeviceError: the library is installed, but cannot be loaded.
    """
    try:
        from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib
    except ImportError:  # it comes with the bindings, without which no device is opened
        return None
    try:
        path = load_nvidia_dynamic_lib("cublas").abs_path
        return ctypes.CDLL(path), str(path)
    except DynamicLibNotFoundError:
        return None
    except (OSError, RuntimeError) as error:
        raise DeviceError(
            f"cuBLAS cannot be loaded: {' '.join(str(error).split())}; reinstall it "
            "(nvidia-cublas-cu12 or nvidia-cublas), or remove it"
        ) from None
