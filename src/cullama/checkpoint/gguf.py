"""Opens GGUF files: metadata becomes a config, tensors get Hugging Face's names and row order.

llama.cpp's converter shortens names and, for Llama and Mistral, interleaves the rows of q and k so
that the pairs that RoPE rotates lie next to each other; Hugging Face's lie half a head apart. Both
are undone here, so that one RoPE serves all models. The files are read by `gguf_parts.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelFileError, UnsupportedModelError
from ..files.fields import Fields
from ..files.regular_file import short_repr
from ..files.tensor import HostArray, StoredTensor
from ..model.config import ModelConfig
from ..model.which_family import family_of_gguf
from .checkpoint import Checkpoint, most_common_dtype
from .gguf_parts import GgufModel
from .names import huggingface_name, is_query_or_key, select_tensors
from .sampling_defaults import GGUF, sampling_defaults
from .settings.gguf import GGUF_MODEL_RULES, GGUF_SAMPLING_RULES, GGUF_TOKENIZER_RULES
from .settings.verdict import check_settings, without_prefix
from .template_files import gguf_names, gguf_template

if TYPE_CHECKING:
    import tokenizers

ROPE_DIVISORS = "rope_freqs.weight"
_EVERY_DIVISORS = re.compile(r"(?:blk\.[0-9]+\.)?rope_freqs\.weight")
MAX_DIVISORS = 1 << 16  # known models have 64: one for each rotated pair of a head

# What files of other kinds say in `general.type`, and what to do with them.
_OTHER_KINDS = {
    "adapter": ("a LoRA adapter", "merge it into its base model (llama.cpp's export-lora)"),
    "mmproj": ("a projector of images", "give the file of the language model beside it"),
    "imatrix": ("an importance matrix", "give the file of the model"),
}


def open_gguf(path: Path) -> Checkpoint:
    """Open the model in a GGUF file, or in several of which this is one; no weights are read yet.

    Raises:
        ModelFileError: the file is damaged, or its fields and tensors do not fit one another.
        UnsupportedModelError: it is of a model or type that cullama does not run.
    """
    file = GgufModel(path)
    path = file.path  # the first part

    def load_tokenizer() -> tokenizers.Tokenizer:
        from .gguf_tokenizer import build_tokenizer  # which imports the tokenizers library

        return build_tokenizer(file.metadata, file.path)

    _refuse_other_kinds(file)
    _check_metadata(path, file.metadata)  # first: what it refuses may have other sizes, too
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    config = ModelConfig.from_gguf(path, file.metadata, shapes, _rope_divisors(file))
    tensors = _needed_tensors(file, config)
    return Checkpoint(
        path=path,
        config=config,
        tensors=tensors,
        load_tokenizer=load_tokenizer,
        load_chat_template=lambda: gguf_template(file.metadata, path),
        template_names=lambda: gguf_names(file.metadata, path),
        sampling_defaults=sampling_defaults(path, file.metadata, GGUF),
        files=tuple(part.path for part in file.files),
        format_name=f"GGUF {most_common_dtype(tensors)}",
        conversion_key=f"{path.resolve()}|{file.version}",
    )


def _refuse_other_kinds(file: GgufModel) -> None:
    """Refuse by its name what is of a known architecture and yet no model."""
    kind = Fields(file.path, file.metadata).text("general.type", "model")
    if kind in _OTHER_KINDS:
        what, remedy = _OTHER_KINDS[kind]
        raise UnsupportedModelError(
            f"{file.path}: general.type is {kind!r}: {what}, expected a model; {remedy}"
        )
    if not file.tensors and "tokenizer.ggml.model" in file.metadata:
        raise UnsupportedModelError(
            f"{file.path}: holds a vocabulary and no tensors, expected a model; take the whole file"
        )


def _check_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Refuse metadata that change what the model computes, and warn of others that may."""
    family = family_of_gguf(path, metadata)
    for prefix, rules in (
        (f"{family.gguf_name}.", GGUF_MODEL_RULES),
        ("tokenizer.ggml.", GGUF_TOKENIZER_RULES),
        ("general.sampling.", GGUF_SAMPLING_RULES),
    ):
        check_settings(path, without_prefix(metadata, prefix), rules, prefix=prefix)


def _rope_divisors(file: GgufModel) -> tuple[float, ...] | None:
    """Read the divisors of the RoPE frequencies, [E / 2], if the file has any.

    Some converters wrote a copy of them for each layer.
    """
    names = [name for name in file.tensors if _EVERY_DIVISORS.fullmatch(name)]
    divisors: tuple[float, ...] | None = None
    for name in names:
        shape = file.tensors[name].shape
        if math.prod(shape) > MAX_DIVISORS:  # before it is read whole
            raise ModelFileError(
                f"{file.path}: tensor {name!r}: shape is {list(shape)}, "
                f"expected at most {MAX_DIVISORS:,} numbers, one for each rotated pair"
            )
        found = tuple(float(divisor) for divisor in file.stored_tensor(name).read().reshape(-1))
        if divisors not in (None, found):
            raise UnsupportedModelError(
                f"{file.path}: tensor {name!r}: values are others than in {names[0]!r}, "
                "expected the same RoPE divisors in all layers"
            )
        divisors = found
    return divisors


def _needed_tensors(file: GgufModel, config: ModelConfig) -> dict[str, StoredTensor]:
    """Return the tensors that the model needs, under Hugging Face's names."""
    names: dict[str, str] = {}
    for name in file.tensors:
        if names.setdefault(huggingface_name(name), name) != name:
            raise ModelFileError(
                f"{file.path}: tensor {short_repr(name)}: name is given twice, also as "
                f"{short_repr(names[huggingface_name(name)])}, expected each tensor once"
            )
    shapes = {ours: file.tensors[name].shape for ours, name in names.items()}
    chosen = select_tensors(file.path, config, shapes)
    return {ours: _stored_tensor(file, names[name], ours, config) for ours, name in chosen.items()}


def _stored_tensor(file: GgufModel, name: str, ours: str, config: ModelConfig) -> StoredTensor:
    """Return a tensor under Hugging Face's name and in its order of rows."""
    is_interleaved = config.family.has_interleaved_qk and is_query_or_key(ours)
    if not is_interleaved:
        return replace(file.stored_tensor(name), name=ours)
    stored = file.stored_tensor(name, row_multiple=config.head_dim)
    if stored.shape[0] % config.head_dim:
        raise ModelFileError(
            f"{file.path}: tensor {name!r}: rows is {stored.shape[0]}, "
            f"expected a multiple of the head width {config.head_dim}"
        )
    blocks = stored.blocks
    return replace(
        stored,
        name=ours,
        tiles=lambda: _half_split(stored.tiles(), config.head_dim),
        blocks=None if blocks is None else lambda: _half_split(blocks(), config.head_dim),
    )


def _half_split(tiles: Iterable[HostArray], head_dim: int) -> Iterator[HostArray]:
    """Reorder the rows of each head from [E/2, 2] to [2, E/2]: undo llama.cpp's interleaving."""
    for tile in tiles:
        by_pair = tile.reshape(-1, head_dim // 2, 2, *tile.shape[1:])
        yield by_pair.swapaxes(1, 2).reshape(tile.shape)
