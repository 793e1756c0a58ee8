"""Answers options of other programs, llama.cpp's above all, with those used here."""

from __future__ import annotations

from collections.abc import Sequence
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


def answer(arguments: Sequence[str]) -> str | None:
    """Return what the first option of another program is here; None where there is none."""
    for word in arguments:
        name = word.partition("=")[0]
        if name in ELSEWHERE:
            return f"{name} is an option of other programs; here it is {ELSEWHERE[name]}"
    return None
