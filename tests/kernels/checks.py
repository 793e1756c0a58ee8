"""Quick float32 checks of every kernel against numpy, for kernels with planted bugs.

The operator tests check far more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gpu
import numpy as np
from numpy.typing import NDArray

from cullama.cpu.operators import CpuOperators
from cullama.errors import NumericalError
from cullama.files.tensor import StoredTensor
from cullama.model.batch import Chunk, build_batch
from cullama.model.config import ModelConfig
from cullama.model.layer import Attention, Linear, Norm
from cullama.model.rope import Rope
from cullama.sampling.draw import Draw
from cullama.sampling.params import SamplingParams
from cullama.sampling.sampler import sample

EPS = 1e-5
HEADS = ModelConfig(
    architecture="LlamaForCausalLM", hidden_size=24, intermediate_size=1, layers=2, heads=4,
    kv_heads=2, head_dim=6, vocab_size=1, context_length=4096, norm_eps=EPS, rope=Rope(),
    windows=(0, 40),
)  # fmt: skip
NOTHING: Any = None
ATTENTION = Attention(NOTHING, NOTHING, None, None, NOTHING)

Check = Callable[[Any, Any, np.random.Generator], None]


def in_all_orders(check: Check, ops: Any) -> None:
    cpu = CpuOperators("float32", threads=1, has_tiles=False)
    for order in ("ascending", "descending", "random"):
        gpu.emulated().schedule(order, seed=3)
        check(ops, cpu, np.random.default_rng(0))


def same(ops: Any, found: Any, expected: NDArray[Any]) -> None:
    atol = 1e-5 * float(np.sqrt(np.mean(np.square(expected)))) if expected.size else 0.0
    np.testing.assert_allclose(ops.download(found), expected, rtol=1e-5, atol=atol)


def floats(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.normal(size=shape).astype(np.float32)


def stored(array: NDArray[np.float32]) -> list[StoredTensor]:
    return [StoredTensor("", array.shape, "F32", lambda: iter([array]))]


def check_gather(ops: Any, cpu: Any, rng: np.random.Generator) -> None:
    table, rows = floats(rng, 9, 33), rng.integers(0, 9, 5).astype(np.int32)
    same(ops, ops.gather(ops.upload(table), ops.upload(rows)), table[rows])


def check_rms_norm(ops: Any, cpu: Any, rng: np.random.Generator) -> None:
    x, weight = floats(rng, 3, 300) * np.float32(1e-3), floats(rng, 300)
    expected = cpu.rms_norm(x, Norm(weight, EPS))
    same(ops, ops.rms_norm(ops.upload(x), Norm(ops.upload(weight), EPS)), expected)


def check_silu_mul(ops: Any, cpu: Any, rng: np.random.Generator) -> None:
    for width in (64, 300):
        gate_up = floats(rng, 3, 2 * width)
        same(ops, ops.silu_mul(ops.upload(gate_up)), cpu.silu_mul(gate_up))


def check_rope_and_store(ops: Any, cpu: Any, rng: np.random.Generator) -> None:
    check_attention(ops, cpu, rng, read=lambda backend, q, cache, batch: (q, cache.keys))


def check_attention(
    ops: Any,
    cpu: Any,
    rng: np.random.Generator,
    read: Callable[..., tuple[Any, ...]] | None = None,
) -> None:
    """Prefill, then decode with split contexts, in memory full of NaN."""
    qkv = [floats(rng, tokens, 48) for tokens in (40, 300, 1, 1)]
    cos_sin = [floats(rng, len(each), 12) for each in qkv]
    chunks = [
        [Chunk([0] * 40, 0, [3, 1], 1)],
        [Chunk([0] * 300, 0, list(range(4, 14)), 1)],
        [Chunk([0], 40, [3, 1], 1)],
        [Chunk([0], 300, list(range(4, 14)), 1)],
    ]
    backends = [(backend, backend.cache(HEADS, 640)) for backend in (ops, cpu)]
    if read is None:
        fill_with_nan(ops, backends[0][1])
    for step, numbers, turn in zip(chunks, qkv, cos_sin, strict=True):
        batch = build_batch(step, 32)
        if read is not None:
            batch.slots[:1] = -1
        for layer in range(2):
            found, expected = (
                outcome(backend, cache.layers[layer], batch, numbers, turn, read)
                for backend, cache in backends
            )
            for mine, theirs in zip(found, expected, strict=True):
                same(ops, mine, np.asarray(theirs).reshape(mine.shape))


def outcome(
    backend: Any, cache: Any, batch: Any, qkv: Any, cos_sin: Any, read: Callable[..., Any] | None
) -> tuple[Any, ...]:
    uploaded = backend.upload_batch(batch)
    q = backend.rope_and_store(
        backend.upload(qkv), ATTENTION, backend.upload(cos_sin), cache, uploaded
    )
    if read is None:
        return (backend.attention(backend.upload(qkv[:, :24].reshape(-1, 4, 6)), cache, uploaded),)
    attn_out = backend.attention(backend.upload(qkv[:, :24].reshape(-1, 4, 6)), cache, uploaded)
    return q, attn_out


def fill_with_nan(ops: Any, cache: Any) -> None:
    """Fill a cache with NaN."""
    for layer in cache.layers:
        for array in (layer.keys, layer.values):
            ops.device.call("cuMemsetD8Async", array.address, 0xFF, array.nbytes, ops.device.stream)


def check_linear(ops: Any, cpu: Any, rng: np.random.Generator) -> None:
    for rows, inner, outputs in ((1, 33, 5), (3, 64, 5), (40, 40, 70)):
        x, weight, bias = (
            floats(rng, rows, inner),
            floats(rng, outputs, inner),
            floats(rng, outputs),
        )
        projection = Linear(ops.weight(stored(weight)), ops.upload(bias))
        found = ops.linear(ops.upload(x), projection)
        same(ops, found, x @ weight.T + bias)


def check_broadcast(ops: Any, cpu: Any, rng: np.random.Generator) -> None:
    x, y = floats(rng, 3, 1, 5), floats(rng, 4, 5)
    same(ops, ops.add(ops.upload(x), ops.upload(y)), x + y)
    same(ops, ops.mul(ops.upload(x), ops.upload(y)), x * y)


def check_sample(ops: Any, cpu: Any, rng: np.random.Generator) -> None:
    equals = (rng.integers(-4, 5, size=(8, 700)) / 2).astype(np.float32)
    for logits, params in (
        (equals, {"temperature": 0}),
        (equals, {"top_k": 5}),
        (equals, {"top_k": 40, "top_p": 0.71}),
        (floats(rng, 8, 700), {"frequency_penalty": 0.3, "temperature": 0}),
        (floats(rng, 8, 700), {"logprobs": 4}),
    ):
        logits[7, 5] = np.nan
        text = [0, *logits[0].argsort()[:-6:-1].tolist() * 3]
        draws = [Draw(SamplingParams(**params), seed, 0, text, 1) for seed in range(8)]
        found, expected = ops.sample(ops.upload(logits), draws)(), sample(logits, draws)
        assert isinstance(found[7], NumericalError)
        assert list(map(tokens_of, found[:7])) == list(map(tokens_of, expected[:7]))


def tokens_of(drawn: Any) -> list[int]:
    """Return the drawn token and the reported ones."""
    return [drawn.token, *(token for token, _ in (drawn.logprobs.top if drawn.logprobs else ()))]


CHECKS: dict[str, Check] = {
    "gather": check_gather,
    "rms_norm": check_rms_norm,
    "silu_mul": check_silu_mul,
    "rope_and_store": check_rope_and_store,
    "attention": check_attention,
    "linear": check_linear,
    "broadcast": check_broadcast,
    "sample": check_sample,
}
