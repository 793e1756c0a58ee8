"""Looks inside a model at one prompt: hidden states, attention maps, the logit lens.

One instrumented run keeps the hidden states and queries on the host. Attention maps and the lens
are computed from them on request, by the backend's own operators. HTML for notebooks is made in
`notebook/inside.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..engine.validation import check_prompt_alone
from ..errors import UsageError
from ..files.host_memory import available_memory, memory_limit
from ..sampling.sampler import softmax
from ..text.token_texts import token_texts
from .hook import Floats, Hook, observer_of
from .instrumented import run_instrumented
from .passes import blocks_for, prompt_passes
from .place import Place

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..engine.model_access import ModelAccess
    from ..files.tensor import HostArray
    from ..model.config import ModelConfig
    from ..model.operators import AnyOperators
    from ..notebook.inside import Picture
    from ..text.tokenizer import Tokenizer
    from .instrumented import Observer

EMBEDDING = Place(None, "gather", "embedding")
MEMORY_SHARE = 0.5  # of the machine's, that one array may take

Candidates: TypeAlias = "list[tuple[int, float]]"  # token id, probability


@dataclass(frozen=True, eq=False, repr=False)
class Inside:
    """What a model computes for one prompt of T tokens.

    At the end of a notebook's cell it shows the logit lens. Attention and lens are computed on
    the model's backend when they are asked for.

    Attributes:
        tokens: the prompt's ids.
        texts: what each of them spells by itself.
        hidden: the residual stream, float32 [layers + 1, T, D]: the embedding, then the output of
            each layer.
        queries: each layer's queries after RoPE, float32 [layers, T, H, E].

    Raises:
        UsageError: a layer or head that does not exist, or more than fits half the memory.
        ClosedError: the model was closed.
    """

    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    hidden: Floats
    queries: Floats
    dtype: np.dtype  # of activations on the backend
    engine: Engine
    tokenizer: Tokenizer | None

    @property
    def layers(self) -> int:
        return len(self.queries)

    # --- attention -----------------------------------------------------------------------------

    @cached_property
    def attention(self) -> Floats:
        """The attention maps of all layers, float32 [layers, H, T, T], as `attention_in`."""
        layers, tokens, heads, _ = self.queries.shape
        what = f"the attention of {layers} layers and {heads} heads over {tokens}² tokens"
        check_memory(4 * layers * heads * tokens**2, what, "attention_in(layer) takes one layer")
        return np.stack([self.attention_in(layer) for layer in range(layers)])

    def attention_in(self, layer: int) -> Floats:
        """Return the softmax probabilities of one layer, float32 [H, T, T]: for each head, how
        much each token attends to each token before it and to itself.

        They are the backend's own attention over one-hot values: a head whose output is
        (0, 1, 0 …) attends to the second token only. Rows sum to 1 to within the rounding of the
        storage type.
        """
        layer = _checked("layer", layer, self.layers)
        _, tokens, heads, width = self.queries.shape
        what = f"the attention of {heads} heads over {tokens}² tokens"
        check_memory(4 * heads * tokens**2, what, "take a shorter prompt")
        out = np.empty((heads, tokens, tokens), np.float32)
        with self.engine.exclusive() as access:
            for start, attn_out in self._attention_over_one_hot_values(layer, access):
                count = min(width, tokens - start)
                out[:, :, start : start + count] = attn_out[:, :, :count].swapaxes(0, 1)
        return out

    def _attention_over_one_hot_values(
        self, layer: int, access: ModelAccess[Any]
    ) -> Iterator[tuple[int, HostArray]]:
        """Yield the attention's result [T, H, E] for E tokens at a time, with the first of them:
        in column e stands how much each token attends to token start + e."""
        model, ops = access.model, access.ops
        attention, config = model.weights.layers[layer].attention, model.config
        one_layer = replace(config, windows=(config.windows[layer],))
        x, q = (self._uploaded(rows[layer], ops) for rows in (self.hidden, self.queries))
        (step,) = prompt_passes(self.tokens, access.block_size)
        batch = ops.upload_batch(step.batch)
        cos_sin = ops.gather(model.weights.rope_table, batch.positions)
        normed = ops.rms_norm(x, attention.norm)
        qkv = ops.download(ops.linear(normed, attention.qkv))
        cache_tokens = blocks_for(self.tokens, access.block_size) * access.block_size
        (cache,) = ops.cache(one_layer, cache_tokens).layers
        for start in range(0, len(self.tokens), config.head_dim):
            changed = ops.upload(_with_one_hot_values(qkv, config, start))
            ops.rope_and_store(changed, attention, cos_sin, cache, batch)
            yield start, ops.download(ops.attention(q, cache, batch)).reshape(q.shape)

    # --- the logit lens ------------------------------------------------------------------------

    def lens(self, state: int | None = None) -> Floats:
        """Return the logit lens (nostalgebraist, 2020): logits from the final norm and head
        applied to a hidden state, as if the model ended there.

        Args:
            state: an index into `hidden`: 0 is the embedding, i + 1 the output of layer i, −1 the
                last, which gives what `llm.logits` gives, bit for bit; None takes all.

        Returns:
            Logits, float32 [T, V], or [layers + 1, T, V] for all.
        """
        if state is not None:
            return self._lens(self.hidden[_checked("state", state, len(self.hidden))])
        states, tokens = self.hidden.shape[:2]
        vocabulary = self.engine.capacity.vocab_size
        what = f"the lens of {states} states of {tokens} tokens over {vocabulary} words"
        check_memory(4 * states * tokens * vocabulary, what, "lens(state) takes one of them")
        return np.stack([self._lens(rows) for rows in self.hidden])

    def lens_top(self, count: int = 5, last: int | None = None) -> list[list[Candidates]]:
        """Return the likeliest next tokens under the lens with their probabilities, likeliest
        first, for each state (layers + 1) and token; `last` takes only the prompt's last ones."""
        vocabulary = self.engine.capacity.vocab_size
        if type(count) is not int or not 1 <= count <= vocabulary:
            raise UsageError(f"count is {count!r}, expected a whole number from 1 to {vocabulary}")
        first = 0 if last is None else max(0, len(self.tokens) - last)
        return [likeliest(self._lens(rows[first:]), count) for rows in self.hidden]

    def _lens(self, rows: Floats) -> Floats:
        with self.engine.exclusive() as access:
            ops, weights = access.ops, access.model.weights
            # As many rows at a time as the engine's passes have: other shapes may sum in another
            # order, and the last state's lens is to equal `llm.logits` bit for bit.
            budget = access.token_budget
            parts = [rows[start : start + budget] for start in range(0, len(rows), budget)]
            logits = [
                ops.logits(self._uploaded(part, ops), weights.norm, weights.head) for part in parts
            ]
            return np.concatenate([ops.download(part) for part in logits])

    def _uploaded(self, rows: Floats, ops: AnyOperators) -> Any:
        """Upload rows in the backend's type, which float32 holds exactly."""
        return ops.upload(np.ascontiguousarray(rows, self.dtype))

    # --- in a notebook -------------------------------------------------------------------------

    def show_attention(self, layer: int, head: int | None = None) -> Picture:
        """Return the maps of a layer's heads, or of one: each token (down) attends to the tokens
        across."""
        from ..notebook.inside import MAX_MAP_TOKENS, attention_picture

        heads = self.queries.shape[2]
        chosen = range(heads) if head is None else [_checked("head", head, heads)]
        layer, tokens = _checked("layer", layer, self.layers), len(self.tokens)
        if tokens > MAX_MAP_TOKENS:
            raise UsageError(
                f"a map of {tokens} tokens is too fine, expected at most {MAX_MAP_TOKENS}: take a "
                "shorter prompt, or the numbers of attention_in(layer)"
            )
        attention = self.attention_in(layer)
        return attention_picture(self.texts, layer, {head: attention[head] for head in chosen})

    def _repr_html_(self) -> str:
        from ..notebook.inside import MAX_LENS_ROWS, SHOWN_CANDIDATES, lens_table

        top = self.lens_top(SHOWN_CANDIDATES, MAX_LENS_ROWS)
        candidates = (token for state in top for row in state for token, _ in row)
        spelled = token_texts(self.tokenizer, candidates)
        return lens_table(self.tokens, self.texts, top, spelled)

    def __repr__(self) -> str:
        return f"Inside({len(self.tokens)} tokens, {self.layers} layers)"


