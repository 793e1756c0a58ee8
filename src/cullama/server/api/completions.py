"""POST /v1/completions: continue texts or token ids."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from ...text.completion import Completion
from ...text.generation import Piece, Sample
from ..http.bodies import JsonRoute
from ..http.events import while_connected
from .answers import Answer, Json, finish_reason
from .fields import CompletionFields
from .logprobs import completion_logprobs
from .opening import cancelling
from .service import Service, new_id, now, service_of

MAX_INLINE_CHARACTERS = 2000  # of a prompt that is encoded in the event loop: under 1 ms

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/completions", response_class=JSONResponse)
async def completions(request: Request, fields: CompletionFields) -> Response:
    """Continue one prompt, or several together; each is a text or its token ids."""
    service = service_of(request)
    service.check(fields)
    prompts = [
        # Long texts in another thread: they would hold up all streams.
        await run_in_threadpool(service.encode, prompt)
        if isinstance(prompt, str) and len(prompt) > MAX_INLINE_CHARACTERS
        else service.encode(prompt)
        for prompt in _prompts(fields)
    ]
    samples: list[Sample] = []
    given = fields.answer_token_ids or []
    begun: list[int] = []
    with cancelling(samples):  # where a later prompt is refused, none of them is answered
        for prompt in prompts:
            params = await service.checked_params(fields.sampling(), len(prompt) + len(given))
            begun, params = service.begin(given, params)
            samples += service.submit("completion", prompt, params, fields.priority, begun)
        answer = Answer(samples, fields.n or 1, service.llm.tokenizer)
        worded = _CompletionAnswer(service, fields, answer, [[*each, *begun] for each in prompts])
        if fields.stream:
            return service.stream(worded.id, worded.stream(), fields.resumable, samples)
        return JSONResponse(await while_connected(request, worded.complete()))


def _prompts(fields: CompletionFields) -> list[str | list[int]]:
    prompt = fields.prompt
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


class _CompletionAnswer:
    """Words an answer as OpenAI's completions do."""

    def __init__(
        self,
        service: Service,
        fields: CompletionFields,
        answer: Answer,
        prompts: list[list[int]],
    ) -> None:
        self._fields, self._answer = fields, answer
        self._echoed = [""] * len(prompts)
        if fields.echo:
            self._echoed = [service.llm.tokenizer.decode(prompt) for prompt in prompts]
        self._prompts = prompts
        self._offsets = [0] * len(answer.samples)  # of the next chunk's text, in characters
        self.id = new_id("cmpl")
        self._head: Json = {
            "id": self.id,
            "object": "text_completion",
            "created": now(),
            "model": service.model,
            "system_fingerprint": service.fingerprint,
        }

    async def complete(self) -> Json:
        return await self._answer.complete(self._head, self._choice)

    def stream(self) -> AsyncGenerator[bytes, None]:
        options = self._fields.stream_options
        first = [
            {"choices": [{"index": k, "text": text, "logprobs": None, "finish_reason": None}]}
            for k in range(len(self._answer.samples))
            if (text := self._echoed[k // self._answer.n])
        ]
        with_usage = bool(options and options.include_usage)
        progress: Json | None = None
        if self._fields.return_progress:
            progress = {"text": "", "logprobs": None, "finish_reason": None}
        return self._answer.stream(self._head, self._chunk_choices, first, with_usage, progress)

    def _choice(self, index: int, completion: Completion) -> Json:
        choice: Json = {
            "index": index,
            "text": self._echoed[index // self._answer.n] + completion.text,
            "logprobs": None,
            "finish_reason": finish_reason(completion),
            "seed": completion.seed,
        }
        if completion.logprobs is not None:
            prompt = self._prompts[index // self._answer.n]
            choice["logprobs"], _ = completion_logprobs(
                self._answer.tokenizer,
                [*(prompt if self._fields.echo else ()), *completion.token_ids],
                [*(completion.prompt_logprobs or ()), *completion.logprobs],
                has_ids=bool(self._fields.return_token_ids),
            )
        if self._fields.return_token_ids:
            choice["prompt_token_ids"] = self._prompts[index // self._answer.n]
            choice["token_ids"] = list(completion.token_ids)
        return choice

    def _chunk_choices(self, piece: Piece, sample: Sample) -> list[Json]:
        new = self._answer.new_tokens(piece.sample)
        choice: Json = {
            "index": piece.sample,
            "text": piece.text,
            "logprobs": None,
            "finish_reason": None,
        }
        if piece.is_last:
            choice["finish_reason"] = finish_reason(sample.output.completion())
            choice["seed"] = sample.handle.seed
        if self._fields.logprobs is not None:
            output, offset = sample.output, self._offsets[piece.sample]
            choice["logprobs"], self._offsets[piece.sample] = completion_logprobs(
                self._answer.tokenizer,
                output.token_ids[new],
                output.take_logprobs(),
                offset,
                bool(self._fields.return_token_ids),
            )
        if self._fields.return_token_ids:
            if new.start == 0:
                choice["prompt_token_ids"] = self._prompts[piece.sample // self._answer.n]
            choice["token_ids"] = sample.output.token_ids[new]
        return [choice]
