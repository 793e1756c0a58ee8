"""Converts a checkpoint to a GGUF file: puts the parts together and reports the result.

The parts are made by the other files of this folder; here are the fields about the file itself.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.gguf_file import GgufFile
from ..checkpoint.sampling_defaults import GGUF
from ..errors import NoTokenizerError, UsageError
from ..files.quantized_blocks import GROUP
from ..hub import model_title
from ..hub.name import quantisation_of
from ..model.choices import GGUF_TYPES
from . import model_fields
from .file import Contents, check_free, write
from .plan import MIN_HEAD_TYPE, Target, targets
from .rows import RowBytes, encoded_rows
from .tokenizer_fields import Metadata, bare_fields, tokenizer_fields

Progress = Callable[[int, int], None]  # (elements done, elements in all)

WRITER_FIELDS = ("general.architecture", "general.alignment")  # written by gguf-py


@dataclass(frozen=True)
class Quantized:
    """A file that was written."""

    path: Path
    size: int  # bytes
    parameters: int
    types: dict[str, int]  # how many tensors of each
    notes: tuple[str, ...]  # what differs from what was asked for, for users

    @property
    def bits(self) -> float:
        """Bits of the file per parameter."""
        return 8 * self.size / self.parameters

    def as_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "size": self.size,
            "parameters": self.parameters,
            "types": self.types,
            "notes": list(self.notes),
        }


def quantize(
    checkpoint: Checkpoint,
    path: Path,
    dtype: str,
    *,
    overwrite: bool = False,
    has_tokenizer: bool = True,
    progress: Progress = lambda done, total: None,
) -> Quantized:
    """Write a model to a GGUF file (version 3) that llama.cpp loads, one tensor at a time.

    Args:
        dtype: one of GGUF_TYPES. Where it is a quantised one, matrices whose rows are no multiple
            of 32 become F16, and the output matrix Q8_0. Vectors are F32.
        overwrite: whether a file of that name may be replaced.
        has_tokenizer: whether the file gets the model's tokenizer and chat template, if it has any.

    Raises:
        UsageError: a file of that name exists, or the type does not.
        UnsupportedModelError: GGUF cannot express this model, or its tokenizer.
        ModelFileError: the model's files are damaged, or hold values beyond the type's range.
        CullamaError: the file cannot be written.
    """
    if dtype not in GGUF_TYPES:
        raise UsageError(f"the type is {dtype!r}, expected one of {', '.join(GGUF_TYPES)}")
    check_free(path, (checkpoint.path, *checkpoint.files), overwrite)
    model_fields.check_expressible(checkpoint.path, checkpoint.config)
    metadata = GgufFile(checkpoint.path).metadata if checkpoint.path.is_file() else {}
    tokenizer, notes = _tokenizer(checkpoint, metadata, has_tokenizer)
    fields = _general(checkpoint, metadata, dtype) | model_fields.model_fields(checkpoint.config)
    contents = Contents(
        checkpoint.config.family.written_name,
        fields | tokenizer,
        list(targets(checkpoint, dtype)),
    )
    write(path, contents, _rows_reader(checkpoint.path, contents, progress))
    return Quantized(
        path,
        path.stat().st_size,
        sum(tensor.size for tensor in checkpoint.tensors.values()),
        dict(Counter(target.dtype for target in contents.targets).most_common()),
        (*notes, *_notes(checkpoint, contents.targets, dtype)),
    )


def file_name(source: Path, dtype: str) -> str:
    """Return the default file name: "SmolLM2-135M-Instruct-q8_0.gguf"."""
    name = _title(source).rpartition("/")[2].removesuffix(".gguf")
    before = quantisation_of(name)
    if before and name.endswith(before) and name != before:
        name = re.sub(r"[.-]$", "", name.removesuffix(before))
    return f"{name}-{dtype}.gguf"


def _title(source: Path) -> str:
    return model_title(Path(os.path.abspath(source)))  # "." has no name of its own


def _rows_reader(
    source: Path, contents: Contents, progress: Progress
) -> Callable[[Target], RowBytes]:
    """Return a function that encodes the rows of a target and reports progress."""
    done, total = 0, sum(target.source.size for target in contents.targets)

    def count(elements: int) -> None:
        nonlocal done
        done += elements
        progress(done, total)

    return lambda target: encoded_rows(target, source, count)


def _tokenizer(
    checkpoint: Checkpoint, metadata: Metadata, is_wanted: bool
) -> tuple[Metadata, list[str]]:
    if not is_wanted:
        return bare_fields(checkpoint), []
    try:
        return tokenizer_fields(checkpoint, metadata)
    except NoTokenizerError:
        return bare_fields(checkpoint), ["the model has no tokenizer, so the file takes token ids"]


def _general(checkpoint: Checkpoint, metadata: Metadata, dtype: str) -> Metadata:
    """Return the `general.` fields; author, licence and so on are the source's, and what it
    recommends of sampling."""
    import gguf

    kind = "ALL_F32" if dtype == "f32" else f"MOSTLY_{dtype.upper()}"
    kept = {
        key: value
        for key, value in metadata.items()
        if key.startswith("general.") and key not in WRITER_FIELDS
    }
    return {
        "general.type": "model",
        "general.name": _title(checkpoint.path),
        **{
            key: value if ours == "top_k" else float(value)
            for key, ours in GGUF.items()
            if (value := checkpoint.sampling_defaults.get(ours)) is not None
        },
        **kept,
        "general.file_type": int(gguf.LlamaFileType[kind]),
        "general.quantization_version": int(gguf.GGML_QUANT_VERSION),
    }


def _notes(checkpoint: Checkpoint, written: Sequence[Target], dtype: str) -> Iterator[str]:
    yield from model_fields.notes(checkpoint.config)
    lost = sorted(set(checkpoint.sampling_defaults) - set(GGUF.values()))
    if lost:
        yield f"GGUF has no place for what the model recommends of {', '.join(lost)}"
    if not dtype.startswith("q"):
        return
    if any(tensor.dtype.startswith("Q") for tensor in checkpoint.tensors.values()):
        yield f"the source is {checkpoint.format_name} already: the losses add up"
    matrices = [target for target in written if len(target.source.shape) > 1]
    narrow = [target.source.name for target in matrices if target.dtype == "F16"]
    if narrow:
        more = f" and {len(narrow) - 1} more matrices" if len(narrow) > 1 else ""
        yield f"F16: {narrow[0]}{more}, whose rows are no multiple of {GROUP}"
    if dtype.upper() != MIN_HEAD_TYPE:
        for target in matrices:
            if target.dtype == MIN_HEAD_TYPE:
                yield f"{MIN_HEAD_TYPE}: {target.source.name}, which predicts the tokens"
