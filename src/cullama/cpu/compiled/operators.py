"""The CPU's operators as compiled kernels: faster than numpy's, which are their specification.

Weights stay in the types of their files. Each operator fills in a kernel's arguments and cuts its
work into chunks that threads take; what a kernel computes is in the files beside this one. Rows do
not depend on their neighbours, so results are the same bits in any batch.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ...files.quantized_blocks import GROUP
from ...files.tensor import DTYPES, FILE_DTYPES, HostArray, StoredTensor
from ...model.batch import Batch
from ...model.choices import QUANTISED
from ...model.kv_cache import LayerCache
from ...model.layer import Attention, Linear, Norm
from ...model.operators import Forward, Operators, check_columns
from .. import packed
from ..backend import BLOCK_SIZE, HostBackend
from ..jit.compiler import JIT, Kernel
from ..jit.launcher import Launcher
from ..jit.program import ChunkCount
from ..jit.thread_pool import KernelThreadPool
from ..packed import FORMATS, PANEL, Bytes, Format, Grouped, PackedMatrix, Panels, Plain
from .activation_quantisation import GROUPS_IN_CHUNK, QUANTISE_ACTIVATIONS, RECORD
from .attention import attention_kernel, merge_kernel, row_tiles
from .batch import CompiledBatch, pack
from .graph_runner import CpuGraphRunner
from .packing import packing
from .products import product_kernel
from .rows import COPY_ROWS, RMS_NORM, ROWS_IN_CHUNK, SILU_MUL, embed_kernel, rope_kernel

logger = logging.getLogger("cullama")

# How a product is cut into chunks. For few tokens reading is all: each thread streams through a few
# long stretches of the weights, more than one so that a thread held up leaves the rest to others.
# For many, a chunk's activations stay in a core's second cache while its weights meet them.
FEW_TOKENS = 16
CHUNKS_A_THREAD = 2
PANELS_IN_CHUNK = 4
TOKENS_IN_CHUNK = 128


class CompiledOperators(
    HostBackend[PackedMatrix, CompiledBatch], Operators[HostArray, PackedMatrix, CompiledBatch]
):
    def __init__(
        self, dtype: str, threads: int, jit: JIT, weight_folder: Path | None = None
    ) -> None:
        """`dtype`: "auto" keeps every weight in its file's type."""
        self._launcher = Launcher(jit)
        self._format_asked = None if dtype == "auto" else FORMATS[_FORMAT_NAMES[dtype]]
        dtype_name = "weights as stored" if self._format_asked is None else dtype
        cache_type = DTYPES[dtype if dtype in DTYPES else "float16"]
        super().__init__(cache_type, dtype_name, threads, weight_folder)

    def use_threads(self, threads: int) -> None:
        super().use_threads(threads)
        jit = self._launcher.jit
        self._launcher.thread_pool = KernelThreadPool(jit, threads)
        self.description += f" · {jit.instruction_set.name}"

    @property
    def compile_seconds(self) -> float:  # type: ignore[override]  # read-only here
        return self._launcher.jit.compile_seconds

    def after_fork(self) -> None:
        super().after_fork()
        self._launcher.after_fork()

    def upload_batch(self, batch: Batch[HostArray]) -> CompiledBatch:
        return pack(batch)

    # --- weights ---------------------------------------------------------------------------------

    @contextmanager
    def loading(
        self, conversion_key: str | None, tensors: Collection[StoredTensor]
    ) -> Iterator[None]:
        matrices = {t: self._format(t) for t in tensors if len(t.shape) == 2}
        if self._format_asked is None:  # a float32 model stays float32 throughout
            is_wide = all(format_.name == "F32" for format_ in matrices.values())
            self.dtype = DTYPES["float32" if is_wide else "float16"]
        self._warn_of_other_formats(matrices)
        size = sum(
            -(-tensor.shape[0] // PANEL) * format_.panel_bytes(tensor.shape[1])
            for tensor, format_ in matrices.items()
        )
        is_costly = any(isinstance(format_, Grouped) for format_ in matrices.values())
        asked = "stored" if self._format_asked is None else self._format_asked.name.lower()
        with self._converted_weights(
            conversion_key if is_costly else None, f"packed-{asked}", size
        ):
            yield

    def _warn_of_other_formats(self, matrices: Mapping[StoredTensor, Format]) -> None:
        others = [
            t.name for t, format_ in matrices.items() if self._format_asked not in (None, format_)
        ]
        if others and self._format_asked is not None:
            logger.warning(
                "kept as float16, since their rows are no multiple of %s's %d numbers: %s%s",
                self.dtype_name,
                self._format_asked.block_columns,
                others[0],
                f" and {len(others) - 1} more" if len(others) > 1 else "",
            )

    def weight(self, parts: Sequence[StoredTensor]) -> PackedMatrix:
        columns, matrix_parts = parts[0].shape[1], []
        for format_, group in groupby(parts, self._format):
            tensors = list(group)
            rows = sum(tensor.shape[0] for tensor in tensors)
            data = self._storage.take((-(-rows // PANEL), format_.panel_bytes(columns)), np.uint8)
            panels = Panels(format_, rows, data)
            if not self._storage.is_filled:
                tiles = (packed.tiles_of(tensor, format_) for tensor in tensors)
                panels.fill(chain.from_iterable(tiles), self._pack)
            matrix_parts.append(panels)
        return PackedMatrix(tuple(matrix_parts), columns)

    def _pack(self, format_: Format, rows: HostArray, panels: Bytes) -> None:
        kernel, chunks, arguments = packing(format_, rows, panels)
        self._run(kernel, chunks, **arguments)

    def _format(self, tensor: StoredTensor) -> Format:
        format_ = self._format_asked or packed.format_of(tensor.dtype)
        return format_ if tensor.shape[-1] % format_.block_columns == 0 else FORMATS["F16"]

    def vector(self, parts: Sequence[StoredTensor]) -> HostArray:
        whole = np.concatenate([part.read() for part in parts]).astype(np.float32)
        if isinstance(self._format_asked, Plain):
            return whole.astype(self._format_asked.dtype).astype(np.float32)
        return whole

    # --- primitive operators ---------------------------------------------------------------------

    def gather(self, table: HostArray, rows: HostArray) -> HostArray:
        table, rows = self._floats(table), np.ascontiguousarray(rows, np.int32)
        count, columns = len(rows), table.shape[1]
        out = self._empty((count, columns))
        arguments = {"table": table, "rows": rows, "out": out, "columns": columns}
        self._run(COPY_ROWS, _shares(count, ROWS_IN_CHUNK), **arguments, count=count)
        return out

    def embed(self, table: PackedMatrix, tokens: HostArray) -> HostArray:
        rows, count = np.ascontiguousarray(tokens, np.int32), len(tokens)
        out = self._empty((count, table.columns))
        for first, part in table.placed():
            self._run(
                embed_kernel(part.format),
                _shares(count, ROWS_IN_CHUNK),
                weight=part.data,
                rows=rows,
                out=out,
                count=count,
                columns=table.columns,
                first=first,
                part_rows=part.rows,
                panel_bytes=part.data.shape[1],
            )
        return out

    def linear(
        self,
        x: HostArray,
        projection: Linear[HostArray, PackedMatrix],
        residual: HostArray | None = None,
    ) -> HostArray:
        matrix, bias, x = projection.weight, projection.bias, self._floats(x)
        check_columns(x.shape[-1], matrix.columns)
        tokens = len(x)
        out = self._empty((tokens, matrix.rows))
        is_grouped = [isinstance(part.format, Grouped) for part in matrix.parts]
        activations = self._quantise_activations(x) if any(is_grouped) else None
        bias, residual = (None if each is None else self._floats(each) for each in (bias, residual))
        for first, part in matrix.placed():
            panels_in_chunk = PANELS_IN_CHUNK
            if tokens <= FEW_TOKENS:
                chunks = CHUNKS_A_THREAD * self._launcher.thread_pool.size
                panels_in_chunk = _shares(len(part.data), chunks)
            self._run(
                product_kernel(part.format),
                _shares(len(part.data), panels_in_chunk) * _shares(tokens, TOKENS_IN_CHUNK),
                x=activations if isinstance(part.format, Grouped) else x,
                weight=part.data,
                out=out[:, first:],
                bias=None if bias is None else bias[first:],
                residual=None if residual is None else residual[:, first:],
                tokens=tokens,
                blocks=matrix.columns // part.format.block_columns,
                rows=part.rows,
                stride=matrix.rows,
                panels_in_chunk=panels_in_chunk,
                tokens_in_chunk=TOKENS_IN_CHUNK,
            )
        return out

    def _quantise_activations(self, x: HostArray) -> HostArray:
        groups = x.size // GROUP
        out = self._empty((groups, RECORD), np.uint8)
        self._run(
            QUANTISE_ACTIVATIONS, _shares(groups, GROUPS_IN_CHUNK), x=x, out=out, groups=groups
        )
        return out

    def rms_norm(self, x: HostArray, norm: Norm[HostArray]) -> HostArray:
        x, columns, weight = self._floats(x), x.shape[-1], norm.weight
        check_columns(columns, len(weight))
        out, rows = self._empty(x.shape), x.size // columns
        arguments = {"x": x, "weight": weight, "out": out, "columns": columns, "eps": norm.eps}
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
        attention: Attention[HostArray, PackedMatrix],
        cos_sin: HostArray,
        cache: LayerCache[HostArray],
        batch: CompiledBatch,
    ) -> HostArray:
        q_norm, k_norm = attention.q_norm, attention.k_norm
        kv_heads, blocks, width, block_size = cache.keys.shape
        tokens, heads = len(qkv), qkv.shape[1] // width - 2 * kv_heads
        q = self._empty((tokens, heads, width))
        self._run(
            rope_kernel(_stored(cache), width, block_size),
            _shares(tokens, ROWS_IN_CHUNK),
            qkv=self._floats(qkv),
            cos_sin=self._floats(cos_sin),
            q_norm=None if q_norm is None else q_norm.weight,
            k_norm=None if k_norm is None else k_norm.weight,
            q=q,
            keys=cache.keys,
            values=cache.values,
            slots=batch.slots,
            tokens=tokens,
            heads=heads,
            kv_heads=kv_heads,
            blocks=blocks,
            eps=0.0 if q_norm is None else q_norm.eps,
        )
        return q

    def attention(
        self, q: HostArray, cache: LayerCache[HostArray], batch: CompiledBatch
    ) -> HostArray:
        tokens, heads, width = q.shape
        kv_heads, blocks = cache.keys.shape[:2]
        sizes = row_tiles(self._launcher.jit.instruction_set.max_accumulators)
        work = batch.work(cache.window, heads // kv_heads, kv_heads, sizes)
        out = self._empty((tokens, heads * width))
        arguments = {
            "out": out,
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
        return out

    # --- NumPy's broadcasting rules: not recorded ------------------------------------------------

    def add(self, x: HostArray, y: HostArray) -> HostArray:
        self._launcher.refuse_to_record()
        return np.add(x, y)

    def mul(self, x: HostArray, y: HostArray) -> HostArray:
        self._launcher.refuse_to_record()
        return np.multiply(x, y)

    def matmul(self, x: HostArray, y: HostArray) -> HostArray:
        self._launcher.refuse_to_record()
        return np.matmul(x, y)

    # --- running ---------------------------------------------------------------------------------

    def graph(
        self, forward: Forward[CompiledBatch, HostArray]
    ) -> Forward[CompiledBatch, HostArray]:
        return CpuGraphRunner(self._launcher, forward)

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


_FORMAT_NAMES = dict(zip(DTYPES, FILE_DTYPES, strict=True)) | {
    name: name.upper() for name in QUANTISED
}
_PLAIN = {format_.dtype: format_ for format_ in FORMATS.values() if isinstance(format_, Plain)}


def _stored(cache: LayerCache[HostArray]) -> Plain:
    return _PLAIN[cache.keys.dtype]


def _shares(units: int, share: int) -> int:
    return -(-units // share)