def look_inside(
    engine: Engine, tokens: list[int], tokenizer: Tokenizer | None, hook: Hook | None = None
) -> Inside:
    """Run a prompt and keep its hidden states and queries; a hook may change them on the way.

    Raises:
        UsageError: an empty prompt, ids outside the vocabulary, more than fits half the memory;
            a hook that is not a function, or returns another shape.
        ContextLengthError: a prompt longer than the context.
    """
    check_prompt_alone(tokens, engine.capacity)
    observer = None if hook is None else observer_of(hook)
    with engine.exclusive() as access:
        states = _States(access.model.config, len(tokens), observer)
        # A hook gets the prompt in one piece; without one it is cut as the engine cuts it.
        chunk = access.token_budget if hook is None else 0
        passes = prompt_passes(tokens, access.block_size, chunk)
        blocks = blocks_for(tokens, access.block_size)
        run_instrumented(access, passes, blocks, states.observe)
    texts = token_texts(tokenizer, tokens)
    return Inside(
        tokens=tuple(map(int, tokens)),
        texts=tuple(texts[token] for token in tokens),
        hidden=states.hidden,
        queries=states.queries,
        dtype=states.dtype,
        engine=engine,
        tokenizer=tokenizer,
    )


class _States:
    """Keeps hidden states and queries, after `inner` has seen and perhaps changed them."""

    def __init__(self, config: ModelConfig, tokens: int, inner: Observer | None) -> None:
        layers = config.layers
        hidden = (layers + 1, tokens, config.hidden_size)
        queries = (layers, tokens, config.heads, config.head_dim)
        what = f"the state of {layers} layers over {tokens} tokens"
        check_memory(4 * (prod(hidden) + prod(queries)), what, "take a shorter prompt")
        self.hidden, self.queries = np.empty(hidden, np.float32), np.empty(queries, np.float32)
        self.dtype = np.dtype(np.float32)
        self._inner = inner

    def observe(self, place: Place, start: int, rows: HostArray) -> HostArray | None:
        changed = None if self._inner is None else self._inner(place, start, rows)
        target: Floats | None = None
        if place == EMBEDDING:
            target = self.hidden[0]
        elif place.operator == "feed_forward" and place.layer is not None:
            target = self.hidden[place.layer + 1]
        elif place.operator == "project_qkv" and place.layer is not None:
            target = self.queries[place.layer]
        if target is not None:
            target[start : start + len(rows)] = rows if changed is None else changed
            self.dtype = rows.dtype
        return changed


