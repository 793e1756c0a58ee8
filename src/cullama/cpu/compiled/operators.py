"""The CPU's operators as compiled kernels: for speed only, and held to numpy's by tests.

Weights stay in the types of their files. A pass in which every text writes one token, or one text
checks its guesses, is recorded once for each number of tokens, and replayed with nothing of Python
in it. Rows do not depend on their neighbours, so results are the same bits in any batch.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike

from ...files.quantized_blocks import GROUP
from ...files.tensor import DTYPES, HostArray, StoredTensor
from ...model.batch import Batch
from ...model.kv_cache import LayerCache
from ...model.layer import Layer
from ...model.operators import Step, check_columns
from .. import packed
from ..jit.compiler import JIT, Kernel
from ..jit.launcher import Launcher
from ..jit.program import ChunkCount
from ..jit.thread_pool import KernelThreadPool
from ..operators import BLOCK_SIZE, CpuOperators
from ..packed import FORMATS, PANEL, Bytes, Format, Grouped, PackedMatrix, Panels, Plain
from ..storage import Memory
from .activation_quantisation import GROUPS_IN_CHUNK, QUANTISE_ACTIVATIONS, RECORD
from .attention import attention_kernel, merge_kernel, row_tiles
from .batch import CompiledBatch, pack
from .packing import packing
from .products import product_kernel
from .recorded_steps import RecordedSteps
from .rows import COPY_ROWS, RMS_NORM, ROWS_IN_CHUNK, SILU_MUL, gather_kernel, rope_kernel

logger = logging.getLogger("cullama")

# How a product is cut into chunks. For few tokens reading is all: each thread streams through a few
# long stretches of the weights, more than one so that a thread held up leaves the rest to others.
# For many, a chunk's activations stay in a core's second cache while its weights meet them.
FEW_TOKENS = 16
CHUNKS_A_THREAD = 2
PANELS_IN_CHUNK = 4
TOKENS_IN_CHUNK = 128


class CompiledOperators(CpuOperators):
    def __init__(
        self, dtype: str, threads: int, jit: JIT, weight_folder: Path | None = None
    ) -> None:
        """`dtype`: "auto" keeps every weight in its file's type."""
        self._launcher = Launcher(jit)
        self._wanted = None if dtype == "auto" else FORMATS[_FORMAT_NAMES[dtype]]
        self._stored = "weights as stored" if self._wanted is None else dtype
        super().__init__(dtype if dtype in DTYPES else "float16", threads, False, weight_folder)
        self.dtype_name = self._stored

    def use_threads(self, threads: int) -> None:
        super().use_threads(threads)
        jit = self._launcher.jit
        self._launcher.thread_pool = KernelThreadPool(jit, threads)
        words = f"{threads} thread{'s' if threads > 1 else ''}"
        self.description = f"cpu · {self._stored} · {words} · {jit.instruction_set.name}"

    # --- into place ------------------------------------------------------------------------------

    @contextmanager
    def loading(
        self, conversion_key: str | None, tensors: Collection[StoredTensor]
    ) -> Iterator[None]:
        matrices = {t: self._format(t) for t in tensors if len(t.shape) == 2}
        if self._wanted is None:  # a float32 model stays float32 throughout
            is_wide = all(format_.name == "F32" for format_ in matrices.values())
            self.dtype = DTYPES["float32" if is_wide else "float16"]
        self._tell_of_others(matrices)
        size = sum(_packed_bytes(format_, tensor) for tensor, format_ in matrices.items())
        is_costly = any(isinstance(format_, Grouped) for format_ in matrices.values())
        if is_costly and conversion_key is not None and self._weight_folder is not None:
            self._storage = self._file_or_memory(self._weight_folder, conversion_key, size)
        try:
            yield
            self._finish_storage()
        finally:
            self._storage.abandon()
            self._storage = Memory()

    def _tell_of_others(self, matrices: Mapping[StoredTensor, Format]) -> None:
        others = [t.name for t, format_ in matrices.items() if self._wanted not in (None, format_)]
        if others and self._wanted is not None:
            logger.warning(
                "kept as float16, since their rows are no multiple of %s's %d numbers: %s%s",
                self._stored,
                self._wanted.block_columns,
                others[0],
                f" and {len(others) - 1} more" if len(others) > 1 else "",
            )

    def _layout_name(self) -> str:
        return f"packed-{'stored' if self._wanted is None else self._wanted.name.lower()}"

    def weight(self, parts: Sequence[StoredTensor]) -> HostArray:
        panels = tuple(
            self._panels(format_, list(group)) for format_, group in groupby(parts, self._format)
        )
        # Opaque to the model: only operators look inside.
        return cast(HostArray, PackedMatrix(panels, parts[0].shape[1]))

    def _panels(self, format_: Format, parts: list[StoredTensor]) -> Panels:
        rows, columns = sum(part.shape[0] for part in parts), parts[0].shape[1]
        data = self._storage.take((-(-rows // PANEL), format_.panel_bytes(columns)), np.uint8)
        panels = Panels(format_, rows, data)
        if not self._storage.is_filled:
            tiles = chain.from_iterable(packed.tiles_of(part, format_) for part in parts)
            panels.fill(tiles, self._pack)
        return panels

    def _pack(self, format_: Format, rows: HostArray, panels: Bytes) -> None:
        kernel, chunks, arguments = packing(format_, rows, panels)
        self._run(kernel, chunks, **arguments)

    def _format(self, tensor: StoredTensor) -> Format:
        wanted = self._wanted or packed.format_of(tensor.dtype)
        return wanted if tensor.shape[-1] % wanted.block_columns == 0 else FORMATS["F16"]

    def vector(self, parts: Sequence[StoredTensor]) -> HostArray:
        whole = np.concatenate([part.read() for part in parts]).astype(np.float32)
        if isinstance(self._wanted, Plain):
            return whole.astype(self._wanted.dtype).astype(np.float32)
        return whole

    def upload_batch(self, batch: Batch[HostArray]) -> CompiledBatch:
        return pack(batch)

    # --- the model's own -------------------------------------------------------------------------

    def gather(self, table: HostArray, rows: HostArray) -> HostArray:
        rows = np.ascontiguousarray(rows, np.int32)
        matrix = cast("HostArray | PackedMatrix", table)
        if isinstance(matrix, PackedMatrix):
            return self._gather_packed(matrix, rows)
        table, count = self._floats(table), len(rows)
        out = self._empty((count, table.shape[1]))
        arguments = {"table": table, "rows": rows, "out": out, "columns": table.shape[1]}
        self._run(COPY_ROWS, _shares(count, ROWS_IN_CHUNK), **arguments, count=count)
        return out

    def _gather_packed(self, matrix: PackedMatrix, rows: HostArray) -> HostArray:
        count = len(rows)
        out = self._empty((count, matrix.columns))
        for first, part in matrix.placed():
            self._run(
                gather_kernel(part.format),
                _shares(count, ROWS_IN_CHUNK),
                weight=part.data,
                rows=rows,
                out=out,
                count=count,
                columns=matrix.columns,
                first=first,
                part_rows=part.rows,
                panel_bytes=part.data.shape[1],
            )
        return out

    def linear(
        self,
        x: HostArray,
        weight: HostArray,
        bias: HostArray | None = None,
        residual: HostArray | None = None,
    ) -> HostArray:
        matrix, x = cast(PackedMatrix, weight), self._floats(x)
        check_columns(x.shape[-1], matrix.columns)
        tokens = len(x)
        out = self._empty((tokens, matrix.rows))
        is_grouped = [isinstance(part.format, Grouped) for part in matrix.parts]
        activations = self._quantise_activations(x) if any(is_grouped) else None
        added = [None if each is None else self._floats(each) for each in (bias, residual)]
        for first, part in matrix.placed():
            panels_in_chunk = self._panels_in_chunk(len(part.data), tokens)
            self._run(
                product_kernel(part.format),
                _shares(len(part.data), panels_in_chunk) * _shares(tokens, TOKENS_IN_CHUNK),
                x=activations if isinstance(part.format, Grouped) else x,
                weight=part.data,
                out=out[:, first:],
                **_from(first, bias=added[0], residual=added[1]),
                tokens=tokens,
                blocks=matrix.columns // part.format.block_columns,
                rows=part.rows,
                stride=matrix.rows,
                panels_in_chunk=panels_in_chunk,
                tokens_in_chunk=TOKENS_IN_CHUNK,
            )
        return out

    def _panels_in_chunk(self, panels: int, tokens: int) -> int:
        if tokens > FEW_TOKENS:
            return PANELS_IN_CHUNK
        return _shares(panels, CHUNKS_A_THREAD * self._launcher.thread_pool.size)

    def _quantise_activations(self, x: HostArray) -> HostArray:
        groups = x.size // GROUP
        out = self._empty((groups, RECORD), np.uint8)
        self._run(
            QUANTISE_ACTIVATIONS, _shares(groups, GROUPS_IN_CHUNK), x=x, out=out, groups=groups
        )
        return out

    def rms_norm(self, x: HostArray, weight: HostArray, eps: float) -> HostArray:
        x, columns = self._floats(x), x.shape[-1]
        check_columns(columns, len(weight))
        out, rows = self._empty(x.shape), x.size // columns
        arguments = {"x": x, "weight": weight, "out": out, "columns": columns, "eps": eps}
        self._run(RMS_NORM, _shares(rows, ROWS_IN_CHUNK), **arguments, rows=rows)
        return out

    def silu_mul(self, gate_up: HostArray) -> HostArray:
        gate_up, rows, half = self._floats(gate_up), len(gate_up), gate_up.shape[1] // 2
        out = self._empty((rows, half))
        arguments = {"gate_up": gate_up, "out": out, "half": half}
        self._run(SILU_MUL, _shares(rows, ROWS_IN_CHUNK), **arguments, rows=rows)
        return out

    def rope_and_store(
        self,
        qkv: HostArray,
        layer: Layer[HostArray],
        cos_sin: HostArray,
        cache: LayerCache[HostArray],
        batch: Batch[HostArray],
        eps: float,
    ) -> HostArray:
        kv_heads, blocks, width, block_size = cache.keys.shape
        tokens, heads = len(qkv), qkv.shape[1] // width - 2 * kv_heads
        q = self._empty((tokens, heads, width))
        self._run(
            rope_kernel(_stored(cache), width, block_size),
            _shares(tokens, ROWS_IN_CHUNK),
            qkv=self._floats(qkv),
            cos_sin=self._floats(cos_sin),
            q_norm=layer.q_norm,
            k_norm=layer.k_norm,
            q=q,
            keys=cache.keys,
            values=cache.values,
            slots=batch.slots,
            tokens=tokens,
            heads=heads,
            kv_heads=kv_heads,
            blocks=blocks,
            eps=eps,
        )
        return q

    def attention(
        self, q: HostArray, cache: LayerCache[HostArray], batch: Batch[HostArray]
    ) -> HostArray:
        assert isinstance(batch, CompiledBatch)
        tokens, heads, width = q.shape
        kv_heads, blocks = cache.keys.shape[:2]
        sizes = row_tiles(self._launcher.jit.instruction_set.registers)
        work = batch.work(cache.window, heads // kv_heads, kv_heads, sizes)
        arguments = {
            "out": self._empty((tokens, heads * width)),
            "partial": self._empty((work.splits, tokens, heads, width + 2)),
            "positions": batch.positions,
            "tokens": tokens,
            "heads": heads,
            "window": cache.window,
        }
        self._run(
            attention_kernel(_stored(cache), width, BLOCK_SIZE),
            work.chunks,
            **arguments,
            q=self._floats(q),
            keys=cache.keys,
            values=cache.values,
            tables=batch.block_tables,
            items=work.items,
            kv_heads=kv_heads,
            blocks=blocks,
            table_width=batch.block_tables.shape[1],
            scale=width**-0.5,
        )
        self._run(merge_kernel(width), work.merged, **arguments)
        return cast(HostArray, arguments["out"])

    # numpy's overrides of larger words are for numpy: here they are what they are spelled out of.

    def project_qkv(self, *arguments: Any, **named: Any) -> HostArray:
        return super(CpuOperators, self).project_qkv(*arguments, **named)

    def feed_forward(self, *arguments: Any, **named: Any) -> HostArray:
        return super(CpuOperators, self).feed_forward(*arguments, **named)

    # --- numpy's own -----------------------------------------------------------------------------

    def add(self, x: HostArray, y: HostArray) -> HostArray:
        self._launcher.refuse_to_record()
        return super().add(x, y)

    def mul(self, x: HostArray, y: HostArray) -> HostArray:
        self._launcher.refuse_to_record()
        return super().mul(x, y)

    def matmul(self, x: HostArray, y: HostArray) -> HostArray:
        self._launcher.refuse_to_record()
        return super().matmul(x, y)

    # --- running ---------------------------------------------------------------------------------

    def graph(self, step: Step[HostArray]) -> Step[HostArray]:
        return RecordedSteps(self._launcher, step)

    def _run(self, kernel: Kernel, chunks: ChunkCount, **arguments: Any) -> None:
        self._launcher.run(kernel, chunks, **arguments)

    def _empty(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> HostArray:
        return self._launcher.empty(shape, dtype)

    def _floats(self, x: HostArray) -> HostArray:
        """As kernels read it; arrays of other types and layouts come from other people's layers."""
        plain = np.ascontiguousarray(x, np.float32)
        if plain is not x:
            self._launcher.refuse_to_record()
        return plain


def _from(first: int, **arrays: HostArray | None) -> dict[str, HostArray | None]:
    """The arrays from a column on."""
    return {name: None if each is None else each[..., first:] for name, each in arrays.items()}


_FORMAT_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"} | {
    name.lower(): name for name in ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
}
_PLAIN = {format_.dtype: format_ for format_ in FORMATS.values() if isinstance(format_, Plain)}


def _stored(cache: LayerCache[HostArray]) -> Plain:
    return _PLAIN[cache.keys.dtype]


def _packed_bytes(format_: Format, tensor: StoredTensor) -> int:
    rows, columns = tensor.shape
    return -(-rows // PANEL) * format_.panel_bytes(columns)


def _shares(units: int, share: int) -> int:
    return -(-units // share)
