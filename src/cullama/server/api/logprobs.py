"""Writes log-probabilities in the forms of chat completions and of completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    content = [
        {
            **_entry(tokenizer, texts, has_ids, each.token_id, each.logprob),
            "top_logprobs": [_entry(tokenizer, texts, has_ids, *top) for top in each.top],
        }
        for each in logprobs
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    logprobs: Sequence[TokenLogprobs | None],
    offset: int = 0,
    has_ids: bool = False,
) -> tuple[Json, int]:
    """Return {"tokens", "token_logprobs", "top_logprobs", "text_offset"}, each with one entry a
    token, and the offset of what follows.

    Args:
        ids: T tokens.
        logprobs: of each; None for the first token of a prompt.
        offset: of the first token's text, in characters.
        has_ids: and "top_tokens", the likeliest ones with their ids, as chat completions have them:
            by their texts, as in "top_logprobs", two of one text are one.
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
    words: Json = {
        "tokens": tokens,
        "token_logprobs": [*unknown, *(each.logprob for each in known)],
        "top_logprobs": [*unknown, *tops],
        "text_offset": offsets,
    }
    if has_ids:
        likeliest = [[_entry(tokenizer, texts, True, *top) for top in each.top] for each in known]
        words["top_tokens"] = [*unknown, *likeliest]
    return words, end


def _entry(
    tokenizer: Tokenizer, texts: Mapping[int, str], has_id: bool, token: int, logprob: float
) -> Json:
    content = token_bytes(tokenizer, token, texts[token])
    words: Json = {"token": texts[token], "logprob": logprob, "bytes": list(content)}
    return {**words, "token_id": token} if has_id else words


def _texts(tokenizer: Tokenizer, logprobs: Sequence[TokenLogprobs]) -> dict[int, str]:
    named = [token for each in logprobs for token in (each.token_id, *(t for t, _ in each.top))]
    return token_texts(tokenizer, named)
