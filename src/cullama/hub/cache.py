"""The Hugging Face cache on this machine: look a model up, and add files to a repository's folder.

Its layout is https://huggingface.co/docs/huggingface_hub/guides/manage-cache: the bytes are in
`blobs`, named by their hash; `snapshots/COMMIT` holds links to them under the files' names, and
`refs/BRANCH` a commit. An empty file in `.no_exist/COMMIT` says that the repository has no file of
that name. Nothing here uses the network or huggingface_hub.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import CullamaError, ModelFileError
from ..files.cache_folder import expand_home, home_folder
from ..files.fields import load_json
from ..files.gguf_names import Part, first_part, missing_parts, parts_among
from .name import HubName, chosen_gguf, meant_files

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Without one of these a model may load and yet behave differently: without a chat template, say.
NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
SETTINGS = (*NEEDED, "generation_config.json", "special_tokens_map.json", "chat_template.jinja")
MAIN = "main"
MIN_COMMIT_DIGITS = 7  # as git abbreviates


def hub_cache_folder() -> Path:
    """Return the folder that huggingface_hub uses, from the same environment variables.

    Raises:
        CullamaError: none of them is set and the user has no home folder.
    """
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(variable):
            return _expanded(folder, variable)
    if home := os.environ.get("HF_HOME"):
        return _expanded(home, "HF_HOME") / "hub"
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return _expanded(shared, "XDG_CACHE_HOME") / "huggingface" / "hub"
    own = home_folder()
    if own is None:
        raise CullamaError(
            "this user has no home folder to keep models in; set HF_HOME and CULLAMA_CACHE to "
            "folders, or give a model's path"
        )
    return own / ".cache" / "huggingface" / "hub"


def _expanded(folder: str, variable: str) -> Path:
    return expand_home(os.path.expandvars(folder), variable)


def cached_model(name: HubName, must_be_complete: bool = True) -> Path | None:
    """Return the model's folder or GGUF file, or None if it is not completely in the cache.

    Args:
        must_be_complete: False accepts config and weights alone, where the cache does not tell
            whether the repository has a tokenizer as well.

    Raises:
        ModelNotFoundError: the cache holds several GGUF files that the name may mean.
    """
    cache = CachedRepository.of(name.repository)
    commit = cache.commit(name.revision)
    if commit is None:
        return None
    snapshot = cache.snapshot(commit)
    if name.file is None and ((snapshot / SINGLE).exists() or (snapshot / INDEX).exists()):
        weights = {SINGLE} if (snapshot / SINGLE).is_file() else shards_of(snapshot / INDEX)
        if not weights or not all((snapshot / it).is_file() for it in (*weights, NEEDED[0])):
            return None
        is_complete = all(cache.has_or_lacks(commit, file) for file in NEEDED)
        return snapshot if is_complete or not must_be_complete else None
    files = _ggufs_in(snapshot)
    whole = [file for file in files if not missing_parts(file, files)]
    return snapshot / chosen_gguf(name, whole) if meant_files(name, whole) else None


def cached_parts(name: HubName) -> list[Path]:
    """Return the cached files of the GGUF model that a name means, all parts that are there.

    Raises:
        ModelNotFoundError: the name may mean several models.
    """
    cache = CachedRepository.of(name.repository)
    commit = cache.commit(name.revision)
    if commit is None:
        return []
    snapshot = cache.snapshot(commit)
    files = _ggufs_in(snapshot)
    meant = meant_files(name, files)
    if len({first_part(file) for file in meant}) > 1:
        chosen_gguf(name, meant)  # refuses
    return [snapshot / part for file in meant[:1] for part in parts_among(file, files)]


def _ggufs_in(snapshot: Path) -> list[str]:
    found = (path for path in snapshot.rglob("*.gguf") if path.is_file())
    return [path.relative_to(snapshot).as_posix() for path in found]


def shards_of(index: Path) -> set[str]:
    """Return the files that a safetensors index names; none if it cannot be read."""
    with suppress(ModelFileError):
        named = load_json(index).get("weight_map")
        if isinstance(named, dict):
            return {name for name in named.values() if isinstance(name, str)}
    return set()


@dataclass(frozen=True)
class CachedRepository:
    """One repository's folder in the cache."""

    folder: Path

    @classmethod
    def of(cls, repository: str) -> CachedRepository:
        return cls(hub_cache_folder() / f"models--{repository.replace('/', '--')}")

    def commit(self, revision: str | None) -> str | None:
        """Return the commit that a branch or tag had when it was fetched.

        The first digits of a commit do, too, where only one cached commit begins with them.
        """
        with suppress(OSError, ValueError):
            text = (self.folder / "refs" / (revision or MAIN)).read_text(encoding="utf-8").strip()
            return text or None
        if revision is None or not re.fullmatch(rf"\w{{{MIN_COMMIT_DIGITS},}}", revision):
            return None
        commits = [path.name for path in (self.folder / "snapshots").glob(f"{revision}*")]
        return commits[0] if len(commits) == 1 else None

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def blob(self, digest: str) -> Path:
        return self.folder / "blobs" / digest

    def partial(self, digest: str) -> Path:
        """Return the file that a blob is downloaded to; huggingface_hub lists and removes these."""
        return self.folder / "blobs" / f"{digest}.incomplete"

    def lock(self, digest: str) -> Path:
        """Return the lock file of a blob, which huggingface_hub locks, too, to download it."""
        return self.folder.parent / ".locks" / self.folder.name / f"{digest}.lock"

    def has_or_lacks(self, commit: str, file: str) -> bool:
        """Return whether a file is cached, or known not to be in the repository."""
        absent = self.folder / ".no_exist" / commit / file
        return (self.snapshot(commit) / file).is_file() or absent.is_file()

    def make_folders(self, commit: str) -> None:
        """Create the folders that the files of a commit are written to."""
        for folder in (self.snapshot(commit), self.folder / "blobs", self.lock("any").parent):
            folder.mkdir(parents=True, exist_ok=True)

    def link(self, commit: str, file: str, digest: str) -> None:
        """Link a complete blob under its file's name in the snapshot."""
        path, temporary = self.snapshot(commit) / file, self._temporary_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.symlink_to(os.path.relpath(self.blob(digest), path.parent))
        except OSError:  # a file system without links; huggingface_hub does the same there
            temporary = self.blob(digest)
        os.replace(temporary, path)

    def record(self, commit: str, revision: str | None, absent: list[str]) -> None:
        """Record which files a commit lacks, and that the revision is this commit now."""
        for file in absent:
            self._write(self.folder / ".no_exist" / commit / file, "")
        if revision != commit:
            self._write(self.folder / "refs" / (revision or MAIN), commit)

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._temporary_path()
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)

    def _temporary_path(self) -> Path:
        return self.folder / f".{os.urandom(8).hex()}"


def model_title(path: Path) -> str:
    """Return the name to show for a model's path: owner/name for a snapshot, else the file's.

    A model in several parts goes by its name without their numbers.
    """
    repository = path.parent.parent
    if path.parent.name == "snapshots" and repository.name.startswith("models--"):
        return repository.name.removeprefix("models--").replace("--", "/")
    part = Part.parsed(path.name)
    return f"{part.stem}.gguf" if part else path.name
