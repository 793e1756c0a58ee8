"""Text generation and LLM need the engine's API alone: a double in memory serves them as well."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cullama import LLM, SamplingParams, Stream
from cullama.checkpoint.opening import open_checkpoint
from cullama.engine.client import (
    EngineClient,
    GenerationRequest,
    RequestHandle,
    RequestOutput,
)
from cullama.engine.metrics import Metrics
from cullama.engine.request import FinishReason
from cullama.engine.validation import Capacity
from cullama.errors import CullamaError, UsageError
from cullama.text.generation import Piece, generate, generate_async, submit
from cullama.text.tokenizer import Tokenizer

PROMPT = "The old clock in the tower"
PARAMS = SamplingParams(max_tokens=50)


class EchoHandle(RequestHandle):
    """Gives the prompt once more, a token a read."""

    def __init__(self, request: GenerationRequest, error: Exception | None = None) -> None:
        self.seed, self.end_ids = 7, frozenset[int]()
        self._left, self._error = list(request.prompt), error
        self.reason: FinishReason | None = None
        self.waits = 0

    def read(self) -> RequestOutput:
        tokens, self._left = self._left[:1], self._left[1:]
        if not self._left and self.reason is None:
            self.reason = "error" if self._error else "length"
        return RequestOutput(tokens, (), 3, self.reason, self._error if not self._left else None)

    def wait(self) -> None:
        self.waits += 1

    async def wait_async(self) -> None:
        await asyncio.sleep(0)

    def cancel(self, reason: FinishReason = "cancelled") -> None:
        self.reason = self.reason or reason


class EchoEngine(EngineClient):
    def __init__(self, error: Exception | None = None) -> None:
        self.capacity, self.metrics = Capacity(300, (), 128, 1024), Metrics()
        self.handles: list[EchoHandle] = []
        self._error = error

    def submit(self, request: GenerationRequest) -> Sequence[EchoHandle]:
        new = [EchoHandle(request, self._error) for _ in range(request.params.n)]
        self.handles += new
        return new

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        return np.zeros((len(tokens), self.capacity.vocab_size), np.float32)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return LLM(tiny_model).tokenizer


@pytest.fixture
def llm(tiny_model: Path) -> LLM:
    """An LLM in front of the double."""
    return LLM.in_front_of(EchoEngine(), open_checkpoint(tiny_model))


def request(tokenizer: Tokenizer, params: SamplingParams = PARAMS) -> GenerationRequest:
    return GenerationRequest(tokenizer.encode(PROMPT, add_special_tokens=False), params)


def test_many_samples_are_generated_together(tokenizer: Tokenizer) -> None:
    engine, asked = EchoEngine(), request(tokenizer, replace(PARAMS, n=3))
    samples = submit(engine, asked, tokenizer) + submit(engine, asked, tokenizer)
    completions = generate(samples)
    assert len(completions) == 6
    for completion in completions:
        assert completion.token_ids == tuple(asked.prompt)
        assert completion.text.strip() == PROMPT
        assert (completion.finish_reason, completion.seed) == ("length", 7)
        assert completion.cached_tokens == 3
    assert [handle.waits for handle in engine.handles] == [len(asked.prompt) - 1, 0, 0, 0, 0, 0]


def test_a_stream_in_a_thread_and_one_in_an_event_loop_give_the_same(tokenizer: Tokenizer) -> None:
    [sample] = submit(EchoEngine(), request(tokenizer), tokenizer)
    pieces = list(Stream(sample))
    assert "".join(pieces).strip() == PROMPT

    async def read() -> list[str]:
        [sample] = submit(EchoEngine(), request(tokenizer), tokenizer)
        return [piece async for piece in Stream(sample)]

    assert asyncio.run(read()) == pieces


def test_an_event_loop_gets_the_pieces_of_all_samples_and_their_ends(tokenizer: Tokenizer) -> None:
    async def read() -> tuple[dict[int, str], list[int]]:
        samples = submit(EchoEngine(), request(tokenizer, replace(PARAMS, n=3)), tokenizer)
        texts, ended = dict.fromkeys(range(3), ""), list[int]()
        async for pieces in generate_async(samples):
            for piece in pieces:
                texts[piece.sample] += piece.text
                ended += [piece.sample] * piece.is_last
        return texts, ended

    texts, ended = asyncio.run(read())
    assert [text.strip() for text in texts.values()] == [PROMPT] * 3
    assert sorted(ended) == [0, 1, 2]


class HurriedHandle(EchoHandle):
    """Gives all tokens in the first read."""

    def read(self) -> RequestOutput:
        tokens, self._left = self._left, []
        self.reason = self.reason or "length"
        return RequestOutput(tokens, (), 0, self.reason, None)


def test_tokens_that_came_together_make_one_piece(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "EchoHandle", HurriedHandle)
    samples = submit(EchoEngine(), request(tokenizer, replace(PARAMS, n=2)), tokenizer)

    async def read() -> list[list[Piece]]:
        return [pieces async for pieces in generate_async(samples)]

    [pieces] = asyncio.run(read())
    assert [(piece.sample, piece.text.strip(), piece.is_last) for piece in pieces] == [
        (0, PROMPT, False),
        (0, "", True),
        (1, PROMPT, False),
        (1, "", True),
    ]


def test_closing_an_asynchronous_generation_cancels_its_samples(tokenizer: Tokenizer) -> None:
    engine = EchoEngine()

    async def leave() -> None:
        pieces = generate_async(submit(engine, request(tokenizer), tokenizer))
        await anext(pieces)
        await pieces.aclose()

    asyncio.run(leave())
    assert engine.handles[0].reason == "cancelled"


def test_a_stop_string_and_an_early_end_cancel_the_handle(tokenizer: Tokenizer) -> None:
    engine = EchoEngine()
    [sample] = submit(engine, request(tokenizer, replace(PARAMS, stop=("clock",))), tokenizer)
    [completion] = generate([sample])
    assert completion.text.strip() == "The old"
    assert (completion.finish_reason, engine.handles[0].reason) == ("stop", "stop")
    [sample] = submit(engine, request(tokenizer), tokenizer)
    stream = Stream(sample)
    next(stream)
    stream.close()
    assert (stream.completion.finish_reason, engine.handles[1].reason) == ("cancelled", "cancelled")


def test_an_error_in_a_message_is_raised(tokenizer: Tokenizer) -> None:
    error = CullamaError("the connection was lost")
    [sample] = submit(EchoEngine(error), request(tokenizer), tokenizer)
    stream = Stream(sample)
    with pytest.raises(CullamaError, match="connection was lost"):
        list(stream)
    assert stream.completion.finish_reason == "error"


def test_an_llm_works_in_front_of_any_engine(llm: LLM) -> None:
    prompts = ["Once upon a time", "The old clock"]
    texts = [completion.text for completion in llm.generate(prompts, PARAMS)]
    assert [text.strip() for text in texts] == prompts
    assert "".join(llm.stream(prompts[0], PARAMS)) == texts[0]
    assert llm.longest_text == 128
    assert llm.logits([1, 2]).shape == (2, 300)
    with pytest.raises(UsageError, match="runs in another process"):
        llm.inside([5, 6])
    llm.close()
