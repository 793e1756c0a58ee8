"""POST /tokenize, /detokenize, /apply-template: what the model reads, without running it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field, JsonValue

from ...text.token_texts import token_texts
from .answers import Json
from .fields import Fields, Text, TokenId
from .service import service_of

router = APIRouter()


class TokenizeFields(Fields):
    content: Text
    add_special: bool = False  # BOS, and what else the model expects around a text
    parse_special: bool = True  # control tokens that the text spells
    with_pieces: bool = False  # the text of each token


class DetokenizeFields(Fields):
    tokens: list[TokenId]


class TemplateFields(Fields):
    messages: Annotated[list[dict[str, JsonValue]], Field(min_length=1)]
    template_variables: dict[str, JsonValue] | None = None


@router.post("/tokenize")
def tokenize(request: Request, fields: TokenizeFields) -> Json:
    """Return the token ids of a text, in llama.cpp's form."""
    tokenizer = service_of(request).llm.tokenizer
    ids = tokenizer.encode(fields.content, fields.add_special, fields.parse_special)
    if not fields.with_pieces:
        return {"tokens": ids}
    texts = token_texts(tokenizer, ids)
    return {"tokens": [{"id": token, "piece": texts[token]} for token in ids]}


@router.post("/detokenize")
def detokenize(request: Request, fields: DetokenizeFields) -> Json:
    """Return the text of token ids, with control tokens spelled out."""
    tokenizer = service_of(request).llm.tokenizer
    return {"content": tokenizer.decode(fields.tokens, skip_special_tokens=False)}


@router.post("/apply-template")
def apply_template(request: Request, fields: TemplateFields) -> Json:
    """Return a conversation as the model reads it: as text and as token ids."""
    text, ids = service_of(request).render(fields.messages, fields.template_variables)
    return {"prompt": text, "tokens": ids}
