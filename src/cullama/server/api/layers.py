"""POST /layers: what each layer of the model would have said in place of a token, and looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field

from ...inspect.hook import Floats
from ...inspect.token_layers import TokenLayers
from ...text.token_texts import token_texts
from ..http.bodies import JsonRoute
from ..http.errors import ApiError
from ..http.events import while_connected
from .answers import Json
from .fields import Fields, TokenId
from .service import service_of

router = APIRouter(route_class=JsonRoute)

MAX_TOKENS = 8192  # that are run through the model, between the passes for others
MAX_COUNT = 20


class LayersFields(Fields):
    tokens: Annotated[list[TokenId], Field(min_length=1)]  # before the token
    token: TokenId
    top: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 5


@router.post("/layers")
async def layers(request: Request, fields: LayersFields) -> Json:
    """Return the logit lens on each layer behind `tokens`, and what its heads looked at.

    `layers`: the embedding's state (`layer` null), then each layer's, with its likeliest tokens,
    and probability and rank of `token`. `looked_at`: the tokens that the heads of all layers, and
    of each, attend to most, with the mean of their weights.
    """
    service = service_of(request)
    if len(fields.tokens) > MAX_TOKENS:
        words = f"there are {len(fields.tokens)} tokens, expected at most {MAX_TOKENS}"
        raise ApiError(400, words, "tokens")
    asked = service.engine.token_layers(fields.tokens, fields.token, fields.top)
    found = await while_connected(request, asked)
    ids = {token for state in found.states for token, _ in state.top}
    pieces = token_texts(service.llm.tokenizer, [*ids, *fields.tokens, fields.token])
    weights = found.attention.mean(axis=1)  # [layers, T]
    states: list[Json] = [
        {
            "layer": index - 1 if index else None,
            "probability": state.probability,
            "rank": state.rank,
            "top": [
                {"id": id, "piece": pieces[id], "probability": share} for id, share in state.top
            ],
            "looked_at": _sources(weights[index - 1], found, pieces, fields.top) if index else [],
        }
        for index, state in enumerate(found.states)
    ]
    return {
        "token": fields.token,
        "piece": pieces[fields.token],
        "layers": states,
        "looked_at": _sources(weights.mean(axis=0), found, pieces, fields.top),
    }


def _sources(
    weights: Floats, found: TokenLayers, pieces: Mapping[int, str], count: int
) -> list[Json]:
    """Return the positions with the largest weights, largest first."""
    best = np.argsort(-weights, kind="stable")[:count]
    return [
        {
            "position": int(at),
            "id": found.tokens[at],
            "piece": pieces[found.tokens[at]],
            "weight": float(weights[at]),
        }
        for at in best
    ]
