"""What a prompt meets on its way through the model: hidden states, attention, the logit lens.

One run is watched, and what came out between the operators is kept on the host. Attention and
lens are then asked of the backend's own operators, whatever it keeps in its cache and however:
it knows words of the model, no device. How any of it looks in a notebook is `inside_page.py`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..engine.engine import TOKEN_BUDGET
from ..engine.insider import Insider
from ..errors import UsageError
from ..files.tensor import HostArray
from ..model.config import ModelConfig
from ..model.operators import Operators
from ..sampling.sampler import softmax
from ..text.token_texts import token_texts
from .hook import Floats, Hook, check_prompt, checked_hook, passes, run
from .watching import Place, Watch

if TYPE_CHECKING:
    from ..llm import LLM
    from ..notebook.inside import Picture
    from ..text.tokenizer import Tokenizer

EMBEDDING = Place(None, "gather", "embedding")
SHARE_OF_MEMORY = 0.5  # that one answer may take

Candidates: TypeAlias = "list[tuple[int, float]]"  # token id, probability


@dataclass(frozen=True, eq=False, repr=False)
class Inside:
    """One prompt's way through the model, T tokens long.

    At the end of a notebook's cell it shows the logit lens. Attention and lens are computed when
    they are asked for, on the model's backend.

    Attributes:
        tokens: the prompt's ids.
        texts: what each of them spells by itself.
        hidden: the residual stream, float32 [layers + 1, T, D]: the embedding, then what each
            layer made of it.
        queries: of each layer, rotated, float32 [layers, T, H, E].

    Raises:
        UsageError: a layer or head that there is not, or more than fits half the memory.
        ClosedError: the model was closed.
    """

    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    hidden: Floats
    queries: Floats
    stored_as: np.dtype  # what lies between the model's operators, on its backend
    llm: LLM
    tokenizer: Tokenizer | None

    @property
    def layers(self) -> int:
        return len(self.queries)

    # --- attention ---------------------------------------------------------------------------

    @cached_property
    def attention(self) -> Floats:
        """Who listened to whom, float32 [layers, H, T, T], as `attention_in`."""
        layers, tokens, heads, _ = self.queries.shape
        what = f"the attention of {layers} layers and {heads} heads over {tokens}² tokens"
        check_memory(4 * layers * heads * tokens**2, what, "attention_in(layer) takes one layer")
        return np.stack([self.attention_in(layer) for layer in range(layers)])

    def attention_in(self, layer: int) -> Floats:
        """The softmax's probabilities in one layer, float32 [H, T, T]: by head, how much each
        token took from each before it.

        They are what the backend's own attention gives where the values are one-hot vectors: a
        head that hears (0, 1, 0 …) has listened to the second token. Rows sum to 1 to within
        the rounding of the storage type.
        """
        layer = _checked("layer", layer, self.layers)
        _, tokens, heads, width = self.queries.shape
        what = f"the attention of {heads} heads over {tokens}² tokens"
        check_memory(4 * heads * tokens**2, what, "take a shorter prompt")
        out = np.empty((heads, tokens, tokens), np.float32)
        with self.llm.engine.exclusive() as insider:
            for start, attn_out in self._heard(layer, insider):
                count = min(width, tokens - start)
                out[:, :, start : start + count] = attn_out[:, :, :count].swapaxes(0, 1)
        return out

    def _heard(self, layer: int, insider: Insider[Any]) -> Iterator[tuple[int, HostArray]]:
        """For as many tokens as a value is wide at a time: the first of them, [T, H, E]."""
        model, ops = insider.model, insider.ops
        weights, config = model.weights.layers[layer], model.config
        own = replace(config, windows=(config.windows[layer],))
        x, q = (self._uploaded(rows[layer], ops) for rows in (self.hidden, self.queries))
        block_size = insider.block_size
        (step,) = passes(self.tokens, len(self.tokens), block_size)
        batch = ops.upload_batch(step.batch)
        cos_sin = ops.gather(model.weights.rope_table, batch.positions)
        normed = ops.rms_norm(x, weights.attention_norm, config.norm_eps)
        qkv = ops.download(ops.linear(normed, weights.qkv, weights.qkv_bias))
        tokens, values = len(self.tokens), config.kv_heads * config.head_dim
        (cache,) = ops.cache(own, -(-tokens // block_size) * block_size).layers
        for start in range(0, tokens, config.head_dim):
            marked = _with_one_hot_values(qkv, values, config.head_dim, start)
            ops.rope_and_store(ops.upload(marked), weights, cos_sin, cache, batch, config.norm_eps)
            yield start, ops.download(ops.attention(q, cache, batch)).reshape(q.shape)

    # --- the logit lens ----------------------------------------------------------------------

    def lens(self, state: int | None = None) -> Floats:
        """The logit lens (nostalgebraist, 2020): the final norm and head applied to the hidden
        states, as if the model ended there.

        Args:
            state: which of `hidden`: 0 is the embedding, i + 1 what layer i made of it, −1 the
                last, which gives what `llm.logits` gives, bit for bit; None takes all.

        Returns:
            Logits, float32 [T, V], or [layers + 1, T, V] for all.
        """
        if state is not None:
            return self._lens(self.hidden[_checked("state", state, len(self.hidden))])
        states, tokens = self.hidden.shape[:2]
        vocabulary = self.llm.config.vocab_size
        what = f"the lens of {states} states of {tokens} tokens over {vocabulary} words"
        check_memory(4 * states * tokens * vocabulary, what, "lens(state) takes one of them")
        return np.stack([self._lens(rows) for rows in self.hidden])

    def lens_top(self, count: int = 5, last: int | None = None) -> list[list[Candidates]]:
        """The likeliest tokens under the lens, with their probabilities, likeliest first:
        by state (layers + 1), then by token; `last` takes only so many of the prompt's last."""
        vocabulary = self.llm.config.vocab_size
        if type(count) is not int or not 1 <= count <= vocabulary:
            raise UsageError(f"count is {count!r}, expected a whole number from 1 to {vocabulary}")
        first = 0 if last is None else max(0, len(self.tokens) - last)
        return [_top(self._lens(rows[first:]), count) for rows in self.hidden]

    def _lens(self, rows: Floats) -> Floats:
        with self.llm.engine.exclusive() as insider:
            ops, weights, eps = insider.ops, insider.model.weights, insider.model.config.norm_eps
            # As many rows together as the engine takes, whose sums these are, bit for bit.
            parts = [
                ops.logits(self._uploaded(part, ops), weights.norm, weights.head, eps)
                for start in range(0, len(rows), TOKEN_BUDGET)
                if len(part := rows[start : start + TOKEN_BUDGET])
            ]
            return np.concatenate([ops.download(part) for part in parts])

    def _uploaded(self, rows: Floats, ops: Operators[Any]) -> Any:
        """As the backend had them: float32 holds every number of a smaller type."""
        return ops.upload(np.ascontiguousarray(rows, self.stored_as))

    # --- for people --------------------------------------------------------------------------

    def show_attention(self, layer: int, head: int | None = None) -> Picture:
        """Maps of a layer's heads, or of one; tokens down listen to tokens across."""
        from ..notebook.inside import attention_picture

        heads = self.queries.shape[2]
        chosen = range(heads) if head is None else [_checked("head", head, heads)]
        return attention_picture(self, _checked("layer", layer, self.layers), list(chosen))

    def _repr_html_(self) -> str:
        from ..notebook.inside import lens_table

        return lens_table(self)

    def __repr__(self) -> str:
        return f"Inside({len(self.tokens)} tokens, {self.layers} layers)"


