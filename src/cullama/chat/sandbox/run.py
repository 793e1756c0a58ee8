"""A rendering that is under way, and how it ends when the template itself refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from jinja2 import pass_context
from jinja2.runtime import Context

from .budget import Budget

Word: TypeAlias = Callable[..., Any]  # a filter or test: perhaps the run, the value, arguments


class RenderContext(Context):
    budget: Budget


class ConversationRefusedError(Exception):
    """The template's own `raise_exception`: it is sound, and does not take such messages."""


def paid(run: Callable[..., Any]) -> Word:
    """A filter or test that takes the budget in front of its value."""

    def word(context: RenderContext, value: Any, *values: Any, **named: Any) -> Any:
        return run(context.budget, value, *values, **named)

    return pass_context(word)
