"""Access to an engine's model and caches, for benchmark, diff and inside.

Handed out by `Engine.exclusive`, while no other thread runs the model. It submits no requests and
schedules nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ..model.kv_cache import KVCache
from ..model.llama import Llama
from ..model.operators import Forward, Operators
from .prefix_cache import PrefixCache
from .runner import Runner
from .scheduler import Scheduler

Array = TypeVar("Array")


class ModelAccess(Generic[Array]):
    """The model that the engine runs, and what it runs it with.

    Attributes:
        model: weights, configuration and operators.
        cache: the KV cache that requests share; a run outside the engine needs its own.
        token_budget: the most tokens that go through the model in one pass.
    """

    def __init__(
        self, runner: Runner[Array], scheduler: Scheduler, prefix_cache: PrefixCache
    ) -> None:
        self.model: Llama[Array, Any, Any] = runner.model
        self.cache: KVCache[Array] = runner.cache
        self.token_budget = scheduler.token_budget
        self._runner, self._scheduler, self._prefix_cache = runner, scheduler, prefix_cache

    @property
    def ops(self) -> Operators[Array, Any, Any]:
        return self.model.ops

    @property
    def block_size(self) -> int:
        """Tokens in one block of the KV cache."""
        return self.cache.block_size

    def clear_prefix_cache(self) -> None:
        """Evict every cached block, so that the next prompts are computed in full."""
        self._prefix_cache.clear()

    def replace_forward(
        self, wrap: Callable[[Forward[Any, Any]], Forward[Any, Any]]
    ) -> Callable[[], None]:
        """Run every later pass through `wrap(forward)`; call the result to undo it."""
        runner, forward = self._runner, self._runner.forward
        runner.forward = wrap(forward)

        def undo() -> None:
            runner.forward = forward

        return undo

    def limit_running(self, requests: int) -> int:
        """Let at most so many requests hold blocks at once; returns the limit before."""
        before, self._scheduler.max_running = self._scheduler.max_running, requests
        return before
