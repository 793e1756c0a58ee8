"""One text being continued: what it feeds, what it draws with, and how it ends."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cullama.engine.request import Request, make_requests
from cullama.sampling.draw import Drawn
from cullama.sampling.params import SamplingParams, TokenLogprobs


def request(prompt: int, max_tokens: int = 10, ends: frozenset[int] = frozenset()) -> Request:
    return Request(list(range(100, 100 + prompt)), SamplingParams(), max_tokens, 0, ends)


def drawing(one: Request, *tokens: int) -> Request:
    for token in tokens:
        one.append(Drawn(token, None))
    return one


def test_a_request_holds_its_prompt_and_then_its_completion() -> None:
    one = drawing(request(3), 1, 2)
    assert one.tokens == [100, 101, 102, 1, 2]
    assert (one.prompt, one.answer) == ([100, 101, 102], [1, 2])
    assert (len(one), one.drawn, one.uncomputed) == (5, 2, 5)


def test_next_tokens_are_the_uncomputed_ones() -> None:
    one = drawing(request(3), 1, 2, 3)
    for start in range(7):
        one.computed = start
        assert one.uncomputed == 6 - start
        for count in range(6 - start + 1):
            assert one.next_tokens(count) == one.tokens[start : start + count]


@given(start=st.integers(0, 5), drafts=st.lists(st.integers(0, 9), max_size=5))
def test_draft_tokens_come_behind_the_newest_token(start: int, drafts: list[int]) -> None:
    one = drawing(request(3), 1, 2, 3)
    one.computed, one.draft_tokens = start, drafts
    everything = one.tokens + drafts
    for count in range(len(everything) - start + 1):
        assert one.next_tokens(count) == everything[start : start + count]
    assert len(one) == 6  # a draft is no part of the text


def test_the_last_token_is_never_fed_back() -> None:
    one = request(4, max_tokens=5)
    assert one.max_computed == 8
    drawing(one, 1, 2, 3, 4, 5)
    assert one.is_finished
    assert one.max_computed == len(one) - 1


def test_it_finishes_with_an_end_token_or_at_max_tokens() -> None:
    one = request(1, max_tokens=5, ends=frozenset({9}))
    assert not drawing(one, 1).is_finished
    assert drawing(one, 9).finish_reason == "stop"
    assert one.answer == [1, 9]
    long = Request([9], SamplingParams(), 2, 0, frozenset({9}))  # one in the prompt is no end
    assert not drawing(long, 1).is_finished
    assert drawing(long, 1).finish_reason == "length"


def test_an_end_token_in_the_last_place_is_a_stop() -> None:
    assert drawing(request(1, 1, frozenset({9})), 9).finish_reason == "stop"


def test_an_error_ends_it_and_stays_with_it() -> None:
    one, error = request(1), RuntimeError("the pass went wrong")
    one.finish("error", error)
    assert one.is_finished
    assert (one.finish_reason, one.error) == ("error", error)


def test_it_finishes_once() -> None:
    one = request(1)
    one.finish("cancelled")
    with pytest.raises(AssertionError, match="finishes once"):
        one.finish("length")
    assert one.finish_reason == "cancelled"


def test_a_draw_holds_seed_sample_and_position() -> None:
    one = Request([4, 5], SamplingParams(top_k=3), 5, seed=11, end_ids=frozenset(), index=2)
    first = one.draw()
    assert (first.params.top_k, first.seed, first.sample_index) == (3, 11, 2)
    assert (list(first.tokens), first.prompt_length, first.position) == ([4, 5], 2, 0)
    drawing(one, 6)
    assert (list(one.draw().tokens), one.draw().position) == ([4, 5, 6], 1)


def test_behind_a_draft_token_it_draws_as_if_that_were_accepted() -> None:
    one = drawing(request(2), 6)
    one.draft_tokens = [7, 8]
    draws = [one.draw(drafts) for drafts in range(3)]
    assert [list(draw.tokens)[2:] for draw in draws] == [[6], [6, 7], [6, 7, 8]]
    assert [draw.position for draw in draws] == [1, 2, 3]
    one.draft_tokens = []
    drawing(one, 7)
    assert list(one.draw().tokens) == list(draws[1].tokens)


def test_logprobs_are_kept_where_there_are_some() -> None:
    one, logprobs = request(2), TokenLogprobs(6, -1.0, ())
    drawing(one, 5)
    one.append(Drawn(6, logprobs))
    assert one.logprobs == [logprobs]


@given(st.lists(st.integers(0, 2**31 - 1), max_size=150))
def test_the_block_table_is_its_blocks_as_int32(blocks: list[int]) -> None:
    one = request(2)
    one.allocation.use(blocks, 16)
    assert (list(one.blocks), one.allocation.capacity) == (blocks, 16 * len(blocks))
    table = array("i", one.allocation.table).tolist()
    assert table[: len(blocks)] == blocks
    assert not any(table[len(blocks) :])


def test_requests_of_the_same_tokens_are_not_equal() -> None:
    first, second = request(2), request(2)
    assert first != second
    assert len({first, second}) == 2


def test_a_request_may_begin_with_tokens_of_its_answer() -> None:
    params = SamplingParams(seed=3, n=2)
    for request in make_requests([7, 8, 9, 10], params, 5, (1,), begun=1):
        assert (request.prompt, request.answer) == ([7, 8, 9], [10])
        assert request.drawn == request.delivered == 1  # its submitter has that one
        assert request.draw().position == 1  # the second random number comes next
        assert request.max_tokens == 6
        assert request.uncomputed == 4
