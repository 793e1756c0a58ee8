"""Opens safetensors folders: config.json, weights in one file or several, tokenizer.json.

It checks that the files of a folder fit one another. Which weights files there are is found by
`weight_files.py`, what is inside one is read by `safetensors_file.py`.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ModelFileError, ModelNotFoundError
from ..files.fields import Fields, load_json
from ..files.regular_file import first_names, short_repr
from ..files.tensor import StoredTensor
from ..model.config import ModelConfig
from ..model.rope import SPELLINGS
from .checkpoint import Checkpoint, most_common_dtype
from .names import EMBEDDING, HEAD, expected_shapes, select_tensors
from .prefixes import own_names
from .sampling_defaults import GENERATION_CONFIG, older_sampling_defaults, sampling_defaults
from .settings.config_json import CONFIG_JSON_RULES, ROPE_RULES
from .settings.generation_config import GENERATION_CONFIG_RULES
from .settings.quantization import refuse_quantised
from .settings.verdict import check_settings
from .template_files import folder_names, folder_template
from .tokenizer_file import load_tokenizer
from .weight_files import SINGLE, WeightFiles, find_weights, names_in, refuse_without_weights

CONFIG, GENERATION = "config.json", "generation_config.json"
ADAPTER = "adapter_config.json"

LOG = logging.getLogger("cullama")


def open_safetensors(folder: Path) -> Checkpoint:
    """Open the model in a folder; no weights are read yet, except for those of an embedding and an
    output matrix that config.json ties, to compare them.

    Raises:
        ModelNotFoundError: config.json or the weights are missing.
        ModelFileError, UnsupportedModelError: they are there and cannot be used.
    """
    refuse_without_weights(folder)
    if not (folder / CONFIG).is_file():
        listing = first_names(names_in(folder))
        raise ModelNotFoundError(f"{folder}: holds {listing}, expected config.json and {SINGLE}")
    config, sampling = _read_settings(folder)
    weights = find_weights(folder)
    if (folder / ADAPTER).exists():
        LOG.warning("%s: lies beside the weights, and is not applied to them", folder / ADAPTER)
    config = _untied_where_two_differ(weights, config)
    tensors = _needed_tensors(weights, config)
    return Checkpoint(
        path=folder,
        config=config,
        tensors=tensors,
        load_tokenizer=lambda: load_tokenizer(folder, config.vocab_size),
        load_chat_template=lambda: folder_template(folder),
        template_names=lambda: folder_names(folder),
        sampling_defaults=sampling,
        files=tuple(sorted({file.path for file in weights.files.values()})),
        format_name=f"safetensors {most_common_dtype(tensors)}",
    )


def _read_settings(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Read the files of settings: the config, and what they recommend of sampling."""
    config_path, generation_path = folder / CONFIG, folder / GENERATION
    values = load_json(config_path)
    generation = load_json(generation_path) if generation_path.is_file() else None
    refuse_quantised(config_path, values)
    config = ModelConfig.from_huggingface(config_path, values, generation)
    check_settings(config_path, values, CONFIG_JSON_RULES, GENERATION_CONFIG_RULES)
    for group in SPELLINGS:
        settings = Fields(config_path, values).group(group)
        if settings is not None:
            check_settings(config_path, settings.values, ROPE_RULES, prefix=f"{group}.")
    if generation is None:
        return config, older_sampling_defaults(config_path, values)
    check_settings(generation_path, generation, GENERATION_CONFIG_RULES)
    return config, sampling_defaults(generation_path, generation, GENERATION_CONFIG)


def _untied_where_two_differ(weights: WeightFiles, config: ModelConfig) -> ModelConfig:
    """Return the config of a model with its own output matrix where the files hold one that
    differs from the embedding, though config.json ties them."""
    names = own_names(weights.path, [*weights.files, *weights.absent])
    pair = [names[name] for name in (EMBEDDING, HEAD) if names.get(name) in weights.files]
    if not config.tied or len(pair) < 2:
        return config
    embedding, head = (weights.files[name].stored_tensor(name) for name in pair)
    if embedding.holds_the_same_as(head):
        return config
    LOG.warning(
        "%s: tie_word_embeddings is true, and %s differs from the embedding: "
        "both are used, as transformers 5 does",
        *(weights.path, HEAD),
    )
    return replace(config, tied=False)


def _needed_tensors(weights: WeightFiles, config: ModelConfig) -> dict[str, StoredTensor]:
    """Return the tensors that the model needs, under the names that cullama knows."""
    names = own_names(weights.path, [*weights.files, *weights.absent])
    for own in expected_shapes(config):
        if names.get(own) in weights.absent:
            raise ModelFileError(weights.absent[names[own]])
    shapes = {
        own: weights.files[name].tensors[name].shape
        for own, name in names.items()
        if name in weights.files
    }
    chosen = select_tensors(weights.path, config, shapes)
    if weights.absent:
        shown = short_repr(min(weights.absent))
        LOG.warning("%s: names tensors that are not there nor needed: %s", weights.path, shown)
    places = {own: names[found] for own, found in chosen.items()}
    return {
        own: replace(weights.files[name].stored_tensor(name), name=own)
        for own, name in places.items()
    }
