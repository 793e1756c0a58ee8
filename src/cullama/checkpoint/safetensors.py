"""Opens safetensors folders: config.json, weights in one file or several, tokenizer.json.

It checks that the files of a folder fit one another. What is inside a weights file is read by
`safetensors_file.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from ..errors import ModelFileError, ModelNotFoundError
from ..files.fields import load_json
from ..files.regular_file import first_names, short_repr
from ..files.tensor import StoredTensor
from ..model.config import ModelConfig
from .checkpoint import Checkpoint, most_common_dtype
from .names import checked_tensors
from .safetensors_file import SafetensorsFile
from .sampling_defaults import GENERATION_CONFIG, sampling_defaults
from .template_files import folder_names, folder_template
from .tokenizer_file import load_tokenizer

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def open_safetensors(folder: Path) -> Checkpoint:
    """Open the model in a folder; no weights are read yet.

    Raises:
        ModelNotFoundError: config.json or the weights are missing.
        ModelFileError, UnsupportedModelError: they are there and cannot be used.
    """
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"{folder}: holds {_listing(folder)}, expected config.json and {SINGLE}"
        )
    generation_path = folder / "generation_config.json"
    generation = load_json(generation_path) if generation_path.is_file() else {}
    config = ModelConfig.from_huggingface(
        folder / "config.json", load_json(folder / "config.json"), generation
    )
    weights = _weights_path(folder)
    if weights.name == INDEX:
        stored = _sharded_tensors(weights)
    else:
        file = SafetensorsFile(weights)
        stored = {name: file.stored_tensor(name) for name in file.tensors}
    tensors = checked_tensors(weights, config, stored)
    return Checkpoint(
        path=folder,
        config=config,
        tensors=tensors,
        load_tokenizer=lambda: load_tokenizer(folder),
        load_chat_template=lambda: folder_template(folder),
        template_names=lambda: folder_names(folder),
        sampling_defaults=sampling_defaults(generation_path, generation, GENERATION_CONFIG),
        format_name=f"safetensors {most_common_dtype(tensors)}",
    )


def _listing(folder: Path) -> str:
    return first_names([entry.name for entry in folder.iterdir()])


def _weights_path(folder: Path) -> Path:
    """Return the weights file, or the index of several."""
    for name in (SINGLE, INDEX):
        if (folder / name).exists():
            return folder / name
    raise ModelNotFoundError(f"{folder}: holds {_listing(folder)}, expected {SINGLE} or {INDEX}")


def _sharded_tensors(index: Path) -> dict[str, StoredTensor]:
    weight_map = load_json(index).get("weight_map", "missing")
    if not isinstance(weight_map, dict) or not weight_map:
        expected = "tensor names and the files they lie in"
        raise ModelFileError(
            f"{index}: weight_map is {short_repr(weight_map)}, expected {expected}"
        )
    indexed: dict[str, set[str]] = {}  # names of tensors, by shard
    for name, shard in weight_map.items():
        # One plain name, so that an index cannot name files elsewhere.
        is_plain = isinstance(shard, str) and re.fullmatch(r"[\w.+=@ -]{1,255}", shard, re.ASCII)
        if not is_plain or not shard.endswith(".safetensors"):
            raise ModelFileError(
                f"{index}: tensor {short_repr(name)}: weight_map is {short_repr(shard)}, "
                "expected a .safetensors file beside it"
            )
        indexed.setdefault(shard, set()).add(name)
    _check_series(index, indexed.keys())
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(indexed):
        file = SafetensorsFile(_shard_path(index, shard))
        _check_names(index, shard, indexed[shard], file.tensors.keys())
        tensors |= {name: file.stored_tensor(name) for name in file.tensors}
    return tensors


def _shard_path(index: Path, shard: str) -> Path:
    """Return a shard's path; a link may lead into its folder, or into a hub cache's `blobs`."""
    path, folder = index.parent / shard, index.parent.resolve()
    if not path.exists():
        raise ModelFileError(f"{path}: missing, expected a shard: {INDEX} names it")
    # huggingface_hub keeps in `blobs` what `snapshots/REVISION/…` links to.
    blobs = [it.with_name("blobs") for it in folder.parents if it.name == "snapshots"]
    allowed = [folder, *blobs]
    if not any(path.resolve().is_relative_to(place) for place in allowed):
        raise ModelFileError(f"{path}: a link to {path.resolve()}, expected a file inside {folder}")
    return path


_SERIES = re.compile(r"(.*)-[0-9]{5}-of-([0-9]{5})\.safetensors")


def _check_series(index: Path, shards: Collection[str]) -> None:
    """No shard of the same series may lie beside those that the index names."""
    series = {match.groups() for shard in shards if (match := _SERIES.fullmatch(shard))}
    for path in sorted(index.parent.iterdir()):
        match = _SERIES.fullmatch(path.name)
        if match and match.groups() in series and path.name not in shards:
            raise ModelFileError(
                f"{path}: shard is not in weight_map, expected every shard in {INDEX}"
            )


def _check_names(index: Path, shard: str, indexed: Collection[str], found: Collection[str]) -> None:
    """Check that a shard holds the tensors that the index names, and no others."""
    missing = [name for name in indexed if name not in found]
    more = [name for name in found if name not in indexed]
    if missing or more:
        name, verb = min(
            [(name, "in the index only") for name in missing]
            + [(name, "in the file only") for name in more]
        )
        raise ModelFileError(
            f"{index}: tensor {short_repr(name)}: weight_map and {shard} differ in "
            f"{len(missing) + len(more)} tensors, this one is {verb}, "
            "expected each tensor in the file the index names"
        )
