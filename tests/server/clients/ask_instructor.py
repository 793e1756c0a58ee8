"""Asks servers by instructor; prints what it got, as JSON. Arguments: address, model, address of a
server with tools."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field


class Pair(BaseModel):
    """Two values, of which there are few."""

    n: int = Field(ge=0, le=9)
    k: Literal["a", "b"]


def main(url: str, model: str, tools_url: str) -> dict[str, Any]:
    ways = {
        "json_schema": (instructor.Mode.JSON_SCHEMA, url, model),
        "tools": (instructor.Mode.TOOLS, tools_url, "scripted"),
    }
    found = {}
    for name, (mode, address, served) in ways.items():
        client = instructor.from_openai(
            OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0), mode=mode
        )
        pair = client.chat.completions.create(
            model=served,
            response_model=Pair,
            messages=[{"role": "user", "content": "Once upon a time"}],
            max_tokens=80,
            max_retries=0,
            seed=3,
        )
        found[name] = pair.model_dump()
    return found


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
