"""The forms of answers, for /openapi.json: what a client can count on to be there.

Answers are made as dicts and never pass through these: that would cost more than making them.
Fields beyond these are ours and are named in docs/server.md.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

Reason: TypeAlias = Literal["stop", "length", "tool_calls"]
TokenIds: TypeAlias = list[int]


class Form(BaseModel):
    model_config = ConfigDict(extra="allow")


class ErrorObject(Form):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Form):
    error: ErrorObject


class TopLogprob(Form):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Form):
    content: list[TokenLogprob] | None
    refusal: None


class Message(Form):
    role: Literal["assistant"]
    content: str | None
    refusal: None


class ChatChoice(Form):
    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: Reason


class CompletionLogprobs(Form):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Form):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Reason


class Usage(Form):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(Form):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextCompletion(Form):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class OutputItem(Form):
    type: Literal["message", "function_call", "reasoning"]
    id: str
    status: Literal["completed", "incomplete"]


class ResponseUsage(Form):
    input_tokens: int
    output_tokens: int
    total_tokens: int


class ResponseObject(Form):
    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Literal["completed", "incomplete"]
    error: None
    incomplete_details: dict[str, str] | None
    output: list[OutputItem]
    usage: ResponseUsage


class InputTokens(Form):
    object: Literal["response.input_tokens"]
    input_tokens: int


class ServedModel(Form):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Form):
    object: Literal["list"]
    data: list[ServedModel]


class LoadProgress(Form):
    model: str
    done: int
    total: int


class Health(Form):
    status: str
    reason: str
    progress: LoadProgress | None


class Props(Form):
    model: str
    description: str | None
    context_length: int
    cache_tokens: int
    default_params: dict[str, Any]
    has_chat_template: bool


class TokenPiece(Form):
    id: int
    piece: str


class Tokenized(Form):
    tokens: TokenIds | list[TokenPiece]


class Detokenized(Form):
    content: str


class AppliedTemplate(Form):
    prompt: str
    tokens: TokenIds | list[TokenPiece]


class CheckedForm(Form):
    is_valid: bool
    milliseconds: float | None
    message: str | None
    pointer: str | None
    keyword: str | None


class LensToken(Form):
    id: int
    piece: str
    probability: float


class LookedAt(Form):
    position: int
    id: int
    piece: str
    weight: float


class LayerOfToken(Form):
    layer: int | None
    probability: float
    rank: int
    top: list[LensToken]
    looked_at: list[LookedAt]


class Layers(Form):
    token: int
    piece: str
    layers: list[LayerOfToken]
    looked_at: list[LookedAt]


class StreamCancelled(Form):
    id: str
    object: Literal["stream.cancelled"]
    events: int
