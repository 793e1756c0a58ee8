"""Words an answer as the output items and events of OpenAI's responses.

It takes what a parser finds in an answer (chat/tools/events.py), piece by piece, and keeps the
items as they are so far: the events of a stream and the whole response come of the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from ...chat.tools.events import CallArguments, CallBegun, Event, Text, new_call_id
from .answers import Json


def _item_id(kind: str) -> str:
    return f"{kind}_{uuid4().hex}"


class ResponseOutput:
    """The items of one response: reasoning, messages and calls, in the order of the answer.

    Attributes:
        items: as they are so far; the last one may be open.
    """

    def __init__(self) -> None:
        self.items: list[Json] = []
        self._is_open = False

    def add(self, event: Event, logprobs: list[Json]) -> Iterator[Json]:
        """Take what an answer goes on with; yields the stream's events that tell of it.

        Args:
            logprobs: of the tokens that came with it, for a message's text.
        """
        if isinstance(event, CallBegun):
            yield from self._begin(
                {
                    "type": "function_call",
                    "id": _item_id("fc"),
                    "call_id": new_call_id(),
                    "name": event.name,
                    "arguments": "",
                }
            )
        elif isinstance(event, CallArguments):
            self.items[-1]["arguments"] += event.text
            kind = "response.function_call_arguments.delta"
            yield {"type": kind, **self._place(), "delta": event.text}
        elif event.text:
            kind, part = ("message", "output_text") if isinstance(event, Text) else _REASONING
            yield from self._begin_text(kind, part)
            last = self.items[-1]["content"][0]
            last["text"] += event.text
            told: Json = {"content_index": 0, "delta": event.text}
            if isinstance(event, Text):
                last["logprobs"] += logprobs
                told["logprobs"] = logprobs
            yield {"type": f"response.{part}.delta", **self._place(), **told}

    def end(self, is_cut: bool) -> Iterator[Json]:
        """End the answer, whose last item is incomplete where it was cut off."""
        if not any(item["type"] != "reasoning" for item in self.items):
            yield from self._begin_text("message", "output_text")
        yield from self._close("incomplete" if is_cut else "completed")

    def _begin_text(self, kind: str, part: str) -> Iterator[Json]:
        if self._is_open and self.items[-1]["type"] == kind:
            return
        if kind == "message":
            item: Json = {"type": kind, "id": _item_id("msg"), "role": "assistant", "content": []}
            empty: Json = {"type": part, "text": "", "annotations": [], "logprobs": []}
        else:
            item = {"type": kind, "id": _item_id("rs"), "summary": [], "content": []}
            empty = {"type": part, "text": ""}
        yield from self._begin(item)
        yield {
            "type": "response.content_part.added",
            **self._place(),
            "content_index": 0,
            "part": dict(empty),
        }
        self.items[-1]["content"].append(empty)

    def _begin(self, item: Json) -> Iterator[Json]:
        yield from self._close("completed")
        self.items.append({**item, "status": "in_progress"})
        self._is_open = True
        place = self._place()
        yield {
            "type": "response.output_item.added",
            "output_index": place["output_index"],
            "item": _copy(self.items[-1]),
        }

    def _close(self, status: str) -> Iterator[Json]:
        """End the open item, if there is one."""
        if not self._is_open:
            return
        self._is_open = False
        item, place = self.items[-1], self._place()
        item["status"] = status
        if item["type"] == "function_call":
            told = {"name": item["name"], "arguments": item["arguments"]}
            yield {"type": "response.function_call_arguments.done", **place, **told}
        else:
            part = item["content"][0]
            told = {"content_index": 0, "text": part["text"]}
            if item["type"] == "message":
                told["logprobs"] = part["logprobs"]
            yield {"type": f"response.{part['type']}.done", **place, **told}
            done = {"content_index": 0, "part": dict(part)}
            yield {"type": "response.content_part.done", **place, **done}
        yield {
            "type": "response.output_item.done",
            "output_index": place["output_index"],
            "item": _copy(item),
        }

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}


_REASONING = ("reasoning", "reasoning_text")


def _copy(item: Json) -> Json:
    """Return an item as it is now: it goes on changing."""
    if "content" not in item:
        return dict(item)
    return {**item, "content": [dict(part) for part in item["content"]]}
