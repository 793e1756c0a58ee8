"""The CPU's operators as compiled kernels: for speed only, and held to numpy's by tests.

Weights stay in the types of their files. A pass in which every sequence writes one token is
recorded once for each number of sequences, and replayed with nothing of Python in it. Rows do not
depend on their neighbours, so results are the same bits in any batch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...batch import Batch
from ...kv_cache import LayerCache
from ...operators import Step
from ...tensor import DTYPES, HostArray, StoredTensor
from ...weights import Layer
from .. import packed
from ..operators import BLOCK_SIZE, CpuOperators
from ..packed import FORMATS, PANEL, Format, Grouped, PackedMatrix, Panels, Plain
from ..storage import Memory
from . import attention as attending
from .attention import attention_kernel, merge_kernel
from .batch import CompiledBatch, FixedBatch, prepare
from .digits import DIGITS, GROUPS_IN_CHUNK, RECORD
from .machine import Kernel, Machine
from .products import product_kernel
from .program import Arena, Count, Program, step
from .rows import COPY_ROWS, RMS_NORM, ROWS_IN_CHUNK, SILU_MUL, gather_kernel, rope_kernel
from .team import Team

logger = logging.getLogger("cullama")

RECORDED = 64  # sequences that write together in a recorded pass, at most
ARENA = 4 << 20  # bytes at first

# A product is cut into chunks of so many panels and tokens: small enough to be shared evenly, and
# for a chunk's activations to stay in a core's second cache.
PANELS_IN_CHUNK = 4
TOKENS_IN_CHUNK = 128


class CompiledOperators(CpuOperators):
    def __init__(
        self, dtype: str, threads: int, machine: Machine, weight_folder: Path | None = None
    ) -> None:
        """`dtype`: "auto" keeps every weight in its file's type."""
        self._machine = machine
        self._wanted = None if dtype == "auto" else FORMATS[_FORMAT_NAMES[dtype]]
        self._stored = "weights as stored" if self._wanted is None else dtype
        self._recording = _Recording()
        super().__init__(dtype if dtype in DTYPES else "float16", threads, False, weight_folder)
        self.stored_as = self._stored

    def use_threads(self, threads: int) -> None:
        super().use_threads(threads)
        self._team = Team(self._machine, threads)
        words = f"{threads} thread{'s' if threads > 1 else ''}"
        self.description = f"cpu · {self._stored} · {words} · {self._machine.instruction_set.name}"

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
                self._wanted.block,
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
            panels.fill(tile for part in parts for tile in packed.tiles_of(part, format_))
        return panels

    def _format(self, tensor: StoredTensor) -> Format:
        wanted = self._wanted or packed.format_of(tensor.dtype)
        return wanted if tensor.shape[-1] % wanted.block == 0 else FORMATS["F16"]

    def vector(self, parts: Sequence[StoredTensor]) -> HostArray:
        whole = np.concatenate([part.read() for part in parts]).astype(np.float32)
        if isinstance(self._wanted, Plain):
            return whole.astype(self._wanted.dtype).astype(np.float32)
        return whole

    def upload_batch(self, batch: Batch[HostArray]) -> CompiledBatch:
        return prepare(batch)

    def _floats(self, x: HostArray) -> HostArray:
        """As kernels read it; arrays of other types and layouts come from other people's layers."""
        plain = np.ascontiguousarray(x, np.float32)
        if plain is not x:
            self._refuse_to_record()
        return plain

    # --- the model's own -------------------------------------------------------------------------

    def gather(self, table: HostArray, rows: HostArray) -> HostArray:
        matrix = cast("HostArray | PackedMatrix", table)
        columns = matrix.columns if isinstance(matrix, PackedMatrix) else table.shape[1]
        out = self._empty((len(rows), columns))
        rows = np.ascontiguousarray(rows, np.int32)
        if not isinstance(matrix, PackedMatrix):
            table = self._floats(table)
            self._do(COPY_ROWS, _shares(len(rows), ROWS_IN_CHUNK), table=table, rows=rows, out=out,
                       count=len(rows), columns=columns)  # fmt: skip
            return out
        first = 0
        for part in matrix.parts:
            self._do(gather_kernel(part.format), _shares(len(rows), ROWS_IN_CHUNK), weight=part.data, rows=rows, out=out,
                     count=len(rows), columns=columns, first=first, part_rows=part.rows,
                     panel_bytes=part.data.shape[1])  # fmt: skip
            first += part.rows
        return out

    def linear(
        self,
        x: HostArray,
        weight: HostArray,
        bias: HostArray | None = None,
        residual: HostArray | None = None,
    ) -> HostArray:
        matrix = cast(PackedMatrix, weight)
        x, (tokens, columns) = self._floats(x), x.shape
        bias = None if bias is None else self._floats(bias)
        residual = None if residual is None else self._floats(residual)
        out = self._empty((tokens, matrix.rows))
        digits = self._digits(x) if any(isinstance(p.format, Grouped) for p in matrix.parts) else x
        first = 0
        for part in matrix.parts:
            format_ = part.format
            chunks = _shares(len(part.data), PANELS_IN_CHUNK) * _shares(tokens, TOKENS_IN_CHUNK)
            self._do(product_kernel(format_), chunks, x=digits if isinstance(format_, Grouped) else x,
                     weight=part.data, out=out[:, first:],
                     bias=None if bias is None else bias[first:],
                     residual=None if residual is None else residual[:, first:],
                     tokens=tokens, blocks=columns // format_.block, rows=part.rows,
                     stride=matrix.rows, panels_in_chunk=PANELS_IN_CHUNK,
                     tokens_in_chunk=TOKENS_IN_CHUNK)  # fmt: skip
            first += part.rows
        return out

    def _digits(self, x: HostArray) -> HostArray:
        groups = x.size // packed.GROUP
        out = self._empty((groups, RECORD), np.uint8)
        self._do(DIGITS, _shares(groups, GROUPS_IN_CHUNK), x=x, out=out, groups=groups)
        return out

    def rms_norm(self, x: HostArray, weight: HostArray, eps: float) -> HostArray:
        x = self._floats(x)
        out, columns = self._empty(x.shape), x.shape[-1]
        rows = x.size // columns
        self._do(RMS_NORM, _shares(rows, ROWS_IN_CHUNK), x=x, weight=weight, out=out, rows=rows,
                   columns=columns, eps=eps)  # fmt: skip
        return out

    def silu_mul(self, gate_up: HostArray) -> HostArray:
        gate_up = self._floats(gate_up)
        rows, half = len(gate_up), gate_up.shape[1] // 2
        out = self._empty((rows, half))
        self._do(
            SILU_MUL, _shares(rows, ROWS_IN_CHUNK), gate_up=gate_up, out=out, rows=rows, half=half
        )
        return out

    def rope_and_store(
        self,
        qkv: HostArray,
        layer: Layer[HostArray],
        turns: HostArray,
        cache: LayerCache[HostArray],
        batch: Batch[HostArray],
        eps: float,
    ) -> HostArray:
        qkv, turns = self._floats(qkv), self._floats(turns)
        kv_heads, blocks, width, block_size = cache.keys.shape
        tokens, heads = len(qkv), qkv.shape[1] // width - 2 * kv_heads
        q = self._empty((tokens, heads, width))
        self._do(rope_kernel(_stored(cache), width, block_size), _shares(tokens, ROWS_IN_CHUNK), qkv=qkv, turns=turns, q_norm=layer.q_norm,
                 k_norm=layer.k_norm, q=q, keys=cache.keys, values=cache.values, slots=batch.slots,
                 tokens=tokens, heads=heads, kv_heads=kv_heads, blocks=blocks, eps=eps)  # fmt: skip
        return q

    def attention(
        self, q: HostArray, cache: LayerCache[HostArray], batch: Batch[HostArray]
    ) -> HostArray:
        assert isinstance(batch, CompiledBatch)
        q = self._floats(q)
        tokens, heads, width = q.shape
        kv_heads, blocks = cache.keys.shape[:2]
        out = self._empty((tokens, heads * width))
        work = batch.work(cache.window, heads // kv_heads, kv_heads, self._sizes())
        partial_ = self._empty((work.splits, tokens, heads, width + 2))
        shared = dict(out=out, partial=partial_, positions=batch.positions, tokens=tokens,
                      heads=heads, window=cache.window)  # fmt: skip
        self._do(attention_kernel(_stored(cache), width, BLOCK_SIZE), work.chunks, **shared, q=q, keys=cache.keys, values=cache.values,
                 tables=batch.block_tables, items=work.items, kv_heads=kv_heads, blocks=blocks,
                 table_width=batch.block_tables.shape[1], scale=width**-0.5)  # fmt: skip
        self._do(merge_kernel(width), work.merged, **shared)
        return out

    def _sizes(self) -> tuple[int, ...]:
        return attending.sizes_for(self._machine.instruction_set.registers)

    # project_qkv and feed_forward: numpy's overrides are for numpy.
    def project_qkv(self, *arguments: Any, **named: Any) -> HostArray:
        return super(CpuOperators, self).project_qkv(*arguments, **named)

    def feed_forward(self, *arguments: Any, **named: Any) -> HostArray:
        return super(CpuOperators, self).feed_forward(*arguments, **named)

    # --- numpy's own, which nothing can record ---------------------------------------------------

    def add(self, x: HostArray, y: HostArray) -> HostArray:
        self._refuse_to_record()
        return super().add(x, y)

    def mul(self, x: HostArray, y: HostArray) -> HostArray:
        self._refuse_to_record()
        return super().mul(x, y)

    def matmul(self, x: HostArray, y: HostArray) -> HostArray:
        self._refuse_to_record()
        return super().matmul(x, y)

    def _refuse_to_record(self) -> None:
        if self._recording.program is not None:
            raise _NotRecordableError

    # --- running and recording -------------------------------------------------------------------

    def _do(self, kernel: Kernel, chunks: Count, **arguments: Any) -> None:
        compiled = self._machine.compile(kernel)
        if self._recording.program is not None:
            self._recording.program.add(compiled, chunks, arguments)
            return
        record = step(compiled, chunks, arguments)
        self._team.play(np.array([record.__array_interface__["data"][0]], np.int64))

    def _empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> HostArray:
        if self._recording.program is not None:
            return self._recording.program.arena.empty(shape, dtype)
        return np.empty(shape, dtype)

    def graph(self, step: Step[HostArray]) -> Step[HostArray]:
        return _RecordedSteps(self, step)

    def record(
        self, step: Step[HostArray], batch: Batch[HostArray], arena: Arena
    ) -> tuple[Program, HostArray]:
        """A pass written down instead of run; the program, and where its logits will be."""
        self._recording.program = program = Program(arena)
        try:
            return program, arena.view(step(batch))
        finally:
            self._recording.program = None


class _Recording(threading.local):
    """What a thread is recording: others go on computing."""

    program: Program | None = None


class _NotRecordableError(Exception):
    """A step does something that is no kernel."""


class _RecordedSteps:
    """A step that is recorded by and by, for each number of sequences."""

    def __init__(self, ops: CompiledOperators, step: Step[HostArray]) -> None:
        self._ops, self._step = ops, step
        self._programs: dict[int, tuple[Program, FixedBatch, HostArray]] = {}
        self._arena, self._most = Arena(ARENA), RECORDED

    def __call__(self, batch: Batch[HostArray]) -> HostArray:
        assert isinstance(batch, CompiledBatch)
        sequences = len(batch.context_lengths)
        if not batch.writes_one_token_each or sequences > self._most:
            return self._step(batch)
        known = self._programs.get(sequences)
        if known is None or not known[1].has_room_for(batch):
            try:
                self._programs[sequences] = known = self._recorded(batch)
            except _NotRecordableError:
                self._most = 0  # from now on, every pass goes operator by operator
                return self._step(batch)
        program, fixed, logits = known
        fixed.take(batch)
        program.run(self._ops._team)
        return logits.copy()

    def _recorded(self, batch: CompiledBatch) -> tuple[Program, FixedBatch, HostArray]:
        fixed = FixedBatch(batch)
        while True:
            try:
                return self._with(fixed)
            except MemoryError:  # programs that were recorded keep the arena they know
                self._arena = Arena(2 * self._arena.size)

    def _with(self, fixed: FixedBatch) -> tuple[Program, FixedBatch, HostArray]:
        program, logits = self._ops.record(self._step, fixed, self._arena)
        return program, fixed, logits


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
