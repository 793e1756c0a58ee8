"""A batch says what its chunks say, whichever way it was built."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cullama.engine import runner
from cullama.engine.prefix_cache import PrefixCache
from cullama.engine.request import Request
from cullama.engine.runner import build_plan_batch
from cullama.engine.scheduler import Plan, Scheduler
from cullama.engine.speculation import PromptLookup
from cullama.files.tensor import HostArray
from cullama.model.batch import Batch, Chunk, build_batch, build_large_batch
from cullama.sampling.draw import Drawn
from cullama.sampling.params import SamplingParams


@dataclass(frozen=True)
class Asked:
    """A chunk, with more blocks than it needs, and more behind them in its table."""

    chunk: Chunk
    padding: int

    @property
    def table(self) -> bytes:
        return array("i", [*self.chunk.blocks, *[0] * self.padding]).tobytes()


@st.composite
def requests(draw: st.DrawFn, block_size: int) -> Asked:
    tokens = draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=12))
    start = draw(st.integers(0, 5 * block_size))
    needed = -(-(start + len(tokens)) // block_size)
    count = needed + draw(st.integers(0, 3))
    blocks = draw(st.lists(st.integers(0, 1000), min_size=count, max_size=count))
    chunk = Chunk(tokens, start, blocks, draw(st.integers(0, len(tokens))))
    return Asked(chunk, draw(st.integers(0, 40)))


@st.composite
def many_requests(draw: st.DrawFn) -> tuple[int, list[Asked]]:
    block_size = draw(st.sampled_from([1, 4, 32]))
    return block_size, draw(st.lists(requests(block_size), min_size=1, max_size=20))


def built_large(asked: list[Asked], block_size: int) -> Batch[HostArray]:
    chunks = [each.chunk for each in asked]
    return build_large_batch(
        [token for chunk in chunks for token in chunk.tokens],
        [chunk.start for chunk in chunks],
        [len(chunk.tokens) for chunk in chunks],
        [chunk.logits for chunk in chunks],
        [each.table for each in asked],
        block_size,
    )


def arrays(batch: Batch[HostArray]) -> dict[str, HostArray]:
    return {field.name: getattr(batch, field.name) for field in fields(batch)}


def check_equal(one: Batch[HostArray], other: Batch[HostArray]) -> None:
    for name, array_ in arrays(one).items():
        np.testing.assert_array_equal(array_, getattr(other, name), err_msg=name, strict=True)


def check_is_one_buffer(batch: Batch[HostArray]) -> None:
    """So that one copy takes it to a device."""
    views = list(arrays(batch).values())
    assert all(view.dtype == np.int32 for view in views)
    assert all(view.flags.c_contiguous for view in views)
    base = views[0].base
    assert base is not None
    assert all(view.base is base for view in views)
    assert sum(view.size for view in views) == base.size


@given(many_requests())
def test_many_pieces_at_once_are_the_same_as_piece_by_piece(
    many: tuple[int, list[Asked]],
) -> None:
    block_size, asked = many
    one_by_one = build_batch([each.chunk for each in asked], block_size)
    at_once = built_large(asked, block_size)
    check_equal(at_once, one_by_one)
    check_is_one_buffer(at_once)
    check_is_one_buffer(one_by_one)


@given(many_requests())
def test_each_token_has_its_place(many: tuple[int, list[Asked]]) -> None:
    """What the fields mean, one token at a time."""
    block_size, asked = many
    batch = build_batch([each.chunk for each in asked], block_size)
    rows: list[int] = []
    for index, chunk in enumerate(each.chunk for each in asked):
        first, end = batch.query_starts[index : index + 2].tolist()
        assert batch.tokens[first:end].tolist() == list(chunk.tokens)
        assert batch.positions[first:end].tolist() == list(
            range(chunk.start, chunk.start + end - first)
        )
        assert batch.context_lengths[index] == chunk.start + end - first
        for slot, position in zip(batch.slots[first:end], batch.positions[first:end], strict=True):
            assert slot == chunk.blocks[position // block_size] * block_size + position % block_size
            assert batch.block_tables[index, position // block_size] == slot // block_size
        rows += range(end - chunk.logits, end)
    assert batch.logit_rows.tolist() == rows
    assert batch.query_starts[0] == 0
    assert batch.query_starts[-1] == len(batch.tokens)


def test_tables_of_different_lengths_are_padded() -> None:
    asked = [
        Asked(Chunk([5, 6], 7, [7, 2, 9], 1), 0),
        Asked(Chunk([8], 0, [1], 1), 60),
        Asked(Chunk([9], 3, [4], 0), 0),
    ]
    assert built_large(asked, 4).block_tables.tolist() == [[7, 2, 9], [1, 0, 0], [4, 0, 0]]


# -------------------------------------------------------------------------------- from a plan


def planned(writers: int, readers: int, speculation: int) -> Plan:
    """A step in which so many write, and so many read, the last of them not to the end."""
    cache = PrefixCache(500, 4)
    scheduler = Scheduler(cache, token_budget=200, max_running=60)
    params = SamplingParams(speculation=speculation)
    for kind in range(writers):
        one = Request([kind, 200, *[1, 2, 3] * (1 + (kind + 1) % 4)], params, 50, 0, frozenset())
        one.lookup = PromptLookup(one.tokens) if speculation else None
        scheduler.add(one)
    while scheduler.waiting or scheduler.prefills:
        plan = scheduler.schedule()
        scheduler.mark_launched(plan)
        for one, *_ in plan.parts:
            if one.in_flight:
                one.in_flight = 0
                one.append(Drawn(1, None))  # repeats itself, but for every fourth
                scheduler.mark_shareable(one, len(one) - 1)
    for kind in range(readers):
        scheduler.add(Request([100 + kind] * (5 + 7 * kind), params, 50, 0, frozenset()))
    return scheduler.schedule()


@pytest.mark.parametrize("speculation", [0, 5])
@pytest.mark.parametrize(
    ("writers", "readers"), [(1, 0), (0, 1), (3, 2), (12, 0), (13, 0), (30, 0), (20, 10), (0, 14)]
)
def test_a_plan_is_the_same_batch_for_few_and_for_many(
    monkeypatch: pytest.MonkeyPatch, writers: int, readers: int, speculation: int
) -> None:
    plan = planned(writers, readers, speculation)
    assert len(plan.decodes) == writers
    assert plan.has_drafts == (speculation > 0 and writers > 0 and readers == 0)
    monkeypatch.setattr(runner, "FEW_REQUESTS", 1000)
    few = build_plan_batch(plan, 4)
    monkeypatch.setattr(runner, "FEW_REQUESTS", 0)
    many = build_plan_batch(plan, 4)
    check_equal(many, few)
    check_is_one_buffer(many)
    tokens = [token for one, count, _ in plan.parts for token in one.next_tokens(count)]
    assert few.tokens.tolist() == tokens
    assert len(few.tokens) == plan.tokens
    wanted = plan.tokens - sum(count for _, count, _ in plan.prefills)
    wanted += sum(count == reader.uncomputed for reader, count, _ in plan.prefills)
    assert len(few.logit_rows) == wanted


def test_the_last_reader_of_a_full_step_wants_no_logits() -> None:
    plan = planned(0, 14, 0)
    last, tokens, _ = plan.prefills[-1]
    assert 0 < tokens < last.uncomputed
    batch = build_plan_batch(plan, 4)
    assert len(batch.logit_rows) == len(plan.parts) - 1
    assert batch.logit_rows.max() < len(batch.tokens) - tokens
