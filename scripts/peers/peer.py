"""What an engine must do to be measured, and which engines there are.

An engine begins some prompts, and then takes steps, each of which gives every one of them a token:
the first reads the prompts. This is all that is ever timed. It knows no clock.
"""

from __future__ import annotations

from typing import Protocol

VOCABULARY_STEP = 7919  # a prime: prompts walk all over the vocabulary

NAMES = ("cullama", "llama.cpp", "transformers")


class Peer(Protocol):
    description: str  # version, types, instruction sets: what decides its speed
    vocabulary: int
    variants: tuple[str, ...]  # settings of which neither is always the faster; often none

    def use(self, variant: str) -> None: ...

    def encode(self, text: str) -> list[int]: ...

    def begin(self, prompts: list[list[int]], tokens: int) -> None:
        """Forget all before; `tokens` steps will follow. Prompts are equally long."""

    def step(self) -> None: ...


def load_peer(name: str, model: str, threads: int) -> Peer:
    """`name`: one of NAMES; "cullama:numpy" is cullama with its backend "cpu:numpy"."""
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
    """So many different ones, the same for every engine."""
    return [
        [(1000 * prompt + token * VOCABULARY_STEP) % vocabulary for token in range(tokens)]
        for prompt in range(count)
    ]
