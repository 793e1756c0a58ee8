"""Joins what the command line asks of the sampler with what the model's files recommend.

An option that was given counts first, then the model's own value, then the command's default.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from .options import SAMPLING_NAMES, pop

if TYPE_CHECKING:
    from ..llm import LLM
    from ..sampling.params import SamplingParams


@dataclass(frozen=True)
class SamplingOptions:
    """A command's sampling options, and which of them the user gave."""

    params: SamplingParams  # with the command's defaults
    given: frozenset[str]

    @classmethod
    def pop_from(cls, options: dict[str, Any]) -> SamplingOptions:
        """Take the sampling options of the running command out of its options.

        Raises:
            UsageError: a value out of range.
        """
        from ..sampling.params import SamplingParams

        source = click.get_current_context().get_parameter_source
        given = [name for name in SAMPLING_NAMES if source(name) is not ParameterSource.DEFAULT]
        return cls(SamplingParams(**pop(options, SAMPLING_NAMES)), frozenset(given))

    def of_model(self, llm: LLM) -> dict[str, Any]:
        """Return what the model's files recommend and no option overrides."""
        values = llm.sampling_defaults.items()
        return {name: value for name, value in values if name not in self.given}

    def starting_params(self, llm: LLM) -> SamplingParams:
        values = self.of_model(llm)
        if self.params.max_tokens is None:
            # The engine takes the model's limit, and less where the context has no room for it.
            values.pop("max_tokens", None)
        return replace(self.params, **values)

    def override(self, params: SamplingParams) -> SamplingParams:
        """Return the parameters of a saved conversation, with the options that were given."""
        return replace(params, **{name: getattr(self.params, name) for name in self.given})

    def note(self, llm: LLM) -> str:
        """Return one line on what is taken from the model's files; empty if that is nothing."""
        values = self.of_model(llm)
        shown = (
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in values.items()
        )
        return f"sampling as the model's files recommend: {', '.join(shown)}" if values else ""


def carried_over(
    params: SamplingParams, before: SamplingParams, after: SamplingParams
) -> SamplingParams:
    """Return the starting parameters of another model, with what was changed since `before`."""
    changed = {
        item.name: value
        for item in fields(params)
        if (value := getattr(params, item.name)) != getattr(before, item.name)
    }
    return replace(after, **changed)
