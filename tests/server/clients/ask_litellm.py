"""Asks servers by litellm; prints what it got, as JSON. Arguments: address, model, address of a
server with tools."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise the import asks a server elsewhere

import litellm

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "bit",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"bit": {"enum": [0, 1]}},
            "required": ["bit"],
            "additionalProperties": False,
        },
    },
}


def main(url: str, model: str, tools_url: str) -> dict[str, Any]:
    server: dict[str, Any] = {
        "api_base": f"{url}/v1",
        "api_key": "none",
        "temperature": 0,
        "max_tokens": 12,
        "num_retries": 0,
    }
    messages = [{"role": "user", "content": "Once upon a time"}]
    options = {**server, "model": f"openai/{model}", "messages": messages}
    answer = litellm.completion(**options)
    chunks = list(
        litellm.completion(**options, stream=True, stream_options={"include_usage": True})
    )
    again = asyncio.run(litellm.acompletion(**options))
    continued = litellm.text_completion(
        **server, model=f"text-completion-openai/{model}", prompt="Once upon a time"
    )
    formed = litellm.completion(**options, response_format=FORMAT)
    tools: dict[str, Any] = {
        **options,
        "api_base": f"{tools_url}/v1",
        "model": "openai/scripted",
        "max_tokens": None,
        "tools": [WEATHER],
        "extra_body": {"template_variables": {"cue": "call|>"}},
    }
    called = litellm.completion(**tools).choices[0]
    parts = list(litellm.completion(**tools, stream=True))
    rebuilt = litellm.stream_chunk_builder(parts).choices[0].message
    refusal = ""
    try:
        litellm.completion(**{**options, "temperature": -1})
    except litellm.BadRequestError as error:
        refusal = str(error)
    return {
        "answer": answer.choices[0].message.content,
        "finish_reason": answer.choices[0].finish_reason,
        "usage": answer.usage.model_dump(),
        "streamed": "".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
        "streamed_finish_reason": [c.choices[0].finish_reason for c in chunks if c.choices],
        "again": again.choices[0].message.content,
        "completion": continued.choices[0].text,
        "formed": formed.choices[0].message.content,
        "call": called.message.tool_calls[0].function.model_dump(),
        "call_finish_reason": called.finish_reason,
        "streamed_call": rebuilt.tool_calls[0].function.model_dump(),
        "refusal": refusal,
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
