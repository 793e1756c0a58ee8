"""Safetensors folders: config.json, one weights file or several with an index, tokenizer.json.

It knows how such a folder is put together and checks that its parts fit one another. The format
itself is left to the `safetensors` library.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (safetensors hands out bfloat16 arrays only once it is imported)
from safetensors import SafetensorError, safe_open

from ..config import ModelConfig
from ..errors import ModelFileError, ModelNotFoundError, NoTokenizerError, UnsupportedModelError
from ..fields import load_json
from ..tensor import HostArray, StoredTensor
from .checkpoint import Checkpoint, stored_types
from .names import checked_tensors

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = ("F32", "F16", "BF16")
TILE_ELEMENTS = 1 << 18


def open_safetensors(folder: Path) -> Checkpoint:
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"{folder}: holds {_listing(folder)}, expected config.json and {SINGLE}"
        )
    generation = folder / "generation_config.json"
    config = ModelConfig.from_huggingface(
        folder / "config.json",
        load_json(folder / "config.json"),
        load_json(generation) if generation.is_file() else None,
    )
    tensors = checked_tensors(folder, config, _stored_tensors(folder))
    return Checkpoint(
        path=folder,
        config=config,
        tensors=tensors,
        load_tokenizer=lambda: _load_tokenizer(folder),
        stored_as=f"safetensors {stored_types(tensors)}",
    )


def _listing(folder: Path) -> str:
    names = sorted(
        entry.name if entry.name.isprintable() else repr(entry.name) for entry in folder.iterdir()
    )
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "nothing"


def _stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    if (folder / SINGLE).exists():
        return _tensors_of(folder / SINGLE)
    if not (folder / INDEX).exists():
        raise ModelNotFoundError(
            f"{folder}: holds {_listing(folder)}, expected {SINGLE} or {INDEX}"
        )
    return _sharded_tensors(folder / INDEX)


def _sharded_tensors(index: Path) -> dict[str, StoredTensor]:
    weight_map = load_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(f"{index}: weight_map is missing, expected tensor names and files")
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted({_shard_name(index, name) for name in weight_map.values()}):
        found = _tensors_of(index.parent / shard)
        promised = {name for name, file in weight_map.items() if file == shard}
        if promised != found.keys():
            odd = sorted(promised ^ found.keys())
            raise ModelFileError(
                f"{index}: {shard} and the index differ in {len(odd)} tensors, "
                f"the first is {odd[0]!r}; expected each tensor in the file the index names"
            )
        tensors |= found
    return tensors


def _shard_name(index: Path, name: Any) -> str:
    # One plain name, so that an index cannot reach for files outside its folder.
    is_plain = isinstance(name, str) and name == Path(name).name and name.isprintable()
    if not is_plain or not name.endswith(".safetensors"):
        raise ModelFileError(
            f"{index}: weight_map names the file {name!r:.200}, "
            "expected a .safetensors file beside it"
        )
    return str(name)


def _tensors_of(path: Path) -> dict[str, StoredTensor]:
    with _opened(path) as file:
        return {name: _stored_tensor(path, file, name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, with what goes wrong in it turned into our errors."""
    if not path.exists():
        raise ModelFileError(f"{path}: missing, expected a safetensors file")
    if not path.is_file():  # opening a named pipe would wait for a writer
        raise ModelFileError(f"{path}: not a regular file, expected a safetensors file")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: {_what_it_is(path) or error}") from None


def _what_it_is(path: Path) -> str | None:
    """Files that are commonly found in the place of weights."""
    with suppress(OSError), path.open("rb") as file:
        start = file.read(40)
        if start.startswith(b"version https://git-lfs"):
            return "a pointer of git LFS, expected the weights themselves; run `git lfs pull`"
        if start.startswith(b"GGUF"):
            return "a GGUF file, expected safetensors; name it .gguf and give its own path"
    return None


def _stored_tensor(path: Path, file: Any, name: str) -> StoredTensor:
    part = file.get_slice(name)
    shape, dtype = tuple(part.get_shape()), part.get_dtype()
    if dtype not in DTYPES:
        raise UnsupportedModelError(
            f"{path}: tensor {name!r}: type is {dtype}, expected one of {', '.join(DTYPES)}"
        )
    return StoredTensor(name, shape, dtype, lambda: _tiles(path, name, shape))


def _tiles(path: Path, name: str, shape: tuple[int, ...]) -> Iterator[HostArray]:
    """Rows of one tensor. The file is opened for each tensor and closed after it, because its
    mapping counts as our memory for as long as it stands."""
    rows = max(1, TILE_ELEMENTS // max(1, prod(shape[1:])))
    with _opened(path) as file:
        part = file.get_slice(name)
        if tuple(part.get_shape()) != shape:
            raise ModelFileError(f"{path}: tensor {name!r} changed while it was read")
        for start in range(0, shape[0], rows):
            yield part[start : min(start + rows, shape[0])]


def _load_tokenizer(folder: Path) -> Any:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise NoTokenizerError(
            f"{folder}: has no tokenizer.json; give token ids, or add the file the model came with"
        )
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ModelFileError(f"{path}: not a sound tokenizer: {error}") from None
