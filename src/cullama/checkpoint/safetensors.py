"""Opens safetensors folders: config.json, weights in one file or several, tokenizer.json.

It checks that the files of a folder fit one another. Which weights files there are is found by
`weight_files.py`, what is inside one is read by `safetensors_file.py`.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from ..errors import ModelFileError, ModelNotFoundError
from ..files.fields import load_json
from ..files.regular_file import first_names, short_repr
from ..files.tensor import StoredTensor
from ..model.config import ModelConfig
from .checkpoint import Checkpoint, most_common_dtype
from .names import expected_shapes, select_tensors
from .prefixes import own_names
from .sampling_defaults import GENERATION_CONFIG, sampling_defaults
from .template_files import folder_names, folder_template
from .tokenizer_file import load_tokenizer
from .weight_files import SINGLE, WeightFiles, find_weights, names_in, refuse_without_weights

CONFIG, ADAPTER = "config.json", "adapter_config.json"

LOG = logging.getLogger("cullama")


def open_safetensors(folder: Path) -> Checkpoint:
    """Open the model in a folder; no weights are read yet.

    Raises:
        ModelNotFoundError: config.json or the weights are missing.
        ModelFileError, UnsupportedModelError: they are there and cannot be used.
    """
    refuse_without_weights(folder)
    if not (folder / CONFIG).is_file():
        listing = first_names(names_in(folder))
        raise ModelNotFoundError(f"{folder}: holds {listing}, expected config.json and {SINGLE}")
    generation_path = folder / "generation_config.json"
    generation = load_json(generation_path) if generation_path.is_file() else {}
    config = ModelConfig.from_huggingface(folder / CONFIG, load_json(folder / CONFIG), generation)
    weights = find_weights(folder)
    if (folder / ADAPTER).exists():
        LOG.warning("%s: lies beside the weights, and is not applied to them", folder / ADAPTER)
    tensors = _needed_tensors(weights, config)
    return Checkpoint(
        path=folder,
        config=config,
        tensors=tensors,
        load_tokenizer=lambda: load_tokenizer(folder, config.vocab_size),
        load_chat_template=lambda: folder_template(folder),
        template_names=lambda: folder_names(folder),
        sampling_defaults=sampling_defaults(generation_path, generation, GENERATION_CONFIG),
        files=tuple(sorted({file.path for file in weights.files.values()})),
        format_name=f"safetensors {most_common_dtype(tensors)}",
    )


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
