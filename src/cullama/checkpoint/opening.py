"""Opens a model of either format: the one place that tells safetensors from GGUF."""

from __future__ import annotations

import stat
from pathlib import Path

from ..errors import ModelFileError, ModelNotFoundError
from .checkpoint import Checkpoint
from .gguf import open_gguf
from .safetensors import open_safetensors


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a folder of safetensors, or a GGUF file.

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
        return open_safetensors(path)
    if path.suffix == ".safetensors":
        raise ModelNotFoundError(
            f"{path}: a single weights file, expected the folder that holds it and its config.json"
        )
    if not stat.S_ISREG(mode):
        raise ModelFileError(f"{path}: not a regular file, expected a folder or a GGUF file")
    return open_gguf(path)
