"""Asks servers by LangChain; prints what it got, as JSON. Arguments: address, model, address of a
server with tools."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Literal

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field


class Pair(BaseModel):
    """Two values, of which there are few."""

    n: int = Field(ge=0, le=9)
    k: Literal["a", "b"]


def ask_with_tools(url: str, model: str) -> dict[str, Any]:
    """Ask a model whose template takes a cue, which says whether it answers by a call or a text."""
    chat = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model=model, temperature=0)

    def answer_to(messages: list[Any], cue: str) -> Any:
        cued = chat.bind_tools([weather]).bind(
            extra_body={"template_variables": {"cue": f"{cue}|>"}}
        )
        chunks = list(cued.stream(messages))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        return cued.invoke(messages), whole

    messages: list[Any] = [HumanMessage("Rain?")]
    called, streamed = answer_to(messages, "call")
    [call] = called.tool_calls
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    ended, _ = answer_to([*messages, called, result], "text")
    return {
        "text": called.content,
        "call": [call["name"], call["args"]],
        "streamed": [[each["name"], each["args"]] for each in streamed.tool_calls],
        "end": ended.content,
    }


@tool  # type: ignore[untyped-decorator]  # it is not installed where types are checked
def weather(city: str, days: int) -> str:
    """Tells the weather."""
    return f"{days} days of rain in {city}"


def main(url: str, model: str, tools_url: str) -> dict[str, Any]:
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
        "parsed": ChatOpenAI(**{**options, "max_tokens": 80})
        .with_structured_output(Pair, method="json_schema")
        .invoke(conversation)
        .model_dump(),
        "tools": ask_with_tools(tools_url, "scripted"),
        "completion": OpenAI(**options).invoke("Once upon a time"),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
