"""Comparing sides that agree, and sides with planted faults, which must be found."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import plant

from cullama import LLM, SamplingParams
from cullama.errors import ClosedError, ContextLengthError, NoTokenizerError, UsageError
from cullama.files.tensor import HostArray
from cullama.inspect.diff import Comparison, Side, compare, record

PROMPT = "In the naïve little café 🦙"
LAYERS = 2


def first_places(comparison: Comparison) -> tuple[str, str]:
    """Where the sides first differ: by own error, and by accumulated error."""
    assert comparison.first is not None
    assert comparison.first_accumulated is not None
    return str(comparison.first.place), str(comparison.first_accumulated.place)


# --- sides that agree


@pytest.mark.parametrize("detail", [False, True])
def test_a_model_is_identical_with_itself(llm: LLM, another: LLM, detail: bool) -> None:
    comparison = llm.diff(another, PROMPT, detail=detail)
    assert comparison.are_identical
    assert comparison.agree
    assert comparison.first is comparison.first_accumulated is None
    assert not comparison.logits.divergence.any()
    for operation in comparison.operations:
        for figures in (operation.own, operation.accumulated):
            assert (figures.max_error, figures.rms_error, figures.error) == (0, 0, 0)
            assert figures.point is None
            assert figures.rms > 0


def test_every_operator_call_is_recorded_in_order(llm: LLM) -> None:
    layer = ["project_qkv", "attention", "linear output", "feed_forward"]
    names = [each.place.name for each in llm.diff(llm, PROMPT).operations]
    tables = ["gather embedding", "gather rope_table"]
    assert names == [*tables, *layer * LAYERS, "gather rows", "logits"]


def test_in_detail_composite_operators_are_spelled_out(numpys: LLM) -> None:
    comparison = numpys.diff(numpys, PROMPT, detail=True)
    (layer,) = (section for section in comparison.sections if section.name == "layer 1")
    assert [each.place.name for each in layer.operations] == [
        *("rms_norm attention_norm", "linear qkv", "rope_and_store", "attention"),
        *("linear output", "rms_norm mlp_norm", "linear gate_up", "silu_mul", "linear down"),
    ]
    assert comparison.bypassed == (("project_qkv", "feed_forward"),) * 2
    assert numpys.diff(numpys, PROMPT).bypassed == ((), ())


@pytest.mark.parametrize("detail", [False, True])
def test_a_coarser_type_is_within_its_tolerance_and_not_within_a_finer_one(
    llm: LLM, coarse: LLM, detail: bool
) -> None:
    comparison = llm.diff(coarse, PROMPT, detail=detail)
    assert comparison.agree
    assert not comparison.are_identical
    assert comparison.tolerance == (0.032, "bfloat16")
    assert coarse.diff(llm, PROMPT).tolerance == (0.032, "bfloat16")
    assert not llm.diff(coarse, PROMPT, detail=detail, tolerance=1e-5).agree


@pytest.mark.parametrize("batches", [(1, 2), (1, 8), (3, 1)])
@pytest.mark.parametrize("chunks", [(0, 1), (0, 5), (7, 3), (0, 1000)])
def test_batches_and_chunks_agree(
    llm: LLM, batches: tuple[int, int], chunks: tuple[int, int]
) -> None:
    comparison = llm.diff(llm, PROMPT, batches=batches, chunks=chunks)
    assert comparison.agree
    assert comparison.operations[-1].accumulated.relative < 2e-6


def test_the_rows_compared_are_those_of_the_prompt(llm: LLM) -> None:
    """Whatever else is in the batch."""
    tokens = llm.tokenizer.encode(PROMPT)
    for side in (Side(llm), Side(llm, 4), Side(llm, 5, 3)):
        (*_, logits) = record(side, tokens).rows.values()
        np.testing.assert_allclose(logits, llm.logits(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prompt", [[7], [1, 80, 147], "🦙", "", "é" * 20])
def test_prompts_of_all_kinds(llm: LLM, coarse: LLM, prompt: Any) -> None:
    comparison = llm.diff(coarse, prompt, batches=(1, 2))
    assert comparison.agree
    assert len(comparison.tokens) == len(comparison.texts) == len(comparison.logits.divergence)


@pytest.mark.parametrize("detail", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_arrays_of_a_device_are_only_downloaded(
    llm: LLM, elsewhere: LLM, detail: bool, batch: int
) -> None:
    for first, second in ((llm, elsewhere), (elsewhere, llm)):
        comparison = first.diff(second, PROMPT, detail=detail, batches=(1, batch), chunks=(0, 4))
        assert comparison.tolerance.source == "bfloat16"
        assert comparison.agree, comparison.verdict
        assert 1e-4 < comparison.operations[-1].own.relative < 1e-2
    itself = elsewhere.diff(elsewhere, PROMPT, detail=detail, batches=(1, batch))
    assert itself.agree


# --- planted faults


def off_by(amount: float, row: int = 3, column: int = 5) -> Callable[[HostArray], None]:
    def damage(result: HostArray) -> None:
        result.reshape(len(result), -1)[row, column] += amount

    return damage


# Operator → its calls in a pass, the one to be spoiled, where that is in detail, and where not.
FAULTS: dict[str, tuple[int, int, str, str]] = {
    "embed": (1, 0, "embedding · gather embedding", "embedding · gather embedding"),
    "rms_norm": (5, 2, "layer 1 · rms_norm attention_norm", "layer 1 · project_qkv"),
    "linear": (9, 6, "layer 1 · linear gate_up", "layer 1 · feed_forward"),
    "rope_and_store": (2, 1, "layer 1 · rope_and_store", "layer 1 · project_qkv"),
    "attention": (2, 0, "layer 0 · attention", "layer 0 · attention"),
    "silu_mul": (2, 1, "layer 1 · silu_mul", "layer 1 · feed_forward"),
}


@pytest.mark.parametrize("operator", FAULTS)
@pytest.mark.parametrize("detail", [False, True])
def test_a_fault_is_found_at_its_operator(
    llm: LLM, another: LLM, operator: str, detail: bool
) -> None:
    calls, nth, in_detail, whole = FAULTS[operator]
    place = in_detail if detail else whole
    comparison = llm.diff(plant(another, operator, nth, calls, off_by(2.0)), PROMPT, detail=detail)
    assert first_places(comparison) == (place, place)
    others = {str(each.place) for each in comparison.parting[1:]}
    keys_are_wrong = operator == "rms_norm" and not detail
    assert others == ({"layer 1 · attention"} if keys_are_wrong else set()), "they are innocent"
    assert comparison.first is not None
    assert comparison.first.own.point is not None
    assert comparison.first.own.point.token == 3
    assert place in comparison.verdict


@pytest.mark.parametrize(("operator", "calls"), [("attention", 2), ("silu_mul", 2)])
def test_one_wrong_element_is_found_to_the_column(
    llm: LLM, another: LLM, operator: str, calls: int
) -> None:
    comparison = llm.diff(plant(another, operator, 1, calls, off_by(0.5)), PROMPT, detail=True)
    assert comparison.first is not None
    point, max_error = comparison.first.own.point, comparison.first.own.max_error
    assert point is not None
    assert (point.token, point.column) == (3, 5)
    assert point.found - point.expected == pytest.approx(0.5, rel=1e-6)
    assert max_error == pytest.approx(0.5, rel=1e-6)


def test_a_fault_of_the_first_side_is_found_too(llm: LLM, another: LLM) -> None:
    comparison = plant(another, "attention", 0, 2, off_by(1.0)).diff(llm, PROMPT)
    assert first_places(comparison) == ("layer 0 · attention",) * 2


def test_a_wrong_value_in_the_cache_shows_in_the_attention(llm: LLM, another: LLM) -> None:
    """What is in a cache is its backend's own affair."""
    ops = another.engine.runner.ops
    sound = ops.rope_and_store

    def wrong(qkv: HostArray, *rest: Any) -> HostArray:
        spoiled = qkv.copy()
        spoiled[2, -1] += 3.0  # of the last head's value
        return sound(spoiled, *rest)

    ops.rope_and_store = wrong  # type: ignore[assignment, method-assign]
    comparison = llm.diff(another, PROMPT, detail=True)
    assert first_places(comparison) == ("layer 0 · attention",) * 2
    assert comparison.first is not None
    tokens = np.flatnonzero(comparison.first.own.token_errors > 1e-5)
    assert tokens.min() == 2, "those before it do not hear it"


