"""Attention over the paged cache: an online softmax over tiles of keys and values.

Queries that share a key/value head lie together (GQA), so that each key and value is read once for
all of them. Scores never leave a core's cache: those of one KV tile become probabilities (divided
by their sum at the end), and the sums so far are scaled down where a greater score is found
(Milakov & Gimelshein, 2018; Dao et al., "FlashAttention", 2022). Long contexts are cut into splits
that cores share; `merge` adds them up in order. Tiles and splits begin at fixed positions, so a
row's numbers depend on its own context alone.

This file does not cut a batch into items (`batch.py` does), nor write to the cache (`rows.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from ..jit.compiler import Kernel
from ..jit.kernel_builder import F32, I32, I64, POINTER, KernelBuilder, Value, Variable, vector
from ..packed import Plain
from .rows import exp
from .unpacking import load_floats

SPLIT = 512  # keys that one item attends to, at most
KV_TILE = 128  # keys whose scores become probabilities together
ROW_TILES = (8, 6, 4, 3, 2, 1)  # rows of queries taken together, where registers allow
MAX_SUMS = 8  # vectors in registers while values are added up, of all rows together
LANES = 16
MASKED = -1e30  # below any score

ITEM = 8 * 4  # bytes: first row, rows, first key of the split, row of the block table

FIELDS = {
    "q": POINTER,  # [T, H, E]
    "keys": POINTER,  # [K, blocks, E, 32]
    "values": POINTER,  # [K, blocks, 32, E]
    "out": POINTER,  # [T, H E]
    "partial": POINTER,  # [splits, T, H, E + 2]: sums, greatest score, sum of probs
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


def row_tiles(max_accumulators: int) -> tuple[int, ...]:
    """Return the numbers of rows that an item may have, the largest first."""
    return tuple(size for size in ROW_TILES if size <= max_accumulators)


def attention_kernel(stored: Plain, width: int, block_size: int) -> Kernel:
    """For heads of one width and a cache of one type. A chunk is an item and a key/value head."""

    def body(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
        item = _Item(builder, a, chunk, stored, width, block_size)
        for size in row_tiles(builder.instruction_set.max_accumulators):
            with builder.when(item.rows.equals(size)):
                item.attend(size)

    return Kernel(f"attention_{width}_{stored.name.lower()}", FIELDS, body)


class _Item:
    """Emits the code for one item and one key/value head."""

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
        max_rows = max(row_tiles(builder.instruction_set.max_accumulators))
        self.probs = builder.alloca(4 * max_rows * KV_TILE)  # [rows, KV_TILE]; first the scores
        self.sums = builder.alloca(4 * max_rows * width)  # [rows, width]

    def attend(self, size: int) -> None:
        """Emit the whole of it for an item of `size` rows."""
        builder = self.builder
        self._load_rows(size)
        zero, masked = builder.constant(F32, 0.0), builder.constant(F32, MASKED)
        self.maxima = [builder.variable(masked) for _ in range(size)]
        self.totals = [builder.variable(zero) for _ in range(size)]
        with builder.loop(size * self.width) as index:
            builder.store(zero, self.sums + index * 4)
        first = self.first_keys[0].maximum(self.split) // KV_TILE * KV_TILE
        last = self.positions[-1].minimum(self.split + (SPLIT - 1))
        with builder.loop(last + 1, first, KV_TILE) as base:
            keys = (last + 1 - base).minimum(KV_TILE)
            blocks = (keys + (self.block_size - 1)) // self.block_size
            first_block = base // self.block_size
            with builder.loop(blocks) as block:
                start = self._block_offset(first_block + block)
                self._score_block(size, start, base, block * self.block_size)
            scales = [self._update_softmax(row, blocks * self.block_size) for row in range(size)]
            self._add_values(size, base, scales, keys)
        for row in range(size):
            self._store_row(row)

    def _load_rows(self, size: int) -> None:
        """Load each row's query index [T H], its position and the first key that it attends to."""
        builder, a = self.builder, self.a
        self.queries, self.positions, self.first_keys = [], [], []
        for i in range(size):
            row = self.first_row + i
            token = row // self.group
            head = self.kv_head * self.group + row % self.group
            self.queries.append(token * a.heads + head)
            position = builder.load(I32, a.positions + token * 4).to(I64)
            self.positions.append(position)
            first_key = (position - a.window + 1).maximum(0)
            self.first_keys.append((a.window > 0).select(first_key, 0))

    def _block_offset(self, block: Value) -> Value:
        """Return where a block of this head begins, in bytes."""
        index = self.builder.load(I32, self.table + block * 4).to(I64)
        elements = (self.kv_head * self.a.blocks + index) * (self.width * self.block_size)
        return elements * self.stored.dtype.itemsize

    def _score_block(self, size: int, start: Value, base: Value, inside: Value) -> None:
        """Store the scores of one block, which lies `inside` keys behind the base of its tile."""
        builder, item = self.builder, self.stored.dtype.itemsize
        places = range(0, self.block_size, LANES)
        zero = builder.constant(vector(F32, LANES), 0.0)
        sums = [[builder.variable(zero) for _ in places] for _ in range(size)]
        queries = [self.a.q + query * (4 * self.width) for query in self.queries]
        with builder.loop(self.width) as dimension:
            row = self.a.keys + start + dimension * (self.block_size * item)
            keys = [load_floats(builder, self.stored, row + place * item) for place in places]
            builder.prefetch(self.a.values + start + dimension * (self.block_size * item))
            for query, totals in zip(queries, sums, strict=True):
                number = builder.load(F32, query + dimension * 4).splat(LANES)
                for total, key in zip(totals, keys, strict=True):
                    total.set(builder.fma(key, number, total.get()))
        lanes = builder.constants(I32, range(LANES))
        for row_index, totals in enumerate(sums):
            for place, total in zip(places, totals, strict=True):
                positions = lanes + (base + inside + place).to(I32).splat(LANES)
                low = self.first_keys[row_index].to(I32)
                high = self.positions[row_index].to(I32)
                is_seen = (positions <= high) & (positions >= low)
                score = is_seen.select(total.get() * self.a.scale, MASKED)
                builder.store(score, self._prob_address(row_index, inside + place))

    def _prob_address(self, row: int, key: Value) -> Value:
        return self.probs + (key + row * KV_TILE) * 4

    def _update_softmax(self, row: int, keys: Value) -> Value:
        """Turn a tile's scores into probs; return what earlier sums are to be scaled by."""
        builder, type_ = self.builder, vector(F32, LANES)
        maximum = builder.variable(builder.constant(type_, MASKED))
        with builder.loop(keys, 0, LANES) as key:
            before = maximum.get()
            maximum.set(before.maximum(builder.load(type_, self._prob_address(row, key))))
        before = self.maxima[row].get()
        now = before.maximum(maximum.get().reduce_max())
        total = builder.variable(builder.constant(type_, 0.0))
        with builder.loop(keys, 0, LANES) as key:
            address = self._prob_address(row, key)
            score = builder.load(type_, address)
            # Compared this way round, a NaN is not masked: its prob becomes NaN.
            prob = (score <= MASKED).select(builder.constant(type_, 0.0), exp(builder, score - now))
            builder.store(prob, address)
            total.set(total.get() + prob)
        scale = exp(builder, before - now)
        self.maxima[row].set(now)
        self.totals[row].set(builder.fma(self.totals[row].get(), scale, total.get().reduce_add()))
        return scale

    def _add_values(self, size: int, base: Value, scales: list[Value], keys: Value) -> None:
        """sums = sums · scale + probs · values, some vectors of dimensions at a time."""
        builder, first = self.builder, base // self.block_size
        lanes = LANES if self.width % LANES == 0 else 1
        vectors = max(1, min(self.width // lanes, MAX_SUMS // size))
        while self.width // lanes % vectors:
            vectors -= 1
        type_ = vector(F32, lanes)
        with builder.loop(self.width, 0, lanes * vectors) as dimension:
            dimensions = [dimension + lanes * v for v in range(vectors)]
            sums = [
                [
                    builder.variable(
                        builder.load(type_, self._sum_address(row, each)) * scale.splat(lanes)
                    )
                    for each in dimensions
                ]
                for row, scale in enumerate(scales)
            ]
            # Values before the window are skipped: a prob of 0 times NaN would be NaN.
            begin = (self.first_keys[0] - base).maximum(0)
            with builder.loop(
                keys, begin // self.block_size * self.block_size, self.block_size
            ) as inside:
                values = self.a.values + self._block_offset(first + inside // self.block_size)
                end = (keys - inside).minimum(self.block_size)
                with builder.loop(end, (begin - inside).maximum(0)) as key:
                    self._add_value(sums, values, key, inside + key, dimensions, lanes)
            for row, totals in enumerate(sums):
                for each, total in zip(dimensions, totals, strict=True):
                    builder.store(total.get(), self._sum_address(row, each))

    def _add_value(
        self,
        sums: Sequence[Sequence[Variable]],
        values: Value,
        key: Value,
        tile_key: Value,
        dimensions: Sequence[Value],
        lanes: int,
    ) -> None:
        """Add one key's value: key `key` of the block at `values`, `tile_key` of the tile."""
        builder, item = self.builder, self.stored.dtype.itemsize
        vectors = [
            load_floats(builder, self.stored, values + (key * self.width + each) * item, lanes)
            for each in dimensions
        ]
        for row, totals in enumerate(sums):
            prob = builder.load(F32, self._prob_address(row, tile_key)).splat(lanes)
            for total, numbers in zip(totals, vectors, strict=True):
                total.set(builder.fma(numbers, prob, total.get()))

    def _sum_address(self, row: int, dimension: Value) -> Value:
        return self.sums + (dimension + row * self.width) * 4

    def _store_row(self, row: int) -> None:
        """Store a row's result where it has one split only, else its part for `merge`."""
        builder, a = self.builder, self.a
        first, last = self.first_keys[row] // SPLIT, self.positions[row] // SPLIT
        split = self.split // SPLIT
        query, total = self.queries[row], self.totals[row].get()
        is_only = first.equals(last)
        with builder.when(is_only & first.equals(split)), builder.loop(self.width) as dimension:
            number = builder.load(F32, self._sum_address(row, dimension)) / total
            builder.store(number, a.out + (query * self.width + dimension) * 4)
        is_part = is_only.equals(0) & (first <= split) & (split <= last)
        with builder.when(is_part):
            part = _part_address(a, split, query, self.width)
            with builder.loop(self.width) as dimension:
                number = builder.load(F32, self._sum_address(row, dimension))
                builder.store(number, part + dimension * 4)
            builder.store(self.maxima[row].get(), part + 4 * self.width)
            builder.store(total, part + (4 * self.width + 4))


def _part_address(a: SimpleNamespace, split: Value, query: Value, width: int) -> Value:
    return a.partial + (split * a.tokens * a.heads + query) * (4 * (width + 2))


MERGE_FIELDS = {
    name: FIELDS[name] for name in ("partial", "out", "positions", "tokens", "heads", "window")
}


def merge_kernel(width: int) -> Kernel:
    """Merges the splits of rows that have several. A chunk is a token.

    A row's parts are added, scaled to their greatest score, and divided by the total weight.
    """

    def body(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
        position = builder.load(I32, a.positions + chunk * 4).to(I64)
        first_key = (a.window > 0).select((position - a.window + 1).maximum(0), 0)
        first, last = first_key // SPLIT, position // SPLIT
        with builder.when(first < last), builder.loop(a.heads) as head:
            query = chunk * a.heads + head
            maximum = builder.variable(builder.constant(F32, MASKED))
            with builder.loop(last + 1, first) as split:
                score = builder.load(F32, _part_address(a, split, query, width) + 4 * width)
                maximum.set(maximum.get().maximum(score))
            zero, out = builder.constant(F32, 0.0), a.out + query * (4 * width)
            with builder.loop(width) as dimension:
                builder.store(zero, out + dimension * 4)
            total = builder.variable(zero)
            with builder.loop(last + 1, first) as split:
                part = _part_address(a, split, query, width)
                scale = exp(builder, builder.load(F32, part + 4 * width) - maximum.get())
                split_total = builder.load(F32, part + (4 * width + 4))
                total.set(builder.fma(split_total, scale, total.get()))
                with builder.loop(width) as dimension:
                    offset = dimension * 4
                    number = builder.load(F32, part + offset)
                    number = builder.fma(number, scale, builder.load(F32, out + offset))
                    builder.store(number, out + offset)
            with builder.loop(width) as dimension:
                address = out + dimension * 4
                builder.store(builder.load(F32, address) / total.get(), address)

    return Kernel(f"merge_{width}", MERGE_FIELDS, body)
