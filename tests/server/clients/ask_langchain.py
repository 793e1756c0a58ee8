"""Asks a server by LangChain; prints what it got, as JSON. Arguments: its address, a model."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI


def main(url: str, model: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "base_url": f"{url}/v1",
        "api_key": "none",
        "model": model,
        "temperature": 0,
        "max_tokens": 12,
        "max_retries": 0,
    }
    chat = ChatOpenAI(**options, stream_usage=True)
    conversation = [SystemMessage("Be brief."), HumanMessage("Once upon a time")]
    answer = chat.invoke(conversation)
    longer = [*conversation, answer, HumanMessage("And then?")]
    assert isinstance(answer, AIMessage)

    async def stream() -> list[Any]:
        return [chunk async for chunk in chat.astream(conversation)]

    chunks = asyncio.run(stream())
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return {
        "answer": answer.content,
        "usage": answer.usage_metadata,
        "finish_reason": answer.response_metadata["finish_reason"],
        "logprobs": [
            each["logprob"]
            for each in chat.bind(logprobs=True, top_logprobs=2)
            .invoke(conversation)
            .response_metadata["logprobs"]["content"]
        ],
        "streamed": whole.content,
        "streamed_usage": whole.usage_metadata,
        "second": chat.invoke(longer).content,
        "batch": [each.content for each in chat.batch([conversation, longer])],
        "completion": OpenAI(**options).invoke("Once upon a time"),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