def test_a_fault_that_only_a_larger_batch_shows(llm: LLM, another: LLM) -> None:
    def damage(result: HostArray) -> None:
        if len(result) > len(llm.tokenizer.encode(PROMPT)):
            result *= 1.01

    plant(another, "attention", 1, 2, damage)
    assert llm.diff(another, PROMPT).are_identical
    assert first_places(llm.diff(another, PROMPT, batches=(1, 2)))[0] == "layer 1 · attention"


def test_small_errors_in_every_layer_accumulate_beyond_the_tolerance(
    llm: LLM, another: LLM
) -> None:
    """Each within the tolerance; together, they are not: the first to be beyond is named."""

    def damage(result: HostArray) -> None:
        result *= 1 + 1.5e-5

    comparison = llm.diff(plant(another, "feed_forward", 0, 1, damage), PROMPT)
    assert comparison.agree
    assert comparison.first_accumulated is not None
    assert comparison.first_accumulated.place.layer == 1


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_nan_and_infinity_are_named(llm: LLM, another: LLM, value: float) -> None:
    def damage(result: HostArray) -> None:
        result[4, 7] = value

    comparison = llm.diff(plant(another, "attention", 1, 2, damage), PROMPT)
    assert first_places(comparison) == ("layer 1 · attention",) * 2
    assert comparison.first is not None
    assert comparison.first.own.error == inf
    assert comparison.first.own.not_finite == (0, 1)
    assert comparison.first.own.point is not None
    assert comparison.first.own.point[:2] == (4, 7)
    assert f"found {value}, expected " in comparison.verdict
    assert "the second side holds them from layer 1 · attention on" in comparison.verdict


