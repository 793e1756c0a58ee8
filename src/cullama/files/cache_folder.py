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
        CullamaError: neither variable is set and the user has no home folder, or one of them names
            the home folder of a user who has none.
    """
    folder = cache_folder_or_none()
    if folder is None:  # a container run under a user id that has no name and no HOME
        raise CullamaError(
            "this user has no home folder to keep models in; set CULLAMA_CACHE to a folder"
        )
    return folder


def cache_folder_or_none() -> Path | None:
    """Return the same; None where there is no home folder, so that nothing can be kept."""
    if chosen := os.environ.get("CULLAMA_CACHE"):
        return expand_home(chosen, "CULLAMA_CACHE")
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return expand_home(shared, "XDG_CACHE_HOME") / "cullama"
    home = home_folder()
    return None if home is None else home / ".cache" / "cullama"


def home_folder() -> Path | None:
    """Return the user's home folder, or None. An empty HOME is none: Python takes it for `/`."""
    if os.environ.get("HOME") == "":
        return None
    home = os.path.expanduser("~")
    return None if home.startswith("~") else Path(home)


def expand_home(text: str, what: str) -> Path:
    """Return the path that a text means where it may begin with `~`; `what` gives it.

    Raises:
        CullamaError: there is no such home folder; a folder named `~` would be made instead.
    """
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise CullamaError(f"{what} is {text!r}: there is no such home folder; give a whole path")
    return Path(path)
