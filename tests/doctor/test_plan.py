"""Which options of an examination are accepted, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest

from cullama.doctor.plan import DoctorPlan
from cullama.errors import UsageError


def test_auto_is_the_cpu_and_every_gpu_and_needs_none() -> None:
    plan = DoctorPlan()
    assert plan.has_cpu
    assert plan.has_cuda
    assert not plan.needs_cuda
    assert plan.gpu is None
    assert plan.cpu_dtypes == ("float32",)
    assert plan.cuda_dtypes == ("float32", "float16", "bfloat16")


def test_cuda_leaves_out_the_cpu_and_needs_a_gpu() -> None:
    plan = DoctorPlan(backend="cuda:3", dtype="float16")
    assert not plan.has_cpu
    assert plan.needs_cuda
    assert plan.gpu == 3
    assert plan.cuda_dtypes == ("float16",)


def test_cpu_leaves_out_the_gpus() -> None:
    assert not DoctorPlan(backend="cpu").has_cuda


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"backend": "gpu"}, "'gpu'"),
        ({"backend": "cuda:x"}, "'cuda:x'"),
        ({"backend": "cuda:"}, "'cuda:'"),
        ({"backend": "cpu:1"}, "'cpu:1'"),
        ({"backend": "cuda", "threads": 1}, "for the CPU"),
        ({"backend": "cpu", "threads": 99_999}, "99999"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        DoctorPlan(**options)
