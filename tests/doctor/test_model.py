"""The model of `--model` is described, and the self-test takes its sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from cullama.doctor.model import examine_model
from cullama.doctor.plan import DoctorPlan
from cullama.doctor.selftest import self_test
from cullama.inspect.operators.fixture import MODEL

WriteModel: TypeAlias = Callable[..., Path]


def test_sizes_are_the_models_within_its_context(tiny_model: Path) -> None:
    fact, sizes = examine_model(str(tiny_model))
    assert fact.problem is None
    assert fact.details["tokens"] == 300
    assert fact.found.endswith(" · 300 tokens")
    assert fact.details["weight_bytes"]["float32"] == 4 * fact.details["parameters"]
    assert (sizes.hidden, sizes.inner, sizes.heads, sizes.kv_heads) == (32, 48, 4, 2)
    assert (sizes.rows, sizes.context, sizes.long_context) == (128, 128, 128)


def test_its_tokenizer_is_examined(tmp_path: Path, write_model: WriteModel) -> None:
    bare = write_model(tmp_path / "bare")
    fact, _ = examine_model(str(bare))
    assert fact.problem is None
    assert "no tokenizer: token ids only" in fact.found
    (bare / "tokenizer.json").write_text("{}")
    fact, sizes = examine_model(str(bare))
    assert fact.problem is not None
    assert "tokenizer.json" in fact.found
    assert sizes is MODEL


def test_operators_are_tested_in_the_models_sizes(tiny_model: Path) -> None:
    sizes = examine_model(str(tiny_model))[1]
    test = self_test("cpu", "float32", DoctorPlan(backend="cpu"), sizes)
    assert test.problems == []
    assert test.sizes in ("tiny", "small")  # the latter on a very slow machine
    assert {row.operator: row.shape for row in test.rows}["rms_norm"] in ("128×32", "40×48")


@pytest.mark.parametrize("name", ["nothing/at/all", ""])
def test_a_model_that_cannot_be_read_is_a_problem(name: str) -> None:
    fact, sizes = examine_model(name)
    assert fact.problem is not None
    assert "--model" in fact.problem.remedy
    assert sizes is MODEL
