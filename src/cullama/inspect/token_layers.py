"""Looks at one token of a text: what each layer would have said in its place, and looked at.

The text before it runs through the model once, in the engine's passes, of which only the last row
of each layer is kept. So it costs what a prompt costs, between whose passes other requests run.
Whole prompts, with all maps, are `inside.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.validation import check_prompt_alone, check_token_ids
from ..errors import UsageError
from ..model.batch import Chunk, build_batch
from ..sampling.sampler import softmax
from .inside import Candidates, check_memory, likeliest
from .instrumented import InstrumentedModel
from .passes import PromptPass, blocks_for

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..files.tensor import HostArray
    from ..model.kv_cache import KVCache
    from .hook import Floats
    from .place import Place


@dataclass(frozen=True)
class LayerState:
    """The logit lens on one state of the residual stream.

    Attributes:
        top: the likeliest tokens, as (token id, probability), likeliest first.
        probability: of the token that was asked about.
        rank: of that token among the whole vocabulary, from 1.
    """

    top: Candidates
    probability: float
    rank: int


@dataclass(frozen=True, eq=False)
class TokenLayers:
    """What the layers of a model make of one token, behind T tokens that come before it.

    Attributes:
        tokens: the ids before it.
        token: its id.
        states: the embedding's, then each layer's; the last one is what the model says.
        attention: what each head of each layer looked at, float32 [layers, H, T]; rows sum to 1.
    """

    tokens: tuple[int, ...]
    token: int
    states: tuple[LayerState, ...]
    attention: Floats


def token_layers(
    engine: Engine, tokens: list[int], token: int, count: int
) -> Iterator[TokenLayers | None]:
    """Run the model pass by pass: yields None after each, at last the result.

    Between two passes the engine may do other work. Closing the iterator returns the memory.

    Raises:
        UsageError: no tokens, ids outside the vocabulary, a count that is not from 1 to its size,
            more than fits half the memory.
        ContextLengthError: more tokens than the context has.
    """
    check_prompt_alone(tokens, engine.capacity)
    check_token_ids("the token", [token], engine.capacity)
    vocabulary = engine.capacity.vocab_size
    if not 1 <= count <= vocabulary:
        raise UsageError(f"count is {count!r}, expected a whole number from 1 to {vocabulary}")
    with engine.exclusive() as access:
        size = len(tokens) * access.ops.cache_bytes_per_token(access.model.config)
        check_memory(size, f"a KV cache of {len(tokens)} tokens", "take a shorter text")
        rows = _LastRows()
        model = InstrumentedModel(access, blocks_for(tokens, access.block_size), rows.observe)
        steps = list(_passes(tokens, access.block_size, access.token_budget))
    for step in steps:
        with engine.exclusive():
            model.run(step)
        yield None
    with engine.exclusive() as access:
        logits = _lens(rows.hidden, access)
        attention = _attention(rows.queries, model.cache, access, len(tokens))
    top = likeliest(logits, count)
    shares = [softmax(row, 1.0) for row in logits]
    states = tuple(
        LayerState(each, float(row[token]), 1 + int((row > row[token]).sum()))
        for each, row in zip(top, shares, strict=True)
    )
    yield TokenLayers(tuple(map(int, tokens)), int(token), states, attention)


def _passes(tokens: list[int], block_size: int, budget: int) -> Iterator[PromptPass]:
    """Yield the passes that compute the tokens, with the logits of the last one alone."""
    blocks = range(blocks_for(tokens, block_size))
    for start in range(0, len(tokens), budget):
        part = tokens[start : start + budget]
        chunk = Chunk(part, start, blocks, int(start + len(part) == len(tokens)))
        yield PromptPass(build_batch([chunk], block_size), start, slice(len(part)))


class _LastRows:
    """Keeps the last row of the residual stream and of the queries, of each layer."""

    def __init__(self) -> None:
        self.hidden: dict[int, HostArray] = {}  # [D] each, in the backend's type
        self.queries: dict[int, HostArray] = {}  # [H, E]

    def observe(self, place: Place, start: int, rows: HostArray) -> None:
        if place.operand == "embedding":
            self.hidden[0] = rows[-1].copy()
        elif place.operator == "feed_forward" and place.layer is not None:
            self.hidden[place.layer + 1] = rows[-1].copy()
        elif place.operator == "project_qkv" and place.layer is not None:
            self.queries[place.layer] = rows[-1].copy()


def _lens(hidden: dict[int, HostArray], access: Any) -> Floats:
    """Return the final norm and head applied to each state, [layers + 1, V]."""
    ops, weights = access.ops, access.model.weights
    rows = ops.upload(np.stack([hidden[state] for state in range(len(hidden))]))
    return np.asarray(ops.download(ops.logits(rows, weights.norm, weights.head)), np.float32)


def _attention(
    queries: dict[int, HostArray], cache: KVCache[Any], access: Any, tokens: int
) -> Floats:
    """Return the softmax over the last query and the keys in the cache, [layers, H, T]."""
    layers = []
    for layer, stored in enumerate(cache.layers):
        keys = access.ops.stored_keys(stored, tokens)  # [T, K, E]
        q = queries[layer].astype(np.float32)
        q = q.reshape(keys.shape[1], -1, keys.shape[2])  # [K, H / K, E]
        scores = np.einsum("kge,tke->kgt", q, keys) / np.float32(keys.shape[2]) ** 0.5
        if stored.window:
            scores[..., : -stored.window] = -np.inf
        layers.append([softmax(row, 1.0) for row in scores.reshape(-1, tokens)])
    return np.array(layers, np.float32)
