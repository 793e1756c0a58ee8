"""Who takes part in a step: whatever comes and goes, nobody is lost and nothing is given twice."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cullama.engine.blocks import BlockPool
from cullama.engine.scheduler import Scheduler
from cullama.sampling import Drawn, SamplingParams, TokenLogprobs
from cullama.sequence import Sequence

Chosen = list[tuple[Sequence, int]]

BLOCK_SIZE = 4


def sequence(prompt: int, max_tokens: int = 1) -> Sequence:
    return Sequence(list(range(100, 100 + prompt)), SamplingParams(), max_tokens, 0, frozenset())


def scheduler(
    blocks: int = 100, budget: int = 8, most_running: int = 8, *sequences: Sequence
) -> Scheduler:
    made = Scheduler(BlockPool(blocks), BLOCK_SIZE, budget, most_running)
    for one in sequences:
        made.add(one)
    return made


def run(made: Scheduler, chosen: Chosen) -> None:
    """What the runner and the engine do with a step: compute, draw, take out who has finished."""
    for one, count in chosen:
        is_ready = count == one.pending
        one.computed += count
        if is_ready:
            one.append(Drawn(7, None))
        if one.is_finished:
            made.remove(one)


# --------------------------------------------------------------------------------------- whatever


class Traffic(RuleBasedStateMachine):
    """Requests that come, are worked on, are cancelled and fail, in any order."""

    @initialize(
        blocks=st.integers(1, 12), budget=st.integers(1, 16), most_running=st.integers(1, 4)
    )
    def open(self, blocks: int, budget: int, most_running: int) -> None:
        self.blocks, self.budget, self.most_running = blocks, budget, most_running
        self.pool = BlockPool(blocks)
        self.scheduler = Scheduler(self.pool, BLOCK_SIZE, budget, most_running)
        self.arrived: list[Sequence] = []
        self.admitted: list[Sequence] = []
        self.removed: set[int] = set()

    @rule(prompt=st.integers(1, 30), max_tokens=st.integers(1, 10))
    def add(self, prompt: int, max_tokens: int) -> None:
        one = sequence(prompt, max_tokens)
        if one.longest > self.blocks * BLOCK_SIZE:
            return  # the engine's to refuse
        self.arrived.append(one)
        self.scheduler.add(one)

    @rule()
    def step(self) -> None:
        run(self.scheduler, self.schedule())

    @rule()
    def fail(self) -> None:
        """A pass that goes wrong ends all who took part in it."""
        for one, _ in self.schedule():
            self.remove(one)

    @precondition(lambda self: self.arrived)
    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        """Waiting, running, or long ended: then it must do nothing."""
        self.remove(self.arrived[which % len(self.arrived)])

    def remove(self, one: Sequence) -> None:
        self.scheduler.remove(one)
        assert one.blocks == []
        if not one.is_finished:
            self.removed.add(id(one))

    def schedule(self) -> Chosen:
        before = list(self.scheduler.running)
        chosen = self.scheduler.schedule()
        running = self.scheduler.running
        assert running[: len(before)] == before
        self.admitted += running[len(before) :]
        self.check_admission()
        self.check_choice(chosen)
        return chosen

    def check_admission(self) -> None:
        order = [self.arrived.index(one) for one in self.admitted]
        assert order == sorted(order)
        waiting = self.scheduler.waiting
        if waiting and order:
            assert self.arrived.index(waiting[0]) > order[-1]
        if waiting and len(self.scheduler.running) < self.most_running:
            assert -(-waiting[0].longest // BLOCK_SIZE) > self.pool.free

    def check_choice(self, chosen: Chosen) -> None:
        counts = [count for _, count in chosen]
        running = self.scheduler.running
        assert sum(counts) == min(self.budget, sum(one.pending for one in running))
        assert len({id(one) for one, _ in chosen}) == len(chosen)
        assert all(any(one is other for other in running) for one, _ in chosen)
        assert all(1 <= count <= one.pending for one, count in chosen)
        assert all(count == one.pending for one, count in chosen[:-1])
        needs = [one.pending for one, _ in chosen]
        assert needs == sorted(needs)
        for one, count in chosen:
            tokens = one.prompt + one.answer
            assert one.next_tokens(count) == tokens[one.computed : one.computed + count]
            assert one.computed + count <= len(one.blocks) * BLOCK_SIZE

    @invariant()
    def every_block_has_one_owner(self) -> None:
        owned = [block for one in self.arrived for block in one.blocks]
        assert len(owned) == len(set(owned))
        assert self.pool.free + len(owned) == self.blocks

    @invariant()
    def those_who_run_have_room_and_no_others(self) -> None:
        running = self.scheduler.running
        assert len(running) <= self.most_running
        for one in self.arrived:
            is_running = any(one is other for other in running)
            assert len(one.blocks) == (-(-one.longest // BLOCK_SIZE) if is_running else 0)

    @invariant()
    def nobody_is_lost(self) -> None:
        there = [*self.scheduler.running, *self.scheduler.waiting]
        alive = [one for one in self.arrived if not one.is_finished and id(one) not in self.removed]
        assert {id(one) for one in there} == {id(one) for one in alive}
        assert len(there) == len(alive)
        assert self.scheduler.has_work == bool(alive)

    def teardown(self) -> None:
        if not hasattr(self, "arrived"):
            return
        left = sum(len(one.prompt) + one.max_tokens for one in self.arrived)
        for _ in range(left):
            if not self.scheduler.has_work:
                break
            self.step()
        assert not self.scheduler.has_work
        assert self.pool.free == self.blocks
        for one in self.arrived:
            if id(one) not in self.removed:
                assert one.finish_reason == "length"
                assert len(one.answer) == one.max_tokens


Traffic.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestTraffic = Traffic.TestCase


# -------------------------------------------------------------------------------------- by hand


def test_one_sequence_is_read_at_once_and_then_written_token_by_token() -> None:
    one = sequence(5, max_tokens=3)
    made = scheduler(100, 8, 8, one)
    for expected in (5, 1, 1):
        chosen = made.schedule()
        assert [count for _, count in chosen] == [expected]
        run(made, chosen)
    assert not made.has_work
    assert made.schedule() == []
    assert one.answer == [7, 7, 7]


def test_a_long_prompt_is_read_in_steps_of_the_budget() -> None:
    one = sequence(20, max_tokens=1)
    made = scheduler(100, 8, 8, one)
    steps = []
    while made.has_work:
        chosen = made.schedule()
        steps += [count for _, count in chosen]
        run(made, chosen)
    assert steps == [8, 8, 4]
    assert len(one.answer) == 1


def test_those_who_write_do_not_wait_for_those_who_read() -> None:
    writer, reader = sequence(2, 50), sequence(100, 1)
    made = scheduler(100, 8, 8, writer, reader)
    run(made, made.schedule())
    for step in range(1, 6):
        chosen = made.schedule()
        assert [(one is writer, count) for one, count in chosen] == [(True, 1), (False, 7)]
        run(made, chosen)
        assert len(writer.answer) == 1 + step


def test_equals_keep_their_order() -> None:
    equals = [sequence(3) for _ in range(4)]
    made = scheduler(100, 7, 8, *equals)
    assert [count for _, count in made.schedule()] == [3, 3, 1]
    assert all(one is other for (one, _), other in zip(made.schedule(), equals, strict=False))


def test_a_large_request_is_not_overtaken_by_small_ones() -> None:
    first, large, small = sequence(16), sequence(30), sequence(2)
    made = scheduler(8, 64, 8, first, large, small)
    chosen = made.schedule()
    assert [one for one, _ in chosen] == [first]
    run(made, chosen)
    assert [one for one, _ in made.schedule()] == [large]


def test_no_more_run_than_may() -> None:
    made = scheduler(100, 64, 2, *[sequence(1, 5) for _ in range(5)])
    assert len(made.schedule()) == 2
    assert len(made.waiting) == 3


def test_a_sequence_joins_between_any_two_steps() -> None:
    first, second = sequence(2, 9), sequence(3, 9)
    made = scheduler(100, 8, 8, first)
    run(made, made.schedule())
    made.add(second)
    assert [count for _, count in made.schedule()] == [1, 3]


def test_the_last_token_needs_no_room() -> None:
    """It is drawn and never fed back: 4 + 5 − 1 tokens are two blocks of four."""
    made = scheduler(2, 8, 8, sequence(4, max_tokens=5))
    assert made.blocks_for(made.waiting[0]) == 2
    while made.has_work:
        chosen = made.schedule()
        assert chosen
        run(made, chosen)


def test_what_is_removed_makes_room_at_once() -> None:
    first, second = sequence(8), sequence(8)
    made = scheduler(2, 64, 8, first, second)
    assert [one for one, _ in made.schedule()] == [first]
    made.remove(first)
    assert [one for one, _ in made.schedule()] == [second]


def test_removing_twice_and_removing_strangers_does_nothing() -> None:
    one, stranger = sequence(8), sequence(8)
    made = scheduler(2, 64, 8, one)
    made.schedule()
    for _ in range(2):
        made.remove(one)
        made.remove(stranger)
        assert made.pool.free == 2
    assert not made.has_work


def test_a_long_prompt_is_not_passed_over_for_ever_by_short_ones() -> None:
    long = sequence(20)
    made = scheduler(1000, 8, 8, long)
    for _ in range(100):
        made.add(sequence(4))
        made.add(sequence(4))
        run(made, made.schedule())
    assert long.computed > 0


# --------------------------------------------------------------------------------- the sequence


def test_a_sequence_feeds_its_prompt_and_then_its_answer() -> None:
    one = sequence(3, max_tokens=10)
    one.answer += [1, 2, 3]
    everything = [100, 101, 102, 1, 2, 3]
    assert len(one) == 6
    for start in range(7):
        one.computed = start
        assert one.pending == 6 - start
        for count in range(6 - start + 1):
            assert one.next_tokens(count) == everything[start : start + count]


def test_a_sequence_ends_with_an_end_token_or_its_length() -> None:
    ended = Sequence([1], SamplingParams(), 5, 0, frozenset({9}))
    for token in (1, 9):
        assert not ended.is_finished
        ended.append(Drawn(token, None))
    assert ended.finish_reason == "stop"
    assert ended.is_finished
    long = Sequence([9], SamplingParams(), 2, 0, frozenset({9}))
    for _ in range(2):
        assert not long.is_finished
        long.append(Drawn(1, None))
    assert long.finish_reason == "length"


def test_an_end_token_in_the_last_place_is_a_stop() -> None:
    one = Sequence([1], SamplingParams(), 1, 0, frozenset({9}))
    one.append(Drawn(9, None))
    assert one.finish_reason == "stop"


def test_an_error_ends_a_sequence() -> None:
    one = sequence(1, 5)
    one.error = RuntimeError("the pass went wrong")
    assert one.is_finished
    assert one.finish_reason is None


def test_a_draw_says_where_in_the_request_we_are() -> None:
    one = Sequence([4, 5], SamplingParams(top_k=3), 5, seed=11, end_ids=frozenset(), index=2)
    one.append(Drawn(6, TokenLogprobs(6, -1.0, ())))
    draw = one.draw()
    assert (draw.params.top_k, draw.seed, draw.index) == (3, 11, 2)
    assert (list(draw.prompt), list(draw.answer)) == ([4, 5], [6])
    assert one.logprobs == [TokenLogprobs(6, -1.0, ())]


def test_sequences_of_the_same_tokens_are_not_the_same() -> None:
    first, second = sequence(2), sequence(2)
    made = scheduler(8, 8, 8, first, second)
    made.schedule()
    made.remove(second)
    assert len(made.running) == 1
    assert made.running[0] is first
    assert all(a is not b for a, b in pairwise([first, second]))
