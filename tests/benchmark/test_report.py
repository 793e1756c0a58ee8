"""The arithmetic of the benchmark: what counts as work, and what a share is a share of."""

from __future__ import annotations

import pytest

from cullama.benchmark.report import (
    decode_row,
    prefill_operations,
    prefill_row,
)
from cullama.benchmark.runs import Decode, Prefill
from cullama.benchmark.shapes import SHAPES, random_checkpoint
from cullama.benchmark.yardsticks import CpuMeter, CpuYardsticks, between
from cullama.errors import NoTokenizerError, UsageError

LIMIT = CpuYardsticks(threads=2, read_huge=20e9, read_small=30e9, sgemm=100e9)


def test_the_known_shapes_have_the_sizes_their_names_say() -> None:
    billions = {name: config.parameters / 1e9 for name, config in SHAPES.items()}
    assert billions["tinystories-656k"] == pytest.approx(0.000656, rel=0.01)
    assert billions["smollm2-135m"] == pytest.approx(0.1345, rel=0.01)
    assert billions["smollm2-360m"] == pytest.approx(0.362, rel=0.01)
    assert billions["tinyllama-1.1b"] == pytest.approx(1.1, rel=0.01)
    assert billions["llama-3.2-1b"] == pytest.approx(1.236, rel=0.01)
    assert billions["llama-3.2-3b"] == pytest.approx(3.213, rel=0.01)
    assert billions["llama-3.1-8b"] == pytest.approx(8.03, rel=0.01)


def test_shares_are_of_the_better_read_rate_and_of_sgemm() -> None:
    row = decode_row(Decode(64, seconds=0.1, model_seconds=0.09), LIMIT, weight_bytes=int(1.5e9))
    assert row.share == pytest.approx(0.5)
    assert row.tokens_per_second == pytest.approx(10)
    assert row.engine_microseconds == pytest.approx(10_000)
    config = SHAPES["smollm2-135m"]
    row = prefill_row(Prefill(512, seconds=2.0), LIMIT, config)
    assert row.share == pytest.approx(prefill_operations(config, 512) / 2.0 / 100e9)
    assert prefill_operations(config, 512) == pytest.approx(117.8e9, rel=0.01)


def test_limits_before_and_after_are_averaged() -> None:
    after = CpuYardsticks(threads=2, read_huge=40e9, read_small=10e9, sgemm=200e9)
    assert between(LIMIT, after) == CpuYardsticks(2, 30e9, 20e9, 150e9)


def test_yardsticks_are_rates() -> None:
    measured = CpuMeter(repeats=1, size=8 << 20).measure(threads=1)
    assert 1e8 < measured.read < 1e13
    assert 1e8 < measured.sgemm < 1e14


def test_random_weights_are_the_same_each_time_and_different_for_each_tensor() -> None:
    first, second = (random_checkpoint("tinystories-656k") for _ in range(2))
    name, other = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"
    assert (first.tensors[name].read() == second.tensors[name].read()).all()
    assert (first.tensors[name].read() != first.tensors[other].read()).any()
    with pytest.raises(NoTokenizerError):
        first.load_tokenizer()


def test_an_unknown_shape_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"'gpt-5'.*llama-3\.2-1b"):
        random_checkpoint("gpt-5")
