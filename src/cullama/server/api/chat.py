"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ...chat.tools.events import Event
from ...sampling.params import TokenLogprobs
from ...text.completion import Completion
from ...text.generation import Piece, Sample
from ...text.tokenizer import text_behind
from ..http.bodies import JsonRoute
from ..http.events import while_connected
from .answers import Json, finish_reason
from .fields import ChatFields
from .logprobs import chat_logprobs
from .opening import Opened, cancelling, open_answer
from .service import Service, new_id, now, service_of
from .tools import answer_message, delta

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/chat/completions", response_class=JSONResponse)
async def chat_completions(request: Request, fields: ChatFields) -> Response:
    """Answer the last message of a conversation."""
    service = service_of(request)
    service.check(fields)
    opened = await open_answer(service, "chat", fields, "response_format")
    samples = opened.answer.samples
    with cancelling(samples):
        answer = _ChatAnswer(service, fields, opened)
        if fields.stream:
            return service.stream(answer.id, answer.stream(), fields.resumable, samples)
        return JSONResponse(await while_connected(request, answer.complete()))


class _ChatAnswer:
    """Words an answer as OpenAI's chat completions do."""

    def __init__(self, service: Service, fields: ChatFields, opened: Opened) -> None:
        answer, prompt, begun = opened.answer, opened.prompt, opened.begun
        self._fields, self._answer, self._prompt = fields, answer, prompt
        self._echoed = begun if fields.echo else []
        self._before: list[list[Event]] = [[] for _ in answer.samples]
        if begun:  # an answer goes on with what it was before: reasoning, for example
            text = text_behind(service.llm.tokenizer, prompt, begun)
            said = [parser.begin(text) for parser in answer.parsers]
            self._before = said if self._echoed else self._before
        self.id = new_id("chatcmpl")
        self._head: Json = {
            "id": self.id,
            "created": now(),
            "model": service.model,
            "service_tier": "default",
            "system_fingerprint": service.fingerprint,
        }

    async def complete(self) -> Json:
        head = {**self._head, "object": "chat.completion"}
        if self._fields.return_token_ids:
            head["prompt_token_ids"] = self._prompt
        return await self._answer.complete(head, self._choice)

    def stream(self) -> AsyncGenerator[bytes, None]:
        options = self._fields.stream_options
        begin: list[Json] = [
            {
                "choices": [
                    {
                        "index": k,
                        "delta": {"role": "assistant", "content": "", "refusal": None},
                        "logprobs": None,
                        "finish_reason": None,
                        "seed": sample.handle.seed,
                    }
                ]
            }
            for k, sample in enumerate(self._answer.samples)
        ]
        if self._fields.return_token_ids:
            begin[0]["prompt_token_ids"] = self._prompt
        begin[0]["engine_request"] = self._answer.request_id
        head = {**self._head, "object": "chat.completion.chunk"}
        with_usage = bool(options and options.include_usage)
        progress: Json | None = None
        if self._fields.return_progress:
            progress = {
                "delta": {"role": "assistant", "content": None},
                "logprobs": None,
                "finish_reason": None,
            }
        return self._answer.stream(head, self._chunk_choices, begin, with_usage, progress)

    def _choice(self, index: int, completion: Completion) -> Json:
        choice = {
            "index": index,
            "message": answer_message(self._answer.parsed(index, self._before[index])),
            "logprobs": None,
            "finish_reason": self._finish_reason(index, completion),
            "seed": completion.seed,
        }
        if completion.logprobs is not None:
            echoed = self._answer.samples[index].output.prompt_logprobs
            choice["logprobs"] = self._logprobs([*echoed, *completion.logprobs])
        if self._fields.return_token_ids:
            choice["token_ids"] = [*self._echoed, *completion.token_ids]
        return choice

    def _chunk_choices(self, piece: Piece, sample: Sample) -> list[Json]:
        """Return a choice for each part of an answer that the piece tells of."""
        new, output = self._answer.new_tokens(piece.sample), sample.output
        is_first = new.start == 0
        events = [*self._before[piece.sample], *self._answer.read(piece)]
        self._before[piece.sample] = []
        deltas = [delta(event) for event in events]
        has_tokens = self._fields.logprobs or self._fields.return_token_ids
        if piece.is_last and "tool_calls" in (deltas[-1] if deltas else ()):
            deltas.append({})
        if not deltas and (piece.is_last or has_tokens):
            deltas.append({})
        choices: list[Json] = [
            {"index": piece.sample, "delta": each, "logprobs": None, "finish_reason": None}
            for each in deltas
        ]
        if piece.is_last:
            choices[-1]["finish_reason"] = self._finish_reason(piece.sample, output.completion())
        if self._fields.logprobs:
            echoed = output.prompt_logprobs if is_first else ()
            choices[0]["logprobs"] = self._logprobs([*echoed, *output.take_logprobs()])
        if self._fields.return_token_ids:
            choices[0]["token_ids"] = self._echoed * is_first + output.token_ids[new]
        return choices

    def _finish_reason(self, sample: int, completion: Completion) -> str:
        reason = finish_reason(completion)
        has_call = reason == "stop" and self._answer.parsers[sample].has_call
        return "tool_calls" if has_call else reason

    def _logprobs(self, logprobs: Sequence[TokenLogprobs]) -> Json:
        has_ids = bool(self._fields.return_token_ids)
        return chat_logprobs(self._answer.tokenizer, logprobs, has_ids)