def check_memory(size: int, what: str, remedy: str) -> None:
    """Raises UsageError: `size` bytes are more than half the memory this process may have."""
    limit = min(int(MEMORY_SHARE * memory_limit()), available_memory())
    if size > limit:
        raise UsageError(
            f"{what} takes {size / 1e9:.1f} GB, expected at most {limit / 1e9:.1f} GB, what is "
            f"free, or half of the memory that this process may have: {remedy}"
        )


def _checked(name: str, index: int, count: int) -> int:
    if type(index) is not int or not -count <= index < count:
        raise UsageError(f"{name} is {index!r}, expected a whole number from 0 to {count - 1}")
    return index % count


def _with_one_hot_values(qkv: HostArray, config: ModelConfig, start: int) -> HostArray:
    """Replace the values, the last K E columns: in every head, token start + e gets the e-th unit
    vector, all other tokens zeros."""
    tokens, width = len(qkv), config.head_dim
    values = np.zeros((tokens, config.kv_heads, width), np.float32)
    for column, token in enumerate(range(start, min(start + width, tokens))):
        values[token, :, column] = 1
    changed = qkv.copy()
    changed[:, -config.kv_heads * width :] = values.reshape(tokens, -1)
    return changed


def likeliest(logits: Floats, count: int) -> list[Candidates]:
    """Return each row's likeliest tokens; equally likely ones in the order of their ids."""
    rows = []
    for row in logits:
        shares = softmax(row, 1.0)
        threshold = np.partition(shares, -count)[-count]
        above = np.flatnonzero(shares >= threshold)
        best = above[np.argsort(-shares[above], kind="stable")][:count]
        rows.append([(int(token), float(shares[token])) for token in best])
    return rows
