"""POST /v1/responses: one answer, from what the request itself says. Nothing is kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import JSONResponse, Response

from ...sampling.params import SamplingParams
from ...text.generation import Piece, generate_async
from ..http.bodies import JsonRoute
from ..http.errors import api_error
from ..http.events import while_connected
from .answers import Answer, Json, finish_reason, timings
from .logprobs import chat_logprobs
from .opening import cancelling, open_answer, rendered
from .response_fields import ResponseFields
from .response_output import ResponseOutput
from .service import Service, new_id, now, service_of

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/responses", response_class=JSONResponse)
async def responses(request: Request, fields: ResponseFields) -> Response:
    """Answer a text, or a conversation of items."""
    service = service_of(request)
    service.check(fields)
    opened = await open_answer(service, "response", fields, "text.format.schema")
    samples = opened.answer.samples
    with cancelling(samples):
        answer = _ResponseAnswer(service, fields, opened.params, opened.answer)
        if fields.stream:
            return service.stream(answer.id, answer.stream(), fields.resumable, samples)
        return JSONResponse(await while_connected(request, answer.complete()))


@router.post("/v1/responses/input_tokens")
async def input_tokens(request: Request, fields: ResponseFields) -> Json:
    """Count the tokens of what a response would be an answer to."""
    service = service_of(request)
    service.check_model(fields.model)
    prompt, _, _ = await rendered(service, fields)
    return {"object": "response.input_tokens", "input_tokens": len(prompt)}


class _ResponseAnswer:
    """One response, as far as it is."""

    def __init__(
        self, service: Service, fields: ResponseFields, params: SamplingParams, answer: Answer
    ) -> None:
        self._fields, self._answer, self._output = fields, answer, ResponseOutput()
        self.id = new_id("resp").replace("-", "_")
        tools = [tool.model_dump(mode="json") for tool in fields.tools or ()]
        choice = fields.tool_choice or "auto"
        form = fields.text.format if fields.text else None
        self._response: Json = {
            "id": self.id,
            "object": "response",
            "created_at": now(),
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": fields.instructions,
            "max_output_tokens": fields.max_output_tokens,
            "max_tool_calls": fields.max_tool_calls,
            "model": service.model,
            "output": [],
            "parallel_tool_calls": fields.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "background": False,
            "store": False,
            "temperature": float(params.temperature),
            "top_p": float(params.top_p),
            "top_logprobs": fields.top_logprobs or 0,
            "text": {
                "format": form.model_dump(mode="json", by_alias=True, exclude_none=True)
                if form
                else {"type": "text"}
            },
            "tool_choice": choice if isinstance(choice, str) else choice.model_dump(mode="json"),
            "tools": tools,
            "truncation": "disabled",
            "usage": None,
            "user": fields.user,
            "safety_identifier": fields.safety_identifier,
            "prompt_cache_key": fields.prompt_cache_key,
            "metadata": fields.metadata or {},
            "seed": answer.samples[0].handle.seed,
        }

    async def complete(self) -> Json:
        """Generate the answer to its end, and return the whole response."""
        async with aclosing(generate_async(self._answer.samples)) as steps:
            async for pieces in steps:
                for piece in pieces:
                    for _ in self._read(piece):
                        pass
        return self._response

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the response's events, those of one pass of the model together."""
        number = 0

        def numbered(told: Json) -> bytes:
            nonlocal number
            text = to_json({**told, "sequence_number": number})
            number += 1
            return b"event: %b\ndata: %b\n\n" % (told["type"].encode(), text)

        try:
            begun = {**self._response, "engine_request": self._answer.request_id}
            for kind in ("created", "in_progress"):
                yield numbered({"type": f"response.{kind}", "response": begun})
            async with aclosing(generate_async(self._answer.samples)) as steps:
                async for pieces in steps:
                    events = [told for piece in pieces for told in self._read(piece)]
                    if events:
                        yield b"".join(map(numbered, events))
            kind = self._response["status"]
        except Exception as error:
            kind, refusal = "failed", api_error(error)
            code = "server_error" if refusal.status >= 500 else "invalid_prompt"
            self._response |= {
                "status": kind,
                "error": {"code": code, "message": refusal.message},
                "output": self._output.items,
            }
        finally:
            self._answer.samples[0].handle.cancel()
        yield numbered({"type": f"response.{kind}", "response": self._response})

    def _read(self, piece: Piece) -> Iterator[Json]:
        """Take a piece of the answer; yields the events that tell of it."""
        output = self._answer.samples[0].output
        logprobs: list[Any] = []
        if self._fields.has_logprobs:
            logprobs = chat_logprobs(self._answer.tokenizer, output.take_logprobs())["content"]
        for event in self._answer.read(piece):
            yield from self._output.add(event, logprobs)
            logprobs = []
        if not piece.is_last:
            return
        completion = output.completion()
        is_cut = finish_reason(completion) == "length"
        yield from self._output.end(is_cut)
        usage = self._answer.usage()
        inputs, outputs = usage["prompt_tokens"], usage["completion_tokens"]
        self._response |= {
            "status": "incomplete" if is_cut else "completed",
            "completed_at": None if is_cut else now(),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": self._output.items,
            "usage": {
                "input_tokens": inputs,
                "input_tokens_details": {
                    "cached_tokens": completion.cached_tokens,
                    "cache_write_tokens": inputs - completion.cached_tokens,
                },
                "output_tokens": outputs,
                "output_tokens_details": usage["completion_tokens_details"],
                "total_tokens": inputs + outputs,
            },
            "timings": timings(completion),
        }
