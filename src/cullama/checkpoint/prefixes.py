"""Brings the names of a safetensors model's tensors to one form: `model.layers.0.…`, `lm_head.…`.

transformers writes a bare `LlamaModel` without `model.`, and wrappers put a part of their own in
front or in between. The tensors are the same; here the names become so, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import ModelFileError
from ..files.regular_file import short_repr

OWN = "model."

# Modules that hold a whole language model; torch.nn.DataParallel names its content `module`.
_OUTER = r"(?:(?:module|base_model|model|language_model|text_model|llm)\.)*"
_BODY = re.compile(rf"(?P<prefix>{_OUTER})(?P<own>(?:layers\.\d+|embed_tokens|norm)\..+)")
_HEAD = re.compile(rf"(?P<prefix>{_OUTER})(?P<own>lm_head\..+)")
# What torch.compile, FSDP and gradient checkpointing put around a module.
_WRAPPER = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def own_names(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the names in `names` by those under which cullama knows the tensors.

    Names that are no part of a language model stay as they are.

    Raises:
        ModelFileError: two names become one.
    """
    plain = {name: _WRAPPER.sub("", name) for name in names}
    prefix = _prefix_of_layers(plain.values())
    found: dict[str, str] = {}
    for name, without in plain.items():
        own = _with_prefix(without, prefix)
        if own in found:
            raise ModelFileError(
                f"{path}: tensor {short_repr(own)}: name is given twice, as "
                f"{short_repr(found[own])} and {short_repr(name)}, expected each tensor once"
            )
        found[own] = name
    return found


def _prefix_of_layers(names: Iterable[str]) -> str:
    """Return what stands before `layers.0.`: the usual where it occurs, or is not clear."""
    bodies = [match for name in names if (match := _BODY.fullmatch(name))]
    prefixes = {body["prefix"] for body in bodies if body["own"].startswith("layers.0.")}
    return prefixes.pop() if len(prefixes) == 1 else OWN


def _with_prefix(name: str, prefix: str) -> str:
    if prefix == OWN:
        return name
    body, head = _BODY.fullmatch(name), _HEAD.fullmatch(name)
    if body and body["prefix"] == prefix:
        return OWN + body["own"]
    # The output matrix lies beside the layers' module, or further out.
    if head and prefix.startswith(head["prefix"]):
        return str(head["own"])
    return name
