"""Reads the sampling that a model's makers recommend: generation_config.json, GGUF's metadata.

Generation starts from it where nothing else is asked for. A value that cannot be used is passed
over with a warning: it says how to draw, not what the model computes. Tokens that end an answer
are read with the config.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import UsageError
from ..sampling.params import SamplingParams

# The file's name for a parameter → its name in `SamplingParams`.
GENERATION_CONFIG = MappingProxyType(
    {
        "temperature": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "repetition_penalty": "repetition_penalty",
        "max_new_tokens": "max_tokens",
        "stop_strings": "stop",
    }
)
# As llama.cpp's converter writes them.
GGUF = MappingProxyType(
    {
        "general.sampling.temp": "temperature",
        "general.sampling.top_k": "top_k",
        "general.sampling.top_p": "top_p",
        "general.sampling.min_p": "min_p",
        "general.sampling.penalty_repeat": "repetition_penalty",
    }
)
# What transformers took for left out, when it kept such fields in config.json.
_OLDER_DEFAULTS = MappingProxyType(
    {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0}
)
_OF_DRAWING = ("temperature", "top_k", "top_p", "min_p")


def sampling_defaults(
    path: Path, values: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, Any]:
    """Return the parameters that a file names, under the names of `SamplingParams`.

    `do_sample` decides as in transformers where it is given: false is greedy, true alone is
    temperature 1. Where it is left out, the other fields count, as in vLLM.
    """
    found: dict[str, Any] = {}
    for name, ours in names.items():
        value = _normalised(ours, values.get(name))
        if value is None:
            continue
        try:
            found[ours] = getattr(SamplingParams(**{ours: value}), ours)
        except UsageError as error:
            logging.getLogger("cullama").warning(
                "%s: %s is not used as a default: %s", path, name, error
            )
    if values.get("do_sample") is False:
        found = {name: value for name, value in found.items() if name not in _OF_DRAWING}
        found["temperature"] = 0.0
    elif values.get("do_sample") is True:
        found.setdefault("temperature", 1.0)
    return found


def older_sampling_defaults(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a config.json recommends, of a model from before generation_config.json."""
    chosen = {
        name: value
        for name, value in values.items()
        if name not in _OLDER_DEFAULTS or value != _OLDER_DEFAULTS[name]
    }
    return sampling_defaults(path, chosen, GENERATION_CONFIG)


def _normalised(name: str, value: Any) -> Any:
    """Return 0 for a top_k below it: vLLM and llama.cpp spell "all tokens" that way, too."""
    is_below = name == "top_k" and isinstance(value, int) and value < 0
    return 0 if is_below else value
