"""Findings as text, and as JSON."""

from __future__ import annotations

import json
import math

from cullama.doctor.findings import Fact, failing
from cullama.doctor.report import DoctorReport, as_text, verdict
from cullama.doctor.selftest import OperatorResult, SelfTest

RIGHT = OperatorResult("add", "40×48, 48", 1e-7, 1e-5, 2e-6, 50e9, None, 0.5)
WRONG = OperatorResult("matmul", "4×4", math.inf, 1e-5, 1e-3, None, 3e9, None)
FAILED = OperatorResult("mul", failure="it is tired")


def outcome(*rows: OperatorResult, failure: str = "") -> SelfTest:
    return SelfTest("cpu", "float32", "cpu · float32", "small", 1e11, rows, failure)


def test_a_fact_is_one_line_with_its_remedy_below() -> None:
    assert as_text(Fact("cuBLAS", "not found", remedy="pip install it")) == (
        "  cuBLAS       not found\n               → pip install it"
    )


def test_a_problem_is_marked_and_has_its_remedy_below() -> None:
    assert as_text(failing("driver", "is 470", "525 or newer", "install one")) == (
        "✗ driver       is 470\n               expected 525 or newer\n               → install one"
    )


def test_no_row_of_the_table_is_cut_off() -> None:
    text = as_text(outcome(RIGHT, WRONG, FAILED))
    title, *_, right, wrong, failed = [line for line in text.splitlines() if line.strip()]
    assert title == "cpu · float32 · small sizes · copies 100.0 GB/s"
    assert right.split() == [
        *("✓", "add", "40×48,", "48", "1.0e-07", "1e-05", "2.0", "50.0", "GB/s", "50%")
    ]
    assert wrong.split() == ["✗", "matmul", "4×4", "inf", "1e-05", "1,000.0", "3.0", "GFLOP/s"]
    assert failed.split() == ["✗", "mul", "failed"]


def test_a_self_test_without_results_has_no_table() -> None:
    assert as_text(outcome(failure="no room")) == "cpu · float32 · small sizes · copies 100.0 GB/s"


def test_the_verdict_names_wrong_operators_and_counts_all_problems() -> None:
    report = DoctorReport.of(
        [failing("driver", "is 470", "525", "install one"), outcome(WRONG, FAILED)]
    )
    first, *_, last = verdict(report).splitlines()
    assert first == (
        "✗ self-test cpu float32: matmul is wrong: error NaN, at most 1e-05 expected; "
        "mul: it is tired"
    )
    assert last == "2 problems"
    assert not report.is_healthy
    assert verdict(DoctorReport.of([Fact("a", "b"), outcome(RIGHT)])) == "nothing is wrong"


def test_many_wrong_operators_are_counted_rather_than_listed() -> None:
    (problem,) = outcome(*[WRONG] * 10).problems
    assert problem.found.count("matmul") == 4
    assert problem.found.endswith("; and 6 more")


def test_json_holds_all_findings_and_no_infinities() -> None:
    report = DoctorReport.of([Fact("a", "b", {"c": 1}), outcome(RIGHT, WRONG, FAILED)])
    document = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert document["healthy"] is False
    assert document["facts"] == [
        {"name": "a", "found": "b", "details": {"c": 1}, "remedy": "", "is_problem": False}
    ]
    assert document["problems"][0].keys() == {"what", "found", "expected", "remedy"}
    right, wrong, failed = document["self_tests"][0]["rows"]
    assert right["is_right"] is True
    assert wrong["error"] is None
    assert failed["failure"] == "it is tired"
