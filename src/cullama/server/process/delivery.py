"""Decides when the front hears of tokens: at once, or together with those of the next passes.

A small model makes a token in less time than it costs to send one: each costs its connection a
system call, wakes the client, and takes the processor from the model. So a sample's first token and
its end are told at once, and what comes between at most once an interval, which the front chooses
by how busy it is (pace.py). Where passes take longer than that, each pass is told of.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ...engine.client import RequestOutput
from ...engine.engine import EngineHandle
from ...engine.metrics import Metrics
from ...engine.request import Request
from ...engine.trace import StepRecord
from ...errors import CullamaError, DeviceLostError
from .messages import PrefillProgress, Step, packed


class Delivery:
    """Collects what passes give; used by the thread that runs the model, alone.

    Args:
        handles: of the samples that run, by (id, sample); the worker adds and removes them.

    Attributes:
        interval: seconds; what is not urgent leaves once in so many.
    """

    def __init__(self, handles: Mapping[tuple[int, int], EngineHandle]) -> None:
        self.interval = 0.0
        self._records: list[StepRecord] = []
        self._handles = handles
        self._last = 0.0  # when everything left

    def add(self, record: StepRecord) -> None:
        """Note a pass; the next message tells of it."""
        self._records.append(record)

    def collect(self, metrics: Metrics, is_idle: bool) -> Step | None:
        """Return what is to be sent now, if anything is.

        Args:
            is_idle: no pass will follow: nothing may wait for one.

        Raises:
            DeviceLostError: what ended a request; nothing runs on the device any more.
        """
        now = time.monotonic()
        is_due = is_idle or now >= self._last + self.interval
        outputs = [
            (id, sample, _told(handle.read()))
            for (id, sample), handle in self._handles.items()
            if _is_urgent(handle.request) or (is_due and _has_news(handle.request))
        ]
        prefills = self._prefills()
        if not outputs and not prefills and not (is_due and self._records):
            return None
        if is_due:
            self._last = now
        step = Step(outputs, metrics, self._records, prefills)
        self._records = []
        return step

    def _prefills(self) -> list[PrefillProgress]:
        if not self._records or not self._records[-1].prefills:
            return []
        return [
            (id, sample, request.computed, request.cached_tokens)
            for (id, sample), handle in self._handles.items()
            if (request := handle.request).stage == "prefill"
        ]


def _has_news(request: Request) -> bool:
    """Whether it has tokens that the front does not know, and takes."""
    return request.delivered < request.drawn and not request.is_held


def _is_urgent(request: Request) -> bool:
    """Whether it has its first token, or has ended, and the front does not know."""
    if request.finish_reason is None:
        return request.delivered == request.begun and _has_news(request)
    return not request.is_held


def _told(output: RequestOutput) -> tuple[Any, ...]:
    """Return an output as it is sent. Raises DeviceLostError."""
    tokens, logprobs, cached_tokens, reason, error, scores = output
    if isinstance(error, DeviceLostError):
        raise error
    told = error and sendable(error)
    return tokens, [*map(packed, logprobs)], cached_tokens, reason, told, scores


def sendable(error: Exception) -> Exception:
    """Return an error that the front can unpickle: ours as they are, others as CullamaError."""
    if isinstance(error, CullamaError):
        return error
    return CullamaError(f"{type(error).__name__}: {error}")
