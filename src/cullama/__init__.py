"""cullama: Llama inference you can read in an evening and run at the speed of your memory.

    import cullama

    llm = cullama.LLM()
    print(llm.generate("Once upon a time", cullama.SamplingParams(max_tokens=64)).text)

Everything public is listed here and imported when it is first used, so that `import cullama`
costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answer import Completion, Stream
    from .errors import CullamaError
    from .llm import LLM
    from .sampling import SamplingParams
    from .session import Session

__version__ = "0.1.0"
__all__ = ["LLM", "Completion", "CullamaError", "SamplingParams", "Session", "Stream"]

_HOMES = {
    "LLM": "llm",
    "Completion": "answer",
    "CullamaError": "errors",
    "SamplingParams": "sampling",
    "Session": "session",
    "Stream": "answer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cullama' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
