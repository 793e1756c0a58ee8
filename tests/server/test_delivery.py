"""What passes give: firsts and ends leave at once, what is in between together; none is lost."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cullama.engine.client import RequestOutput
from cullama.engine.engine import EngineHandle
from cullama.engine.metrics import Metrics
from cullama.engine.request import Request
from cullama.engine.trace import StepRecord
from cullama.errors import DeviceLostError
from cullama.sampling.params import SamplingParams
from cullama.server.process.delivery import Delivery
from cullama.server.process.pace import MAX_INTERVAL, MIN_INTERVAL, SHARE, PaceMeter, next_interval

HOUR = 3600.0


class Sample(EngineHandle):
    """A sample whose tokens the test draws."""

    def __init__(self, prompt: int = 3, begun: int = 0) -> None:
        self.request = Request([1] * (prompt + begun), SamplingParams(), 99, 0, frozenset())
        self.request.begun = begun
        self.request.__post_init__()
        self.request.stage = "decode"

    def read(self) -> RequestOutput:
        request, start = self.request, self.request.delivered
        request.delivered = request.drawn
        return RequestOutput(request.answer[start:], (), 0, request.finish_reason, request.error)


def record(prefills: int = 0) -> StepRecord:
    return StepRecord(0.0, 0.001, 1, prefills, *[0] * 12)


def make(*samples: Sample, interval: float = HOUR) -> Delivery:
    made = Delivery({(number, 0): sample for number, sample in enumerate(samples)})
    made.interval = interval
    made.collect(Metrics(), is_idle=True)
    return made


def told(made: Delivery, is_idle: bool = False) -> dict[int, list[int]] | None:
    step = made.collect(Metrics(), is_idle)
    return None if step is None else {id: list(output[0]) for id, _, output in step.outputs}


@pytest.mark.parametrize("begun", [0, 2])
def test_a_first_token_and_an_end_leave_at_once(begun: int) -> None:
    sample, other = Sample(begun=begun), Sample()
    other.request.tokens += [7]
    made = make(sample, other)
    other.request.tokens += [8]  # not urgent
    sample.request.tokens += [5]
    assert told(made) == {0: [5]}
    sample.request.tokens += [6]
    assert told(made) is None
    sample.request.finish_reason = "length"
    assert told(made) == {0: [6]}


def test_what_is_in_between_leaves_together_once_it_is_due() -> None:
    samples = [Sample(), Sample()]
    for sample in samples:
        sample.request.tokens += [4]
    made = make(*samples)
    for token in (5, 6, 7):
        made.add(record())
        for sample in samples:
            sample.request.tokens += [token]
        assert told(made) is None
    made.interval = 0.0
    step = made.collect(Metrics(), is_idle=False)
    assert step is not None
    assert [output[0] for *_, output in step.outputs] == [[5, 6, 7]] * 2
    assert len(step.records) == 3
    assert told(made) is None  # nothing is told twice


def test_nothing_waits_where_no_pass_follows() -> None:
    sample = Sample()
    sample.request.tokens += [4]
    made = make(sample)
    sample.request.tokens += [5]
    assert told(made) is None
    assert told(made, is_idle=True) == {0: [5]}


def test_how_far_a_prompt_is_leaves_at_once() -> None:
    sample = Sample()
    sample.request.stage, sample.request.computed = "prefill", 2
    made = make(sample)
    made.add(record(prefills=1))
    step = made.collect(Metrics(), is_idle=False)
    assert step is not None
    assert step.prefills == [(0, 0, 2, 0)]


def test_what_is_held_stays() -> None:
    sample = Sample()
    sample.request.tokens += [5]
    sample.request.is_held = True
    made = make(sample)
    sample.request.finish_reason = "length"
    assert told(made, is_idle=True) is None
    sample.request.is_held = False
    assert told(made) == {0: [5]}


def test_a_lost_device_is_raised_and_other_errors_are_told() -> None:
    sample = Sample()
    made = make(sample)
    sample.request.finish_reason, sample.request.error = "error", ValueError("of numpy")
    step = made.collect(Metrics(), is_idle=False)
    assert step is not None
    assert str(step.outputs[0][2][4]) == "ValueError: of numpy"
    sample.request.error = DeviceLostError("gone")
    with pytest.raises(DeviceLostError):
        made.collect(Metrics(), is_idle=False)


@given(st.integers(0, 1 << 32))
def test_whatever_the_moments_every_token_leaves_once_and_in_order(seed: int) -> None:
    rng = random.Random(seed)
    samples = [Sample(begun=rng.randrange(2)) for _ in range(3)]
    expected = [sample.request.answer for sample in samples]
    made = make(*samples)
    got: list[list[int]] = [[*each] for each in expected]  # what was begun is never told of
    for _ in range(30):
        made.interval = rng.choice([0.0, HOUR])
        for number, sample in enumerate(samples):
            if rng.random() < 0.5:
                sample.request.tokens += (new := [rng.randrange(99)])
                expected[number] += new
            sample.request.is_held = rng.random() < 0.2
        for id, tokens in (told(made) or {}).items():
            got[id] += tokens
    for sample in samples:
        sample.request.is_held = False
    for id, tokens in (told(made, is_idle=True) or {}).items():
        got[id] += tokens
    assert got == expected


@given(st.floats(0, MAX_INTERVAL), st.floats(0, 2))
@example(0.005859375, SHARE)
def test_a_busy_front_is_told_less_often_and_an_idle_one_at_once(
    interval: float, share: float
) -> None:
    after = next_interval(interval, share)
    assert 0 <= after <= MAX_INTERVAL
    if interval > MIN_INTERVAL:
        assert after >= min(interval, MAX_INTERVAL) if share > SHARE else after <= interval
    assert next_interval(interval, 0.0) == 0.0


def test_an_interval_is_told_where_it_has_changed() -> None:
    meter, now, cpu = PaceMeter(), 0.0, 0.0

    def after(seconds: float, share: float) -> float | None:
        nonlocal now, cpu
        now, cpu = now + seconds, cpu + seconds * share
        return meter.changed(now, cpu)

    assert after(0.01, 1.0) is None  # too short to tell
    assert after(1, 0.01) is None  # it stays at 0
    first = after(0.2, 0.5)
    assert first is not None
    assert first > 0
    assert after(0.2, 1.0) == pytest.approx(10 * first)
    assert after(0.2, 1.0) == MAX_INTERVAL
    assert after(0.2, 1.0) is None
    assert after(0.2, 0.0) == 0.0
