"""Recognises what stands in a model's place, so that a refusal says what it is and what to do.

Adapters, pickles and weights of other programs by their files' names; downloads that brought a web
page, an archive or a pointer by their first bytes. Nothing is opened here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UnsupportedModelError
from ..files.regular_file import short_repr


@dataclass(frozen=True)
class Foreign:
    """Something that is no model which cullama reads."""

    what: str  # "an ONNX model"
    remedy: str


_AGAIN = "finish the download, or start it again"
_CONVERT = (
    "convert it: transformers' AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW) "
    "writes safetensors"
)
_OTHER = "take the model's safetensors or GGUF files"
_ADAPTER = (
    "merge it into its base model (peft's merge_and_unload), save the result, and give its folder"
)

# By patterns of file names; the first that fits any file of a folder counts.
_BY_NAME = {
    r"adapter_config\.json": Foreign("a LoRA adapter", _ADAPTER),
    r"adapter_model\.(?:safetensors|bin)": Foreign("a LoRA adapter", _ADAPTER),
    r"model_index\.json": Foreign("a pipeline of diffusers, for images", "take a language model"),
    r".*\.(?:incomplete|part|partial|crdownload|aria2|download|tmp)": Foreign(
        "an unfinished download", _AGAIN
    ),
    r"pytorch_model.*\.(?:bin|pt|pth)": Foreign(
        "pickles, which can run code and are never opened", _CONVERT
    ),
    r"openvino_.*|.*\.xml": Foreign("a model for OpenVINO", _OTHER),
    r"consolidated.*\.(?:pth|safetensors)|params\.json": Foreign(
        "a model in its maker's own format", "take the version for transformers"
    ),
    r".*\.(?:bin|pth|pt|ckpt|pkl|pickle)": Foreign(
        "pickles, which can run code and are never opened", _CONVERT
    ),
    r".*\.onnx(?:_data)?": Foreign("an ONNX model", _OTHER),
    r".*\.npz": Foreign("arrays of MLX or numpy", _OTHER),
    r".*\.(?:h5|tflite|pb)": Foreign("a model of TensorFlow", _OTHER),
    r".*\.msgpack": Foreign("a model of Flax", _OTHER),
    r".*\.(?:mlmodel|mlpackage)": Foreign("a model for Core ML", _OTHER),
    r".*\.nemo": Foreign("a model of NeMo", _OTHER),
    r".*\.(?:engine|plan)": Foreign("a model compiled by TensorRT", _OTHER),
    r".*\.(?:zip|tar|tgz|gz|xz|bz2|zst|7z|rar)": Foreign("an archive", "unpack it first"),
}
_NAMES = {re.compile(pattern, re.IGNORECASE): it for pattern, it in _BY_NAME.items()}
# Written beside models by those who train them; no weights.
_BESIDE = re.compile(r"(?:training_args|optimizer|scheduler|rng_state.*|random_states.*)\..*")

_ARCHIVE = Foreign("an archive", "unpack it first")
_PICKLE = Foreign("a pickle of PyTorch, which can run code and is never opened", _CONVERT)
_GGML = Foreign("a GGML file from before GGUF", "take a GGUF version of the model")
_PAGE = Foreign(
    "a web page", "download the file itself: by `cullama pull`, or the link behind its button"
)
_BY_START = {
    b"version https://git-lfs": Foreign("a pointer of git LFS", "run `git lfs pull`"),
    b"PK\x03\x04": Foreign("a zip archive, as PyTorch's pickles are, too", _CONVERT),
    b"\x80\x02": _PICKLE,
    b"\x80\x04": _PICKLE,
    b"\x1f\x8b": _ARCHIVE,
    b"BZh": _ARCHIVE,
    b"\xfd7zXZ": _ARCHIVE,
    b"7z\xbc\xaf": _ARCHIVE,
    b"\x28\xb5\x2f\xfd": _ARCHIVE,
    b"lmgg": _GGML,
    b"tjgg": _GGML,
    b"fmgg": _GGML,
    b"algg": _GGML,
    b"\x89HDF": Foreign("a model of TensorFlow (HDF5)", _OTHER),
    b"GGUF": Foreign("a GGUF file", "name it .gguf and give its own path"),
}
SHOWN_START = 24  # bytes by which a file is recognised


def foreign_among(names: Iterable[str]) -> tuple[str, Foreign] | None:
    """Return the file that tells what a folder holds in place of a model, and what that is."""
    names = sorted(name for name in names if not _BESIDE.fullmatch(name))
    for pattern, foreign in _NAMES.items():
        for name in names:
            if pattern.fullmatch(name):
                return name, foreign
    return None


def refuse_foreign(path: Path, names: Iterable[str]) -> None:
    """Raise UnsupportedModelError if files of these names tell what `path` is."""
    found = foreign_among(names)
    if found is not None:
        name, foreign = found
        which = "" if name == path.name else f" ({short_repr(name)[1:-1]})"
        raise UnsupportedModelError(
            f"{path}: {foreign.what}{which}, expected safetensors or GGUF; {foreign.remedy}"
        )


def recognise_start(start: bytes) -> Foreign | None:
    """Return what a file is that begins with these bytes; None for what may be a damaged model."""
    for known, foreign in _BY_START.items():
        if start.startswith(known):
            return foreign
    if not start:
        return Foreign("an empty file", _AGAIN)
    if not any(start):
        return Foreign("a file that begins with zeros, as unfinished downloads do", _AGAIN)
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return _PAGE
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return Foreign(
            "a safetensors file", "name it .safetensors, and give the folder with its config.json"
        )
    if len(text) >= 8 and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        return Foreign(f"text, {short_repr(start.decode())}, as of an error page", _AGAIN)
    return None
