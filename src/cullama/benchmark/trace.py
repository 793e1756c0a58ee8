"""Record an engine's steps and the stages of its requests, as one self-contained HTML page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..engine.engine import Engine, EngineHandle
from ..engine.request import Request, Stage
from ..engine.trace import StepRecord
from ..notebook.page import page_of

PAGE = Path(__file__).with_name("trace")


@dataclass
class Timeline:
    """The stages of one request, each with the time at which it began."""

    request: Request
    stages: list[tuple[Stage, float]] = field(default_factory=list)


class Recorder:
    """Observes an engine, as a context manager."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.steps: list[StepRecord] = []
        self.timelines: list[Timeline] = []
        self._open: list[Timeline] = []

    def __enter__(self) -> Recorder:
        self._engine.observers.append(self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._engine.observers.remove(self._note)

    def follow(self, handle: EngineHandle, arrival: float) -> None:
        """Record the stages of a request that arrived at `arrival` (time.perf_counter)."""
        timeline = Timeline(handle.request, [("waiting", arrival)])
        self.timelines.append(timeline)
        self._open.append(timeline)

    def _note(self, step: StepRecord) -> None:
        self.steps.append(step)
        for timeline in self._open:
            before, stage = timeline.stages[-1][0], timeline.request.stage
            if before == "waiting" and (stage == "prefill" or timeline.request.drawn):
                timeline.stages.append(("prefill", step.start))  # possibly for this step only
            if stage != timeline.stages[-1][0]:
                timeline.stages.append((stage, step.start + step.seconds))
        self._open = [
            timeline for timeline in self._open if timeline.request.stage != "unscheduled"
        ]

    def page(self, title: str, description: str) -> str:
        """Return the page, which loads nothing."""
        begin = min((timeline.stages[0][1] for timeline in self.timelines), default=0.0)
        requests = [
            {
                "prompt": timeline.request.prompt_length,
                "answer": timeline.request.drawn,
                "stages": [[stage, _since(begin, at)] for stage, at in timeline.stages],
            }
            for timeline in self.timelines
        ]
        steps = [
            {
                "start": _since(begin, step.start),
                "ms": round(step.seconds * 1e3, 3),
                "decodes": step.decodes,
                "prefills": step.prefills,
                "tokens": step.tokens,
                "drawn": step.drawn,
                "waiting": step.waiting,
                "referenced": step.blocks_referenced,
                "cached": step.blocks_cached,
                "free": step.blocks_free,
                "preemptions": step.preemptions,
                "cached_tokens": step.cached_tokens,
            }
            for step in self.steps
        ]
        data = {"description": description, "requests": requests, "steps": steps}
        return page_of(PAGE, title, data)


def _since(begin: float, moment: float) -> float:
    return round(moment - begin, 6)
