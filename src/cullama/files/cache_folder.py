"""Where cullama keeps the files it fetches. It knows the environment, not what the files are."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import CullamaError


def cache_folder() -> Path:
    """$CULLAMA_CACHE, else $XDG_CACHE_HOME/cullama, else ~/.cache/cullama; it may not exist."""
    if chosen := os.environ.get("CULLAMA_CACHE"):
        return Path(os.path.expanduser(chosen))
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared, "cullama")
    return _home() / ".cache" / "cullama"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:  # a container run under a user id that has no name and no HOME
        raise CullamaError(
            "this user has no home folder to keep models in; set CULLAMA_CACHE to a folder"
        ) from error
