"""What the cache finds is what is there: never another text's, and as much as there is."""

from __future__ import annotations

from random import Random
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from shadow import (
    BLOCK_SIZE,
    Memory,
    Simulation,
    blocks_for,
    check_nothing_is_lost,
    check_ref_counts,
    close_blocks,
    next_token,
    open_blocks,
    texts,
    written_alone,
)

from cullama.engine.prefix_cache import MAX_COMPARED, MIN_REUSED, Copy, PrefixCache
from cullama.engine.request import Request
from cullama.errors import NumericalError
from cullama.sampling.draw import Drawn
from cullama.sampling.params import SamplingParams


def request(tokens: list[int]) -> Request:
    return Request(list(tokens), SamplingParams(), 1000, 0, frozenset())


def read(cache: PrefixCache, one: Request, draw: int = 0) -> None:
    """Let a request that is open compute all it has, and draw its next token."""
    one.append(Drawn(draw, None))
    one.computed = one.shareable = len(one) - 1
    cache.index(one.allocation, one.tokens, one.shareable)


def leave(cache: PrefixCache, tokens: list[int]) -> None:
    """Have a text read and left in the cache."""
    one = request(tokens)
    assert open_blocks(cache, one) is not None
    read(cache, one)
    close_blocks(cache, one)


# --------------------------------------------------------------------------------------- whatever


class Reuse(RuleBasedStateMachine):
    """Sequences that read, write, draft, fail and leave, in any order, beside a memory that
    knows for which text each slot was computed."""

    @initialize(blocks=st.integers(1, 20))
    def start(self, blocks: int) -> None:
        self.cache, self.memory = PrefixCache(blocks, BLOCK_SIZE), Memory(blocks)
        self.texts = list(texts())
        self.open: list[Request] = []
        self.ill: set[Request] = set()

    @rule(
        which=st.integers(0, 99),
        tokens=st.integers(1, 40),
        more=st.lists(st.integers(0, 4), max_size=6),
        spare=st.integers(0, 3),
    )
    def come_in(self, which: int, tokens: int, more: list[int], spare: int) -> None:
        """With a text that begins as an older one does, and may go on differently."""
        one = request(self.texts[which % len(self.texts)][:tokens] + more)
        pool = self.cache.pool
        match, available, free = self.cache.match(one.tokens), pool.available, pool.free
        self.memory.check_match(self.cache, one.tokens)
        kept_of_it = sum(pool.ref_count(block) == 0 for block in match.blocks)
        needed = blocks_for(len(one)) - len(match.blocks) + kept_of_it
        copies = open_blocks(self.cache, one, spare)
        assert (copies is None) == (needed + spare > available)
        if copies is None:
            assert (pool.available, pool.free, one.computed) == (available, free, 0)
            assert len(one.blocks) == one.allocation.capacity == 0
            return
        assert (one.computed, one.allocation.capacity) == (
            match.tokens,
            blocks_for(len(one)) * BLOCK_SIZE,
        )
        self.memory.copy(copies)
        self.memory.check(one.blocks, one.tokens[: one.computed])
        self.open.append(one)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 99), most=st.integers(1, 9), drafts=st.lists(st.integers(0, 4)))
    def compute(self, which: int, most: int, drafts: list[int]) -> None:
        """Some of what a request has to read; or its newest token, drafts and all."""
        one = self.open[which % len(self.open)]
        if one.drawn and one.uncomputed == 1:
            one.draft_tokens = drafts[:6]
        tokens = min(most, one.uncomputed) if one.uncomputed > 1 else 1 + len(one.draft_tokens)
        if not self.cache.grow(one.allocation, one.computed + tokens):
            one.draft_tokens = []
            return
        self.memory.write(self.cache, one, tokens, one in self.ill)
        if tokens < one.uncomputed:
            one.computed += tokens
        elif one in self.ill:
            one.error = NumericalError("not a number")
            self.leave(one)
        else:
            self.draw(one)

    def draw(self, one: Request) -> None:
        is_first = one.drawn == 0
        for draft in [*one.draft_tokens, None]:
            one.append(Drawn(next_token(one.tokens), None))
            if one.tokens[-1] != draft:
                break
        one.draft_tokens = []
        one.computed = one.shareable = len(one) - 1
        if is_first:
            self.cache.index(one.allocation, one.tokens, one.shareable)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 99))
    def fall_ill(self, which: int) -> None:
        """What it computes from now on is damaged, which shows when it draws, and not before."""
        self.ill.add(self.open[which % len(self.open)])

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 99))
    def go(self, which: int) -> None:
        self.leave(self.open[which % len(self.open)])

    def leave(self, one: Request) -> None:
        self.open.remove(one)
        self.texts.append(one.tokens)
        close_blocks(self.cache, one)
        assert len(one.blocks) == one.computed == one.allocation.capacity == 0

    @rule()
    def clear_the_cache(self) -> None:
        self.cache.clear()
        assert self.cache.pool.cached == 0
        assert not any(self.cache.match(text).tokens for text in self.texts)

    @invariant()
    def each_block_is_held_by_those_who_have_it(self) -> None:
        if hasattr(self, "cache"):
            check_ref_counts(self.cache, self.open)

    @invariant()
    def what_is_found_is_there(self) -> None:
        if hasattr(self, "cache"):
            for text in [*self.texts, *(one.tokens for one in self.open)]:
                self.memory.check_match(self.cache, [*text, 0])

    @invariant()
    def running_requests_keep_their_contents(self) -> None:
        for one in getattr(self, "open", []):
            if one not in self.ill:
                self.memory.check(one.blocks, one.tokens[: one.computed])

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            for one in list(self.open):
                self.leave(one)
            check_nothing_is_lost(self.cache)


