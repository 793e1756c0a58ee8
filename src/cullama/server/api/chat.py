"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from ...text.completion import Completion
from ...text.generation import Piece, Sample
from ..http.events import while_connected
from .answers import Answer, Json, finish_reason
from .fields import ChatFields
from .logprobs import chat_logprobs
from .service import Service, new_id, now, service_of

router = APIRouter()


@router.post("/v1/chat/completions", response_class=JSONResponse)
async def chat_completions(request: Request, fields: ChatFields) -> Response:
    """Answer the last message of a conversation."""
    service = service_of(request)
    service.check(fields)
    # In another thread: a long conversation would hold up all streams.
    prompt = await run_in_threadpool(
        service.conversation, fields.messages, fields.template_variables
    )
    params = service.params(fields.sampling(), len(prompt))
    params = service.llm.chat_format.with_stop_tokens(params)
    samples = service.submit(prompt, params, fields.priority)
    answer = _ChatAnswer(service, fields, Answer(samples, params.n, service.llm.tokenizer))
    if fields.stream:
        return service.stream(answer.id, answer.stream(), fields.resumable)
    return JSONResponse(await while_connected(request, answer.complete()))


class _ChatAnswer:
    """Words an answer as OpenAI's chat completions do."""

    def __init__(self, service: Service, fields: ChatFields, answer: Answer) -> None:
        self._fields, self._answer = fields, answer
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
        return await self._answer.complete(head, self._choice)

    def stream(self) -> AsyncGenerator[bytes, None]:
        options = self._fields.stream_options
        begin = [
            {
                "index": k,
                "delta": {"role": "assistant", "content": "", "refusal": None},
                "logprobs": None,
                "finish_reason": None,
            }
            for k in range(self._answer.n)
        ]
        head = {**self._head, "object": "chat.completion.chunk"}
        with_usage = bool(options and options.include_usage)
        return self._answer.stream(head, self._chunk_choice, begin, with_usage)

    def _choice(self, index: int, completion: Completion) -> Json:
        choice = {
            "index": index,
            "message": {
                "role": "assistant",
                "content": completion.text,
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": finish_reason(completion),
        }
        if completion.logprobs is not None:
            choice["logprobs"] = chat_logprobs(self._answer.tokenizer, completion.logprobs)
        if self._fields.return_token_ids:
            choice["token_ids"] = list(completion.token_ids)
        return choice

    def _chunk_choice(self, piece: Piece, sample: Sample) -> Json:
        new = self._answer.new_tokens(piece.sample)
        choice: Json = {
            "index": piece.sample,
            "delta": {"content": piece.text} if piece.text else {},
            "logprobs": None,
            "finish_reason": None,
        }
        if piece.is_last:
            choice["finish_reason"] = finish_reason(sample.output.completion())
        if self._fields.logprobs:
            choice["logprobs"] = chat_logprobs(self._answer.tokenizer, sample.output.logprobs[new])
        if self._fields.return_token_ids:
            choice["token_ids"] = sample.output.token_ids[new]
        return choice
