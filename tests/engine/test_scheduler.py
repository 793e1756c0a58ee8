"""No request is lost, none waits for ever, and each gets the tokens that it would get alone."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from shadow import (
    BLOCK_SIZE,
    VOCABULARY,
    Simulation,
    blocks_for,
    check_nothing_is_lost,
    texts,
    written_alone,
)

from cullama.engine import scheduler as scheduling
from cullama.engine.prefix_cache import PrefixCache
from cullama.engine.request import Request
from cullama.engine.scheduler import HEAD_START, Plan, Scheduler

TEXTS = list(texts())


@pytest.fixture
def few_ahead(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many tokens may be unread: so few that requests are soon backpressured."""
    monkeypatch.setattr(scheduling, "MAX_AHEAD", 3)
    return 3


def prompt(tokens: int, kind: int = 0) -> list[int]:
    """Of different kinds, no two have anything in common."""
    return [10 + kind] * tokens


def prefills(plan: Plan) -> list[tuple[Request, int]]:
    return [(one, tokens) for one, tokens, _ in plan.prefills]


def counts(plan: Plan) -> list[int]:
    return [tokens for _, tokens, _ in plan.parts]


# --------------------------------------------------------------------------------------- whatever


class Traffic(RuleBasedStateMachine):
    """Requests that come, are worked on, pause, fail and are cancelled, in any order.

    All that is said of a plan and of the slots it reads and writes is said in `Simulation`.
    """

    @initialize(blocks=st.integers(3, 16), max_running=st.integers(1, 5), share=st.integers(1, 20))
    def open(self, blocks: int, max_running: int, share: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(scheduling, "MAX_AHEAD", 3)
        self.patch.setattr(scheduling, "HEAD_START", 4)
        self.many = Simulation(blocks, max_running + share, max_running)
        self.texts = list(TEXTS)
        self.arrived: list[Request] = []

    @rule(
        which=st.integers(0, 99),
        tokens=st.integers(1, 36),
        more=st.lists(st.integers(0, VOCABULARY - 1), max_size=3),
        max_tokens=st.integers(1, 12),
        priority=st.sampled_from([0, 0, 0, 1, 2, -1]),
        n=st.sampled_from([1, 1, 1, 2, 3]),
        speculation=st.sampled_from([0, 0, 3, 8]),
        ends=st.sampled_from([(), (), (0,), (1, 2)]),
        is_lazy=st.sampled_from([False, False, True]),
    )
    def add(
        self, which: int, tokens: int, more: list[int], max_tokens: int, **wishes: object
    ) -> None:
        """A text that goes on from an older one, or differently."""
        text = self.texts[which % len(self.texts)][:tokens] + more
        if blocks_for(len(text) + max_tokens - 1) > self.many.cache.pool.count:
            return  # the engine's to refuse
        added = self.many.submit(text, max_tokens, **wishes)  # type: ignore[arg-type]
        self.arrived += added
        self.texts.append(added[0].tokens)

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.many.step()
            self.many.check()

    @precondition(lambda self: self.many.alive)
    @rule(which=st.sets(st.integers(0, 99), min_size=1, max_size=3))
    def fail(self, which: set[int]) -> None:
        """A pass goes wrong for some, and is repeated for the others."""
        alive = self.many.alive
        self.many.step(failing={alive[index % len(alive)] for index in which})

    @precondition(lambda self: self.many.alive)
    @rule(which=st.integers(0, 99))
    def fall_ill(self, which: int) -> None:
        """What it computes is damaged from now on, which shows when it draws."""
        self.many.ill.add(self.many.alive[which % len(self.many.alive)])

    @precondition(lambda self: self.arrived)
    @rule(which=st.integers(0, 999))
    def cancel(self, which: int) -> None:
        """Waiting, running, paused, or long ended: then it must do nothing."""
        self.many.cancel(self.arrived[which % len(self.arrived)])

    @precondition(lambda self: self.many.lazy)
    @rule(which=st.integers(0, 999))
    def read_on(self, which: int) -> None:
        lazy = [one for one in self.arrived if one in self.many.lazy]
        self.many.take(lazy[which % len(lazy)])

    @invariant()
    def all_is_in_order(self) -> None:
        if hasattr(self, "many"):
            self.many.check()
            ready = self.many.first_in_order() is not None
            assert self.many.scheduler.has_work == ready

    def teardown(self) -> None:
        if not hasattr(self, "many"):
            return
        try:
            self.many.finish()
            assert not self.many.scheduler.has_work
            assert all(one.is_finished for one in self.arrived)
            check_nothing_is_lost(self.many.cache)
        finally:
            self.patch.undo()


Traffic.TestCase.settings = settings(max_examples=250, stateful_step_count=40)
TestTraffic = Traffic.TestCase


def random_request(draw: Random, many: Simulation) -> list[Request]:
    text = draw.choice(TEXTS)[: draw.randint(1, 36)] + draw.choices(range(VOCABULARY), k=2)
    return many.submit(
        text,
        draw.randint(1, 14),
        priority=draw.choice([0, 0, 0, 1]),
        n=draw.choice([1, 1, 2]),
        speculation=draw.choice([0, 6]),
        is_lazy=draw.random() < 0.2,
    )


def test_ten_thousand_cancelled_requests_lose_no_block(few_ahead: int) -> None:
    """At any moment, twice, in every stage: waiting, prefill, decode, backpressured, ended."""
    draw, many = Random(13), Simulation(blocks=40, budget=40, max_running=6)
    cancelled, gone, stages = 0, list[Request](), set[str]()
    while cancelled < 10_000:
        while len(many.alive) < draw.choice([1, 4, 9]):
            random_request(draw, many)
        for _ in range(draw.choice([0, 1, 1, 2, 4])):
            many.step()
            many.check()
        for one in draw.sample(many.alive, min(draw.randint(1, 8), len(many.alive))):
            stages.add(one.stage)
            many.cancel(one)
            cancelled += 1
            gone.append(one)
        if gone:
            many.cancel(draw.choice(gone[-50:]))
        for one in draw.sample(many.alive, min(2, len(many.alive))):
            many.take(one)
        many.check()
    for one in list(many.alive):
        many.cancel(one)
    assert all(len(one.blocks) == 0 for one in gone)
    check_nothing_is_lost(many.cache)
    assert stages == {"waiting", "prefill", "decode", "backpressured"}
    assert min(many.metrics.preemptions, many.copies, many.metrics.accepted_tokens) > 50


@pytest.mark.parametrize("seed", range(4))
def test_no_request_waits_for_ever(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """However many of higher priority keep coming, and whatever they take from whom.

    "The first in order is never passed over": in each step it gets a token, or at least
    `budget − max_running` tokens of its prompt read, those being left when all others write
    (`Simulation.check_plan`). So it is at the end after ⌈longest / share⌉ + max_tokens steps, its
    `longest_turn`, if no request comes that goes before it. One that does may take its blocks; what
    it has computed is then computed once more, in ⌈longest / share⌉ steps at most, but no token is
    drawn twice. So each of those that go before a request, and there are only so many head starts,
    costs it its own turn and one such prefill again.
    """
    monkeypatch.setattr(scheduling, "HEAD_START", 8)
    draw, many = Random(seed), Simulation(blocks=9, budget=7, max_running=4)
    began: dict[Request, int] = {}
    ended: dict[Request, int] = {}

    def step() -> None:
        many.step()
        many.check()
        for one in began:
            if one.is_finished:
                ended.setdefault(one, many.steps)

    for _ in range(1500):
        # Best when a prefill is nearly complete: it may have to begin again.
        is_best = any(one.uncomputed <= many.share for one in many.scheduler.prefills)
        if draw.random() < (0.5 if is_best else 0.1):
            text = [draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 26))]
            priority = draw.choice([0, 1, 1, 2, 2])
            [one] = many.submit(text, draw.randint(1, 8), priority=priority)
            began[one] = many.steps
        step()
    while many.alive:
        step()
    worst = -(-blocks_for(36) * BLOCK_SIZE // many.share)
    for one, start in began.items():
        before = [q for q in began if q.priority_key <= one.priority_key and ended[q] >= start]
        most = sum(many.longest_turn(other) + worst for other in before)
        assert ended[one] - start <= most
    assert many.metrics.preemptions > 15


def test_a_request_waits_for_no_more_newcomers_than_their_head_start() -> None:
    many = Simulation(blocks=4, budget=8, max_running=1)
    [patient] = many.submit(prompt(4), max_tokens=2, priority=0)
    served = 0
    while not patient.is_finished:
        [rival] = many.submit(prompt(4, kind=1), max_tokens=1, priority=1)
        many.step()
        served += rival.is_finished
    assert served == HEAD_START - 1  # the first of them came one place behind


# --------------------------------------------------------------------------- by hand: one step


def test_one_request_is_one_prefill_and_then_decodes() -> None:
    many = Simulation(100, 8, 7)
    [one] = many.submit(prompt(5), max_tokens=3)
    assert [counts(many.step()) for _ in range(3)] == [[5], [1], [1]]
    assert not many.scheduler.has_work
    assert len(many.scheduler.schedule().parts) == 0
    assert one.answer == written_alone(prompt(5), 3)


def test_a_long_prompt_is_prefilled_in_chunks_of_the_budget() -> None:
    many = Simulation(100, 8, 7)
    [one] = many.submit(prompt(20), max_tokens=1)
    assert [counts(many.step()) for _ in range(3)] == [[8], [8], [4]]
    assert one.is_finished


def test_decodes_do_not_wait_for_prefills() -> None:
    many = Simulation(100, 8, 7)
    [decode] = many.submit(prompt(2), max_tokens=50)
    many.step()
    [prefill] = many.submit(prompt(100, kind=1))
    for step in range(1, 6):
        plan = many.step()
        assert (plan.decodes, prefills(plan)) == ([decode], [(prefill, 7)])
        assert decode.drawn == 1 + step


def test_requests_of_equal_priority_keep_their_order() -> None:
    many = Simulation(100, 7, 6)
    equals = [many.submit(prompt(3, kind))[0] for kind in range(4)]
    assert prefills(many.step()) == list(zip(equals, (3, 3, 1), strict=False))
    assert prefills(many.step()) == [(equals[2], 2), (equals[3], 3)]


def test_a_large_request_is_not_overtaken_by_small_ones() -> None:
    many = Simulation(8, 64, 8)
    [first], [large], [small] = (many.submit(prompt(n, n)) for n in (16, 30, 2))
    assert counts(many.step()) == [16]
    assert first.is_finished
    assert [one for one, *_ in many.step().parts] == [large]
    assert [one for one, *_ in many.step().parts] == [small]


def test_no_more_than_max_running_requests_run() -> None:
    many = Simulation(100, 64, 2)
    for kind in range(5):
        many.submit(prompt(1, kind), max_tokens=5)
    assert len(many.step().parts) == 2
    assert len(many.scheduler.waiting) == 3


def test_a_request_joins_between_any_two_steps() -> None:
    many = Simulation(100, 8, 7)
    many.submit(prompt(2), max_tokens=9)
    many.step()
    many.submit(prompt(3, kind=1), max_tokens=9)
    assert counts(many.step()) == [1, 3]
    assert counts(many.step()) == [1, 1]


def test_the_last_token_needs_no_cache_slot() -> None:
    """It is drawn and never fed back: 4 + 5 − 1 tokens are two blocks of four."""
    many = Simulation(2, 8, 7)
    [one] = many.submit(prompt(4), max_tokens=5)
    many.finish()
    assert one.drawn == 5
    assert many.metrics.preemptions == 0


def test_removing_a_request_frees_its_blocks_at_once() -> None:
    many = Simulation(2, 64, 8)
    [first], [second] = (many.submit(prompt(5, kind), max_tokens=3) for kind in range(2))
    assert [one for one, *_ in many.step().parts] == [first]
    many.cancel(first)
    assert [one for one, *_ in many.step().parts] == [second]


def test_removing_twice_and_removing_strangers_does_nothing() -> None:
    many, strangers = Simulation(2, 64, 8), Simulation(2, 64, 8)
    [one], [stranger] = many.submit(prompt(8)), strangers.submit(prompt(8))
    strangers.cancel(stranger)
    many.scheduler.schedule()
    for _ in range(2):
        many.scheduler.remove(one)
        many.scheduler.remove(stranger)
        assert many.cache.pool.free == 2
    assert not many.scheduler.has_work


def test_decodes_must_leave_budget_to_prefills() -> None:
    with pytest.raises(AssertionError, match="leave nothing of the budget to prefills"):
        Scheduler(PrefixCache(8, BLOCK_SIZE), token_budget=8, max_running=8)


def test_a_plan_can_be_run_one_by_one() -> None:
    many = Simulation(100, 16, 7)
    [decode] = many.submit(prompt(10), max_tokens=9)
    many.step()
    many.submit(prompt(12), max_tokens=9)
    plan = many.scheduler.schedule()
    assert (len(plan.parts), plan.tokens, len(plan.copies)) == (2, 3, 1)
    parts = list(plan.one_by_one())
    assert [each for part in parts for each in part.parts] == plan.parts
    assert [part.tokens for part in parts] == [1, 2]
    assert parts[0].decodes == [decode]
    assert all(part.copies is plan.copies for part in parts)  # whichever comes first makes them


# ------------------------------------------------------------------------------ by hand: by rank


def test_priority_is_a_head_start() -> None:
    many = Simulation(100, 8, 1)
    [plain], [urgent], [patient] = (
        many.submit(prompt(2, 2 + priority), priority=priority) for priority in (0, 1, -1)
    )
    assert [[one for one, *_ in many.step().parts] for _ in range(3)] == [
        [urgent],
        [plain],
        [patient],
    ]


def test_the_first_in_order_does_not_wait_for_a_long_prefill() -> None:
    many = Simulation(100, 8, 4)
    [long] = many.submit(prompt(100))
    many.step()
    [urgent] = many.submit(prompt(5, kind=1), priority=1)
    assert prefills(many.step()) == [(urgent, 5), (long, 3)]
    assert urgent.is_finished


def test_later_requests_wait_until_the_budget_has_tokens_for_them() -> None:
    """They would only hold blocks meanwhile."""
    many = Simulation(100, 8, 4)
    many.submit(prompt(24), max_tokens=2)
    [later] = many.submit(prompt(9, kind=1))
    for _ in range(3):  # the last time with just the budget to read
        assert counts(many.step()) == [8]
        assert later.stage == "waiting"
    assert counts(many.step()) == [1, 7]


def test_the_first_in_order_preempts_the_last() -> None:
    many = Simulation(100, 8, 2)
    [first], [last] = (many.submit(prompt(2, kind), max_tokens=9) for kind in range(2))
    many.step()
    [urgent] = many.submit(prompt(2, kind=3), max_tokens=2, priority=1)
    plan = many.step()
    assert [one for one, *_ in plan.parts] == [first, urgent]
    assert last.stage == "waiting"
    many.finish()
    assert many.metrics.preemptions == 1


def test_a_preempted_request_is_not_backpressured() -> None:
    """Its last token may have come when it had no blocks any more: then it waits already."""
    many = Simulation(100, 8, 2)
    [first], [last] = (many.submit(prompt(2, kind), max_tokens=9) for kind in range(2))
    many.step()
    many.submit(prompt(2, kind=3), max_tokens=2, priority=1)
    many.step()
    assert last.stage == "waiting"
    many.scheduler.pause(last)
    assert last.stage == "waiting"
    many.scheduler.pause(first)
    assert first.stage == "backpressured"
    many.scheduler.resume(first)
    many.finish()


def test_where_blocks_run_out_the_last_in_order_is_preempted() -> None:
    many = Simulation(6, 32, 4)
    [first], [last] = (many.submit(prompt(8, kind), max_tokens=12) for kind in range(2))
    many.step()
    assert (len(first.blocks), len(last.blocks)) == (2, 2)
    while last.stage != "waiting":
        many.step()
    assert first.stage == "decode"
    assert (last.blocks, last.computed) == ([], 0)
    written = last.answer
    many.finish()
    assert last.answer[: len(written)] == written
    assert (first.drawn, last.drawn) == (12, 12)
    assert many.metrics.preemptions > 0


def test_a_preempted_request_finds_its_cached_blocks_again() -> None:
    many = Simulation(40, 32, 1)
    [one] = many.submit(prompt(10), max_tokens=9)
    for _ in range(4):
        many.step()
    [urgent] = many.submit(prompt(8, kind=1), max_tokens=1, priority=1)
    assert [other for other, *_ in many.step().parts] == [urgent]
    assert (one.stage, one.drawn) == ("waiting", 4)
    assert prefills(many.step()) == [(one, 1)]
    assert many.metrics.prompt_tokens == 18
    assert many.metrics.cached_tokens == 0  # of its prompt, when it first came


def test_a_starved_decode_sits_out_and_keeps_its_blocks() -> None:
    many = Simulation(5, 32, 4)
    [first], [last] = (many.submit(prompt(7, kind), max_tokens=5) for kind in range(2))
    many.step()
    assert many.step().decodes == [first, last]
    while not first.is_finished:  # it has the fifth block, and there is no sixth
        assert many.step().decodes == [first]
        assert (last.stage, len(last.blocks), last.computed) == ("decode", 2, 8)
    assert many.step().decodes == [last]
    assert many.metrics.preemptions == 0


def test_admission_leaves_a_spare_block_for_each_running_request() -> None:
    """Or else one would be preempted again in the next step."""
    many = Simulation(6, 32, 4)
    [first], [second], [third] = (
        many.submit(prompt(tokens, kind), max_tokens=2)
        for kind, tokens in enumerate((8, 8, 1))  # two blocks, two, and one
    )
    assert prefills(many.step()) == [(first, 8), (second, 8)]  # one block is left for each
    assert third.stage == "waiting"
    assert many.step().decodes == [first, second]
    assert many.metrics.preemptions == 0
    assert prefills(many.step()) == [(third, 1)]


def test_a_decode_last_in_order_is_preempted_before_a_prefill() -> None:
    many = Simulation(100, 8, 2)
    [last] = many.submit(prompt(2), max_tokens=9)
    many.step()
    [first] = many.submit(prompt(20, kind=1), priority=1)
    many.step()
    assert (last.stage, first.stage) == ("decode", "prefill")
    many.submit(prompt(2, kind=2), priority=2)
    many.step()
    assert (last.stage, first.stage) == ("waiting", "prefill")


def test_a_prefill_last_in_order_is_preempted_before_a_decode() -> None:
    many = Simulation(100, 8, 2)
    [first], [last] = (
        many.submit(prompt(tokens, kind), max_tokens=9) for kind, tokens in enumerate((2, 20))
    )
    many.step()
    assert (last.stage, first.stage) == ("prefill", "decode")
    many.submit(prompt(2, kind=2), priority=1)
    many.step()
    assert (last.stage, first.stage) == ("waiting", "decode")


def test_samples_wait_for_the_prefill_of_the_first() -> None:
    many = Simulation(100, 8, 7)
    leader, *others = many.submit(prompt(20), max_tokens=5, n=3)
    for tokens in (8, 8, 4):
        assert prefills(many.step()) == [(leader, tokens)]
    assert prefills(many.step()) == [(one, 1) for one in others]


@pytest.mark.parametrize("steps", [0, 1])
def test_samples_do_not_wait_for_a_cancelled_first_one(steps: int) -> None:
    many = Simulation(100, 8, 7)
    leader, *others = many.submit(prompt(20), max_tokens=5, n=3)
    for _ in range(steps):
        many.step()
    many.cancel(leader)
    assert prefills(many.step()) == [(others[0], 8)]
    many.finish()


# ------------------------------------------------------------ by hand: unread tokens, and drafts


def test_a_request_far_ahead_of_its_reader_is_backpressured(few_ahead: int) -> None:
    many = Simulation(100, 8, 4)
    [one] = many.submit(prompt(2), max_tokens=9, is_lazy=True)
    for _ in range(few_ahead):
        many.step()
    assert (one.stage, one.drawn) == ("backpressured", few_ahead)
    assert not many.scheduler.has_work
    assert len(many.step().parts) == 0
    many.take(one)
    assert one.stage == "decode"
    assert many.step().decodes == [one]


def test_a_backpressured_request_is_preempted_for_any_other(few_ahead: int) -> None:
    many = Simulation(3, 8, 4)
    [asleep] = many.submit(prompt(8), max_tokens=4, is_lazy=True)
    for _ in range(few_ahead):
        many.step()
    assert (asleep.stage, len(asleep.blocks)) == ("backpressured", 3)
    [later] = many.submit(prompt(4, kind=1), max_tokens=4)
    assert prefills(many.step()) == [(later, 4)]
    assert (asleep.stage, len(asleep.blocks)) == ("waiting", 0)
    many.step()
    assert asleep.stage == "waiting"  # it is not read, so it does not come back
    many.finish()
    assert (asleep.drawn, later.drawn) == (4, 4)


def test_resuming_a_request_that_is_not_backpressured_does_nothing() -> None:
    many = Simulation(100, 8, 4)
    [one] = many.submit(prompt(2), max_tokens=9)
    many.scheduler.resume(one)
    assert one.stage == "waiting"
    many.step()
    many.scheduler.resume(one)
    stages: list[str] = [one.stage]
    many.cancel(one)
    many.scheduler.resume(one)
    assert [*stages, one.stage] == ["decode", "unscheduled"]


def repeating(tokens: int) -> list[int]:
    """A prompt that has something to draft from."""
    return [1, 2, 3, 4] * (tokens // 4)


def test_draft_tokens_stop_one_short_of_max_tokens() -> None:
    """The last token comes out of the pass that the drafts go into."""
    many = Simulation(100, 64, 4)
    [one] = many.submit(repeating(16), max_tokens=30, speculation=8)
    many.finish()
    assert one.drawn == 30
    assert max(many.passes[1:]) == 9
    assert many.metrics.accepted_tokens > 0
    assert many.steps < 30


def test_no_draft_tokens_while_others_prefill_or_wait() -> None:
    many = Simulation(100, 16, 2)
    [speculating] = many.submit([1, 2] * 8, max_tokens=60, speculation=8)
    many.step()
    speculating.tokens[-3:] = [1, 2, 1]  # so that there is something to draft for certain
    speculating.computed = speculating.shareable = 0
    plan = many.scheduler.schedule()
    assert plan.has_drafts
    [other] = many.submit(prompt(2, kind=1))
    many.submit(prompt(2, kind=2), max_tokens=3)
    plan = many.scheduler.schedule()
    assert other in [one for one, *_ in plan.parts]
    assert (plan.has_drafts, speculating.draft_tokens) == (False, [])


def test_draft_tokens_are_dropped_before_a_request_is_preempted() -> None:
    many = Simulation(6, 64, 4)
    certain = [0, 0, 0, 1, 0, 2, 0, 3, 0, 4, 0]  # whatever is drawn next, it has followed a 0
    [first] = many.submit(certain, max_tokens=12, speculation=8)
    [last] = many.submit(prompt(8, kind=1), max_tokens=3)
    many.step()
    assert (len(first.blocks), len(last.blocks), many.cache.pool.free) == (3, 2, 1)
    assert first.lookup is not None
    assert len(first.lookup.propose(8)) == 8  # for which it has no room
    assert many.step().decodes == [first, last]
    assert (many.metrics.draft_tokens, many.metrics.preemptions) == (0, 0)


def test_the_budget_is_shared_among_speculating_requests() -> None:
    many = Simulation(200, 12, 4)
    for kind in range(4):
        many.submit([kind, *repeating(20)], max_tokens=60, speculation=30)
    many.finish()
    assert many.metrics.draft_tokens > 0
    assert 8 < max(many.passes) <= 12