Reuse.TestCase.settings = settings(max_examples=150, stateful_step_count=50)
TestReuse = Reuse.TestCase


def test_a_thousand_trees_of_prompts_give_the_tokens_of_each_alone() -> None:
    """With pools too small for them: blocks are given away all the time."""
    draw = Random(26)
    reused = copied = 0
    for _ in range(1000):
        many = Simulation(blocks=draw.randint(8, 24), budget=draw.randint(8, 40), max_running=4)
        trunk = [draw.randrange(5) for _ in range(draw.randint(8, 20))]
        branches = [trunk]
        for _ in range(6):
            stem = draw.choice(branches)
            prompt = stem[: draw.randint(1, len(stem))] + draw.choices(range(5), k=4)
            prompt = prompt[:26]
            many.submit(prompt, max_tokens=3)  # each is compared as it ends
            branches.append(prompt)
            for _ in range(draw.randint(0, 4)):
                many.step()
        many.finish()
        reused += many.metrics.cached_tokens
        copied += many.copies
        check_nothing_is_lost(many.cache)
    assert reused > 10_000
    assert copied > 500


@given(
    held=st.lists(st.integers(0, 1), min_size=1, max_size=30),
    asked=st.lists(st.integers(0, 1), min_size=1, max_size=30),
)
def test_the_whole_common_prefix_of_two_texts_is_found(held: list[int], asked: list[int]) -> None:
    """But for the last token, which the model has to see for its logits."""
    cache = PrefixCache(8, BLOCK_SIZE)
    leave(cache, held)
    text = [*asked, 1]
    common = 0
    while common < min(len(held), len(text) - 1) and held[common] == text[common]:
        common += 1
    assert cache.match(text).tokens == (common if common >= MIN_REUSED else 0)


# ---------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize("blocks", [3, 4, 7])
def test_a_prompt_of_whole_blocks_leaves_its_last_token_to_compute(blocks: int) -> None:
    cache = PrefixCache(20, BLOCK_SIZE)
    tokens = list(range(blocks * BLOCK_SIZE))
    leave(cache, tokens)
    again = request(tokens)
    [copy] = open_blocks(cache, again) or []
    assert again.uncomputed == 1
    assert len(again.blocks) == blocks
    assert copy.target == again.blocks[-1]
    assert cache.pool.ref_count(copy.target) == 1
    assert cache.match([*tokens, 1]).blocks[:-1] == again.blocks[:-1]


