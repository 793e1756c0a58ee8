"""Sorts what callers give as prompts, conversations and parameters: one, or a list of them.

It encodes and renders nothing, and looks only as deep as it takes to tell one from many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, KeysView, Sequence, ValuesView
from typing import Any, NamedTuple, TypeAlias

from ..errors import UsageError
from ..sampling.params import SamplingParams

Prompt: TypeAlias = str | Sequence[int]
Prompts: TypeAlias = Iterable[Prompt]
Params: TypeAlias = SamplingParams | None
ParamsOfEach: TypeAlias = SamplingParams | Sequence[Params] | None


class Asked(NamedTuple):
    """What one call asks for: items, in order, and the name of the argument that lists them."""

    items: list[Any]
    name: str
    is_list: bool  # else there is one item, and one answer


def asked_prompts(prompts: Any) -> Asked:
    """Tell one prompt, a text or token ids, from a list of several; an empty list is no prompts.

    Raises:
        UsageError: something that is no list and no text.
    """
    if isinstance(prompts, str):
        return Asked([prompts], "prompts", is_list=False)
    items = as_list(prompts)
    if items is None:
        raise UsageError(f"the prompt is {prompts!r:.80}, expected a text, token ids, or a list")
    if items and not isinstance(items[0], str) and as_list(items[0]) is None:
        return Asked([items], "prompts", is_list=False)  # token ids
    return Asked(items, "prompts", is_list=True)


def asked_conversations(messages: Any) -> Asked:
    """Tell one conversation, a list of messages, from a list of several."""
    items = as_list(messages)
    if items and as_list(items[0]) is not None:
        return Asked(items, "messages", is_list=True)
    return Asked([messages if items is None else items], "messages", is_list=False)


def params_of_each(params: Any, asked: Asked, default: SamplingParams) -> list[SamplingParams]:
    """Return the parameters of each item: all the same, or those of a list as long.

    Raises:
        UsageError: something else, or a list of another length.
    """
    count = len(asked.items)
    listed = as_list(params)
    if listed is None or not asked.is_list:
        return [checked_params(params, default)] * count
    if len(listed) != count:
        raise UsageError(
            f"params holds {len(listed)}, {asked.name} {count}; expected one SamplingParams for "
            "each, or one for all"
        )
    return [checked_params(each, default, f"params[{index}]") for index, each in enumerate(listed)]


def checked_params(params: Any, default: SamplingParams, name: str = "params") -> SamplingParams:
    """Return the parameters; None takes the default. Raises UsageError."""
    if params is None:
        return default
    if not isinstance(params, SamplingParams):
        raise UsageError(f"{name} is {params!r:.80}, expected SamplingParams(…)")
    return params


def as_list(value: Any) -> list[Any] | None:
    """Return a list, tuple, array, generator … as a list; None for what is none of them.

    Arrays and series of any library become Python's own numbers and texts. A set has no order, and
    a mapping or a table holds more than iterating over it gives: these are no lists.
    """
    if isinstance(value, str | bytes | bytearray | memoryview):
        return None
    if callable(to_list := getattr(value, "tolist", None)):
        values = to_list()
        return values if isinstance(values, list) else None  # an array of no dimension: a number
    is_ordered = isinstance(value, Sequence | Iterator | KeysView | ValuesView)
    return list(value) if is_ordered else None