def test_nan_on_both_sides_is_reported_and_no_difference(llm: LLM, another: LLM) -> None:
    def damage(result: HostArray) -> None:
        result[4, 7] = nan

    plant(another, "attention", 1, 2, damage)
    comparison = another.diff(another, PROMPT)
    assert comparison.are_identical
    assert "both sides hold them from layer 1 · attention on" in comparison.verdict
    assert not comparison.logits.are_numbers


# --- other files


@pytest.fixture(scope="module")
def from_gguf(write_gguf: Callable[[str], Path]) -> dict[str, LLM]:
    return {
        kind: LLM(write_gguf(kind), backend="cpu", keep_converted=False) for kind in ("F32", "Q8_0")
    }


def test_an_f32_gguf_is_identical(llm: LLM, from_gguf: dict[str, LLM]) -> None:
    """Also for a text: the file has no tokenizer, and the first side's encodes it."""
    assert llm.diff(from_gguf["F32"], PROMPT).are_identical


def test_a_quantised_gguf_differs_at_the_first_matrix(llm: LLM, from_gguf: dict[str, LLM]) -> None:
    comparison = llm.diff(from_gguf["Q8_0"], PROMPT, detail=True)
    assert first_places(comparison) == ("embedding · gather embedding",) * 2
    assert comparison.operations[-1].accumulated.relative < 0.1
    innocent = {"rms_norm", "silu_mul", "rope_and_store"}
    assert innocent.isdisjoint(each.place.operator for each in comparison.parting)


# --- misuse


def test_models_of_other_shapes_are_refused(
    llm: LLM, tmp_path: Path, write_model: Callable[..., Path], tokenizer_file: Path
) -> None:
    other = LLM(
        write_model(tmp_path / "m", tokenizer=tokenizer_file, num_hidden_layers=3), backend="cpu"
    )
    with pytest.raises(
        UsageError, match=r"layers of the second side's model is 3, of the first's 2"
    ):
        llm.diff(other, PROMPT)


