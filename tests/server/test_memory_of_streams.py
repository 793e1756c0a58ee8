"""What a stream costs while nothing reads it, and what is left of one whose client has left."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cullama.sampling.params import SamplingParams, TokenLogprobs
from cullama.server.api.answers import WRITE_BYTES, _writes
from cullama.server.http.events import EventStream
from cullama.server.process.handle import MAX_READ, MIN_UNREAD, Limits, RemoteHandle
from cullama.server.process.messages import packed, unpacked

LOGPROBS = st.floats(max_value=0, allow_nan=False)
IDS = st.integers(0, (1 << 31) - 1)


@given(IDS, LOGPROBS, st.lists(st.tuples(IDS, LOGPROBS), max_size=20))
def test_packed_logprobs_are_the_same_again(
    token: int, logprob: float, top: list[tuple[int, float]]
) -> None:
    given_ones = TokenLogprobs(token, logprob, tuple(top))
    assert unpacked(packed(given_ones)) == given_ones
    assert len(packed(given_ones)) == 12 * (1 + len(top))


@pytest.mark.parametrize("n", [1, 8, 100])
@pytest.mark.parametrize("logprobs", [None, 0, 20])
def test_limits_fall_with_samples_and_logprobs(n: int, logprobs: int | None) -> None:
    limits = Limits.of(SamplingParams(n=n, temperature=1, logprobs=logprobs))
    values = n * (1 if logprobs is None else 2 + 2 * logprobs)
    assert limits.read == 1 or limits.read * values <= MAX_READ
    assert limits.unread >= MIN_UNREAD


def test_a_reader_gets_so_many_tokens_at_a_time_and_the_end_with_the_last() -> None:
    holds: list[bool] = []
    handle = RemoteHandle(
        *(0, 1, frozenset(), threading.Condition()),
        lambda reason: None,
        holds.append,
        Limits(unread=6, read=2),
    )
    scores = [TokenLogprobs(token, -1.0, ()) for token in range(7)]
    handle.add(range(7), [*map(packed, scores)], 0, "length", None, ())
    assert holds == [True]
    read = [handle.read() for _ in range(5)]
    assert [[*each.token_ids] for each in read] == [[0, 1], [2, 3], [4, 5], [6], []]
    assert [score for each in read for score in each.logprobs] == scores
    assert [each.finish_reason for each in read] == [None, None, None, "length", "length"]
    assert holds == [True, False]  # once half of what may wait was read


@given(st.lists(st.integers(0, 2 * WRITE_BYTES), max_size=20))
def test_events_are_written_in_parts_and_none_is_lost(sizes: list[int]) -> None:
    events = [bytes([number]) * size for number, size in enumerate(sizes)]
    writes = [*_writes(events)]
    assert b"".join(writes) == b"".join(events)
    assert all(len(each) <= WRITE_BYTES + max(sizes, default=0) for each in writes)
    assert all(len(each) > WRITE_BYTES for each in writes[:-1])


def test_a_stream_whose_client_leaves_is_freed_without_the_garbage_collector() -> None:
    class Held:
        pass

    async def main() -> weakref.ref[Held]:
        held = Held()

        async def events(kept: Held) -> AsyncGenerator[bytes, None]:
            yield b"data: 1\n\n"
            await asyncio.Event().wait()

        async def receive() -> Any:
            await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        found = weakref.ref(held)
        await EventStream(events(held))({}, receive, send)
        return found

    gc.disable()
    try:
        assert asyncio.run(main())() is None
    finally:
        gc.enable()
