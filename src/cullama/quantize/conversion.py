"""A checkpoint becomes a GGUF file: the parts put together, and what came of it.

It knows what a file says of itself as a whole. What each part is made of is the other files' here.
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
from ..choices import GGUF_TYPES
from ..errors import NoTokenizerError, UsageError
from ..files.quantized_blocks import GROUP
from ..hub import model_title
from ..hub.name import quantisation_of
from . import model_fields
from .file import Contents, check_free, write
from .plan import MIN_HEAD_TYPE, Target, targets
from .rows import Bytes, stored_rows
from .tokenizer_fields import Metadata, bare_fields, tokenizer_fields

Progress = Callable[[int, int], None]  # (elements done, elements in all)

OWN = ("general.architecture", "general.alignment")  # which gguf-py sees to


@dataclass(frozen=True)
class Quantized:
    """A file that was written."""

    path: Path
    size: int  # bytes
    parameters: int
    types: dict[str, int]  # how many tensors of each
    notes: tuple[str, ...]  # what is not as one might expect

    @property
    def bits(self) -> float:
        """Of the file, for each parameter."""
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
    """Write a model to a GGUF file (version 3) that llama.cpp loads, a tensor at a time.

    Args:
        dtype: one of GGUF_TYPES. Where it is a quantised one, matrices whose rows are no multiple
            of 32 become F16, and the output matrix Q8_0. Vectors are F32.
        overwrite: whether a file of that name may be replaced.
        has_tokenizer: whether the file gets the model's tokenizer and chat template, if it has any.

    Raises:
        UsageError: there is a file of that name; there is no such type.
        UnsupportedModelError: GGUF has no words for this model, or for its tokenizer.
        ModelFileError: the model's files are damaged, or hold what the type cannot.
        CullamaError: the file cannot be written.
    """
    if dtype not in GGUF_TYPES:
        raise UsageError(f"the type is {dtype!r}, expected one of {', '.join(GGUF_TYPES)}")
    check_free(path, checkpoint.path, overwrite)
    model_fields.check_can_be_said(checkpoint.path, checkpoint.config)
    said = GgufFile(checkpoint.path).metadata if checkpoint.path.is_file() else {}
    tokenizer, notes = _tokenizer(checkpoint, said, has_tokenizer)
    fields = _general(checkpoint, said, dtype) | model_fields.model_fields(checkpoint.config)
    contents = Contents(
        checkpoint.config.family.written_name,
        fields | tokenizer,
        list(targets(checkpoint, dtype)),
    )
    write(path, contents, _Reader(checkpoint.path, contents, progress))
    return Quantized(
        path,
        path.stat().st_size,
        sum(tensor.size for tensor in checkpoint.tensors.values()),
        dict(Counter(target.dtype for target in contents.targets).most_common()),
        (*notes, *_notes(checkpoint, contents.targets, dtype)),
    )


def file_name(source: Path, dtype: str) -> str:
    """What to call a model in another type: "SmolLM2-135M-Instruct-q8_0.gguf"."""
    name = _title(source).rpartition("/")[2].removesuffix(".gguf")
    before = quantisation_of(name)
    if before and name.endswith(before) and name != before:
        name = re.sub(r"[.-]$", "", name.removesuffix(before))
    return f"{name}-{dtype}.gguf"


def _title(source: Path) -> str:
    return model_title(Path(os.path.abspath(source)))  # "." has no name of its own


class _Reader:
    """Reads one tensor after the other, and tells how far it is."""

    def __init__(self, source: Path, contents: Contents, progress: Progress) -> None:
        self._source, self._progress = source, progress
        self._done, self._total = 0, sum(target.source.size for target in contents.targets)

    def __call__(self, target: Target) -> Bytes:
        return stored_rows(target, self._source, self._count)

    def _count(self, elements: int) -> None:
        self._done += elements
        self._progress(self._done, self._total)


def _tokenizer(
    checkpoint: Checkpoint, said: Metadata, is_wanted: bool
) -> tuple[Metadata, list[str]]:
    if not is_wanted:
        return bare_fields(checkpoint), []
    try:
        return tokenizer_fields(checkpoint, said)
    except NoTokenizerError:
        return bare_fields(checkpoint), ["the model has no tokenizer, so the file takes token ids"]


def _general(checkpoint: Checkpoint, said: Metadata, dtype: str) -> Metadata:
    """What a file says of itself as a whole; of author, licence and so on, what the source said."""
    import gguf

    kind = "ALL_F32" if dtype == "f32" else f"MOSTLY_{dtype.upper()}"
    kept = {key: said[key] for key in said if key.startswith("general.") and key not in OWN}
    return {
        "general.type": "model",
        "general.name": _title(checkpoint.path),
        **kept,
        "general.file_type": int(gguf.LlamaFileType[kind]),
        "general.quantization_version": int(gguf.GGML_QUANT_VERSION),
    }


def _notes(checkpoint: Checkpoint, written: Sequence[Target], dtype: str) -> Iterator[str]:
    yield from model_fields.notes(checkpoint.config)
    if not dtype.startswith("q"):
        return
    if any(tensor.dtype.startswith("Q") for tensor in checkpoint.tensors.values()):
        yield f"{checkpoint.format_name} had a loss of its own: this one comes on top of it"
    matrices = [target for target in written if len(target.source.shape) > 1]
    narrow = [target.source.name for target in matrices if target.dtype == "F16"]
    if narrow:
        yield f"F16: {_few(narrow)}, whose rows are no multiple of {GROUP}"
    heads = [
        it.source.name for it in matrices if it.dtype == MIN_HEAD_TYPE.upper() != dtype.upper()
    ]
    yield from (f"{MIN_HEAD_TYPE.upper()}: {name}, which predicts the tokens" for name in heads)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 1} more matrices" if len(names) > 1 else ""
    return names[0] + more
