"""Every operator as kernel launches; `cpu/operators.py` defines what each computes.

Numbers between operators are in the storage type, sums are float32, logits too. All work goes into
one stream, so an operator returns as soon as its kernels are launched; only `download` and the
reading of drawn tokens wait. Kernels are in `kernels/`, one file for each family of operators;
products and attention have files of their own beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import NumericalError
from ..files.tensor import DTYPES
from ..model.kv_cache import LayerCache
from ..model.layer import Attention, Linear, Norm
from ..model.operators import Forward, Operators, check_columns
from ..sampling.draw import Draw, Drawn
from .attention import BLOCK_SIZE, attend
from .backend import CudaBackend
from .batch import CudaBatch
from .driver import Device
from .elementwise import elementwise
from .graph_runner import CudaGraphRunner
from .launcher import SUFFIXES, THREADS, WARP, WARPS, address_of, blocks_for
from .memory import DeviceArray, Pool
from .products import Products
from .weight import CudaWeight


class CudaOperators(CudaBackend, Operators[DeviceArray, CudaWeight, CudaBatch]):
    """The operators of a Llama on one GPU."""

    def __init__(
        self,
        dtype: str,
        device: Device,
        deterministic: bool = False,
        pool: Callable[[Device], Pool] = Pool,
        has_cublas: bool = True,
    ) -> None:
        super().__init__(dtype, device, deterministic, pool, has_cublas)
        self._products = Products(device, self._launcher, self._cublas, self._zero, deterministic)

    # --- primitive operators ---------------------------------------------------------------------

    def embed(self, table: CudaWeight, tokens: DeviceArray) -> DeviceArray:
        return self.gather(table.values, tokens)

    def gather(self, table: DeviceArray, rows: DeviceArray) -> DeviceArray:
        width = table.shape[1]
        out = self._launcher.empty((rows.size, width), table.dtype)
        kernel = f"gather_{SUFFIXES[table.dtype.name]}"
        arguments = (out.address, table.address, rows.address, width)
        self._launcher.launch("gather", kernel, (rows.size, 1, 1), THREADS, arguments)
        return out

    def linear(
        self,
        x: DeviceArray,
        projection: Linear[DeviceArray, CudaWeight],
        residual: DeviceArray | None = None,
    ) -> DeviceArray:
        return self._products.linear(x, projection, residual, self.dtype)

    def rms_norm(self, x: DeviceArray, norm: Norm[DeviceArray]) -> DeviceArray:
        width = x.shape[-1]
        check_columns(width, norm.weight.size)
        out = self._launcher.empty(x.shape)
        kernel = f"rms_norm_{self._launcher.suffix}"
        arguments = (out.address, x.address, norm.weight.address, width, norm.eps)
        self._launcher.launch("rms_norm", kernel, (x.size // width, 1, 1), THREADS, arguments)
        return out

    def silu_mul(self, gate_up: DeviceArray) -> DeviceArray:
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = self._launcher.empty((rows, width))
        kernel, grid = f"silu_mul_{self._launcher.suffix}", (rows, blocks_for(width, THREADS), 1)
        arguments = (out.address, gate_up.address, width)
        self._launcher.launch("silu_mul", kernel, grid, THREADS, arguments)
        return out

    def rope_and_store(
        self,
        qkv: DeviceArray,
        attention: Attention[DeviceArray, CudaWeight],
        cos_sin: DeviceArray,
        cache: LayerCache[DeviceArray],
        batch: CudaBatch,
    ) -> DeviceArray:
        _, kv_heads, block_size, width = cache.keys.shape
        tokens, heads = qkv.shape[0], qkv.shape[1] // width - 2 * kv_heads
        q = self._launcher.empty((tokens, heads, width))
        q_norm, k_norm = (
            None if norm is None else norm.weight for norm in (attention.q_norm, attention.k_norm)
        )
        eps = 0.0 if attention.q_norm is None else attention.q_norm.eps
        operands = (qkv, q_norm, k_norm, cos_sin, cache.keys, cache.values, batch.slots)
        arguments = (q.address, *map(address_of, operands), heads, kv_heads, width, block_size, eps)
        self._launcher.launch(
            "rope_and_store",
            f"rope_and_store_{self._launcher.suffix}",
            (tokens, blocks_for(heads + 2 * kv_heads, WARPS), 1),
            WARPS * WARP,
            arguments,
        )
        return q

    def attention(
        self, q: DeviceArray, cache: LayerCache[DeviceArray], batch: CudaBatch
    ) -> DeviceArray:
        return attend(self._launcher, q, cache, batch, may_split=not self.is_deterministic)

    def add(self, x: DeviceArray, y: DeviceArray) -> DeviceArray:
        return elementwise(self._launcher, "add", x, y)

    def mul(self, x: DeviceArray, y: DeviceArray) -> DeviceArray:
        return elementwise(self._launcher, "mul", x, y)

    def matmul(self, x: DeviceArray, y: DeviceArray) -> DeviceArray:
        return self._products.matmul(x, y)

    # --- for another type, and for speed ---------------------------------------------------------

    def logits(
        self, x: DeviceArray, norm: Norm[DeviceArray], head: Linear[DeviceArray, CudaWeight]
    ) -> DeviceArray:
        return self._products.linear(self.rms_norm(x, norm), head, None, DTYPES["float32"])

    def sample(
        self, logits: DeviceArray, draws: Sequence[Draw]
    ) -> Callable[[], list[Drawn | NumericalError]]:
        return self._sampler.launch(logits, draws, self._launcher.pool)

    def graph(self, forward: Forward[CudaBatch, DeviceArray]) -> Forward[CudaBatch, DeviceArray]:
        return CudaGraphRunner(
            forward, self.device, self._launcher, self._graph_pool, BLOCK_SIZE, self._resources
        )
