"""GGUF files as checkpoints: metadata to config, tensors under Hugging Face's names and order.

It knows what llama.cpp's converter does to a model: names are shortened, and for the `llama`
architecture the rows of q and k are reordered so that rotated pairs lie next to each other, where
Hugging Face's lie half a head apart. Here they are put back, so that one rotation serves all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelFileError
from ..files.tensor import HostArray, StoredTensor
from ..model.config import ModelConfig
from .checkpoint import Checkpoint, most_common_dtype
from .gguf_file import GgufFile
from .names import checked_tensors, huggingface_name, is_query_or_key
from .template_files import gguf_names, gguf_template

if TYPE_CHECKING:
    import tokenizers

ROPE_DIVISORS = "rope_freqs.weight"
MAX_DIVISORS = 1 << 16  # in known models there are 64: one for each rotated pair of a head


def open_gguf(path: Path) -> Checkpoint:
    file = GgufFile(path)
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    config = ModelConfig.from_gguf(path, file.metadata, shapes, _rope_divisors(file))
    stored = (_stored_tensor(file, name, config) for name in file.tensors)
    tensors = checked_tensors(path, config, {tensor.name: tensor for tensor in stored})
    return Checkpoint(
        path=path,
        config=config,
        tensors=tensors,
        load_tokenizer=lambda: _load_tokenizer(file),
        load_chat_template=lambda: gguf_template(file.metadata, path),
        template_names=lambda: gguf_names(file.metadata, path),
        format_name=f"GGUF {most_common_dtype(tensors)}",
        conversion_key=_conversion_key(path),
    )


def _conversion_key(path: Path) -> str:
    """The file's place and version. Hashing its content would take as long as reading it."""
    status = path.stat()
    return f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"


def _rope_divisors(file: GgufFile) -> tuple[float, ...] | None:
    if ROPE_DIVISORS not in file.tensors:
        return None
    shape = file.tensors[ROPE_DIVISORS].shape
    if math.prod(shape) > MAX_DIVISORS:  # before it is read whole
        raise ModelFileError(
            f"{file.path}: tensor {ROPE_DIVISORS!r}: shape is {list(shape)}, "
            f"expected at most {MAX_DIVISORS:,} numbers, one for each rotated pair"
        )
    divisors = file.stored_tensor(ROPE_DIVISORS).read().reshape(-1)
    return tuple(float(divisor) for divisor in divisors)


def _stored_tensor(file: GgufFile, name: str, config: ModelConfig) -> StoredTensor:
    ours = huggingface_name(name)
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
    """Rows of each head from (pair, half) order to (half, pair) order."""
    for tile in tiles:
        by_pair = tile.reshape(-1, head_dim // 2, 2, *tile.shape[1:])
        yield by_pair.swapaxes(1, 2).reshape(tile.shape)


def _load_tokenizer(file: GgufFile) -> tokenizers.Tokenizer:
    from .gguf_tokenizer import build_tokenizer

    return build_tokenizer(file.metadata, file.path)
