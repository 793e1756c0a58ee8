"""The fields of requests: OpenAI's, and ours beside them, with their ranges.

A field works, is a defined no-op, or is refused by name: unknown ones are never passed over. Ranges
beyond these are SamplingParams' own. None stands for a field that is missing, as in OpenAI's API.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from ...chat.tools.functions import ToolUse
from ...sampling.params import MAX_LOGPROBS, MAX_VALUE, MIN_VALUE
from ..http.errors import ApiError
from .answer_form import FormFields
from .tools import (
    MAX_TOOLS,
    AllowedChoice,
    ChosenTools,
    NamedChoice,
    ToolFields,
    template_messages,
    tool_use,
)

MAX_CHOICES = 8
MAX_STOPS, MAX_STOP_CHARACTERS = 16, 256
MAX_BIASES = 1024
MAX_PROMPTS = 64
MAX_TOKEN_IDS = 1 << 20  # of an answer's beginning
MAX_INT32 = (1 << 31) - 1

Text = Annotated[str, Field(max_length=1 << 20)]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
TokenId = Annotated[int, Field(ge=0, le=MAX_INT32)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]


class Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Fields):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # no-op: nothing is padded


class SamplingFields(FormFields):
    """What chat completions and completions have in common."""

    model: Annotated[str, Field(max_length=256)] | None = None  # there is one; see /v1/models
    max_tokens: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = None
    temperature: Annotated[float, Field(ge=0, le=MAX_VALUE)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-MAX_VALUE, le=MAX_VALUE)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-MAX_VALUE, le=MAX_VALUE)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), le=(1 << 64) - 1)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, Field(pattern="^[0-9]{1,10}$")],
                Annotated[float, Field(ge=-MAX_VALUE, le=MAX_VALUE)],
            ],
            Field(max_length=MAX_BIASES),
        ]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=1024)] | None = None  # no-op
    # Ours
    top_k: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=MIN_VALUE, le=MAX_VALUE)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOPS)] | None = None
    ignore_eos: bool | None = None
    speculation: Annotated[int, Field(ge=0, le=64)] | None = None
    priority: Annotated[int, Field(ge=-1000, le=1000)] | None = None
    return_token_ids: bool | None = None
    # What the answer begins with: it goes on as if the model had drawn these tokens.
    answer_token_ids: Annotated[list[TokenId], Field(max_length=MAX_TOKEN_IDS)] | None = None
    resumable: bool | None = None
    return_progress: bool | None = None  # how much of the prompt was read, in chunks of a stream

    @model_validator(mode="after")
    def _check_stream_options(self) -> SamplingFields:
        for name in ("stream_options", "resumable", "return_progress"):
            if getattr(self, name) and not self.stream:
                raise ApiError(400, f"{name} is only for stream: true", name)
        return self

    def sampling(self) -> dict[str, Any]:
        """Return the fields that SamplingParams has, where they are given."""
        values = {name: getattr(self, name) for name in _SAMPLING_NAMES}
        given = {name: value for name, value in values.items() if value is not None}
        given.update(self.form())
        if "seed" in given:
            given["seed"] %= 1 << 64  # OpenAI's are signed
        if "logit_bias" in given:
            given["logit_bias"] = {int(token): bias for token, bias in given["logit_bias"].items()}
        if "stop" in given:
            given["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return given


_SAMPLING_NAMES = (
    "max_tokens",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "n",
    "logit_bias",
    "top_k",
    "min_p",
    "repetition_penalty",
    "stop_token_ids",
    "ignore_eos",
    "speculation",
)


class CompletionFields(SamplingFields):
    """The body of /v1/completions."""

    # 0 generates nothing: with `echo` and `logprobs`, the prompt's log-probabilities.
    max_tokens: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = None

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None  # nothing is inserted before a text
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None  # 1 is what there is

    def sampling(self) -> dict[str, Any]:
        values = super().sampling()
        if self.logprobs is not None:
            values["logprobs"] = self.logprobs
            if self.echo:
                values["prompt_logprobs"] = self.logprobs
        return values

    @model_validator(mode="after")
    def _check_prompts(self) -> CompletionFields:
        is_single = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        if self.answer_token_ids and not (is_single or len(self.prompt) == 1):
            words = "answer_token_ids is only for one prompt"
            raise ApiError(400, words, "answer_token_ids")
        if self.answer_token_ids and self.max_tokens == 0:
            words = "max_tokens is 0, expected at least 1 where an answer goes on"
            raise ApiError(400, words, "max_tokens")
        return self

    @model_validator(mode="after")
    def _check_echo(self) -> CompletionFields:
        if self.max_tokens == 0 and not (self.echo and self.logprobs is not None):
            words = "max_tokens is 0, expected at least 1, or echo and logprobs with it"
            raise ApiError(400, words, "max_tokens")
        if self.stream and self.echo and self.logprobs is not None:
            words = "echo with logprobs is known as a whole only, expected stream: false"
            raise ApiError(400, words, "stream")
        return self


class ChatFields(SamplingFields):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[dict[str, JsonValue]], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    modalities: list[Literal["text"]] | None = None
    tools: Annotated[list[ToolFields], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    # No-ops
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: Annotated[str, Field(max_length=1024)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=1024)] | None = None
    # Ours
    template_variables: dict[str, JsonValue] | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = (
        None  # the same, as vLLM and llama.cpp name it
    )
    add_generation_prompt: bool | None = None  # false only beside the next one
    continue_final_message: bool | None = None  # the last message is the answer's beginning
    echo: bool | None = None  # give the answer's beginning back, too

    @model_validator(mode="after")
    def _check_beginning(self) -> ChatFields:
        if self.chat_template_kwargs is not None and self.template_variables is not None:
            words = "the same as template_variables; give one of them"
            raise ApiError(400, f"chat_template_kwargs is {words}", "chat_template_kwargs")
        self.template_variables = self.template_variables or self.chat_template_kwargs
        if self.continue_final_message and self.add_generation_prompt:
            words = "the last message is continued, or another one begins: both are true"
            raise ApiError(400, words, "add_generation_prompt")
        if self.add_generation_prompt is False and not self.continue_final_message:
            words = "false is only for continue_final_message: true"
            raise ApiError(400, f"add_generation_prompt: {words}", "add_generation_prompt")
        if self.continue_final_message and self.answer_token_ids:
            words = "the last message and answer_token_ids both begin the answer; give one of them"
            raise ApiError(400, words, "answer_token_ids")
        if self.echo and not (self.continue_final_message or self.answer_token_ids):
            words = "echo is only for continue_final_message or answer_token_ids"
            raise ApiError(400, words, "echo")
        return self

    @model_validator(mode="after")
    def _check_logprobs(self) -> ChatFields:
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs is only for logprobs: true", "top_logprobs")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            words = "max_tokens is the old name of max_completion_tokens; give one of them"
            raise ApiError(400, words, "max_tokens")
        return self

    @property
    def is_continued(self) -> bool:
        """Whether the last message is the answer's beginning."""
        return bool(self.continue_final_message)

    def conversation(self) -> list[dict[str, Any]]:
        """Return the messages. Raises ApiError: as `tools.template_messages`."""
        return template_messages(self.messages)

    def tool_use(self) -> ToolUse | None:
        """Return which functions may be called. Raises ApiError: as `tools.tool_use`."""
        functions = [tool.function.tool() for tool in self.tools or ()]
        use = tool_use(functions, ChosenTools.of(self.tool_choice), self.parallel_tool_calls)
        if use is not None and (form := next(iter(self.form()), None)):
            field = "response_format" if form.startswith("json") else form
            words = f"{field} gives the answer a form in which no tool is called"
            raise ApiError(400, f"{words}; leave out one of them, or set tool_choice: none", field)
        return use

    def sampling(self) -> dict[str, Any]:
        values = super().sampling()
        if self.max_completion_tokens is not None:
            values["max_tokens"] = self.max_completion_tokens
        if self.logprobs:
            values["logprobs"] = self.top_logprobs or 0
            if self.echo:
                values["prompt_logprobs"] = values["logprobs"]
        return values
