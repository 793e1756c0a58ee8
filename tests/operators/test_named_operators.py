"""The larger words: what they mean, and that a backend's own version means the same.

Each is compared with the float64 reference, with its default body run on the same backend, and
with the smaller operators it is spelled out of.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import reference
from reference import Floats
from subject import EPS, Memory, Subject, chunk_of

from cullama.model.layer import Attention, Layer, Linear, Mlp, Norm
from cullama.model.operators import Operators
from cullama.sampling.draw import Draw
from cullama.sampling.params import SamplingParams
from cullama.sampling.sampler import sample as sample_on_host

WIDTHS = {"D": 31, "F": 33, "E": 6}
HEADS, KV_HEADS = 4, 2


class Parts(NamedTuple):
    """A layer, on the host and on the device."""

    host: dict[str, Floats]
    device: Layer[Any, Any]


def random_layer(subject: Subject, rng: np.random.Generator, biases: bool, norms: bool) -> Parts:
    model, hidden, width = WIDTHS.values()
    qkv_size = (HEADS + 2 * KV_HEADS) * width
    matrices = {"qkv": (qkv_size, model), "gate_up": (2 * hidden, model), "down": (model, hidden)}
    vectors = {"attention_norm": model, "mlp_norm": model}
    if biases:
        vectors |= {"qkv_bias": qkv_size, "gate_up_bias": 2 * hidden, "down_bias": model}
    if norms:
        vectors |= {"q_norm": width, "k_norm": width}
    host = {name: rng.normal(size=shape) * shape[1] ** -0.5 for name, shape in matrices.items()}
    host |= {name: rng.uniform(0.5, 1.5, size) for name, size in vectors.items()}
    host = {name: subject.rounded(array) for name, array in host.items()}
    on_device = {
        name: subject.weight(array) if array.ndim == 2 else subject.vector(array)
        for name, array in host.items()
    }
    return Parts(host, layer_of(on_device))


def layer_of(arrays: dict[str, Any]) -> Layer[Any, Any]:
    """Named as on the host; biases and head norms may be missing."""

    def linear(name: str) -> Linear[Any, Any]:
        return Linear(arrays[name], arrays.get(f"{name}_bias"))

    attention = Attention(
        norm=Norm(arrays["attention_norm"], EPS),
        qkv=linear("qkv"),
        q_norm=Norm(arrays["q_norm"], EPS) if "q_norm" in arrays else None,
        k_norm=Norm(arrays["k_norm"], EPS) if "k_norm" in arrays else None,
        output=linear("qkv"),  # which no operator here reads
    )
    mlp = Mlp(Norm(arrays["mlp_norm"], EPS), linear("gate_up"), linear("down"))
    return Layer(attention, mlp)


@pytest.mark.parametrize("tokens", [1, 3, 33])
@pytest.mark.parametrize("biases", [False, True])
def test_feed_forward(
    subject: Subject, rng: np.random.Generator, tokens: int, biases: bool
) -> None:
    host, layer = random_layer(subject, rng, biases, norms=False)
    x = subject.rounded(rng.normal(size=(tokens, WIDTHS["D"])))
    on_device, ops = subject.activation(x), subject.ops
    actual = ops.feed_forward(on_device, layer.mlp)

    normed = reference.rms_norm(x, host["mlp_norm"], EPS)
    inner = reference.silu_mul(reference.linear(normed, host["gate_up"], host.get("gate_up_bias")))
    subject.check(actual, reference.linear(inner, host["down"], host.get("down_bias"), x))

    subject.check(actual, subject.floats(Operators.feed_forward(ops, on_device, layer.mlp)))
    normed = ops.rms_norm(on_device, layer.mlp.norm)
    inner = ops.silu_mul(ops.linear(normed, layer.mlp.gate_up))
    spelled_out = ops.linear(inner, layer.mlp.down, on_device)
    subject.check(actual, subject.floats(spelled_out))
    np.testing.assert_array_equal(subject.floats(on_device), x)


@pytest.mark.parametrize("tokens", [1, 3, 33])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("norms", [False, True])
def test_project_qkv(
    subject: Subject, rng: np.random.Generator, tokens: int, biases: bool, norms: bool
) -> None:
    host, layer = random_layer(subject, rng, biases, norms)
    x = subject.rounded(rng.normal(size=(tokens, WIDTHS["D"])))
    angles = rng.uniform(-3, 3, (tokens, WIDTHS["E"] // 2))

    memory = Memory(subject, HEADS, KV_HEADS, WIDTHS["E"])
    batch = memory.batch(chunk_of(tokens, 0, [5, 2]))
    normed = reference.rms_norm(x, host["attention_norm"], EPS)
    qkv = reference.linear(normed, host["qkv"], host.get("qkv_bias"))
    expected = reference.rope_and_store(
        qkv,
        (HEADS, KV_HEADS),
        angles,
        batch.slots.tolist(),
        memory.expected,
        (host["q_norm"], host["k_norm"]) if norms else None,
        EPS,
    )

    def project(how: Any) -> Any:
        """q, once the keys and values have been seen to be in the cache."""
        device_batch = subject.ops.upload_batch(batch)
        cos_sin = subject.ops.upload(reference.cos_sin(angles))
        # What an earlier way left there must not help this one.
        memory.store_in(0, batch, np.full((tokens, 48), 99.0))
        operands = subject.activation(x), layer.attention, cos_sin, memory.cache.layers[0]
        q = how(*operands, device_batch)
        memory.check_attention(batch, subject.rounded(expected), roundings=2)
        return q

    def spelled_out(x: Any, attention: Attention[Any, Any], *rest: Any) -> Any:
        normed = subject.ops.rms_norm(x, attention.norm)
        qkv = subject.ops.linear(normed, attention.qkv)
        return subject.ops.rope_and_store(qkv, attention, *rest)

    def default(*operands: Any) -> Any:
        return Operators.project_qkv(subject.ops, *operands)

    actual = project(subject.ops.project_qkv)
    subject.check(actual, expected)
    subject.check(actual, subject.floats(project(default)))
    subject.check(actual, subject.floats(project(spelled_out)))


@pytest.mark.parametrize("vocabulary", [7, 128, 257])
@pytest.mark.parametrize("rows", [1, 3])
def test_logits(subject: Subject, rng: np.random.Generator, rows: int, vocabulary: int) -> None:
    width = WIDTHS["D"]
    x = subject.rounded(rng.normal(size=(rows, width)))
    norm = subject.rounded(rng.uniform(0.5, 1.5, width))
    head = subject.rounded(rng.normal(size=(vocabulary, width)))
    projection: Linear[Any, Any] = Linear(subject.weight(head))
    operands = subject.activation(x), subject.norm(norm), projection
    actual = subject.ops.logits(*operands)
    subject.check(actual, reference.linear(reference.rms_norm(x, norm, EPS), head))
    subject.check(actual, subject.floats(Operators.logits(subject.ops, *operands)))
    normed = subject.ops.rms_norm(*operands[:2])
    subject.check(actual, subject.floats(subject.ops.linear(normed, operands[2])))
    assert subject.ops.download(actual).dtype == np.float32


def test_sample_is_the_host_s(subject: Subject, rng: np.random.Generator) -> None:
    logits = rng.normal(size=(5, 97)).astype(np.float32) * 3
    params = [
        SamplingParams(temperature=0),
        SamplingParams(temperature=0.7, top_k=5, logprobs=3),
        SamplingParams(top_p=0.8),
        SamplingParams(min_p=0.1, repetition_penalty=1.3),
        SamplingParams(temperature=0, logit_bias={7: 100.0}),
    ]
    draws = [Draw(each, 11 + i, 0, [1, 2, 3], 2) for i, each in enumerate(params)]
    on_device = subject.ops.upload(logits)
    expected = sample_on_host(logits, draws)
    assert_drawn_alike(subject.ops.sample(on_device, draws)(), expected)
    assert Operators.sample(subject.ops, on_device, draws)() == expected
    np.testing.assert_array_equal(subject.ops.download(on_device), logits)


def assert_drawn_alike(actual: list[Any], expected: list[Any]) -> None:
    """The same tokens, and the same figures but for rounding."""
    assert [drawn.token for drawn in actual] == [drawn.token for drawn in expected]
    for mine, theirs in zip(actual, expected, strict=True):
        if theirs.logprobs is None:
            assert mine.logprobs is None
            continue
        assert mine.logprobs.token_id == theirs.logprobs.token_id
        assert mine.logprobs.logprob == pytest.approx(theirs.logprobs.logprob, abs=1e-5)
        assert [i for i, _ in mine.logprobs.top] == [i for i, _ in theirs.logprobs.top]
        assert [p for _, p in mine.logprobs.top] == pytest.approx(
            [p for _, p in theirs.logprobs.top], abs=1e-5
        )


def test_a_graph_is_the_step_it_was_made_of(subject: Subject, rng: np.random.Generator) -> None:
    """Also the second time, and with other integers in the batch."""
    table = subject.weight(subject.rounded(rng.normal(size=(9, 5))))
    memory = Memory(subject)

    def step(batch: Any) -> Any:
        x = subject.ops.embed(table, batch.tokens)
        return subject.ops.add(x, x)

    graph = subject.ops.graph(step)
    for tokens in ([3], [3], [8], [1, 0, 8]):
        one = chunk_of(1, 0, [0])._replace(tokens=tokens)
        batch = subject.ops.upload_batch(memory.batch(one))
        expected = subject.floats(step(batch))
        np.testing.assert_array_equal(subject.floats(graph(batch)), expected)


def test_weights_are_made_within_loading(subject: Subject) -> None:
    with subject.ops.loading(None, []):
        weight = subject.weight(np.eye(3))
    x = subject.activation(np.arange(3.0)[None])
    np.testing.assert_array_equal(subject.floats(subject.linear(x, weight)), [[0, 1, 2]])
