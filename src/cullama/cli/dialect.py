"""Answers options and commands of other programs, llama.cpp's and Ollama's, with ours."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from types import MappingProxyType

_CUDA = "--backend cuda, which takes all layers"
_ALWAYS = "left out: it is always so"
ELSEWHERE = MappingProxyType(
    {
        "-ngl": _CUDA,
        "--n-gpu-layers": _CUDA,
        "--gpu-layers": _CUDA,
        "--device": "--backend",
        "-f": "-, which reads standard input: < FILE",
        "--file": "-, which reads standard input: < FILE",
        "-hf": "--model owner/name:Q4_K_M",
        "--hf-repo": "--model owner/name:Q4_K_M",
        "-cnv": "the command chat",
        "--conversation": "the command chat",
        "-sys": "--system, of the command chat",
        "--system-prompt": "--system, of the command chat",
        "--chat-template": "--template FILE, of the command chat",
        "--chat-template-file": "--template FILE, of the command chat",
        "-fa": _ALWAYS,
        "--flash-attn": _ALWAYS,
        "--jinja": _ALWAYS,
        "--escape": _ALWAYS,
        "--tensor-parallel-size": "left out: a model runs on one device",
        "--max-model-len": "--context",
        "--max-new-tokens": "--max-tokens",
        "--num-predict": "--max-tokens",
        "--gpu-memory-utilization": "--cache-tokens",
    }
)
COMMANDS_ELSEWHERE = MappingProxyType(
    {
        "run": "chat, with -m MODEL",
        "cli": "chat",
        "generate": "story",
        "complete": "story",
        "server": "serve",
        "list": "models",
        "ls": "models",
        "rm": "models --remove NAME",
        "download": "pull",
        "convert": "quantize",
        "perplexity": "eval perplexity",
    }
)


def answer(arguments: Sequence[str]) -> str | None:
    """Return what the first option of another program is here; None where there is none."""
    for word in arguments:
        name = word.partition("=")[0]
        if name in ELSEWHERE:
            return f"{name} is an option of other programs; here it is {ELSEWHERE[name]}"
    return None


def no_such_command(name: str, commands: Collection[str]) -> str:
    """Return what to say of a command that does not exist: the one that was meant, or all."""
    if name in COMMANDS_ELSEWHERE:
        return f"there is no command {name!r}; here it is {COMMANDS_ELSEWHERE[name]}"
    near = get_close_matches(name, commands, 1)
    if near:
        return f"there is no command {name!r}; did you mean {near[0]}?"
    return f"there is no command {name!r:.80}, expected one of {', '.join(commands)}"
