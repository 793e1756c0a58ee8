"""The folder in which cullama keeps the files it fetches and converts, as the environment sets it.

It says where; it creates nothing, and does not know what the files are.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import CullamaError


def cache_folder() -> Path:
    """Return $CULLAMA_CACHE, else $XDG_CACHE_HOME/cullama, else ~/.cache/cullama; it may not exist.

    Raises:
        CullamaError: neither variable is set and the user has no home folder.
    """
    if chosen := os.environ.get("CULLAMA_CACHE"):
        return Path(os.path.expanduser(chosen))
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared, "cullama")
    try:
        return Path.home() / ".cache" / "cullama"
    except RuntimeError as error:  # a container run under a user id that has no name and no HOME
        raise CullamaError(
            "this user has no home folder to keep models in; set CULLAMA_CACHE to a folder"
        ) from error
