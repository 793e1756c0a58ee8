"""Submits the prompts of one call together, and returns their completions in order.

Which prompt is at fault stands at the start of an error: "prompts[3]: …". The tokens are read in
generation.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeAlias

from ..errors import ChatTemplateError, CullamaError, NumericalError, UsageError
from ..process.interrupts import INTERRUPTS
from ..sampling.params import SamplingParams
from .completion import Completion
from .generation import Sample, generate, generate_async
from .progress import GenerationProgress
from .prompts import Asked

Submit: TypeAlias = Callable[[Any, SamplingParams], list[Sample]]
Finish: TypeAlias = Callable[[int, Completion], Completion]

# Errors that concern one prompt; others, such as a closed engine, concern all.
OF_ONE_PROMPT = (UsageError, NumericalError, ChatTemplateError)


class Submission:
    """The requests of one call: one prompt or several, with n samples each.

    Args:
        asked: the prompts, or the conversations.
        params: those of each.
        submit: submits one of them, and returns its samples.
        finish: takes the place of one of them, and a completion; returns what is given out.

    Raises:
        CullamaError: what `submit` raises; then none of the requests goes on.
    """

    def __init__(
        self,
        asked: Asked,
        params: Sequence[SamplingParams],
        submit: Submit,
        finish: Finish = lambda place, completion: completion,
    ) -> None:
        self._asked, self._finish = asked, finish
        self._groups: list[list[Sample]] = []
        try:
            for item, its_params in zip(asked.items, params, strict=True):
                with INTERRUPTS.deferred:  # what is submitted and not listed could not be cancelled
                    self._groups.append(submit(item, its_params))
        except BaseException as error:
            for sample in self._samples:
                sample.handle.cancel()
            raise self._named(error, len(self._groups)) from error.__cause__

    def completions(self, show_progress: bool) -> Any:
        """Generate all, in this thread; returns a `Completion`, or a list of them for a list."""
        is_shown = show_progress and self._asked.is_list and len(self._groups) > 1
        try:
            with GenerationProgress(self._samples, is_shown) as progress:
                return self._in_order(generate(self._samples, progress))
        except OF_ONE_PROMPT as error:
            raise self._named(error, self._failed()) from error.__cause__

    async def completions_async(self) -> Any:
        """As `completions`, in an event loop, which goes on meanwhile."""
        try:
            async with aclosing(generate_async(self._samples)) as news:
                async for _ in news:
                    pass
            return self._in_order([sample.output.completion() for sample in self._samples])
        except OF_ONE_PROMPT as error:
            raise self._named(error, self._failed()) from error.__cause__

    @property
    def _samples(self) -> list[Sample]:
        return [sample for group in self._groups for sample in group]

    def _in_order(self, completions: Sequence[Completion]) -> Any:
        remaining = iter(completions)
        by_prompt = [
            [self._finish(place, next(remaining)) for _ in group]
            for place, group in enumerate(self._groups)
        ]
        answers = [replace(first, alternatives=tuple(rest)) for first, *rest in by_prompt]
        return answers if self._asked.is_list else answers[0]

    def _failed(self) -> int:
        """Return the index of the prompt whose sample ended with an error."""
        completions = [[s.output.completion() for s in group] for group in self._groups]
        reasons = [[one.finish_reason for one in group] for group in completions]
        return next(index for index, each in enumerate(reasons) if "error" in each)

    def _named(self, error: BaseException, index: int) -> BaseException:
        """Return the error, with the prompt that it concerns where there is a list of them."""
        if not self._asked.is_list or not isinstance(error, OF_ONE_PROMPT):
            return error
        named: CullamaError = type(error)(f"{self._asked.name}[{index}]: {error}")
        return named
