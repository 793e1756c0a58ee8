"""Opens a model of either format: the one place that tells safetensors from GGUF."""

from __future__ import annotations

import stat
from pathlib import Path

from ..errors import ModelFileError, ModelNotFoundError
from ..files.gguf_names import first_part, is_weights
from ..files.regular_file import first_names, open_regular_file
from .checkpoint import Checkpoint
from .foreign import SHOWN_START, recognise_start, refuse_foreign
from .gguf import open_gguf
from .safetensors import CONFIG, open_safetensors


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a folder of safetensors, a GGUF file, or a folder of one GGUF model.

    Raises:
        ModelNotFoundError: nothing is there, or nothing that may be a model.
        ModelFileError, UnsupportedModelError: it is there and cannot be used.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).lower()
        raise ModelNotFoundError(f"{path}: {reason}, expected a model") from None
    if stat.S_ISDIR(mode):
        return _open_folder(path)
    if path.suffix == ".safetensors":
        raise ModelNotFoundError(
            f"{path}: a single weights file, expected the folder that holds it and its config.json"
        )
    if not stat.S_ISREG(mode):
        raise ModelFileError(f"{path}: not a regular file, expected a folder or a GGUF file")
    _refuse_other_files(path)
    return open_gguf(path)


def _refuse_other_files(path: Path) -> None:
    """Refuse a file whose name tells what it is, where its first bytes do not."""
    with open_regular_file(path, "a GGUF file") as file:
        start = file.read(SHOWN_START)
    if not start.startswith(b"GGUF") and recognise_start(start) is None:
        refuse_foreign(path, [path.name])


def _open_folder(folder: Path) -> Checkpoint:
    """Open the safetensors of a folder, or where it has none, the only GGUF model in it."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError as error:
        reason = str(error.strerror or error).lower()
        raise ModelFileError(f"{folder}: cannot be listed: {reason}, expected a model") from None
    ggufs = list(filter(is_weights, names))
    is_safetensors = CONFIG in names and any(name.endswith(".safetensors") for name in names)
    if is_safetensors or not ggufs:
        return open_safetensors(folder)
    models = sorted({first_part(name) for name in ggufs})
    if len(models) > 1:
        raise ModelNotFoundError(
            f"{folder}: holds {len(models)} GGUF models, expected one; "
            f"give the file of one of them: {first_names(models)}"
        )
    return open_gguf(folder / min(ggufs))
