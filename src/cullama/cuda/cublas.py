"""cuBLAS: the few functions needed, through ctypes. Large products go here where it is installed.

The library is found by `cuda.pathfinder`: the wheels nvidia-cublas-cu12 and nvidia-cublas, or a
system's own CUDA. Its constants and argument orders are those of the cuBLAS reference manual
(https://docs.nvidia.com/cuda/cublas/). It knows rows and columns; it does not know what a product
is for.

cuBLAS counts columns first. Row by row in memory, C = A · Bᵀ is, columns first, Cᵀ = B · Aᵀ.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ..errors import DeviceError
from .driver import LOST, Device, out_of_memory
from .memory import DeviceArray, Pool, empty

NORMAL, TRANSPOSED = 0, 1  # cublasOperation_t
COMPUTE_32F = 68  # cublasComputeType_t: sums in float32
DEFAULT_ALGORITHM = -1
ALLOC_FAILED = 3  # cublasStatus_t
LAUNCHING = ("cublasGemmEx", "cublasGemmStridedBatchedEx")
TYPES = {"float32": 0, "float16": 2, "bfloat16": 14}  # cudaDataType_t

WORKSPACE = (
    32 << 20
)  # bytes; what NVIDIA recommends for Hopper. Ours, so that graphs can be captured

_ONE, _ZERO = ctypes.c_float(1), ctypes.c_float(0)


class Cublas:
    """A handle on a device's stream, with a workspace of its own.

    Raises:
        DeviceError: the library is there and does not start.
    """

    def __init__(self, device: Device, pool: Pool, library: ctypes.CDLL, path: str) -> None:
        self._device, self._library, self.path = device, library, path
        self._handle = ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        try:
            self._begin(pool)
        except BaseException:
            self.close()
            raise

    def _begin(self, pool: Pool) -> None:
        self._call("cublasSetStream_v2", self._handle, ctypes.c_void_p(int(self._device.stream)))
        # After the stream: setting one forgets the workspace.
        self._workspace = empty(pool, (WORKSPACE,), np.uint8)
        address = ctypes.c_void_p(self._workspace.address)
        self._call("cublasSetWorkspace_v2", self._handle, address, ctypes.c_size_t(WORKSPACE))

    @property
    def version(self) -> str:
        number = ctypes.c_int()
        self._call("cublasGetVersion_v2", self._handle, ctypes.byref(number))
        return f"{number.value // 10000}.{number.value // 100 % 100}.{number.value % 100}"

    def linear(self, out: DeviceArray, x: DeviceArray, weight: DeviceArray, add: bool) -> None:
        """out (+)= x · weightᵀ: [T, I], [O, I] → [T, O]."""
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

    def batched(
        self,
        out: DeviceArray,
        x: DeviceArray,
        y: DeviceArray,
        sizes: tuple[int, int, int],
        batch: tuple[int, int, int],
    ) -> None:
        """out = x · y for each of a batch: [M, N], [N, P] → [M, P], of sizes (M, N, P).

        `batch` is how many, and how far apart those of x and of y are, in elements; 0 repeats one.
        """
        (rows, inner, columns), (count, x_step, y_step) = sizes, batch
        self._call(
            "cublasGemmStridedBatchedEx",
            self._handle,
            *(NORMAL, NORMAL, columns, rows, inner),
            ctypes.byref(_ONE),
            *_matrix(y, columns),
            ctypes.c_longlong(y_step),
            *_matrix(x, inner),
            ctypes.c_longlong(x_step),
            ctypes.byref(_ZERO),
            *_matrix(out, columns),
            ctypes.c_longlong(rows * columns),
            count,
            *(COMPUTE_32F, DEFAULT_ALGORITHM),
        )

    def close(self) -> None:
        self._library.cublasDestroy_v2(self._handle)

    def _call(self, function: str, *arguments: Any) -> None:
        if function in LAUNCHING:
            self._device.make_current()
        self._device.last_launched = f"cuBLAS's {function}"
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            self._fail(function, status)

    def _fail(self, function: str, status: int) -> None:
        device = self._device
        state = device.driver.cuStreamQuery(device.stream)
        if int(state[0]) in LOST:
            device.check(function, state)
        if status == ALLOC_FAILED:
            raise out_of_memory(device, f"what {function} needs")
        raise DeviceError(
            f"{function} of {self.path} failed with status {status}. Is it of the driver's CUDA, "
            f"{'.'.join(map(str, device.driver_version))}, or older? Install the matching one "
            "(nvidia-cublas-cu12 or nvidia-cublas); with none, cullama uses its own kernels"
        )


def _matrix(array: DeviceArray, pitch: int) -> tuple[Any, int, int]:
    return ctypes.c_void_p(array.address), TYPES[array.dtype.name], pitch


def find_cublas() -> tuple[ctypes.CDLL, str] | None:
    """The library and where it lies; None where there is none.

    Raises:
        DeviceError: what is there cannot be loaded.
    """
    try:
        from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib
    except ImportError:  # not installed without the bindings; then neither is a device
        return None
    try:
        path = load_nvidia_dynamic_lib("cublas").abs_path
        return ctypes.CDLL(path), str(path)
    except DynamicLibNotFoundError:
        return None
    except (OSError, RuntimeError) as error:
        raise DeviceError(
            f"cuBLAS cannot be loaded: {' '.join(str(error).split())}; install it anew "
            "(nvidia-cublas-cu12 or nvidia-cublas), or remove it: cullama has kernels of its own"
        ) from None
