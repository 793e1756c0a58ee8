"""What the engine did, step by step and request by request, as one page that needs nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engine.engine import Engine, EngineHandle
from ..engine.request import Request, Stage
from ..engine.trace import StepRecord

PAGE = Path(__file__).with_name("trace.html")
DATA = "/* the data */ null"


@dataclass
class Life:
    """The stages of one request, each with the moment it began."""

    request: Request
    stages: list[tuple[Stage, float]] = field(default_factory=list)


class Recorder:
    """Watches an engine while it is entered."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.steps: list[StepRecord] = []
        self.lives: list[Life] = []
        self._alive: list[Life] = []

    def __enter__(self) -> Recorder:
        self._engine.observers.append(self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._engine.observers.remove(self._note)

    def follow(self, handle: EngineHandle, arrival: float) -> None:
        """`arrival`: seconds, of time.perf_counter."""
        life = Life(handle.request, [("waiting", arrival)])
        self.lives.append(life)
        self._alive.append(life)

    def _note(self, step: StepRecord) -> None:
        self.steps.append(step)
        for life in self._alive:
            before, stage = life.stages[-1][0], life.request.stage
            if before == "waiting" and (stage == "prefill" or life.request.drawn):
                life.stages.append(("prefill", step.start))  # maybe for this one step only
            if stage != life.stages[-1][0]:
                life.stages.append((stage, step.start + step.seconds))
        self._alive = [life for life in self._alive if life.request.stage != "out"]

    def page(self, title: str, description: str) -> str:
        """HTML with everything in it."""
        data = {"title": title, "description": description, **self._data()}
        # "<" would end the script if a title held a tag.
        text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
        return PAGE.read_text(encoding="utf-8").replace(DATA, text)

    def _data(self) -> dict[str, Any]:
        begin = min((life.stages[0][1] for life in self.lives), default=0.0)
        return {
            "requests": [
                {
                    "prompt": life.request.prompt_length,
                    "answer": life.request.drawn,
                    "stages": [[stage, _since(begin, at)] for stage, at in life.stages],
                }
                for life in self.lives
            ],
            "steps": [
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
            ],
        }


def _since(begin: float, moment: float) -> float:
    return round(moment - begin, 6)
