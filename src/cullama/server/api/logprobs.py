"""Writes log-probabilities in the forms of chat completions and of completions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from ...sampling.params import TokenLogprobs
from ...text.token_texts import token_bytes, token_texts
from ...text.tokenizer import Tokenizer

Json = dict[str, Any]


def chat_logprobs(tokenizer: Tokenizer, logprobs: Sequence[TokenLogprobs]) -> Json:
    """Return {"content": [{"token", "logprob", "bytes", "top_logprobs"}], "refusal": null}."""
    texts = _texts(tokenizer, logprobs)

    def entry(token: int, logprob: float) -> Json:
        content = token_bytes(tokenizer, token, texts[token])
        return {"token": texts[token], "logprob": logprob, "bytes": list(content)}

    content = [
        {
            **entry(each.token_id, each.logprob),
            "top_logprobs": [entry(token, logprob) for token, logprob in each.top],
        }
        for each in logprobs
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokenizer: Tokenizer, logprobs: Sequence[TokenLogprobs], offset: int
) -> Json:
    """Return {"tokens", "token_logprobs", "top_logprobs", "text_offset"}, each with one entry a
    token; `offset` is that of the first one's text, in characters."""
    texts = _texts(tokenizer, logprobs)
    tokens = [texts[each.token_id] for each in logprobs]
    ends = list(accumulate(map(len, tokens), initial=offset))
    # By their texts; of two tokens of one text, the likelier counts.
    tops: list[dict[str, float]] = [{} for _ in logprobs]
    for top, each in zip(tops, logprobs, strict=True):
        for token, logprob in (*each.top, (each.token_id, each.logprob)):
            top.setdefault(texts[token], logprob)
    return {
        "tokens": tokens,
        "token_logprobs": [each.logprob for each in logprobs],
        "top_logprobs": tops,
        "text_offset": ends[:-1],
    }


def _texts(tokenizer: Tokenizer, logprobs: Sequence[TokenLogprobs]) -> dict[int, str]:
    named = [token for each in logprobs for token in (each.token_id, *(t for t, _ in each.top))]
    return token_texts(tokenizer, named)
