"""Defines the messages between the front process and the engine process.

They are pickled over a pipe that only these two processes have. One `Step` message carries what
passes gave for all requests, so that the cost of a message does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from struct import iter_unpack, pack
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...benchmark.roofline import PassCosts
from ...engine.client import GenerationRequest
from ...engine.metrics import Metrics
from ...engine.request import FinishReason
from ...engine.trace import StepRecord
from ...engine.validation import Capacity
from ...inspect.token_layers import TokenLayers
from ...sampling.params import TokenLogprobs

# --- from the front to the engine ----------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """The first message: what to load. `options` are those of `LLM`; `measures`: whether to measure
    the machine's limits, which takes about a second, before requests are taken."""

    model: str | None
    options: Mapping[str, Any]
    measures: bool = False


@dataclass(frozen=True)
class Submit:
    id: int
    request: GenerationRequest  # its params name a seed


@dataclass(frozen=True)
class Cancel:
    """Finish one sample of a request."""

    id: int
    sample: int
    reason: FinishReason


@dataclass(frozen=True)
class Hold:
    """Keep one sample's tokens back, since those sent before were not read; or send them again."""

    id: int
    sample: int
    is_held: bool


@dataclass(frozen=True)
class Pace:
    """Send tokens that are not urgent once in so many seconds."""

    interval: float


@dataclass(frozen=True)
class ComputeLogits:
    id: int
    tokens: list[int]


@dataclass(frozen=True)
class LookAtLayers:
    """Ask what each layer would have said in place of a token; one at a time."""

    id: int
    tokens: list[int]  # before it
    token: int
    count: int  # of the likeliest tokens of each layer


@dataclass(frozen=True)
class StopLooking:
    """Drop what LookAtLayers asked: its client has left."""

    id: int


ToEngine: TypeAlias = Submit | Cancel | Hold | Pace | ComputeLogits | LookAtLayers | StopLooking


# --- from the engine to the front ----------------------------------------------------------------


@dataclass(frozen=True)
class Loading:
    """How many of the weights were read."""

    done: int
    total: int


@dataclass(frozen=True)
class Ready:
    """The model is loaded: requests may come."""

    capacity: Capacity
    description: str
    block_size: int  # tokens in a block of the KV cache
    costs: PassCosts


# (id, sample, tokens of its prompt in the cache, how many of those were found there): of a sample
# that has no token yet.
PrefillProgress: TypeAlias = tuple[int, int, int, int]

# (id, sample, the fields of a RequestOutput, its log-probabilities packed): plain tuples, since
# pickling a named one takes 8 µs, more than all else that a token costs on its way to the client.
SampleOutput: TypeAlias = tuple[int, int, tuple[Any, ...]]


def packed(logprobs: TokenLogprobs) -> bytes:
    """Return a token's log-probabilities in 12 bytes for each, an eighth of what objects take."""
    values = [logprobs.token_id, logprobs.logprob, *chain.from_iterable(logprobs.top)]
    return pack("<" + "id" * (len(values) // 2), *values)


def unpacked(data: bytes) -> TokenLogprobs:
    (token, logprob), *top = iter_unpack("<id", data)
    return TokenLogprobs(token, logprob, tuple(top))


@dataclass(frozen=True)
class Step:
    """What is new since the last one, and the passes that ran in between."""

    outputs: list[SampleOutput]
    metrics: Metrics
    records: list[StepRecord]
    prefills: list[PrefillProgress]


@dataclass(frozen=True)
class Refused:
    """A request was not taken."""

    id: int
    error: Exception


@dataclass(frozen=True)
class Answered:
    """The result of ComputeLogits, [T, V], or of LookAtLayers; or why there is none."""

    id: int
    value: NDArray[np.float32] | TokenLayers | None
    error: Exception | None


@dataclass(frozen=True)
class Failed:
    """The engine process ends for this reason: the last message."""

    error: Exception


FromEngine: TypeAlias = Loading | Ready | Step | Refused | Answered | Failed
