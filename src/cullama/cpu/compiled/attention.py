"""Attention over the paged cache: a few queries of a key/value head meet its keys, block by block.

Queries of a key/value head lie together (GQA), so that each key and value is read once for all of
them. Scores never leave a core's cache: a span of keys' are turned into weights as they come, and
what was summed before is scaled down where a larger score is met (Milakov & Gimelshein, 2018; Dao
et al., "FlashAttention", 2022). Long contexts are cut into splits that cores share; `merge` puts
them together in order. Spans and splits begin at fixed places, so a row's numbers depend on its own
context alone.
"""

from __future__ import annotations

from types import SimpleNamespace

from ..jit.compiler import Kernel
from ..jit.kernel_builder import F32, I32, I64, POINTER, KernelBuilder, Value, Variable, vector
from ..packed import Plain
from .rows import exp
from .unpacking import load_floats

SPLIT = 512  # keys that one item looks at, at most
SPAN = 128  # keys whose scores are weighed together
SIZES = (8, 6, 4, 3, 2, 1)  # rows of queries taken together; those a processor has registers for
SUMS = 8  # of rows and vectors of dimensions, in registers while values are added up
LANES = 16
NEVER = -1e30  # below any score

ITEM = 8 * 4  # bytes: first row, rows, first key of the split, row of the block table

FIELDS = {
    "q": POINTER,  # [T, H, E]
    "keys": POINTER,  # [K, blocks, E, 32]
    "values": POINTER,  # [K, blocks, 32, E]
    "out": POINTER,  # [T, H E]
    "partial": POINTER,  # [splits, T, H, E + 2]: sums, highest score, total weight
    "positions": POINTER,  # [T] int32
    "tables": POINTER,  # [S, table_width] int32
    "items": POINTER,
    "tokens": I64,
    "heads": I64,
    "kv_heads": I64,
    "blocks": I64,
    "window": I64,
    "table_width": I64,
    "scale": F32,
}


def sizes_for(registers: int) -> tuple[int, ...]:
    return tuple(size for size in SIZES if size <= registers)


