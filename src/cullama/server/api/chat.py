"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from ...sampling.params import TokenLogprobs
from ...text.completion import Completion
from ...text.generation import Piece, Sample
from ...text.tokenizer import text_behind
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
    prompt, begun = await run_in_threadpool(
        service.conversation,
        fields.messages,
        fields.template_variables,
        bool(fields.continue_final_message),
    )
    begun = fields.answer_token_ids or begun
    params = service.params(fields.sampling(), len(prompt) + len(begun))
    params = service.llm.chat_format.with_stop_tokens(params)
    begun, params = service.begin(begun, params)
    samples = service.submit(prompt, params, fields.priority, begun, scores_prompt=False)
    answer = _ChatAnswer(
        service, fields, Answer(samples, params.n, service.llm.tokenizer), prompt, begun
    )
    if fields.stream:
        return service.stream(answer.id, answer.stream(), fields.resumable)
    return JSONResponse(await while_connected(request, answer.complete()))


class _ChatAnswer:
    """Words an answer as OpenAI's chat completions do."""

    def __init__(
        self,
        service: Service,
        fields: ChatFields,
        answer: Answer,
        prompt: list[int],
        begun: list[int],
    ) -> None:
        self._fields, self._answer, self._prompt = fields, answer, prompt
        self._echoed = begun if fields.echo else []
        self._echoed_text = ""
        if self._echoed:
            self._echoed_text = text_behind(service.llm.tokenizer, prompt, self._echoed)
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
        head = {**self._head, "object": "chat.completion.chunk"}
        with_usage = bool(options and options.include_usage)
        return self._answer.stream(head, self._chunk_choice, begin, with_usage)

    def _choice(self, index: int, completion: Completion) -> Json:
        choice = {
            "index": index,
            "message": {
                "role": "assistant",
                "content": self._echoed_text + completion.text,
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": finish_reason(completion),
            "seed": completion.seed,
        }
        if completion.logprobs is not None:
            echoed = self._answer.samples[index].output.prompt_logprobs
            choice["logprobs"] = self._logprobs([*echoed, *completion.logprobs])
        if self._fields.return_token_ids:
            choice["token_ids"] = [*self._echoed, *completion.token_ids]
        return choice

    def _chunk_choice(self, piece: Piece, sample: Sample) -> Json:
        new, output = self._answer.new_tokens(piece.sample), sample.output
        is_first = new.start == 0
        text = self._echoed_text * is_first + piece.text
        choice: Json = {
            "index": piece.sample,
            "delta": {"content": text} if text else {},
            "logprobs": None,
            "finish_reason": None,
        }
        if piece.is_last:
            choice["finish_reason"] = finish_reason(output.completion())
        if self._fields.logprobs:
            echoed = output.prompt_logprobs if is_first else ()
            choice["logprobs"] = self._logprobs([*echoed, *output.logprobs[new]])
        if self._fields.return_token_ids:
            choice["token_ids"] = self._echoed * is_first + output.token_ids[new]
        return choice

    def _logprobs(self, logprobs: Sequence[TokenLogprobs]) -> Json:
        has_ids = bool(self._fields.return_token_ids)
        return chat_logprobs(self._answer.tokenizer, logprobs, has_ids)
