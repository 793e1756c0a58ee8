"""Runs the whole examination: facts first, then a self-test of every backend and storage type."""

from __future__ import annotations

from collections.abc import Iterator

from ..inspect.operators.fixture import MODEL
from .findings import Fact
from .gpus import check_number, fact_about_auto, gpu_facts
from .host import host_facts
from .model import examine_model
from .plan import DoctorPlan
from .selftest import SelfTest, self_tests
from .stored import stored_files


def examine(plan: DoctorPlan) -> Iterator[Fact | SelfTest]:
    """Yield facts and self-tests as they are made.

    Raises:
        UsageError: there is no GPU of the number asked for.
    """
    usable: list[int] = []
    check_number(plan)
    yield from host_facts()
    yield from stored_files()
    if plan.has_cuda:
        yield from gpu_facts(plan, usable)
    yield from fact_about_auto(plan)
    sizes = MODEL
    if plan.model is not None:
        fact, sizes = examine_model(plan.model)
        yield fact
    yield from self_tests(plan, usable, sizes)