@pytest.mark.parametrize("common", range(1, 13))
def test_a_short_common_prefix_is_not_reused(common: int) -> None:
    cache = PrefixCache(20, BLOCK_SIZE)
    leave(cache, list(range(common)))
    one = request([*range(common), 100, 101])
    copies = open_blocks(cache, one)
    assert one.computed == (common if common >= MIN_REUSED else 0)
    if common < MIN_REUSED:
        assert copies == []


def test_full_blocks_are_shared_and_the_last_one_is_copied() -> None:
    cache = PrefixCache(20, BLOCK_SIZE)
    first = request(list(range(10)))
    assert open_blocks(cache, first) == []
    read(cache, first)
    second = request([*range(10), 50])
    copies = open_blocks(cache, second)
    assert list(second.blocks[:2]) == list(first.blocks[:2])
    assert second.blocks[2] != first.blocks[2]
    assert copies == [Copy(first.blocks[2], second.blocks[2])]
    assert second.computed == 10
    assert [cache.pool.ref_count(block) for block in second.blocks] == [2, 2, 1]


def test_a_block_with_nothing_in_common_is_not_copied() -> None:
    cache = PrefixCache(20, BLOCK_SIZE)
    leave(cache, list(range(16)))
    assert cache.match([*range(8), 50, 51, 52]).partial is None
    assert open_blocks(cache, request([*range(8), 50, 51, 52])) == []


def test_new_blocks_come_right_behind_the_ones_found() -> None:
    """Where those blocks are free: the CPU reads neighbours in place."""
    cache = PrefixCache(200, BLOCK_SIZE)
    leave(cache, list(range(100, 108)))
    leave(cache, list(range(8)))
    one = request(list(range(20)))
    open_blocks(cache, one)
    assert one.computed == 8
    first = one.blocks[0]
    assert first > 0
    assert list(one.blocks) == list(range(first, first + 5))


def test_the_answer_is_found_by_the_next_turn_of_a_chat() -> None:
    cache = PrefixCache(20, BLOCK_SIZE)
    one = request(list(range(9)))
    open_blocks(cache, one)
    for token in (20, 21, 22, 23):
        assert cache.grow(one.allocation, len(one))
        read(cache, one, token)
    close_blocks(cache, one)
    assert cache.match([*range(9), 20, 21, 22, 23, 30]).tokens == 12  # the last was never fed back


def test_a_prompt_is_not_found_during_its_prefill() -> None:
    """Whether it was a number that it led to shows with the first token."""
    cache = PrefixCache(20, BLOCK_SIZE)
    one = request(list(range(12)))
    open_blocks(cache, one)
    one.computed = 10
    cache.index(one.allocation, one.tokens, one.shareable)
    assert cache.match(list(range(12))).tokens == 0
    close_blocks(cache, one)
    assert cache.match(list(range(12))).tokens == 0
    assert cache.pool.free == 20


def test_a_failed_request_leaves_nothing_in_the_cache() -> None:
    cache = PrefixCache(20, BLOCK_SIZE)
    leave(cache, list(range(9)))
    one = request([*range(9), *range(100, 110)])
    open_blocks(cache, one)
    read(cache, one)
    one.computed = one.shareable = 16
    one.error = NumericalError("not a number")
    before = cache.match([*range(9), *range(100, 120)]).tokens
    one.append(Drawn(3, None))
    cache.grow(one.allocation, 24)
    one.computed = one.shareable = 20
    close_blocks(cache, one)
    assert cache.match([*one.tokens, 0]).tokens <= before
    assert cache.match([*range(9), 0]).tokens == 9


def test_a_rejected_draft_token_is_not_found() -> None:
    cache = PrefixCache(20, BLOCK_SIZE)
    one = request(list(range(8)))
    open_blocks(cache, one)
    read(cache, one, 20)
    cache.grow(one.allocation, 12)  # computed for 20 and three drafts, of which one was right
    one.tokens += [21, 99]
    one.computed = one.shareable = len(one) - 1
    close_blocks(cache, one)
    assert cache.match([*range(8), 20, 21, 22, 23, 24]).tokens == 10


