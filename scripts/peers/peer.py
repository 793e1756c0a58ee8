"""The interface of an engine that is measured, and the engines that implement it.

An engine begins some prompts and then takes steps, each of which draws a token for every prompt;
the first step prefills the prompts. `__main__` times the steps.
"""

from __future__ import annotations

from typing import Protocol

VOCABULARY_STEP = 7919  # a prime, so that prompts use the whole vocabulary

NAMES = ("cullama", "llama.cpp", "transformers")


class Peer(Protocol):
    description: str  # version, types, instruction sets
    vocabulary: int
    variants: tuple[str, ...]  # settings of which the faster depends on the run

    def use(self, variant: str) -> None: ...

    def encode(self, text: str) -> list[int]: ...

    def begin(self, prompts: list[list[int]], tokens: int) -> None:
        """Start new sequences, of equally long prompts; `tokens` steps will follow."""

    def step(self) -> None: ...


def load_peer(name: str, model: str, threads: int) -> Peer:
    """Load a peer: `name` is one of NAMES, or "cullama:numpy" for the backend "cpu:numpy"."""
    engine, _, variant = name.partition(":")
    if engine == "llama.cpp":
        from .llama_cpp_peer import LlamaCpp

        return LlamaCpp(model, threads)
    if engine == "transformers":
        from .transformers_peer import Transformers

        return Transformers(model, threads)
    from .cullama_peer import Cullama

    return Cullama(model, threads, f"cpu:{variant}" if variant else "cpu")


def is_peer(name: str) -> bool:
    engine, colon, variant = name.partition(":")
    return engine in NAMES and (not colon or (engine == "cullama" and bool(variant)))


def prompts(count: int, tokens: int, vocabulary: int) -> list[list[int]]:
    """Return `count` different prompts, the same for every engine."""
    return [
        [(1000 * prompt + token * VOCABULARY_STEP) % vocabulary for token in range(tokens)]
        for prompt in range(count)
    ]