def test_vocabularies_that_differ_are_refused(
    llm: LLM, tmp_path: Path, write_model: Callable[..., Path], tokenizer_file: Path
) -> None:
    larger = LLM(
        write_model(tmp_path / "large", tokenizer=tokenizer_file, vocab_size=301), backend="cpu"
    )
    with pytest.raises(UsageError, match="vocab_size of the second side's model is 301"):
        llm.diff(larger, PROMPT)


def test_a_prompt_that_the_tokenizers_encode_differently_is_refused(
    llm: LLM, another: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = llm.tokenizer.encode(PROMPT)
    monkeypatch.setattr(another.tokenizer, "encode", lambda text, **options: [2, *tokens])
    with pytest.raises(UsageError, match=r"second side's tokenizer reads the prompt as \[2, 0, "):
        llm.diff(another, PROMPT)
    assert llm.diff(another, tokens).are_identical, "ids are ids"


def test_token_ids_suffice_for_models_without_a_tokenizer(
    tmp_path: Path, write_model: Callable[..., Path]
) -> None:
    bare = LLM(write_model(tmp_path / "bare", tokenizer=None), backend="cpu")
    comparison = bare.diff(bare, [1, 80, 147], chunks=(0, 1))
    assert comparison.texts == ("#1", "#80", "#147")
    assert comparison.agree
    with pytest.raises(NoTokenizerError):
        bare.diff(bare, PROMPT)


@pytest.mark.parametrize(
    ("prompt", "options", "error", "named"),
    [
        ([], {}, UsageError, "the prompt is empty"),
        ([300], {}, UsageError, "300"),
        ([True], {}, UsageError, "True"),
        (7, {}, UsageError, "a text or token ids"),
        ([1] * 200, {}, ContextLengthError, "200 tokens"),
        (PROMPT, {"batches": 8}, UsageError, r"batches is 8, expected a number for each side"),
        (PROMPT, {"chunks": (1,)}, UsageError, r"chunks is \(1,\), expected a number for each"),
        (PROMPT, {"batches": (1, 0)}, UsageError, "batch is 0"),
        (PROMPT, {"batches": (True, 1)}, UsageError, "batch is True"),
        (PROMPT, {"chunks": (-1, 0)}, UsageError, "chunk is -1"),
        (PROMPT, {"tolerance": nan}, UsageError, "tolerance is nan"),
        (PROMPT, {"tolerance": -1e-5}, UsageError, "tolerance is -1e-05"),
        (PROMPT, {"tolerance": "small"}, UsageError, "tolerance is 'small'"),
    ],
)
def test_misuse_is_named(
    llm: LLM, prompt: Any, options: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        llm.diff(llm, prompt, **options)


def test_a_prompt_longer_than_the_second_sides_context_is_refused(
    llm: LLM, tiny_model: Path
) -> None:
    with (
        LLM(tiny_model, backend="cpu", context_length=4) as short,
        pytest.raises(ContextLengthError),
    ):
        llm.diff(short, PROMPT)


def test_another_object_than_an_llm_is_refused(llm: LLM) -> None:
    other: Any = "a path"
    with pytest.raises(UsageError, match="other is 'a path', expected an LLM"):
        llm.diff(other, PROMPT)


def test_a_closed_model_raises_closed_error(llm: LLM, another: LLM) -> None:
    another.close()
    with pytest.raises(ClosedError):
        llm.diff(another, PROMPT)


# --- what is left behind


def test_a_recording_outlives_its_model(coarse: LLM, tiny_model: Path) -> None:
    with LLM(tiny_model, backend="cpu") as first:
        recording = record(Side(first), PROMPT)
    assert compare(recording, Side(coarse)).agree


def test_running_requests_are_not_disturbed(another: LLM) -> None:
    prompt = "Once upon a time"
    params = SamplingParams(seed=3, max_tokens=12, ignore_eos=True)
    expected = another.generate(prompt, params).text
    stream = another.stream(prompt, params)
    begun = next(stream)
    another.diff(another, PROMPT, batches=(1, 3))
    assert begun + "".join(stream) == expected