def test_a_text_is_evicted_from_its_end() -> None:
    cache = PrefixCache(6, BLOCK_SIZE)
    tokens = list(range(24))
    leave(cache, tokens)
    found = []
    while cache.pool.cached:
        found.append(cache.match([*tokens, 0]).tokens)
        cache.pool.allocate(1)
    assert found == [24, 20, 16, 12, 8, 0]  # fewer than eight are not reused


def test_the_text_released_first_is_evicted_first() -> None:
    cache = PrefixCache(9, BLOCK_SIZE)
    first, second, third = ([start + i for i in range(12)] for start in (100, 200, 300))
    for tokens in (first, second, third):
        leave(cache, tokens)
    leave(cache, first)  # asked for again: now it is the newest
    assert cache.pool.allocate(3) is not None
    assert [cache.match([*t, 0]).tokens for t in (first, second, third)] == [12, 0, 12]


def test_the_blocks_that_follow_an_evicted_block_are_evicted_with_it() -> None:
    """A node whose parent is gone could never be met again."""
    cache = PrefixCache(8, BLOCK_SIZE)
    tokens = list(range(16))
    one, twin = request(tokens), request(tokens)
    assert open_blocks(cache, one) == open_blocks(cache, twin) == []
    read(cache, one)
    read(cache, twin)  # its blocks are the same as those of the other, which were listed first
    close_blocks(cache, twin)
    assert (cache.pool.free, cache.pool.cached) == (4, 0)
    close_blocks(cache, one)
    assert cache.match([*tokens, 0]).tokens == 16
    check_nothing_is_lost(cache)


def test_a_request_whose_prefix_was_evicted_indexes_it_again() -> None:
    cache = PrefixCache(9, BLOCK_SIZE)
    tokens = list(range(12))
    one, twin = request(tokens), request(tokens)
    assert open_blocks(cache, one) == open_blocks(cache, twin) == []
    read(cache, one)
    read(cache, twin)
    close_blocks(cache, one)  # the blocks under which the twin is indexed are only cached now
    assert cache.pool.cached == 3
    delivered = cache.pool.allocate(6) or []
    assert cache.match([*tokens, 0]).tokens == 0
    close_blocks(cache, twin)
    assert cache.match([*tokens, 0]).tokens == 12
    assert not set(cache.match([*tokens, 0]).blocks) & set(delivered)


def test_running_requests_keep_their_blocks_when_the_cache_is_cleared() -> None:
    cache = PrefixCache(9, BLOCK_SIZE)
    leave(cache, list(range(100, 112)))
    one = request(list(range(12)))
    open_blocks(cache, one)
    read(cache, one)
    cache.clear()
    assert (cache.pool.referenced, cache.pool.cached, cache.pool.free) == (3, 0, 6)
    assert cache.match([*range(12), 0]).tokens == 0
    close_blocks(cache, one)
    assert cache.match([*range(12), 0]).tokens == 12


def test_the_block_to_copy_may_be_allocated_to_the_same_request() -> None:
    """It is read before anything is written, so that is no harm."""
    cache, memory = PrefixCache(4, BLOCK_SIZE), Memory(4)
    first = request(list(range(14)))
    open_blocks(cache, first)
    memory.write(cache, first, 14)
    read(cache, first)
    close_blocks(cache, first)
    second = request([*range(10), *range(50, 56)])  # two blocks shared, all others needed
    copies = open_blocks(cache, second)
    assert copies is not None
    assert second.computed == 10
    memory.copy(copies)
    memory.check(second.blocks, second.tokens[:10])
    memory.write(cache, second, 6)
    memory.check(second.blocks, second.tokens)


