"""POST /tokenize, /detokenize, /apply-template: what the model reads, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field, JsonValue

from ...chat.escape import SPLIT
from ...chat.turns import prompt_turns
from ...errors import UsageError
from ...text.token_texts import token_bytes, token_texts
from ..http.bodies import JsonRoute
from ..http.errors import ApiError
from .answers import Json
from .fields import Fields, Text, TokenId
from .service import Service, service_of
from .tools import MAX_TOOLS, ToolFields, template_messages

router = APIRouter(route_class=JsonRoute)


class TokenizeFields(Fields):
    content: Text
    add_special: bool = False  # BOS, and what else the model expects around a text
    parse_special: bool = True  # control tokens that the text spells
    with_pieces: bool = False  # the text of each token, its bytes, and whether it is control


class DetokenizeFields(Fields):
    tokens: list[TokenId]


class TemplateFields(Fields):
    messages: Annotated[list[dict[str, JsonValue]], Field(min_length=1)]
    template_variables: dict[str, JsonValue] | None = None
    tools: Annotated[list[ToolFields], Field(max_length=MAX_TOOLS)] | None = None
    continue_final_message: bool = False  # the last message is the answer's beginning
    with_pieces: bool = False  # as of /tokenize; and which messages the tokens are of


@router.post("/tokenize")
def tokenize(request: Request, fields: TokenizeFields) -> Json:
    """Return the token ids of a text, in llama.cpp's form."""
    service = service_of(request)
    ids = service.llm.tokenizer.encode(fields.content, fields.add_special, fields.parse_special)
    return {"tokens": _pieces(service, ids) if fields.with_pieces else ids}


@router.post("/detokenize")
def detokenize(request: Request, fields: DetokenizeFields) -> Json:
    """Return the text of token ids, with control tokens spelled out."""
    tokenizer = service_of(request).llm.tokenizer
    return {"content": tokenizer.decode(fields.tokens, skip_special_tokens=False)}


@router.post("/apply-template")
def apply_template(request: Request, fields: TemplateFields) -> Json:
    """Return a conversation as the model reads it: as text, as token ids, and by turns.

    A turn has the tokens from `start` to before `end`. Its `message` is the place of the message in
    the conversation, or null: the template writes it, as it writes the answer's header at the end.
    `turns` is null where the template leaves it open which tokens are whose.
    """
    service, messages = service_of(request), template_messages(fields.messages)
    variables: dict[str, Any] = fields.template_variables or {}
    service.check_variables(variables)
    tools = [tool.function.tool().for_template() for tool in fields.tools or ()] or None
    is_continued, format = fields.continue_final_message, service.llm.chat_format
    asked, begun = messages, list[int]()
    if is_continued:
        _, begun = service.conversation(messages, variables, is_continued, tools)
        asked = messages[:-1]
    variables = {**variables, "tools": tools}
    try:
        text = format.write(asked, **variables)
    except UsageError as error:
        raise ApiError(400, str(error), "messages") from None
    prompt = format.encode(text)
    if is_continued:
        text += format.escape_control_tokens(messages[-1])
    ids = [*prompt, *begun]
    shown: Json = {"prompt": text.replace(SPLIT, ""), "tokens": ids}
    if not fields.with_pieces:
        return shown
    turns = prompt_turns(format, asked, prompt, variables)
    if turns and is_continued:
        turns[-1] = turns[-1]._replace(message=len(asked), end=len(ids))
    named = None
    if turns is not None:
        roles = dict[int | None, Any](enumerate(message["role"] for message in messages))
        named = [{**turn._asdict(), "role": roles.get(turn.message)} for turn in turns]
    return {**shown, "tokens": _pieces(service, ids), "turns": named}


def _pieces(service: Service, ids: Sequence[int]) -> list[Json]:
    """Return tokens with their texts, and their bytes, which may be a part of a character's."""
    tokenizer, control_ids = service.llm.tokenizer, service.llm.chat_format.control_ids
    texts = token_texts(tokenizer, ids)
    pieces = {
        token: {
            "id": token,
            "piece": text,
            "bytes": list(token_bytes(tokenizer, token, text)),
            "is_control": token in control_ids,
        }
        for token, text in texts.items()
    }
    return [pieces[token] for token in ids]
