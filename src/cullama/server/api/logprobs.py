"""Writes log-probabilities in the forms of chat completions and of completions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from ...sampling.params import TokenLogprobs
from ...text.token_texts import token_bytes, token_texts
from ...text.tokenizer import Tokenizer
from .answers import Json


def chat_logprobs(
    tokenizer: Tokenizer, logprobs: Sequence[TokenLogprobs], has_ids: bool = False
) -> Json:
    """Return {"content": [{"token", "logprob", "bytes", "top_logprobs"}], "refusal": null}; with
    `has_ids` each token has its "token_id", too, which OpenAI's form lacks."""
    texts = _texts(tokenizer, logprobs)

    def entry(token: int, logprob: float) -> Json:
        content = token_bytes(tokenizer, token, texts[token])
        words: Json = {"token": texts[token], "logprob": logprob, "bytes": list(content)}
        return {**words, "token_id": token} if has_ids else words

    content = [
        {
            **entry(each.token_id, each.logprob),
            "top_logprobs": [entry(token, logprob) for token, logprob in each.top],
        }
        for each in logprobs
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    logprobs: Sequence[TokenLogprobs | None],
    offset: int = 0,
) -> tuple[Json, int]:
    """Return {"tokens", "token_logprobs", "top_logprobs", "text_offset"}, each with one entry a
    token, and the offset of what follows.

    Args:
        ids: T tokens.
        logprobs: of each; None for the first token of a prompt.
        offset: of the first token's text, in characters.
    """
    known = [each for each in logprobs if each is not None]
    texts = {**token_texts(tokenizer, ids), **_texts(tokenizer, known)}
    tokens = [texts[token] for token in ids]
    # Control tokens are no part of the text.
    is_text = {token: bool(tokenizer.decode([token, token])) for token in set(ids)}
    lengths = [len(texts[token]) * is_text[token] for token in ids]
    # By their texts; of two tokens of one text, the likelier counts.
    tops: list[dict[str, float]] = [{} for _ in known]
    for top, each in zip(tops, known, strict=True):
        for token, logprob in (*each.top, (each.token_id, each.logprob)):
            top.setdefault(texts[token], logprob)
    unknown = [None] * (len(ids) - len(known))
    *offsets, end = accumulate(lengths, initial=offset)
    words = {
        "tokens": tokens,
        "token_logprobs": [*unknown, *(each.logprob for each in known)],
        "top_logprobs": [*unknown, *tops],
        "text_offset": offsets,
    }
    return words, end


def _texts(tokenizer: Tokenizer, logprobs: Sequence[TokenLogprobs]) -> dict[int, str]:
    named = [token for each in logprobs for token in (each.token_id, *(t for t, _ in each.top))]
    return token_texts(tokenizer, named)