def test_a_refused_allocation_changes_nothing() -> None:
    cache = PrefixCache(5, BLOCK_SIZE)
    leave(cache, list(range(12)))
    one = request(list(range(24)))
    assert open_blocks(cache, one) is None
    assert (one.blocks, one.computed, cache.pool.referenced) == ([], 0, 0)
    assert cache.match([*range(12), 0]).tokens == 12
    assert open_blocks(cache, request(list(range(16))), spare=2) is None
    assert open_blocks(cache, request(list(range(16))), spare=1) is not None


def test_a_request_grows_no_further_than_the_pool() -> None:
    cache = PrefixCache(3, BLOCK_SIZE)
    one, other = request([1]), request([2])
    assert open_blocks(cache, one) == open_blocks(cache, other) == []
    assert cache.grow(one.allocation, 8)
    assert one.allocation.capacity == 8
    assert not cache.grow(one.allocation, 9)
    assert (one.allocation.capacity, len(one.blocks)) == (8, 2)
    assert cache.grow(one.allocation, 3)  # has it already
    close_blocks(cache, other)
    assert cache.grow(one.allocation, 9)


def test_samples_of_one_prompt_share_its_full_blocks() -> None:
    many = Simulation(blocks=40, budget=64, max_running=8)
    prompt = list(next(texts()))[:14]
    samples = many.submit(prompt, max_tokens=6, n=5)
    many.step()
    assert [sample.stage for sample in samples] == ["decode"] + ["waiting"] * 4
    many.step()
    assert {tuple(sample.blocks[:3]) for sample in samples} == {tuple(samples[0].blocks[:3])}
    assert [many.cache.pool.ref_count(block) for block in samples[0].blocks[:3]] == [5, 5, 5]
    assert len({sample.blocks[3] for sample in samples}) == 5
    assert many.metrics.cached_tokens == 4 * 13
    many.finish()
    assert all(sample.answer == written_alone(prompt, 6) for sample in samples)


def test_of_many_that_begin_alike_the_newest_are_compared() -> None:
    cache = PrefixCache(200, BLOCK_SIZE)
    beginning = list(range(8))
    for end in range(MAX_COMPARED + 1):
        leave(cache, [*beginning, 100 + end, 0, 0])
    assert cache.match([*beginning, 100 + MAX_COMPARED, 0, 1, 0]).tokens == 10
    assert cache.match([*beginning, 101, 0, 1, 0]).tokens == 10
    assert cache.match([*beginning, 100, 0, 1, 0]).tokens == 8  # one too old


def test_a_chain_of_thousands_of_blocks_is_matched_and_evicted() -> None:
    """Neither too deep, nor slow: each of these looks at each block a few times at most."""
    blocks = 3000
    cache = PrefixCache(blocks + 1, BLOCK_SIZE)
    tokens = [i % 1000 for i in range(blocks * BLOCK_SIZE)]
    start = perf_counter()
    leave(cache, tokens)
    assert cache.match([*tokens, 0]).tokens == len(tokens)
    one = request([*tokens, 0])
    assert open_blocks(cache, one) == []
    assert one.uncomputed == 1
    read(cache, one)
    close_blocks(cache, one)
    assert cache.pool.cached == blocks + 1
    assert len(cache.pool.allocate(blocks) or []) == blocks  # forgotten from the end, one by one
    assert cache.match([*tokens, 0]).tokens == 0
    assert perf_counter() - start < 1  # s, of which it takes a fiftieth


def test_a_long_chain_is_evicted_at_once_with_its_first_block() -> None:
    blocks = 3000
    cache = PrefixCache(2 * blocks, BLOCK_SIZE)
    tokens = [i % 1000 for i in range(blocks * BLOCK_SIZE)]
    one, twin = request(tokens[:BLOCK_SIZE]), request(tokens)
    assert open_blocks(cache, one) == open_blocks(cache, twin) == []
    read(cache, one)
    read(cache, twin)  # listed behind the other's only block …
    close_blocks(cache, one)  # … which is now the first to go
    close_blocks(cache, twin)
    cache.pool.allocate(cache.pool.free + 1)
    assert cache.match([*tokens, 0]).tokens == 0
    assert cache.pool.cached == 0
