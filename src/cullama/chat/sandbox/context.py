"""The context of one rendering, which holds its budget, and the template's own refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from jinja2 import pass_context
from jinja2.runtime import Context

from .budget import Budget

# A filter or test, called with the context if it asks for it, the value, and arguments.
TemplateFunction: TypeAlias = Callable[..., Any]


class RenderContext(Context):
    """jinja2's context, with the budget of the rendering."""

    budget: Budget


class ConversationRefusedError(Exception):
    """A template called `raise_exception`: it does not accept such messages."""


def with_budget(run: Callable[..., Any]) -> TemplateFunction:
    """Make a filter or test of a function whose first argument is the budget."""

    def function(context: RenderContext, value: Any, *values: Any, **named: Any) -> Any:
        return run(context.budget, value, *values, **named)

    return pass_context(function)
