"""Opens an answer to a conversation, for chat completions and responses: from fields to samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool

from ...chat.tools.functions import ToolUse
from ...errors import ConstraintError
from ...sampling.params import SamplingParams
from ...text.generation import Sample
from ..http.errors import ApiError
from .answers import Answer
from .service import Service

TOOLS_REFUSED = "calls cannot be held to the schemas of the tools"


class ConversationFields(Protocol):
    """What of the body of a request makes a conversation and its answer."""

    @property
    def priority(self) -> int | None: ...
    @property
    def template_variables(self) -> dict[str, Any] | None: ...
    @property
    def answer_token_ids(self) -> list[int] | None: ...
    @property
    def is_continued(self) -> bool: ...
    def tool_use(self) -> ToolUse | None: ...
    def conversation(self) -> list[dict[str, Any]]: ...
    def sampling(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Opened:
    """An answer whose request runs.

    Attributes:
        begun: the answer's first tokens, where it goes on.
    """

    prompt: list[int]
    begun: list[int]
    params: SamplingParams
    answer: Answer


async def open_answer(
    service: Service, kind: str, fields: ConversationFields, schema_field: str
) -> Opened:
    """Render a conversation, submit its request, and return what reads the answers.

    Args:
        kind: what asks, as `Service.submit` has it.
        schema_field: the field of the request that has a JSON schema of the answer.

    Raises:
        ApiError: a conversation, tools, or a form of the answer that the model cannot be given.
    """
    prompt, begun, use = await rendered(service, fields)
    begun = fields.answer_token_ids or begun
    values = fields.sampling()
    format = service.llm.chat_format
    with _naming_fields(schema_field, has_tools=use is not None):
        if use is not None and (grammar := service.calls_grammar(prompt, use)) is not None:
            values["grammar"] = grammar
        params = await service.checked_params(values, len(prompt) + len(begun))
        params = format.with_stop_tokens(params)
        begun, params = service.begin(begun, params)
        shown = format.answers.shown_tokens
        samples = service.submit(kind, prompt, params, fields.priority, begun, False, shown)
    with cancelling(samples):
        parsers = [format.answers.parser(prompt, use) for _ in samples]
        answer = Answer(samples, params.n, service.llm.tokenizer, parsers)
        return Opened(prompt, begun, params, answer)


async def rendered(
    service: Service, fields: ConversationFields
) -> tuple[list[int], list[int], ToolUse | None]:
    """Return the tokens of a conversation, those that its last message begins the answer with, and
    the functions that may be called. Raises ApiError: as `open_answer`."""
    use = fields.tool_use()
    if use is not None:
        service.check_tools()
    # In another thread: a long conversation would hold up all streams.
    prompt, begun = await run_in_threadpool(
        service.conversation,
        fields.conversation(),
        fields.template_variables,
        fields.is_continued,
        use.for_template() if use else None,
    )
    return prompt, begun, use


@contextmanager
def cancelling(samples: Sequence[Sample]) -> Iterator[None]:
    """Cancel samples that run already where their answer cannot be made after all."""
    try:
        yield
    except BaseException:
        for sample in samples:
            sample.handle.cancel()
        raise


@contextmanager
def _naming_fields(schema_field: str, has_tools: bool) -> Iterator[None]:
    """Name the field that a constraint comes from: the grammar of calls is no field."""
    try:
        yield
    except ConstraintError as error:
        if has_tools and error.param == "grammar":
            raise ApiError(400, f"{TOOLS_REFUSED}: {error}", "tools") from None
        if error.param in ("json_schema", "json_object"):
            raise ApiError(400, str(error), schema_field) from None
        raise
