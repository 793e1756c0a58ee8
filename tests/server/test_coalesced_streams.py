"""Whenever tokens come, and however many together: a stream says the same."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncGenerator
from functools import cache
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_server import LiveServer

from cullama import LLM
from cullama.engine.metrics import Metrics
from cullama.sampling.params import SamplingParams, TokenLogprobs
from cullama.server.api.answers import Answer
from cullama.server.api.chat import _ChatAnswer
from cullama.server.api.completions import _CompletionAnswer
from cullama.server.api.fields import ChatFields, CompletionFields
from cullama.server.api.opening import Opened
from cullama.server.process.handle import Limits, RemoteHandle, wake
from cullama.server.process.messages import packed
from cullama.text.generation import Sample
from cullama.text.output import OutputStream

PROMPT = [5, 6, 7]
TOKENS = 24
OPTIONS: Any = {"stream": True, "return_token_ids": True, "stream_options": {"include_usage": True}}


class Drawn(NamedTuple):
    tokens: list[int]
    logprobs: list[TokenLogprobs]


def drawn(rng: random.Random, vocabulary: int) -> Drawn:
    """Return an answer of random tokens: parts of characters, too."""
    tokens = [rng.randrange(vocabulary) for _ in range(TOKENS)]
    top = [(rng.randrange(vocabulary), -1.0), (rng.randrange(vocabulary), -2.0)]
    return Drawn(tokens, [TokenLogprobs(it, -rng.random(), tuple(top)) for it in tokens])


def give(handle: RemoteHandle, answer: Drawn, start: int, end: int) -> None:
    reason: Any = "length" if end == TOKENS else None
    logprobs = [packed(each) for each in answer.logprobs[start:end]]
    handle.add(answer.tokens[start:end], logprobs, 0, reason, None, ())
    wake(handle.waiting)


def events_of(
    server: LiveServer, local: LLM, route: str, stops: tuple[str, ...], samples: list[Sample]
) -> AsyncGenerator[bytes, None]:
    params = SamplingParams(stop=stops, logprobs=2)
    service = server.service
    if route == "completions":
        fields = CompletionFields(prompt=PROMPT, logprobs=2, n=2, **OPTIONS)
        answer = Answer(samples, 2, local.tokenizer)
        return _CompletionAnswer(service, fields, answer, [PROMPT]).stream()
    messages = [{"role": "user", "content": "Hi"}]
    asked = ChatFields.model_validate(
        {"messages": messages, "logprobs": True, "top_logprobs": 2, "n": 2, **OPTIONS}
    )
    parsers = [service.llm.chat_format.answers.parser(PROMPT, None) for _ in samples]
    answer = Answer(samples, 2, local.tokenizer, parsers)
    return _ChatAnswer(service, asked, Opened(PROMPT, [], params, answer)).stream()


def merged(events: bytes) -> dict[Any, Any]:
    """Join what a stream says of each sample, whatever its events were."""
    said: dict[Any, Any] = {}
    for line in events.decode().split("\n\n"):
        chunk = json.loads(line.removeprefix("data: ")) if "{" in line else {"choices": []}
        if chunk.get("usage"):
            said["usage"] = chunk["usage"]
        for choice in chunk["choices"]:
            mine = said.setdefault(choice["index"], {"text": "", "ids": [], "logprobs": {}})
            mine["text"] += choice.get("text") or choice.get("delta", {}).get("content") or ""
            mine["ids"] += choice.get("token_ids") or []
            for name, values in (choice["logprobs"] or {}).items():
                mine["logprobs"].setdefault(name, []).extend(values or ())
            mine["reason"] = choice["finish_reason"]
    return said


async def streamed(
    server: LiveServer, local: LLM, route: str, stop: str, seed: int, together: int
) -> dict[Any, Any]:
    """Return what a stream says where up to `together` tokens come at a time."""
    rng = random.Random(seed)
    answers = [drawn(rng, local.config.vocab_size) for _ in range(2)]
    most = rng.randint(1, together)  # that the reader takes
    stops = (stop,) if stop else ()
    params = SamplingParams(stop=stops, logprobs=2)
    samples = [
        Sample(
            RemoteHandle(
                *(0, 1, frozenset(), threading.Condition()),
                lambda reason: None,
                limits=Limits(99, most),
            ),
            OutputStream(PROMPT, params, 1, frozenset(), local.tokenizer, Metrics()),
        )
        for _ in answers
    ]
    got: list[bytes] = []

    async def read() -> None:
        async for event in events_of(server, local, route, stops, samples):
            got.append(event)

    reading = asyncio.ensure_future(read())
    at = [0, 0]
    while min(at) < TOKENS:
        for number, sample in enumerate(samples):
            end = min(TOKENS, at[number] + (rng.randint(0, together) if together > 1 else 1))
            if end > at[number]:
                give(sample.handle, answers[number], at[number], end)  # type: ignore[arg-type]
                at[number] = end
        for _ in range(rng.randrange(4) if together > 1 else 10):  # the reader's turns
            await asyncio.sleep(0)
    await asyncio.wait_for(reading, 20)
    return merged(b"".join(got))


@cache
def common_text(local: LLM) -> str:
    """Return a letter that random tokens spell before long."""
    return max("etao", key=local.tokenizer.decode([*range(local.config.vocab_size)]).count)


@pytest.mark.parametrize("route", ["chat", "completions"])
@given(seed=st.integers(0, 1 << 32), together=st.integers(2, TOKENS), has_stop=st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_coalesced_stream_says_what_one_of_single_tokens_says(
    server: LiveServer, local: LLM, route: str, seed: int, together: int, has_stop: bool
) -> None:
    stop = common_text(local) if has_stop else ""

    async def both() -> tuple[dict[Any, Any], dict[Any, Any]]:
        single = await streamed(server, local, route, stop, seed, 1)
        return single, await streamed(server, local, route, stop, seed, together)

    single, coalesced = asyncio.run(both())
    assert coalesced == single
    assert {each["reason"] for each in (single[0], single[1])} <= {"length", "stop"}
    assert len(single[0]["ids"]) == TOKENS or has_stop
