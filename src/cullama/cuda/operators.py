"""Every operator as a kernel launch: what `cpu/operators.py` means, on a GPU.

Numbers between operators are in the storage type, sums are float32, logits too. All work goes into
one stream, so an operator returns as soon as its kernels are launched; only `download` and the
reading of drawn tokens wait. Kernels are in `kernels/`, one file for each family of operators.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from math import prod
from typing import Any

import numpy as np

from ..errors import NumericalError, UnsupportedModelError, UsageError
from ..files.tensor import DTYPES, HostArray, StoredTensor
from ..model.batch import Batch
from ..model.config import ModelConfig
from ..model.kv_cache import KVCache, LayerCache
from ..model.layer import Layer
from ..model.operators import Operators, Step, check_columns
from ..sampling.draw import Draw, Drawn
from . import memory
from .batch import CudaBatch, device_batch, pack
from .broadcasting import broadcast_axes
from .cublas import Cublas, find_cublas
from .driver import Device
from .graph import CapturedSteps
from .memory import DeviceArray, Pool, Staging
from .module import Kernels
from .sampling import Sampler

SUFFIXES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}  # of kernel names

BLOCK_SIZE = 32  # tokens: a slice of keys in kernels/attention.cu
SPLIT = 256  # positions that a block covers where contexts are split
MOST_PARTIAL = 64 << 20  # bytes for what the splits have found; above, contexts are not split
ATTENTION_WIDTHS = (64, 128, 256)  # of heads, that there are kernels for
ATTENTION_ROWS, ATTENTION_KEYS, ATTENTION_THREADS = 16, 32, 128

GEMV_ROWS = 8  # that one pass over the weights serves
GEMM_TILE, GEMM_THREADS = 64, 256
THREADS = 256  # a block, where nothing else is asked for
WARP = 32
WARPS = 4  # a block, where a warp works for itself

SHARE_FOR_CACHE = 0.9  # of the memory that is free once weights are loaded
STEP_STAGING_SIZE = 1 << 20  # bytes of a step's integers, before they go up in several parts

Size3 = tuple[int, int, int]


class Shape(ctypes.Structure):
    """Of an attention, as `kernels/attention.cu` takes it."""

    _fields_ = tuple(
        (name, ctypes.c_int32)
        for name in ("heads", "kv_heads", "width", "block_size", "table_width", "window", "split")
    )


class CudaOperators(Operators[DeviceArray]):
    """Closes the device with itself, also where it does not come to be.

    One that is dropped returns its memory when Python finds out.
    """

    is_asynchronous = True

    def __init__(
        self,
        dtype: str,
        device: Device,
        deterministic: bool = False,
        pool: Callable[[Device], Pool] = Pool,
    ) -> None:
        """`deterministic`: only kernels that give a row the same bits whatever is beside it.
        `pool`: how memory is kept, but for graphs; tests give each array its own.
        """
        self.dtype, self.device, self.is_deterministic = DTYPES[dtype], device, deterministic
        self._suffix = SUFFIXES[dtype]
        self._parts = ExitStack()  # what has to be closed, last made first
        self._give_back = weakref.finalize(self, _give_back, device, self._parts)
        self._give_back.atexit = False  # the driver frees all of it with the process
        try:
            self._begin(pool)
        except BaseException:
            self.close()
            raise
        self.dtype_name = dtype
        self.description = f"cuda:{device.index} · {device.name} · {dtype} · {self._products}"

    def _begin(self, pool: Callable[[Device], Pool]) -> None:
        device, closed = self.device, self._parts.enter_context
        self.kernels = closed(closing(Kernels(device)))
        self._kept, self._passing, self._captured = (
            closed(closing(make(device))) for make in (pool, pool, Pool)
        )
        self._pool = self._passing
        self._staging = closed(closing(Staging(device, 4, STEP_STAGING_SIZE)))
        self._loading: Staging | None = None
        self._sampler = closed(closing(Sampler(device, self.kernels, self._staging)))
        self._zero = memory.empty(self._kept, (1,), self.dtype)
        self._staging.upload(np.zeros(1, self.dtype), self._zero.address)
        found = None if self.is_deterministic else find_cublas()
        self._cublas: Cublas | None = None
        if found is not None:
            self._cublas = closed(closing(Cublas(device, self._kept, *found)))

    @property
    def _products(self) -> str:
        """Who multiplies large matrices."""
        if self._cublas is not None:
            return f"cuBLAS {self._cublas.version}"
        return "deterministic" if self.is_deterministic else "no cuBLAS: large prompts are slow"

    def close(self) -> None:
        """Return everything to the driver. Twice does nothing more."""
        self._give_back()

    # --- across, and into place --------------------------------------------------------------

    def upload(self, host: HostArray) -> DeviceArray:
        array = self._empty(host.shape, host.dtype)
        self._staging.upload(host, array.address)
        return array

    def upload_batch(self, batch: Batch[HostArray]) -> CudaBatch:
        packed = pack(batch, BLOCK_SIZE)
        self.device.make_current(force=True)
        return device_batch(packed, self.upload(packed.integers))

    def download(self, array: DeviceArray) -> HostArray:
        return memory.download(self.device, array)

    @contextmanager
    def loading(
        self, conversion_key: str | None, tensors: Collection[StoredTensor]
    ) -> Iterator[None]:
        self.device.make_current(force=True)
        elements = sum(tensor.size for tensor in tensors)
        self._kept.reserve(1, elements * self.dtype.itemsize)
        self._loading = Staging(self.device, 2, memory.STAGING_SIZE)
        try:
            yield
            self.device.synchronize()
        finally:
            self._loading.close()
            self._loading = None

    def weight(self, parts: Sequence[StoredTensor]) -> DeviceArray:
        return self._keep(parts, (sum(part.shape[0] for part in parts), *parts[0].shape[1:]))

    def vector(self, parts: Sequence[StoredTensor]) -> DeviceArray:
        return self._keep(parts, (sum(part.shape[0] for part in parts),))

    def _keep(self, parts: Sequence[StoredTensor], shape: tuple[int, ...]) -> DeviceArray:
        """The tensors one behind the other, tile by tile."""
        array = memory.empty(self._kept, shape, self.dtype)
        staging, address = self._loading or self._staging, array.address
        for part in parts:
            for tile in part.tiles():
                converted = tile.astype(self.dtype, copy=False)
                staging.upload(converted, address)
                address += converted.nbytes
        return array

    def cache(self, config: ModelConfig, tokens: int) -> KVCache[DeviceArray]:
        if config.head_dim > ATTENTION_WIDTHS[-1]:
            raise UnsupportedModelError(
                f"heads are {config.head_dim} wide, expected at most {ATTENTION_WIDTHS[-1]} "
                "for the CUDA backend; use --backend cpu"
            )
        blocks = -(-tokens // BLOCK_SIZE)
        shape = (blocks, config.kv_heads, BLOCK_SIZE, config.head_dim)
        self._kept.reserve(2 * len(config.windows), prod(shape) * self.dtype.itemsize)
        layers = tuple(
            LayerCache(self._zeros(shape), self._zeros(shape), window) for window in config.windows
        )
        return KVCache(layers, blocks, BLOCK_SIZE)

    @property
    def cache_budget(self) -> tuple[int, int]:
        free, _ = self.device.free_and_total
        return int(free * SHARE_FOR_CACHE), free

    def _zeros(self, shape: tuple[int, ...]) -> DeviceArray:
        """What was in this memory may be no number, and nothing times that is not nothing."""
        array = memory.empty(self._kept, shape, self.dtype)
        if array.size:
            self.device.call("cuMemsetD8Async", array.address, 0, array.nbytes, self.device.stream)
        return array

    def cache_bytes(self, config: ModelConfig) -> int:
        return config.cache_elements * self.dtype.itemsize

    def copy_blocks(self, cache: KVCache[DeviceArray], copies: Sequence[tuple[int, int]]) -> None:
        self.device.make_current(force=True)
        for layer in cache.layers:
            for array in (layer.keys, layer.values):
                one = array.shape[1:]
                for source, target in copies:
                    memory.copy_on_device(
                        self.device,
                        array.view(source * prod(one), one),
                        array.view(target * prod(one), one),
                    )

    # --- the model's own ---------------------------------------------------------------------

    def gather(self, table: DeviceArray, rows: DeviceArray) -> DeviceArray:
        out = self._empty((rows.size, table.shape[1]), table.dtype)
        name = f"gather_{SUFFIXES[table.dtype.name]}"
        self._launch(
            *("gather", name, (rows.size, 1, 1), THREADS),
            *(out.address, table.address, rows.address, table.shape[1]),
        )
        return out

    def linear(
        self,
        x: DeviceArray,
        weight: DeviceArray,
        bias: DeviceArray | None = None,
        residual: DeviceArray | None = None,
    ) -> DeviceArray:
        return self._linear(x, weight, self.dtype, bias, residual)

    def rms_norm(self, x: DeviceArray, weight: DeviceArray, eps: float) -> DeviceArray:
        check_columns(x.shape[-1], weight.size)
        out = self._empty(x.shape)
        rows, width = x.size // x.shape[-1], x.shape[-1]
        self._launch(
            *("rms_norm", f"rms_norm_{self._suffix}", (rows, 1, 1), THREADS),
            *(out.address, x.address, weight.address, width, eps),
        )
        return out

    def silu_mul(self, gate_up: DeviceArray) -> DeviceArray:
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = self._empty((rows, width))
        self._launch(
            *("silu_mul", f"silu_mul_{self._suffix}", (rows, _blocks(width, THREADS), 1), THREADS),
            *(out.address, gate_up.address, width),
        )
        return out

    def rope_and_store(
        self,
        qkv: DeviceArray,
        layer: Layer[DeviceArray],
        cos_sin: DeviceArray,
        cache: LayerCache[DeviceArray],
        batch: Batch[DeviceArray],
        eps: float,
    ) -> DeviceArray:
        _, kv_heads, block_size, width = cache.keys.shape
        tokens, heads = qkv.shape[0], qkv.shape[1] // width - 2 * kv_heads
        q = self._empty((tokens, heads, width))
        self._launch(
            *("rope_and_store", f"rope_and_store_{self._suffix}"),
            *((tokens, _blocks(heads + 2 * kv_heads, WARPS), 1), WARPS * WARP),
            *(q.address, qkv.address, _address(layer.q_norm), _address(layer.k_norm)),
            *(cos_sin.address, cache.keys.address, cache.values.address, batch.slots.address),
            *(heads, kv_heads, width, block_size, eps),
        )
        return q

    def attention(
        self, q: DeviceArray, cache: LayerCache[DeviceArray], batch: Batch[DeviceArray]
    ) -> DeviceArray:
        assert isinstance(batch, CudaBatch)
        tokens, heads, width = q.shape
        _, kv_heads, block_size, _ = cache.keys.shape
        splits = self._splits(q, batch)
        shape = Shape(
            *(heads, kv_heads, width, block_size, batch.block_tables.shape[1], cache.window),
            SPLIT if splits > 1 else 0,
        )
        out = self._empty((tokens, heads * width))
        partial = (
            self._empty((tokens, heads, splits, width + 2), np.float32) if splits > 1 else None
        )
        head_rows = _blocks(batch.tile_tokens * (heads // kv_heads), ATTENTION_ROWS)
        widest = next(most for most in ATTENTION_WIDTHS if width <= most)
        self._launch(
            *("attention", f"attention_{widest}_{self._suffix}"),
            *((batch.tiles.shape[0], kv_heads * head_rows, splits), ATTENTION_THREADS),
            *(out.address, _address(partial), q.address),
            *(cache.keys.address, cache.values.address, batch.positions.address),
            *(batch.query_starts.address, batch.block_tables.address, batch.tiles.address),
            *(shape, math.log2(math.e) / math.sqrt(width)),
            shared=_attention_shared(width),
        )
        if partial is not None:
            self._launch(
                *("attention", f"attention_merge_{self._suffix}", (tokens, heads, 1), 2 * WARP),
                *(out.address, partial.address, batch.positions.address, splits, shape),
            )
        return out

    def _splits(self, q: DeviceArray, batch: CudaBatch) -> int:
        """Into how many parts contexts are split, so that a few long ones keep a GPU busy."""
        splits = _blocks(batch.longest, SPLIT)
        partial = q.size // q.shape[2] * splits * (q.shape[2] + 2) * 4 if q.size else 0
        return 1 if self.is_deterministic or partial > MOST_PARTIAL else splits

    # --- products ----------------------------------------------------------------------------

    def logits(
        self, x: DeviceArray, norm: DeviceArray, head: DeviceArray, eps: float
    ) -> DeviceArray:
        return self._linear(self.rms_norm(x, norm, eps), head, DTYPES["float32"])

    def _linear(
        self,
        x: DeviceArray,
        weight: DeviceArray,
        out_type: np.dtype,
        bias: DeviceArray | None = None,
        residual: DeviceArray | None = None,
    ) -> DeviceArray:
        """`linear`, into an array of any type."""
        check_columns(x.shape[-1], weight.shape[1])
        rows = x.shape[0]
        out = self._empty((rows, weight.shape[0]), out_type)
        if self._cublas is not None and rows > GEMV_ROWS:
            begun = self._begin_with(out, bias, residual)
            self._cublas.linear(out, x, weight, add=begun)
        elif rows > 4 * GEMV_ROWS and not self.is_deterministic:
            self._own_linear("gemm", out, x, weight, bias, residual)
        else:
            self._own_linear("gemv", out, x, weight, bias, residual)
        return out

    def _own_linear(
        self,
        kernel: str,
        out: DeviceArray,
        x: DeviceArray,
        weight: DeviceArray,
        bias: DeviceArray | None,
        residual: DeviceArray | None,
    ) -> None:
        (rows, inner), outputs = x.shape, weight.shape[0]
        converts = "" if out.dtype == self.dtype else "_to_f32"
        if kernel == "gemv":
            grid, threads = (_blocks(outputs, WARPS), _blocks(rows, GEMV_ROWS), 1), WARPS * WARP
        else:
            grid, threads = (_blocks(rows, GEMM_TILE), _blocks(outputs, GEMM_TILE), 1), GEMM_THREADS
        self._launch(
            *("linear", f"{kernel}_{self._suffix}{converts}", grid, threads),
            *(out.address, x.address, weight.address, _address(bias), _address(residual)),
            *(rows, inner, outputs),
        )

    def _begin_with(
        self, out: DeviceArray, bias: DeviceArray | None, residual: DeviceArray | None
    ) -> bool:
        """Put into `out` what a product is to be added to, if anything."""
        if bias is not None:
            self._elementwise("add", out, bias, self._zero if residual is None else residual)
        elif residual is not None:
            memory.copy_on_device(self.device, residual, out)
        return bias is not None or residual is not None

    # --- drawing, and steps as a whole ---------------------------------------------------------

    def sample(
        self, logits: DeviceArray, draws: Sequence[Draw]
    ) -> Callable[[], list[Drawn | NumericalError]]:
        return self._sampler.launch(logits, draws, self._pool)

    def graph(self, step: Step[DeviceArray]) -> Step[DeviceArray]:
        return CapturedSteps(
            step, self.device, self._captured, self._taking_from, BLOCK_SIZE, self._parts
        )

    @contextmanager
    def _taking_from(self, pool: Pool) -> Iterator[None]:
        self._pool, before = pool, self._pool
        try:
            yield
        finally:
            self._pool = before

    # --- NumPy's broadcasting rules ------------------------------------------------------------

    def add(self, x: DeviceArray, y: DeviceArray) -> DeviceArray:
        return self._elementwise("add", None, x, y)

    def mul(self, x: DeviceArray, y: DeviceArray) -> DeviceArray:
        return self._elementwise("mul", None, x, y)

    def matmul(self, x: DeviceArray, y: DeviceArray) -> DeviceArray:
        kind = _common_type(x, y)
        left, right = _as_matrices(x.shape, y.shape)
        (rows, inner), columns = left[-2:], right[-1]
        shape, axes = broadcast_axes(left[:-2], right[:-2], rows * inner, inner * columns)
        out = self._empty((*shape, rows, columns), kind)
        count = prod(shape)
        if self._cublas is not None and axes.count <= 1 and out.size and inner:
            self._cublas.matmul(out, x, y, (rows, inner, columns), axes.strides)
        else:
            grid = (_blocks(rows, GEMM_TILE), _blocks(columns, GEMM_TILE), count)
            self._launch(
                *("broadcast", f"matmul_{SUFFIXES[kind.name]}", grid, GEMM_THREADS),
                *(out.address, x.address, y.address, axes, rows, inner, columns),
            )
        return out.view(0, _without_added_axes(out.shape, x.shape, y.shape))

    def _elementwise(
        self, operator: str, out: DeviceArray | None, x: DeviceArray, y: DeviceArray
    ) -> DeviceArray:
        kind = _common_type(x, y)
        shape, axes = broadcast_axes(x.shape, y.shape, within=() if out is None else out.shape)
        if out is None:
            out = self._empty(shape, kind)
        self._launch(
            *("broadcast", f"{operator}_{SUFFIXES[kind.name]}"),
            *((_blocks(prod(shape), THREADS), 1, 1), THREADS),
            *(out.address, x.address, y.address, axes, prod(shape)),
        )
        return out

    # --- memory and launches -------------------------------------------------------------------

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype | type | None = None) -> DeviceArray:
        return memory.empty(self._pool, shape, self.dtype if dtype is None else dtype)

    def _launch(
        self, file: str, kernel: str, grid: Size3, threads: int, *arguments: Any, shared: int = 0
    ) -> None:
        """Nothing to do is nothing launched: the driver refuses empty grids."""
        if 0 not in grid:
            self.kernels(file, kernel)(grid, threads, *arguments, shared=shared)


def _give_back(device: Device, parts: ExitStack) -> None:
    """Of a lost device it goes with the process; a forked child has nothing to return."""
    if device.is_closed:
        return
    if device.is_of_this_process:
        with device.temporarily_current():
            device.driver.cuStreamSynchronize(device.stream)
            parts.close()
    device.close()


def _attention_shared(width: int) -> int:
    """Bytes for `Shared` in kernels/attention.cu."""
    rows, keys = ATTENTION_ROWS, ATTENTION_KEYS
    return 4 * (rows * width + keys * (width + 1) + keys * width + rows * keys)


def _blocks(count: int, each: int) -> int:
    return -(-count // each)


def _address(array: DeviceArray | None) -> int:
    return 0 if array is None else array.address


def _common_type(x: DeviceArray, y: DeviceArray) -> np.dtype:
    if x.dtype != y.dtype or x.dtype.name not in SUFFIXES:
        raise UsageError(
            f"the arrays hold {x.dtype.name} and {y.dtype.name}, "
            f"expected one of {', '.join(SUFFIXES)} in both"
        )
    return x.dtype


def _as_matrices(x: tuple[int, ...], y: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Both with two axes at least: a vector is a row on the left, a column on the right."""
    if not x or not y:
        raise UsageError("matmul takes arrays of one axis or more, not single numbers")
    left = x if len(x) > 1 else (1, *x)
    right = y if len(y) > 1 else (*y, 1)
    if left[-1] != right[-2]:
        raise UsageError(
            f"matmul of {list(x)} and {list(y)}: {left[-1]} columns meet {right[-2]} rows, "
            "expected as many"
        )
    return left, right


def _without_added_axes(
    shape: tuple[int, ...], x: tuple[int, ...], y: tuple[int, ...]
) -> tuple[int, ...]:
    rows = shape[-2:-1] if len(x) > 1 else ()
    columns = shape[-1:] if len(y) > 1 else ()
    return shape[:-2] + rows + columns
