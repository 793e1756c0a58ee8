"""Shares of the roofline: of what was measured, or of what was faster since."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cullama import LLM
from cullama.benchmark.roofline import PassCosts, Roofline, measure_limits
from cullama.engine.trace import StepRecord

COSTS = PassCosts(
    weight_bytes=1000,
    context_bytes=0,
    token_operations=100.0,
    logits_operations=0.0,
    attention_operations=0.0,
    read_rate=10_000.0,
    product_rate=4000.0,
)


def one_pass(start: float, seconds: float, tokens: int, prefill: int = 0) -> StepRecord:
    """A pass that reads 1,000 bytes and computes 100 operations a token."""
    numbers = dict.fromkeys(StepRecord.__dataclass_fields__, 0)
    asked = {"tokens": tokens, "prefill_tokens": prefill}
    return StepRecord(**{**numbers, **asked, "start": start, "seconds": seconds})  # type: ignore[arg-type]


def test_a_share_is_of_the_limit_that_was_measured() -> None:
    roofline = Roofline()
    roofline.add(one_pass(0.0, 0.2, tokens=1))
    roofline.add(one_pass(0.2, 0.2, tokens=4, prefill=4))
    figures = roofline.figures(COSTS)
    assert figures["decode"]["share_of_read"] == pytest.approx(1000 / 0.2 / 10_000)
    assert figures["prefill"]["share_of_products"] == pytest.approx(400 / 0.2 / 4000)
    assert (figures["read_rate"], figures["product_rate"]) == (10_000, 4000)
    assert roofline.raised(COSTS) == COSTS


def test_a_second_that_was_faster_raises_the_limit_for_good() -> None:
    roofline = Roofline()
    roofline.add(one_pass(0.0, 0.05, tokens=40, prefill=40))  # 80,000 operations a second
    fast = roofline.figures(COSTS)
    assert fast["prefill"]["share_of_products"] == 1
    assert fast["prefill"]["share_of_read"] == 1
    assert roofline.raised(COSTS) == replace(COSTS, read_rate=20_000, product_rate=80_000)
    roofline.add(one_pass(9.0, 0.1, tokens=40, prefill=40))  # half as fast, later
    assert roofline.figures(COSTS)["prefill"]["share_of_products"] == pytest.approx(0.5)


def test_what_was_not_measured_stays_unknown() -> None:
    roofline = Roofline()
    roofline.add(one_pass(0.0, 0.05, tokens=40))
    figures = roofline.figures(replace(COSTS, read_rate=None, product_rate=None))
    assert figures["decode"]["share_of_read"] is None
    assert figures["decode"]["share_of_products"] is None
    assert (figures["read_rate"], figures["product_rate"]) == (None, None)
    assert figures["prefill"] is None


def test_the_limits_are_of_this_machine_and_the_models_own_products(
    tiny_model: Path,
) -> None:
    with LLM(tiny_model, backend="cpu") as llm, llm.engine.exclusive() as access:
        limits = measure_limits(access)
    assert limits.read > 1e8
    assert limits.products > 1e8