def look_inside(
    llm: LLM, tokens: list[int], tokenizer: Tokenizer | None, hook: Hook | None = None
) -> Inside:
    """The prompt through the model; with a hook, which may change what it goes on with.

    Raises:
        UsageError: an empty prompt, ids outside the vocabulary, more than fits half the memory;
            a hook that is none, or what it answers.
        ContextLengthError: a prompt longer than the context.
    """
    check_prompt(llm, tokens)
    change = None if hook is None else checked_hook(hook)
    kept = _Kept(llm.config, len(tokens), change)
    # A hook gets the prompt in one piece; else it is cut up as the engine cuts it.
    run(llm, tokens, kept.watch, TOKEN_BUDGET if hook is None else len(tokens))
    texts = token_texts(tokenizer, tokens)
    return Inside(
        tokens=tuple(map(int, tokens)),
        texts=tuple(texts[token] for token in tokens),
        hidden=kept.hidden,
        queries=kept.queries,
        stored_as=kept.stored_as,
        llm=llm,
        tokenizer=tokenizer,
    )


class _Kept:
    """Keeps what the model goes on with at the places of interest."""

    def __init__(self, config: ModelConfig, tokens: int, change: Watch | None) -> None:
        layers, width = config.layers, config.head_dim
        hidden, queries = (
            (layers + 1, tokens, config.hidden_size),
            (layers, tokens, config.heads, width),
        )
        what = f"what {layers} layers make of {tokens} tokens"
        check_memory(4 * (prod(hidden) + prod(queries)), what, "take a shorter prompt")
        self.hidden, self.queries = np.empty(hidden, np.float32), np.empty(queries, np.float32)
        self.stored_as = np.dtype(np.float32)
        self._change = change

    def watch(self, place: Place, start: int, rows: HostArray) -> HostArray | None:
        other = None if self._change is None else self._change(place, start, rows)
        target = self._target(place)
        if target is not None:
            target[start : start + len(rows)] = rows if other is None else other
            self.stored_as = rows.dtype
        return other

    def _target(self, place: Place) -> Floats | None:
        if place == EMBEDDING:
            return self.hidden[0]
        if place.operator == "feed_forward" and place.layer is not None:
            return self.hidden[place.layer + 1]
        if place.operator == "project_qkv" and place.layer is not None:
            return self.queries[place.layer]
        return None


def memory() -> int:
    """Of this machine, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(size: int, what: str, remedy: str) -> None:
    most = int(SHARE_OF_MEMORY * memory())
    if size > most:
        raise UsageError(
            f"{what} takes {size / 1e9:.1f} GB, expected at most {most / 1e9:.1f} GB, "
            f"half of this machine's memory: {remedy}"
        )


def _checked(name: str, index: int, count: int) -> int:
    if type(index) is not int or not -count <= index < count:
        raise UsageError(f"{name} is {index!r}, expected a whole number from 0 to {count - 1}")
    return index % count


def _with_one_hot_values(qkv: HostArray, values: int, width: int, start: int) -> HostArray:
    """Value vectors that tell tokens apart: `start` has a 1 in front, the next one behind it …"""
    marked = qkv.copy()
    by_head = np.zeros((len(qkv), values // width, width), np.float32)
    for column, token in enumerate(range(start, min(start + width, len(qkv)))):
        by_head[token, :, column] = 1
    marked[:, -values:] = by_head.reshape(len(qkv), values)
    return marked


def _top(logits: Floats, count: int) -> list[Candidates]:
    """Of each row; equals go by token id."""
    rows = []
    for row in logits:
        shares = softmax(row, 1.0)
        line = np.partition(shares, -count)[-count]
        above = np.flatnonzero(shares >= line)
        best = above[np.argsort(-shares[above], kind="stable")][:count]
        rows.append([(int(token), float(shares[token])) for token in best])
    return rows
