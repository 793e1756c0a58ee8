"""What the routes share: the served model, and how a request becomes samples."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from anyio import CapacityLimiter, to_thread
from fastapi import Request

from ...chat.tools.functions import ToolUse
from ...engine.client import GenerationRequest
from ...engine.grammars import MAX_COMPILING
from ...errors import UsageError
from ...llm import LLM
from ...sampling.params import SamplingParams
from ...text.generation import Sample, submit
from ...text.tokenizer import NO_TOKENS
from ...version import __version__
from ..http.errors import ApiError
from ..http.events import EventStream
from ..http.stored_streams import StoredStreams
from ..process.engine import RemoteEngine
from .answer_form import FORMS
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
    _compiling: CapacityLimiter | None = None  # apart from the threads for what is quick

    @property
    def model(self) -> str:
        return self.llm.name

    @property
    def fingerprint(self) -> str:
        return f"cullama-{__version__}"

    def check_variables(self, variables: Mapping[str, Any] | None) -> None:
        """Raises ApiError: a variable that is the conversation itself, or a control token's name,
        such as bos_token."""
        template = self.llm.chat_template
        taken = NOT_VARIABLES | set(template.names if template else ())
        for name in taken & (variables or {}).keys():
            raise ApiError(400, f"{name!r} is no variable of a template", "template_variables")

    def check_tools(self) -> None:
        """Raises ApiError: the model's chat template has no calls that can be read."""
        try:
            self.llm.chat_format.answers.check_tools()
        except UsageError as error:
            raise ApiError(400, str(error), "tools") from None

    def calls_grammar(self, prompt: Sequence[int], use: ToolUse) -> str | None:
        """Return the grammar of an answer whose calls are held to their schemas; None for others.

        Raises:
            ApiError: a schema that is not supported.
        """
        try:
            return self.llm.chat_format.answers.grammar(prompt, use)
        except UsageError as error:
            raise ApiError(400, str(error), "tools") from None

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """Return a prompt's tokens; a text's control tokens are read as such."""
        if isinstance(prompt, str):
            return self.llm.tokenizer.encode_prompt(prompt, self.llm.config.bos_id)
        return list(prompt)

    def conversation(
        self,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any] | None,
        is_continued: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> tuple[list[int], list[int]]:
        """Return the prompt of a conversation, and the beginning of its answer.

        Args:
            is_continued: the last message is that beginning.

        Raises:
            ApiError: a variable that is none; messages that the model's template refuses, or the
                last one of the wrong role.
        """
        self.check_variables(variables)
        try:
            given = {**(variables or {}), "tools": tools}
            if is_continued:
                return self.llm.chat_format.begin(messages, given)
            return self.llm.chat_format.prompt(messages, given), []
        except UsageError as error:
            raise ApiError(400, str(error), "messages") from None

    async def checked_params(self, values: Mapping[str, Any], prompt_length: int) -> SamplingParams:
        """As `params`; the form of the answer, if one is asked for, is compiled in another thread.

        Raises:
            ConstraintError: a form that is wrong, not supported, or beyond the vocabulary.
        """
        if not values.keys() & set(FORMS):
            return self.params(values, prompt_length)

        def compiled() -> SamplingParams:
            params = self.params(values, prompt_length)
            if params.constraint is not None:
                self.llm.grammars.check(params.constraint)
            return params

        if self._compiling is None:
            self._compiling = CapacityLimiter(MAX_COMPILING)
        return await to_thread.run_sync(compiled, limiter=self._compiling)

    def params(self, values: Mapping[str, Any], prompt_length: int) -> SamplingParams:
        """Return sampling parameters: the model's defaults where the request gives none.

        An answer may fill what the prompt leaves of the context, unless the request says less.
        """
        params = replace(self.llm.default_params, **values)
        room = self.llm.longest_text - prompt_length
        if "max_tokens" not in values:  # the engine refuses a prompt that leaves no room
            params = replace(params, max_tokens=room if room > 0 else None)
        return params

    def begin(self, begun: list[int], params: SamplingParams) -> tuple[list[int], SamplingParams]:
        """Return an answer's first tokens, and the parameters to go on behind them; where the last
        one ends answers, it is the one token that is still to come."""
        eos_ids = () if params.ignore_eos else self.engine.capacity.eos_ids
        if begun and begun[-1] in {*params.stop_token_ids, *eos_ids}:
            return begun[:-1], params.ending_with(begun[-1])
        return begun, params

    def submit(
        self,
        kind: str,
        prompt: Sequence[int],
        params: SamplingParams,
        priority: int | None,
        begun: Sequence[int] = (),
        scores_prompt: bool = True,
        shown: Mapping[int, str] = NO_TOKENS,
    ) -> list[Sample]:
        """Submit a request.

        Args:
            kind: what asks, as /engine lists it: "chat", "completion" or "response".
            begun: the answer's first tokens.
            scores_prompt: whether `prompt_logprobs` asks for those of the prompt, too, or only for
                those of the answer's first tokens.
            shown: the control tokens that are part of the text.
        """
        if not begun and not scores_prompt:
            params = replace(params, prompt_logprobs=None)
        start = 1 if scores_prompt or not begun else len(prompt)
        request = GenerationRequest(prompt, params, priority or 0, start, begun, kind)
        return submit(self.engine, request, self.llm.tokenizer, shown)

    def stream(
        self,
        id: str,
        events: AsyncGenerator[bytes, None],
        is_resumable: bool | None,
        samples: Sequence[Sample],
    ) -> EventStream:
        """Return a streamed response of these samples; a resumable one goes on when its client has
        left."""
        if is_resumable:
            return EventStream(self.streams.add(id, events).read(0))

        def cancel() -> None:
            for sample in samples:
                sample.handle.cancel()

        return EventStream(events, cancel)

    def check(self, fields: SamplingFields) -> None:
        """Raises ApiError, QueueFullError: another model than the one served, or no room.

        Before the prompt is encoded, so that refusals cost little.
        """
        self.check_model(fields.model)
        self.engine.check_room()
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
