"""Kernels are swapped in a running model once they are right; the old one stays otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gpu
import pytest
from kernel_texts import rms_norm

from cullama import LLM, SamplingParams
from cullama.cuda.operators import CudaOperators
from cullama.errors import UsageError
from cullama.inspect.kernels.source import KernelSourceError, kernel_source

GREEDY = SamplingParams(max_tokens=6, temperature=0)
BARRIER, OUT = "  __syncthreads();\n", "row[i] * scale * weight[i]"


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> Iterator[LLM]:
    try:
        kernel_source(rms_norm())
    except KernelSourceError as error:
        pytest.skip(str(error))
    with gpu.started_emulation(), LLM(tiny_model, backend="emulated", dtype="float32") as llm:
        yield llm


def operators(llm: LLM) -> CudaOperators:
    with llm.engine.exclusive() as access:
        assert isinstance(access.ops, CudaOperators)
        return access.ops


def tokens(llm: LLM) -> list[int]:
    return list(llm.generate([1, 2, 3], GREEDY).token_ids)


def launched(llm: LLM) -> str:
    return operators(llm).kernels("rms_norm", "rms_norm_f32").name


def test_a_right_kernel_is_launched_until_it_is_undone(llm: LLM) -> None:
    before = tokens(llm)
    made = llm.kernels.replace("rms_norm", rms_norm("rms_norm_f32__mine"))
    assert launched(llm) == "rms_norm_f32__mine"
    assert tokens(llm) == before
    assert 0 < made.tried.error <= made.tried.allowed
    assert made.tried.tests == ("rms_norm", "logits")
    assert made.tried.speedup < 1  # its sum takes 256 steps
    assert made.tried.after.counts is not None
    assert made.tried.after.counts.kernel == "rms_norm_f32__mine"
    assert "rms_norm_f32__mine in the place of rms_norm_f32" in repr(llm.kernels)
    assert "predicted for h200" in repr(made)
    made.undo()
    made.undo()
    assert launched(llm) == "rms_norm_f32"
    assert repr(llm.kernels) == "no kernel is replaced"
    assert repr(made).endswith("undone")


def test_trying_ends_with_the_block(llm: LLM) -> None:
    with llm.kernels.trying("rms_norm", rms_norm("mine"), card="a100") as made:
        assert launched(llm) == "mine"
        assert "predicted for a100" in repr(made)
    assert launched(llm) == "rms_norm_f32"


def test_captured_steps_are_captured_again(llm: LLM) -> None:
    """With a kernel that the check would not let in, so that it shows which one ran."""
    before = tokens(llm)
    wrong = kernel_source(rms_norm("zero", OUT, "0.f * row[i] * scale"))
    undo = operators(llm).kernels.replace("rms_norm_f32", wrong.ptx, "zero")
    with llm.engine.exclusive() as access:
        access.clear_prefix_cache()
    during = tokens(llm)
    undo()
    with llm.engine.exclusive() as access:
        access.clear_prefix_cache()
    assert during != before
    assert tokens(llm) == before


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (rms_norm(old=BARRIER), r"kernel\.cu:\d+: race between threads: .*; the old kernel stays"),
        (rms_norm(old=OUT, new="row[i] * scale"), "wrong result: rms_norm of .*; the old kernel"),
        (rms_norm(old="float sum", new="flot sum"), 'cu:4 does not compile: identifier "flot"'),
    ],
)
def test_a_kernel_that_is_not_right_leaves_the_old_one(llm: LLM, source: str, said: str) -> None:
    with pytest.raises(KernelSourceError, match=said) as raised:
        llm.kernels.replace("rms_norm", source)
    assert "\n" not in str(raised.value)
    assert launched(llm) == "rms_norm_f32"


@pytest.mark.parametrize(
    ("operator", "name", "said"),
    [
        ("norm", "rms_norm_f32", "there is no operator 'norm'"),
        ("rms_norm", "rms_norm_f32__other", "has no rms_norm_f32__none, expected one of rms_norm"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    llm: LLM, operator: str, name: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        llm.kernels.replace(operator, rms_norm(name), kernel="rms_norm_f32__none")


def test_on_a_gpu_results_are_compared_and_times_measured(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens on a real GPU, on the emulated one."""
    monkeypatch.setattr("cullama.inspect.kernels.replacing.is_started", lambda: False)
    with llm.kernels.trying("rms_norm", rms_norm("mine")) as made:
        assert made.tried.measured_by.startswith("measured on ")
        assert 0 < made.tried.error <= made.tried.allowed
        assert made.tried.after.microseconds > 0
    with pytest.raises(KernelSourceError, match=r"wrong result: rms_norm of .* old kernel stays"):
        llm.kernels.replace("rms_norm", rms_norm("mine", OUT, "row[i]"))


def test_a_model_on_the_cpu_is_told_what_to_use(tiny_model: Path) -> None:
    with (
        LLM(tiny_model, backend="cpu:numpy") as llm,
        pytest.raises(UsageError, match='backend="cuda", or with backend="emulated"'),
    ):
        llm.kernels.replace("rms_norm", rms_norm())
