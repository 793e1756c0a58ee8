"""Decides which family the model of a file belongs to, and refuses others by what they are.

config.json says it in `architectures` and `model_type`, GGUF in `general.architecture`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UnsupportedModelError
from ..files.fields import Fields
from ..files.regular_file import short_repr
from .families import FAMILIES, Family

EXPERTS = "a mixture of experts"
# Fields that hold the number of experts.
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
# Fields that hold the config of one model of several.
PARTS = ("text_config", "vision_config", "audio_config", "language_config", "llm_config")

# Parts of an architecture or model_type → what such a model is; the first that is found counts.
_KINDS = (
    (r"^clip$", "a projector of images (mmproj), which goes with a language model"),
    (r"ForConditionalGeneration|llava|mllama|vlm?\b|paligemma|idefics", "a multimodal model"),
    (r"moe|mixtral|dbrx|arctic|deepseek_?v?[23]|gpt[_-]?oss|jamba", EXPERTS),
    (r"SequenceClassification|TokenClassification|Reward|QuestionAnswering", "a classifier"),
    (r"bert|MaskedLM|electra", "an encoder"),
    (r"^m?t5|bart|pegasus|marian|whisper|Seq2Seq", "an encoder and a decoder"),
    (r"mamba|rwkv|zamba|falcon[_-]?h1", "a state-space or recurrent model"),
    (r"Model$", "a model without an output matrix, as for embeddings"),
)


def family_of_config(fields: Fields) -> Family:
    """Return the family that config.json names; `model_type` decides where `architectures` is
    missing.

    Raises:
        UnsupportedModelError: another kind of model, by what it is.
        ModelFileError: the fields are missing, of another form, or contradict one another.
    """
    architectures, kind = fields.values.get("architectures"), fields.text("model_type", None)
    types = {family.gguf_name: family for family in FAMILIES.values()}
    if architectures in (None, []) and kind is not None:
        if kind not in types:
            raise _unsupported(fields.path, "model_type", kind, types, fields.values)
        return types[kind]
    match architectures:
        case [str(name)]:
            # Llama's oldest files say LLaMAForCausalLM.
            spellings = {each.casefold(): family for each, family in FAMILIES.items()}
            family = spellings.get(name.casefold())
        case _:
            fields.fail("architectures", f"a list with one of {', '.join(FAMILIES)}")
    if family is None:
        raise _unsupported(fields.path, "architectures", name, FAMILIES, fields.values)
    if kind in types and types[kind] is not family:
        fields.fail("model_type", f"{family.gguf_name!r}, as architectures says")
    return family


def family_of_gguf(path: Path, metadata: Mapping[str, Any]) -> Family:
    """Return the family of a GGUF file.

    Raises:
        UnsupportedModelError: another kind of model, by what it is.
        ModelFileError: the field is missing or no text.
    """
    name = Fields(path, metadata).text("general.architecture")
    names = {family.gguf_name: family for family in FAMILIES.values()}
    if name not in names:
        raise _unsupported(path, "general.architecture", name, names, metadata)
    return names[name]


def kind_of(name: str, values: Mapping[str, Any]) -> str | None:
    """Return what a model of this architecture or model_type is, with an article, if it shows."""
    if any(isinstance(values.get(part), Mapping) for part in PARTS):
        return "a multimodal model, whose language model is a part of it"
    if any(isinstance(values.get(it), int) and values[it] > 1 for it in EXPERT_COUNTS):
        return EXPERTS
    if values.get("is_encoder_decoder") is True:
        return "an encoder and a decoder"
    return next((kind for pattern, kind in _KINDS if re.search(pattern, name, re.IGNORECASE)), None)


def _unsupported(
    path: Path, field: str, name: str, supported: Iterable[str], values: Mapping[str, Any]
) -> UnsupportedModelError:
    kind = kind_of(name, values)
    what = "" if kind is None else f": {kind}"
    return UnsupportedModelError(
        f"{path}: {field} is {short_repr(name)}{what}, which cullama does not run, "
        f"expected one of {', '.join(supported)}"
    )
