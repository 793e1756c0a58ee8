"""Splits a GGUF file into parts as llama.cpp's gguf-split does, with gguf-py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from cullama.checkpoint.opening import open_checkpoint
from cullama.quantize import quantize

TYPES = {
    "split.no": gguf.GGUFValueType.UINT16,
    "split.count": gguf.GGUFValueType.UINT16,
    "split.tensors.count": gguf.GGUFValueType.INT32,
}


def write_gguf(folder: Path, path: Path, dtype: str = "f32") -> Path:
    """Write the model of a safetensors folder as one GGUF file."""
    quantize(open_checkpoint(folder), path, dtype)
    return path


def part_name(stem: str, number: int, count: int) -> str:
    return f"{stem}-{number:05}-of-{count:05}.gguf"


def split_gguf(
    source: Path,
    folder: Path,
    shares: Sequence[int] = (5, 9),
    changes: Mapping[int, Mapping[str, Any]] | None = None,
    first_has_tensors: bool = True,
) -> list[Path]:
    """Write the parts of a model into a folder.

    Args:
        shares: how many tensors each part but the last has, which takes the rest.
        changes: fields of parts, by their number from 1, in place of the right ones; None leaves
            one out.
    """
    reader = gguf.GGUFReader(source)
    rest = list(reader.tensors)
    takes = [*([] if first_has_tensors else [0]), *shares]
    held = [[rest.pop(0) for _ in range(share)] for share in takes] + [rest]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, tensors in enumerate(held, 1):
        path = folder / part_name(source.stem, number, len(held))
        writer = gguf.GGUFWriter(path, "llama")
        if number == 1:
            copy_metadata(reader, writer)
        fields = {
            "split.no": number - 1,
            "split.count": len(held),
            "split.tensors.count": len(reader.tensors),
        }
        for key, value in {**fields, **(changes or {}).get(number, {})}.items():
            if value is not None:
                writer.add_key_value(key, value, TYPES[key])
        for tensor in tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        paths.append(path)
    return paths


def copy_gguf(source: Path, path: Path, more: Mapping[str, NDArray[np.float32]]) -> Path:
    """Copy a file, with more tensors behind its own."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    copy_metadata(reader, writer)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, values in more.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kinds = field.types
        writer.add_key_value(key, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
