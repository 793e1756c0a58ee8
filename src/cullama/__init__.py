"""cullama: Llama inference you can read in an evening and run at the speed of your memory.

    import cullama

    llm = cullama.LLM()
    print(llm.generate("Once upon a time", cullama.SamplingParams(max_tokens=64)).text)

Everything public is listed here and imported when it is first used, so that `import cullama`
costs next to nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__  # exported

if TYPE_CHECKING:
    from .chat.session import Session
    from .errors import CullamaError
    from .llm import LLM
    from .sampling.params import SamplingParams
    from .text.completion import Completion
    from .text.generation import Stream
    from .text.scoring import Score

__all__ = ["LLM", "Completion", "CullamaError", "SamplingParams", "Score", "Session", "Stream"]

_HOMES = {
    "LLM": "llm",
    "Completion": "text.completion",
    "CullamaError": "errors",
    "SamplingParams": "sampling.params",
    "Score": "text.scoring",
    "Session": "chat.session",
    "Stream": "text.generation",
}


# Modules that README and docs named before they moved: the old names can still be imported.
_MOVED = {
    "answer": "text.completion text.generation",
    "chat_template": "chat.template",
    "config": "model.config",
    "diff": "inspect.diff",
    "inside": "inspect.inside",
    "llama": "model.llama",
    "operators": "model.operators",
    "saved_chat": "chat.saved",
    "session": "chat.session",
    "tokenizer": "text.tokenizer",
    "watching": "inspect.place",
}


class _MovedModules:
    """Finds modules that moved, and gives them the names of their new homes.

    No subclass of `importlib.abc.Loader`: importing that takes 40 ms.
    """

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        is_moved = package == __name__ and name in _MOVED
        return ModuleSpec(fullname, self) if is_moved else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Leaves that to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        for home in _MOVED[module.__name__.partition(".")[2]].split():
            names = vars(import_module(f".{home}", __name__))
            vars(module).update({name: names[name] for name in names if name[0] != "_"})


sys.meta_path.append(_MovedModules())


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cullama' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