def attention_kernel(stored: Plain, width: int, block_size: int) -> Kernel:
    """For heads of one width and a cache of one type. A chunk is an item and a key/value head."""

    def body(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
        tile = _Tile(builder, a, chunk, stored, width, block_size)
        for size in sizes_for(builder.instruction_set.registers):
            with builder.when(tile.rows.equals(size)):
                tile.attend(size)

    return Kernel(f"attention_{width}_{stored.name.lower()}", FIELDS, body)


class _Tile:
    """One item and one key/value head, while its code is written."""

    def __init__(
        self,
        builder: KernelBuilder,
        a: SimpleNamespace,
        chunk: Value,
        stored: Plain,
        width: int,
        block_size: int,
    ) -> None:
        self.builder, self.a, self.stored = builder, a, stored
        self.width, self.block_size = width, block_size
        item = a.items + chunk // a.kv_heads * ITEM
        self.first_row, self.rows, self.split, table = (
            builder.load(I64, item + 8 * field) for field in range(4)
        )
        self.kv_head = chunk % a.kv_heads
        self.table = a.tables + table * a.table_width * 4
        self.group = a.heads // a.kv_heads
        most = max(sizes_for(builder.instruction_set.registers))
        self.weights = builder.alloca(4 * most * SPAN)  # [rows, SPAN]; scores at first
        self.sums = builder.alloca(4 * most * width)  # [rows, width]

    def attend(self, size: int) -> None:
        builder = self.builder
        self._find_rows(size)
        zero, never = builder.constant(F32, 0.0), builder.constant(F32, NEVER)
        self.highest = [builder.variable(never) for _ in range(size)]
        self.totals = [builder.variable(zero) for _ in range(size)]
        with builder.loop(size * self.width) as place:
            builder.store(zero, self.sums + place * 4)
        first = self.lows[0].maximum(self.split) // SPAN * SPAN
        last = self.positions[-1].minimum(self.split + (SPLIT - 1))
        with builder.loop(last + 1, first, SPAN) as base:
            self._span(size, base, (last + 1 - base).minimum(SPAN))
        for row in range(size):
            self._finish(row)

    def _find_rows(self, size: int) -> None:
        """Of each row its queries, its position and the first key it sees."""
        builder, a = self.builder, self.a
        self.places, self.positions, self.lows = [], [], []
        for i in range(size):
            row = self.first_row + i
            token = row // self.group
            head = self.kv_head * self.group + row % self.group
            self.places.append(token * a.heads + head)
            position = builder.load(I32, a.positions + token * 4).to(I64)
            self.positions.append(position)
            low = (position - a.window + 1).maximum(0)
            self.lows.append((a.window > 0).select(low, 0))

    def _span(self, size: int, base: Value, keys: Value) -> None:
        """`keys`: so many from `base` on are there."""
        blocks = (keys + (self.block_size - 1)) // self.block_size
        first = base // self.block_size
        with self.builder.loop(blocks) as block:
            self._score(size, self._start(first + block), base, block * self.block_size)
        scales = [self._weigh(row, blocks * self.block_size) for row in range(size)]
        self._hear(size, base, scales, keys)

    def _start(self, block: Value) -> Value:
        """Where a block of this head begins, in bytes."""
        index = self.builder.load(I32, self.table + block * 4).to(I64)
        elements = (self.kv_head * self.a.blocks + index) * (self.width * self.block_size)
        return elements * self.stored.dtype.itemsize

    def _score(self, size: int, start: Value, base: Value, inside: Value) -> None:
        """The scores of one block, `inside` keys behind the base of its span."""
        builder, item = self.builder, self.stored.dtype.itemsize
        places = range(0, self.block_size, LANES)
        nothing = builder.constant(vector(F32, LANES), 0.0)
        sums = [[builder.variable(nothing) for _ in places] for _ in range(size)]
        queries = [self.a.q + place * (4 * self.width) for place in self.places]
        with builder.loop(self.width) as dimension:
            row = self.a.keys + start + dimension * (self.block_size * item)
            met = [load_floats(builder, self.stored, row + place * item) for place in places]
            builder.prefetch(self.a.values + start + dimension * (self.block_size * item))
            for query, totals in zip(queries, sums, strict=True):
                number = builder.load(F32, query + dimension * 4).splat(LANES)
                for total, keys in zip(totals, met, strict=True):
                    total.set(builder.fma(keys, number, total.get()))
        lanes = builder.constants(I32, range(LANES))
        for row_index, totals in enumerate(sums):
            for place, total in zip(places, totals, strict=True):
                keys = lanes + (base + inside + place).to(I32).splat(LANES)
                score = self._is_seen(row_index, keys).select(total.get() * self.a.scale, NEVER)
                builder.store(score, self._weight_at(row_index, inside + place))

    def _is_seen(self, row: int, keys: Value) -> Value:
        low, position = self.lows[row].to(I32), self.positions[row].to(I32)
        return (keys <= position) & (keys >= low)

    def _weight_at(self, row: int, key: Value) -> Value:
        return self.weights + (key + row * SPAN) * 4

    def _weigh(self, row: int, keys: Value) -> Value:
        """A span's scores become weights; returns what earlier sums are to be scaled by."""
        builder, type_ = self.builder, vector(F32, LANES)
        highest = builder.variable(builder.constant(type_, NEVER))
        with builder.loop(keys, 0, LANES) as key:
            highest.set(highest.get().maximum(builder.load(type_, self._weight_at(row, key))))
        before = self.highest[row].get()
        now = before.maximum(highest.get().reduce_max())
        total = builder.variable(builder.constant(type_, 0.0))
        with builder.loop(keys, 0, LANES) as key:
            at = self._weight_at(row, key)
            score = builder.load(type_, at)
            # Asked this way round, what is no number gets a weight that is none.
            weight = (score <= NEVER).select(
                builder.constant(type_, 0.0), exp(builder, score - now)
            )
            builder.store(weight, at)
            total.set(total.get() + weight)
        scale = exp(builder, before - now)
        self.highest[row].set(now)
        self.totals[row].set(builder.fma(self.totals[row].get(), scale, total.get().reduce_add()))
        return scale

    def _hear(self, size: int, base: Value, scales: list[Value], keys: Value) -> None:
        """sums = sums · scale + weights · values, some vectors of dimensions at a time."""
        builder, first = self.builder, base // self.block_size
        lanes = LANES if self.width % LANES == 0 else 1
        vectors = max(1, min(self.width // lanes, SUMS // size))
        while self.width // lanes % vectors:
            vectors -= 1
        with builder.loop(self.width, 0, lanes * vectors) as dimension:
            places = [dimension + lanes * v for v in range(vectors)]
            sums = [
                [
                    builder.variable(self._sum(row, place, lanes) * scale.splat(lanes))
                    for place in places
                ]
                for row, scale in enumerate(scales)
            ]
            # Values before the window are not touched: weights of 0 would not silence a NaN.
            begin = (self.lows[0] - base).maximum(0)
            with builder.loop(
                keys, begin // self.block_size * self.block_size, self.block_size
            ) as inside:
                values = self.a.values + self._start(first + inside // self.block_size)
                end = (keys - inside).minimum(self.block_size)
                with builder.loop(end, (begin - inside).maximum(0)) as key:
                    self._add_values(sums, values, key, inside + key, places, lanes)
            for row, totals in enumerate(sums):
                for place, total in zip(places, totals, strict=True):
                    builder.store(total.get(), self._sum_at(row, place))

    def _add_values(
        self,
        sums: list[list[Variable]],
        values: Value,
        key: Value,
        weight: Value,
        places: list[Value],
        lanes: int,
    ) -> None:
        builder, item = self.builder, self.stored.dtype.itemsize
        heard = [
            load_floats(builder, self.stored, values + (key * self.width + place) * item, lanes)
            for place in places
        ]
        for row, totals in enumerate(sums):
            share = builder.load(F32, self._weight_at(row, weight)).splat(lanes)
            for total, numbers_ in zip(totals, heard, strict=True):
                total.set(builder.fma(numbers_, share, total.get()))

    def _sum(self, row: int, dimension: Value, lanes: int) -> Value:
        type_ = vector(F32, lanes)
        return self.builder.load(type_, self._sum_at(row, dimension))

    def _sum_at(self, row: int, dimension: Value) -> Value:
        return self.sums + (dimension + row * self.width) * 4

    def _finish(self, row: int) -> None:
        """The row itself, where one split is all it sees, or its part for `merge`."""
        builder, a = self.builder, self.a
        first, last = self.lows[row] // SPLIT, self.positions[row] // SPLIT
        mine = self.split // SPLIT
        place, total = self.places[row], self.totals[row].get()
        is_whole = first.equals(last)
        with builder.when(is_whole & first.equals(mine)), builder.loop(self.width) as dimension:
            number = builder.load(F32, self._sum_at(row, dimension)) / total
            builder.store(number, a.out + (place * self.width + dimension) * 4)
        is_part = is_whole.equals(0) & (first <= mine) & (mine <= last)
        with builder.when(is_part):
            part = part_at(a, mine, place, self.width)
            with builder.loop(self.width) as dimension:
                builder.store(builder.load(F32, self._sum_at(row, dimension)), part + dimension * 4)
            builder.store(self.highest[row].get(), part + 4 * self.width)
            builder.store(total, part + (4 * self.width + 4))


def part_at(a: SimpleNamespace, split: Value, place: Value, width: int) -> Value:
    return a.partial + (split * a.tokens * a.heads + place) * (4 * (width + 2))


MERGE_FIELDS = {
    name: FIELDS[name] for name in ("partial", "out", "positions", "tokens", "heads", "window")
}


def merge_kernel(width: int) -> Kernel:
    """A chunk is a token."""

    def body(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
        position = builder.load(I32, a.positions + chunk * 4).to(I64)
        low = (a.window > 0).select((position - a.window + 1).maximum(0), 0)
        first, last = low // SPLIT, position // SPLIT
        with builder.when(first < last), builder.loop(a.heads) as head:
            _merge(builder, a, chunk * a.heads + head, first, last, width)

    return Kernel(f"merge_{width}", MERGE_FIELDS, body)


def _merge(
    builder: KernelBuilder, a: SimpleNamespace, place: Value, first: Value, last: Value, width: int
) -> None:
    """The parts of a row, scaled to their highest score."""
    highest = builder.variable(builder.constant(F32, NEVER))
    with builder.loop(last + 1, first) as split:
        score = builder.load(F32, part_at(a, split, place, width) + 4 * width)
        highest.set(highest.get().maximum(score))
    zero, out = builder.constant(F32, 0.0), a.out + place * (4 * width)
    with builder.loop(width) as dimension:
        builder.store(zero, out + dimension * 4)
    total = builder.variable(zero)
    with builder.loop(last + 1, first) as split:
        part = part_at(a, split, place, width)
        scale = exp(builder, builder.load(F32, part + 4 * width) - highest.get())
        total.set(builder.fma(builder.load(F32, part + (4 * width + 4)), scale, total.get()))
        with builder.loop(width) as dimension:
            at = dimension * 4
            number = builder.fma(builder.load(F32, part + at), scale, builder.load(F32, out + at))
            builder.store(number, out + at)
    with builder.loop(width) as dimension:
        at = out + dimension * 4
        builder.store(builder.load(F32, at) / total.get(), at)
