"""What the routes share: the served model, and how a request becomes samples."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from fastapi import Request

from ...chat.escape import SPLIT
from ...engine.client import GenerationRequest
from ...llm import LLM
from ...sampling.params import SamplingParams
from ...text.generation import Sample, submit
from ...version import __version__
from ..http.errors import ApiError
from ..http.events import EventStream
from ..http.stored_streams import StoredStreams
from ..process.engine import RemoteEngine
from .fields import SamplingFields

# Which fields of a request say, or cullama's own part of it.
NOT_VARIABLES = {"messages", "add_generation_prompt", "tools", "documents"}


@dataclass
class Service:
    """One served model: its text in this process (`llm`), the model itself behind `engine`."""

    llm: LLM
    engine: RemoteEngine
    is_ending: bool = False  # answers are written to their ends; what has no end stops
    started: float = field(default_factory=time.time)
    streams: StoredStreams = field(default_factory=StoredStreams)

    @property
    def model(self) -> str:
        return self.llm.name

    @property
    def fingerprint(self) -> str:
        return f"cullama-{__version__}"

    def render(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any] | None
    ) -> tuple[str, list[int]]:
        """Return a conversation as the model reads it, as text and as token ids.

        Raises:
            ApiError: a variable that is the conversation itself.
            UsageError: no conversation, or one that the model's template refuses.
        """
        variables, template = variables or {}, self.llm.chat_template
        # Nor the names of control tokens, such as bos_token.
        for name in (NOT_VARIABLES | set(template.names if template else ())) & variables.keys():
            raise ApiError(400, f"{name!r} is no variable of a template", "template_variables")
        text = self.llm.chat_format.write(messages, **variables)
        return text.replace(SPLIT, ""), self.llm.chat_format.encode(text)

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """Return a prompt's tokens; a text's control tokens are read as such."""
        if isinstance(prompt, str):
            return self.llm.tokenizer.encode_prompt(prompt, self.llm.config.bos_id)
        return list(prompt)

    def conversation(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any] | None
    ) -> list[int]:
        """Return the prompt of a conversation. Raises as `render`; and nothing to answer."""
        _, ids = self.render(messages, variables)
        if messages[-1].get("role") == "assistant":
            words = "the last message is the assistant's, expected one to answer"
            raise ApiError(400, words, "messages")
        return ids

    def params(self, values: Mapping[str, Any], prompt_length: int) -> SamplingParams:
        """Return sampling parameters: the model's defaults where the request gives none.

        An answer may fill what the prompt leaves of the context, unless the request says less.
        """
        params = replace(self.llm.default_params, **values)
        room = self.llm.longest_text - prompt_length
        if "max_tokens" not in values:  # the engine refuses a prompt that leaves no room
            params = replace(params, max_tokens=room if room > 0 else None)
        return params

    def submit(
        self, prompt: Sequence[int], params: SamplingParams, priority: int | None
    ) -> list[Sample]:
        request = GenerationRequest(prompt, params, priority or 0)
        return submit(self.engine, request, self.llm.tokenizer)

    def stream(
        self, id: str, events: AsyncGenerator[bytes, None], is_resumable: bool | None
    ) -> EventStream:
        """Return a streamed response; a resumable one goes on when its client has left."""
        if is_resumable:
            return EventStream(self.streams.add(id, events).read(0))
        return EventStream(events)

    def check(self, fields: SamplingFields) -> None:
        """Raises ApiError: another model than the one served, or no room for a stream."""
        self.check_model(fields.model)
        if fields.resumable:
            self.streams.check_room()

    def check_model(self, name: str | None) -> None:
        """Raises ApiError: another model than the one that is served."""
        if name is not None and name != self.model:
            words = f"there is no model {name[:80]!r}; this server has {self.model!r}"
            raise ApiError(404, words, "model", "model_not_found")


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def new_id(kind: str) -> str:
    """Return an id such as "chatcmpl-…", with 128 random bits."""
    return f"{kind}-{uuid4().hex}"


def now() -> int:
    return int(time.time())
