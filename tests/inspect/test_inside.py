"""`llm.inside` and `llm.watch`: states, attention and lens are the model's; hooks change them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeAlias

import gpu
import numpy as np
import pytest
import tokenizers
from tokenizers.models import WordLevel

import cullama.inspect.inside
from cullama import LLM, SamplingParams
from cullama.engine.engine import TOKEN_BUDGET
from cullama.errors import ClosedError, ContextLengthError, UsageError
from cullama.inspect.hook import Floats
from cullama.inspect.inside import EMBEDDING, Inside
from cullama.inspect.place import Place
from cullama.model.batch import Batch
from cullama.text.tokenizer import Tokenizer

WriteModel: TypeAlias = Callable[..., Path]

PROMPT = "In the naïve little café 🦙"
LAYERS, HEADS, KV_HEADS, WIDTH, HIDDEN, VOCABULARY = 2, 4, 2, 8, 32, 300
WINDOW = 5


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> LLM:
    return LLM(tiny_model, backend="cpu")


@pytest.fixture
def gpu_llm(tiny_model: Path, request: pytest.FixtureRequest) -> Iterator[LLM]:
    """The tiny model on the GPU, in the type that the test names."""
    gpu.require()
    with closing(LLM(tiny_model, backend="cuda", dtype=request.param)) as llm:
        yield llm


@pytest.fixture(scope="module")
def inside(llm: LLM) -> Inside:
    return llm.inside(PROMPT)


def rows_by_place(llm: LLM, prompt: Any, detail: bool = False) -> dict[str, Floats]:
    rows: dict[str, Floats] = {}

    def keep(place: Place, array: Floats) -> None:
        rows[str(place)] = array

    llm.watch(prompt, keep, detail=detail)
    return rows


def check_attention(llm: LLM, prompt: list[int]) -> None:
    """Attention times values is the attention operator's result, in every layer."""
    inside, rows = llm.inside(prompt), rows_by_place(llm, prompt, detail=True)
    for layer, attention in enumerate(inside.attention):
        qkv = rows[f"layer {layer} · linear qkv"]
        values = qkv[:, -KV_HEADS * WIDTH :].reshape(len(prompt), KV_HEADS, WIDTH)
        shared = values.repeat(HEADS // KV_HEADS, axis=1)
        attn_out = np.einsum("hts,she->the", attention, shared).reshape(len(prompt), -1)
        expected = rows[f"layer {layer} · attention"]
        np.testing.assert_allclose(attn_out, expected, rtol=1e-4, atol=1e-5)


# --- hidden states


def test_arrays_have_the_documented_shapes_and_are_float32(llm: LLM, inside: Inside) -> None:
    tokens = len(llm.tokenizer.encode(PROMPT))
    shapes = {
        (LAYERS + 1, tokens, HIDDEN): inside.hidden,
        (LAYERS, tokens, HEADS, WIDTH): inside.queries,
        (LAYERS, HEADS, tokens, tokens): inside.attention,
        (LAYERS + 1, tokens, VOCABULARY): inside.lens(),
    }
    for shape, array in shapes.items():
        assert array.shape == shape
        assert array.dtype == np.float32
    assert len(inside.tokens) == len(inside.texts) == tokens


def test_hidden_states_are_the_embedding_and_each_layers_output(
    llm: LLM, inside: Inside, tiny_tensors: dict[str, Any]
) -> None:
    embedding = tiny_tensors["model.embed_tokens.weight"]
    np.testing.assert_array_equal(inside.hidden[0], embedding[list(inside.tokens)])
    rows = rows_by_place(llm, PROMPT)
    for layer in range(LAYERS):
        np.testing.assert_array_equal(
            inside.hidden[layer + 1], rows[f"layer {layer} · feed_forward"]
        )
        np.testing.assert_array_equal(inside.queries[layer], rows[f"layer {layer} · project_qkv"])


def test_texts_are_those_of_single_tokens(inside: Inside) -> None:
    assert inside.texts[0] == "<|begin|>"
    assert "".join(inside.texts[1:]).startswith("In the na")
    assert r"\xf0" in "".join(inside.texts)


# --- attention


def test_attention_is_the_softmax_over_rotated_queries_and_keys(llm: LLM, inside: Inside) -> None:
    rows = rows_by_place(llm, PROMPT, detail=True)
    tokens = len(inside.tokens)
    angles = np.outer(np.arange(tokens), 10000.0 ** (-np.arange(0, WIDTH, 2) / WIDTH))[:, None]
    cos, sin = np.cos(angles), np.sin(angles)
    for layer in range(LAYERS):
        qkv = rows[f"layer {layer} · linear qkv"].astype(np.float64)
        heads = qkv.reshape(tokens, -1, WIDTH)[:, : HEADS + KV_HEADS]
        a, b = heads[..., : WIDTH // 2], heads[..., WIDTH // 2 :]
        turned = np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
        q, k = turned[:, :HEADS], turned[:, HEADS:].repeat(HEADS // KV_HEADS, axis=1)
        scores = np.einsum("the,she->hts", q, k) / WIDTH**0.5
        weights = np.exp(scores) * np.tri(tokens)
        expected = weights / weights.sum(-1, keepdims=True)
        np.testing.assert_allclose(inside.attention[layer], expected, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, WIDTH, WIDTH + 1, 40])
def test_attention_times_values_is_the_attention_operators_result(llm: LLM, length: int) -> None:
    check_attention(llm, list(range(3, 3 + length)))


def test_a_sliding_window_masks_earlier_tokens(sliding: LLM) -> None:
    prompt = list(range(3, 24))
    check_attention(sliding, prompt)
    attention = sliding.inside(prompt).attention
    back = np.subtract.outer(np.arange(21), np.arange(21))
    seen = (back >= 0) & (back < WINDOW)
    assert (attention[..., ~seen] == 0).all()
    assert (attention[..., seen] > 0).all()


def test_attention_rows_sum_to_one_and_are_causal(inside: Inside) -> None:
    np.testing.assert_allclose(inside.attention.sum(-1), 1, rtol=1e-6)
    assert (np.triu(inside.attention, 1) == 0).all()


def test_attention_of_one_layer_equals_that_layer_of_all(inside: Inside) -> None:
    np.testing.assert_array_equal(inside.attention_in(-1), inside.attention[1])


# --- the lens


@pytest.mark.parametrize("length", [1, 2, 31, 100])
def test_the_lens_after_the_last_layer_gives_the_models_logits(llm: LLM, length: int) -> None:
    prompt = [7 * i % VOCABULARY for i in range(length)]
    np.testing.assert_array_equal(llm.inside(prompt).lens(-1), llm.logits(prompt))


def test_the_lens_equals_the_logits_also_where_the_engine_chunks_the_prompt(
    sliding: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of equally large batches are summed alike, bit for bit."""
    prompt = [7 * i % VOCABULARY for i in range(TOKEN_BUDGET + 3)]
    sizes: list[int] = []
    ops = sliding.engine.runner.ops
    upload = ops.upload_batch

    def counted(batch: Batch[Any]) -> Batch[Any]:
        sizes.append(len(batch.tokens))
        return upload(batch)

    monkeypatch.setattr(ops, "upload_batch", counted)
    np.testing.assert_array_equal(sliding.inside(prompt).lens(-1), sliding.logits(prompt))
    assert sizes == [TOKEN_BUDGET, 3] * 2


def test_the_lens_is_final_norm_and_head_applied_to_each_state(
    inside: Inside, tiny_tensors: dict[str, Any]
) -> None:
    x = inside.hidden.astype(np.float64)
    normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * tiny_tensors["model.norm.weight"]
    expected = normed @ tiny_tensors["lm_head.weight"].T
    np.testing.assert_allclose(inside.lens(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(inside.lens(1), inside.lens()[1])


def test_the_likeliest_tokens_come_with_their_probabilities(inside: Inside) -> None:
    logits = inside.lens().astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    top = inside.lens_top(3, last=4)
    assert len(top) == LAYERS + 1
    for state, rows in enumerate(top):
        assert len(rows) == 4
        for row, candidates in enumerate(rows, len(inside.tokens) - 4):
            best = np.argsort(-shares[state, row])[:3]
            assert [token for token, _ in candidates] == best.tolist()
            np.testing.assert_allclose([p for _, p in candidates], shares[state, row, best], 1e-4)


@pytest.mark.parametrize("count", [0, -1, VOCABULARY + 1, 1.5, True])
def test_a_count_of_candidates_out_of_range_is_refused(inside: Inside, count: Any) -> None:
    with pytest.raises(UsageError, match="expected a whole number from 1 to 300"):
        inside.lens_top(count)


# --- a hook


@pytest.mark.parametrize("detail", [False, True])
def test_a_hook_that_returns_none_changes_nothing(llm: LLM, detail: bool) -> None:
    seen: list[str] = []
    logits = llm.watch(PROMPT, lambda place, array: seen.append(str(place)), detail=detail)
    np.testing.assert_allclose(logits, llm.logits(PROMPT), rtol=1e-5, atol=1e-6)
    assert ("layer 1 · silu_mul" in seen) == detail
    assert seen[0] == "embedding · gather embedding"


def test_the_model_continues_with_what_a_hook_returns(llm: LLM) -> None:
    """Activation patching: with one prompt's state after layer 0, the rest is that prompt's."""
    one, other = [0, 5, 6, 7], [0, 9, 6, 8]
    donor = llm.inside(one).hidden[1]

    def patch(place: Place, array: Floats) -> Floats | None:
        return donor if (place.layer, place.operator) == (0, "feed_forward") else None

    np.testing.assert_allclose(llm.watch(other, patch), llm.logits(one), rtol=1e-5, atol=1e-6)
    inside = llm.inside(other, patch)
    np.testing.assert_array_equal(inside.hidden[1], donor)
    np.testing.assert_allclose(inside.lens(-1), llm.logits(one), rtol=1e-5, atol=1e-6)


def test_attention_is_computed_from_queries_that_a_hook_replaced(llm: LLM) -> None:
    def zero_queries(place: Place, array: Floats) -> Floats | None:
        return np.zeros_like(array) if place.operator == "project_qkv" else None

    uniform = np.tri(6) / np.arange(1, 7)[:, None]
    attention = llm.inside([3, 1, 4, 1, 5, 9], zero_queries).attention
    np.testing.assert_allclose(attention, np.broadcast_to(uniform, attention.shape), rtol=1e-5)


def test_a_hook_may_change_logits(llm: LLM) -> None:
    def ones(place: Place, array: Floats) -> Floats | None:
        return np.ones_like(array) if place.operator == "logits" else None

    assert (llm.watch([3, 1], ones) == 1).all()


def test_a_hooks_array_is_read_only(llm: LLM) -> None:
    def write(place: Place, array: Floats) -> None:
        array += 1

    with pytest.raises(ValueError, match="read-only"):
        llm.watch(PROMPT, write)
    assert llm.generate([3], SamplingParams(max_tokens=1)).token_ids  # the lock is released


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (np.zeros(3), r"shape \(3,\)"),
        (1.5, r"shape \(\)"),
        ("zero", "str"),
        ([[1], [2, 3]], "list"),
    ],
)
def test_a_hooks_answer_of_another_shape_is_refused(llm: LLM, answer: object, found: str) -> None:
    expected = rf"at embedding · gather embedding is of {found}, expected \(2, 32\) or None"
    with pytest.raises(UsageError, match=expected):
        llm.watch([3, 1], lambda place, array: answer)


def test_a_hook_that_is_not_callable_is_refused(llm: LLM) -> None:
    for run in (llm.watch, llm.inside):
        with pytest.raises(UsageError, match="the hook is 'print', expected a function"):
            run([3, 1], "print")  # type: ignore[arg-type]


def test_running_requests_are_not_disturbed(llm: LLM) -> None:
    params = SamplingParams(max_tokens=12, seed=3, ignore_eos=True)
    expected = llm.generate(PROMPT, params).text
    stream = llm.stream(PROMPT, params)
    begun = next(stream)
    llm.inside("The old clock").lens()
    assert begun + "".join(stream) == expected


# --- what is refused


def test_invalid_prompts_are_refused(llm: LLM) -> None:
    for run in (llm.inside, partial(llm.watch, hook=print)):
        with pytest.raises(UsageError, match="the prompt is empty"):
            run([])
        with pytest.raises(UsageError, match="holds 300, expected token ids below 300"):
            run([300])
        with pytest.raises(ContextLengthError, match="129 tokens does not fit"):
            run([3] * 129)


@pytest.mark.parametrize("index", [LAYERS, -LAYERS - 1, 1.0, None, True])
def test_layers_states_and_heads_out_of_range_are_refused(inside: Inside, index: Any) -> None:
    with pytest.raises(UsageError, match=r"layer is .*, expected a whole number from 0 to 1"):
        inside.attention_in(index)
    with pytest.raises(UsageError, match=r"state is 3, expected a whole number from 0 to 2"):
        inside.lens(3)
    with pytest.raises(UsageError, match=r"head is 4, expected a whole number from 0 to 3"):
        inside.show_attention(0, 4)


def test_arrays_beyond_half_the_memory_are_refused_in_one_line(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = llm.inside([3] * 100)  # 64 KB of states and queries
    monkeypatch.setattr(cullama.inspect.inside, "memory_limit", lambda: 100_000)
    asked: dict[str, Callable[[], object]] = {
        "the state of 2 layers over 100 tokens takes 0.0 GB": lambda: llm.inside([3] * 100),
        "the lens of 3 states of 100 tokens over 300 words": inside.lens,
        "the attention of 2 layers and 4 heads over 100² tokens": lambda: inside.attention,
        "the attention of 4 heads over 100² tokens": lambda: inside.attention_in(0),
    }
    for message, ask in asked.items():
        with pytest.raises(UsageError, match=message) as error:
            ask()
        assert len(str(error.value).splitlines()) == 1


def test_kept_states_outlive_the_model_and_the_lens_raises_closed_error(tiny_model: Path) -> None:
    with LLM(tiny_model, backend="cpu") as llm:
        inside = llm.inside([3, 1, 4])
        attention = inside.attention
    assert inside.hidden.any()
    assert inside.attention is attention
    with pytest.raises(ClosedError):
        inside.lens()


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("gpu_llm", ["float32", "bfloat16"], indirect=True)
def test_a_gpu_gives_the_same_states_attention_and_lens(llm: LLM, gpu_llm: LLM) -> None:
    prompt = list(range(3, 24))
    ours, theirs = llm.inside(prompt), gpu_llm.inside(prompt)
    is_exact = theirs.dtype == np.float32
    tolerance = 1e-4 if is_exact else 0.1
    np.testing.assert_array_equal(theirs.lens(-1), gpu_llm.logits(prompt))
    np.testing.assert_allclose(theirs.hidden, ours.hidden, atol=tolerance)
    np.testing.assert_allclose(theirs.attention, ours.attention, atol=tolerance / 2)
    np.testing.assert_allclose(theirs.attention.sum(-1), 1, atol=1e-5 if is_exact else 0.01)
    silenced = gpu_llm.watch(prompt, lambda place, x: x * 0 if place == EMBEDDING else None)
    np.testing.assert_allclose(silenced, 0, atol=1e-6)


# --- in a notebook


class Page(HTMLParser):
    """Tags and the texts of cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.titles: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.titles += [value or "" for name, value in attributes if name == "title"]


def test_a_notebook_shows_the_lens_cell_by_cell(inside: Inside) -> None:
    page = Page(inside._repr_html_())
    cells = len(inside.tokens) * (LAYERS + 1)
    assert len(page.titles) == cells
    assert page.tags.count("td") == cells + len(inside.tokens)
    assert page.titles[0].startswith("embedding, token 0\n")
    assert page.titles[-1].startswith(f"after layer 1, token {len(inside.tokens) - 1}\n")
    assert repr(inside) == f"Inside({len(inside.tokens)} tokens, 2 layers)"


def test_a_notebook_shows_the_last_tokens_of_a_long_prompt(llm: LLM) -> None:
    inside = llm.inside([3] * 100)
    assert "the last 48 of 100 tokens" in inside._repr_html_()
    assert len(Page(inside._repr_html_()).titles) == 48 * (LAYERS + 1)
    with pytest.raises(UsageError, match="a map of 100 tokens is too fine, expected at most 64"):
        inside.show_attention(0)


def test_maps_show_every_head_or_one(inside: Inside) -> None:
    assert Page(inside.show_attention(1)._repr_html_()).tags.count("svg") == HEADS
    one = inside.show_attention(1, 2)._repr_html_()
    assert Page(one).tags.count("svg") == 1
    seen = int((inside.attention_in(1)[2] >= 0.004).sum())
    assert Page(one).tags.count("title") == seen


def test_tokens_that_spell_html_stay_text(inside: Inside) -> None:
    hostile = '"><img src=x onerror=alert(1)><script>'
    words = tokenizers.Tokenizer(WordLevel({f"{hostile}{i}": i for i in range(VOCABULARY)}))
    texts = (hostile,) * len(inside.tokens)
    inside = replace(inside, texts=texts, tokenizer=Tokenizer(words))
    for html in (inside._repr_html_(), inside.show_attention(0, 0)._repr_html_()):
        assert hostile[:5] not in html
        assert set(Page(html).tags) <= {
            *("div", "span", "table", "tr", "th", "td", "svg", "g", "rect", "text", "title")
        }


def test_a_model_without_a_tokenizer_shows_token_ids(
    tmp_path_factory: pytest.TempPathFactory, write_model: WriteModel
) -> None:
    with LLM(write_model(tmp_path_factory.mktemp("models") / "ids"), backend="cpu") as llm:
        inside = llm.inside([3, 1, 4])
        assert inside.texts == ("#3", "#1", "#4")
        assert "#4" in inside._repr_html_()
