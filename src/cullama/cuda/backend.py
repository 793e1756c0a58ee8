"""A GPU in one storage type: its memory, its transfers, weights and the KV cache.

It owns everything that has to be closed, the device included. The math is `operators.py`'s.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from math import prod

import numpy as np

from ..errors import DeviceError, DeviceMemoryError, UnsupportedModelError
from ..files.tensor import DTYPES, HostArray, StoredTensor
from ..model.backend import Backend
from ..model.batch import Batch
from ..model.config import ModelConfig
from ..model.kv_cache import KVCache, LayerCache
from . import memory
from .attention import BLOCK_SIZE, HEAD_WIDTHS
from .batch import CudaBatch, device_batch, pack
from .cublas import open_cublas
from .driver import FORKED, SPAWN, Device, megabytes, out_of_memory
from .launcher import Launcher
from .memory import DeviceArray, Pool, Staging
from .module import Kernels
from .sampling import Sampler
from .weight import CudaWeight

SHARE_FOR_CACHE = 0.9  # of the memory that is free once weights are loaded
STEP_STAGING_SIZE = 1 << 20  # bytes of a step's integers, before they go up in several parts


class CudaBackend(Backend[DeviceArray, CudaWeight, CudaBatch]):
    """Owns a device and closes it, also where the backend's construction fails.

    A backend that is dropped without `close` returns its memory when Python collects it.
    """

    is_asynchronous = True

    def __init__(
        self,
        dtype: str,
        device: Device,
        deterministic: bool = False,
        pool: Callable[[Device], Pool] = Pool,
        has_cublas: bool = True,
    ) -> None:
        """`deterministic`: use only kernels that give a row the same bits in every batch.
        `pool`: how memory is kept, except for graphs; tests give each array its own allocation.
        `has_cublas`: use it where it is installed, instead of kernels of our own.
        """
        self.dtype, self.dtype_name = DTYPES[dtype], dtype
        self.device, self.is_deterministic = device, deterministic
        self._may_use_cublas = has_cublas and not deterministic
        self._resources = ExitStack()  # what has to be closed, last made first
        self._release = weakref.finalize(self, _release, device, self._resources)
        self._release.atexit = False  # the driver frees all of it with the process
        try:
            self._open(pool)
        except BaseException:
            self.close()
            raise
        self.description = f"cuda:{device.index} · {device.name} · {dtype} · {self._products_by}"

    def _open(self, pool: Callable[[Device], Pool]) -> None:
        device, closed = self.device, self._resources.enter_context
        self.kernels = closed(closing(Kernels(device)))
        # Of weights and caches, of results, and of the results within graphs.
        self._lasting, results, self._graph_pool = (
            closed(closing(make(device))) for make in (pool, pool, Pool)
        )
        self._launcher = Launcher(self.kernels, results, self.dtype)
        self._staging = closed(closing(Staging(device, 4, STEP_STAGING_SIZE)))
        self._loading: Staging | None = None
        self._sampler = closed(closing(Sampler(device, self.kernels, self._staging)))
        self._zero = memory.empty(self._lasting, (1,), self.dtype)
        self._staging.upload(np.zeros(1, self.dtype), self._zero.address)
        self._cublas = open_cublas(device, self._lasting) if self._may_use_cublas else None
        if self._cublas is not None:
            closed(closing(self._cublas))

    @property
    def _products_by(self) -> str:
        """Return what multiplies large matrices, for the description."""
        if self._cublas is not None:
            return f"cuBLAS {self._cublas.version}"
        return "deterministic" if self.is_deterministic else "no cuBLAS: large prompts are slow"

    def after_fork(self) -> None:
        raise DeviceError(f"{FORKED}; {SPAWN}")

    def close(self) -> None:
        self._release()

    # --- between host and device -----------------------------------------------------------------

    def upload(self, host: HostArray) -> DeviceArray:
        array = self._launcher.empty(host.shape, host.dtype)
        self._staging.upload(host, array.address)
        return array

    def upload_batch(self, batch: Batch[HostArray]) -> CudaBatch:
        packed = pack(batch)
        self.device.make_current(force=True)
        return device_batch(packed, self.upload(packed.integers))

    def download(self, array: DeviceArray) -> HostArray:
        return memory.download(self.device, array)

    # --- weights ---------------------------------------------------------------------------------

    @contextmanager
    def loading(
        self, conversion_key: str | None, tensors: Collection[StoredTensor]
    ) -> Iterator[None]:
        self.device.make_current(force=True)
        size = sum(tensor.size for tensor in tensors) * self.dtype.itemsize
        try:
            self._lasting.reserve(1, size)  # before any of them is read
        except DeviceMemoryError:
            raise out_of_memory(self.device, f"the weights, {megabytes(size)}") from None
        self._loading = Staging(self.device, 2, memory.STAGING_SIZE)
        try:
            yield
            self.device.synchronize()
        finally:
            self._loading.close()
            self._loading = None

    def weight(self, parts: Sequence[StoredTensor]) -> CudaWeight:
        rows = sum(part.shape[0] for part in parts)
        return CudaWeight(self._joined(parts, (rows, *parts[0].shape[1:])))

    def vector(self, parts: Sequence[StoredTensor]) -> DeviceArray:
        return self._joined(parts, (sum(part.shape[0] for part in parts),))

    def _joined(self, parts: Sequence[StoredTensor], shape: tuple[int, ...]) -> DeviceArray:
        """Upload the tensors one behind the other, tile by tile."""
        array = memory.empty(self._lasting, shape, self.dtype)
        staging, address = self._loading or self._staging, array.address
        for part in parts:
            for tile in part.tiles():
                converted = tile.astype(self.dtype, copy=False)
                staging.upload(converted, address)
                address += converted.nbytes
        return array

    # --- the KV cache ----------------------------------------------------------------------------

    def cache(self, config: ModelConfig, tokens: int) -> KVCache[DeviceArray]:
        if config.head_dim > HEAD_WIDTHS[-1]:
            raise UnsupportedModelError(
                f"heads are {config.head_dim} wide, expected at most {HEAD_WIDTHS[-1]} "
                "for the CUDA backend; use --backend cpu"
            )
        blocks = -(-tokens // BLOCK_SIZE)
        shape = (blocks, config.kv_heads, BLOCK_SIZE, config.head_dim)
        self._lasting.reserve(2 * len(config.windows), prod(shape) * self.dtype.itemsize)
        layers = tuple(
            LayerCache(self._zeros(shape), self._zeros(shape), window) for window in config.windows
        )
        return KVCache(layers, blocks, BLOCK_SIZE)

    def _zeros(self, shape: tuple[int, ...]) -> DeviceArray:
        """Return an array of zeros: memory as it comes may hold NaN, and 0 · NaN is not 0."""
        array = memory.empty(self._lasting, shape, self.dtype)
        if array.size:
            self.device.call("cuMemsetD8Async", array.address, 0, array.nbytes, self.device.stream)
        return array

    def cache_bytes_per_token(self, config: ModelConfig) -> int:
        return config.cache_elements * self.dtype.itemsize

    @property
    def cache_budget(self) -> tuple[int, int]:
        free, _ = self.device.free_and_total
        return int(free * SHARE_FOR_CACHE), free

    def stored_keys(self, cache: LayerCache[DeviceArray], tokens: int) -> HostArray:
        keys = self.download(cache.keys)
        blocks, heads, size, width = keys.shape
        by_slot = keys.swapaxes(1, 2).reshape(blocks * size, heads, width)
        return by_slot[:tokens].astype(np.float32)

    def copy_blocks(self, cache: KVCache[DeviceArray], copies: Sequence[tuple[int, int]]) -> None:
        self.device.make_current(force=True)
        for layer in cache.layers:
            for array in (layer.keys, layer.values):
                block = array.shape[1:]
                for source, target in copies:
                    memory.copy_on_device(
                        self.device,
                        array.view(source * prod(block), block),
                        array.view(target * prod(block), block),
                    )


def _release(device: Device, resources: ExitStack) -> None:
    """Close what a backend owned, and its device.

    The memory of a lost device goes with the process; a forked child has none to return.
    """
    if device.is_closed:
        return
    if device.is_of_this_process:
        with device.temporarily_current():
            device.driver.cuStreamSynchronize(device.stream)
            resources.close()
    device.close()
