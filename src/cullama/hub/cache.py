"""The Hugging Face cache on this machine: what of a repository is there, and how more is added.

Its layout is https://huggingface.co/docs/huggingface_hub/guides/manage-cache: the bytes are in
`blobs`, named by their hash; `snapshots/COMMIT` holds links to them under the files' names, and
`refs/BRANCH` a commit. An empty file in `.no_exist/COMMIT` says that the repository has no file of
that name. It knows folders and links, no network; huggingface_hub is not needed to read it.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .name import HubName, chosen_gguf, meant_files

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Without one of the first three a model may load and yet be another: without a chat template, say.
NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
SETTINGS = (*NEEDED, "generation_config.json", "special_tokens_map.json", "chat_template.jinja")
MAIN = "main"
SHORTEST_COMMIT = 7  # digits, as git abbreviates


def hub_cache_folder() -> Path:
    """The folder that huggingface_hub would use, from the same variables in the same order."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(variable):
            return _expanded(folder)
    if home := os.environ.get("HF_HOME"):
        return _expanded(home) / "hub"
    return _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def _expanded(folder: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(folder)))


def cached_model(name: HubName, is_known_whole: bool = True) -> Path | None:
    """The model's folder or GGUF file, or None where it is not in the cache in full.

    Args:
        is_known_whole: False is content with config and weights, where nobody can say whether the
            repository has a tokenizer as well.

    Raises:
        ModelNotFoundError: the cache holds several GGUF files that the name may mean.
    """
    cache = CachedRepository.of(name.repository)
    commit = cache.commit(name.revision)
    if commit is None:
        return None
    snapshot = cache.snapshot(commit)
    if name.file is None and ((snapshot / SINGLE).exists() or (snapshot / INDEX).exists()):
        is_there = _has_weights(snapshot) and (snapshot / NEEDED[0]).is_file()
        is_whole = is_there and all(cache.is_settled(commit, file) for file in NEEDED)
        return snapshot if is_whole or (is_there and not is_known_whole) else None
    return _cached_gguf(name, snapshot)


def _has_weights(snapshot: Path) -> bool:
    if (snapshot / SINGLE).is_file():
        return True
    shards = shards_of(snapshot / INDEX)
    return bool(shards) and all((snapshot / shard).is_file() for shard in shards)


def shards_of(index: Path) -> set[str]:
    """The files that an index names; none where it is no index."""
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        named = json.loads(index.read_bytes()).get("weight_map").values()
        return {name for name in named if isinstance(name, str)}
    return set()


def _cached_gguf(name: HubName, snapshot: Path) -> Path | None:
    found = (path for path in snapshot.rglob("*.gguf") if path.is_file())
    files = [path.relative_to(snapshot).as_posix() for path in found]
    return snapshot / chosen_gguf(name, files) if meant_files(name, files) else None


@dataclass(frozen=True)
class CachedRepository:
    folder: Path

    @classmethod
    def of(cls, repository: str) -> CachedRepository:
        return cls(hub_cache_folder() / f"models--{repository.replace('/', '--')}")

    def commit(self, revision: str | None) -> str | None:
        """The commit that a branch, a tag or a commit's first digits had when it was fetched."""
        with suppress(OSError, ValueError):
            text = (self.folder / "refs" / (revision or MAIN)).read_text(encoding="utf-8").strip()
            return text or None
        if revision is None or not re.fullmatch(rf"\w{{{SHORTEST_COMMIT},}}", revision):
            return None
        commits = [path.name for path in (self.folder / "snapshots").glob(f"{revision}*")]
        return commits[0] if len(commits) == 1 else None

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def blob(self, digest: str) -> Path:
        return self.folder / "blobs" / digest

    def partial(self, digest: str) -> Path:
        """Where a blob's bytes are while they come; huggingface_hub counts and cleans these."""
        return self.folder / "blobs" / f"{digest}.incomplete"

    def lock(self, digest: str) -> Path:
        """The file that huggingface_hub locks, too, while it fetches that blob."""
        return self.folder.parent / ".locks" / self.folder.name / f"{digest}.lock"

    def is_settled(self, commit: str, file: str) -> bool:
        """Whether a file is there, or known not to be in the repository."""
        absent = self.folder / ".no_exist" / commit / file
        return (self.snapshot(commit) / file).is_file() or absent.is_file()

    def prepare(self, commit: str) -> None:
        for folder in (self.snapshot(commit), self.folder / "blobs", self.lock("any").parent):
            folder.mkdir(parents=True, exist_ok=True)

    def link(self, commit: str, file: str, digest: str) -> None:
        """Give a blob that is whole its name."""
        path, passing = self.snapshot(commit) / file, self._passing_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            passing.symlink_to(os.path.relpath(self.blob(digest), path.parent))
        except OSError:  # a file system without links; huggingface_hub does the same there
            passing = self.blob(digest)
        os.replace(passing, path)

    def settle(self, commit: str, revision: str | None, absent: list[str]) -> None:
        """Note what a commit lacks, and that it is the one that the revision means now."""
        for file in absent:
            self._write(self.folder / ".no_exist" / commit / file, "")
        if revision != commit:
            self._write(self.folder / "refs" / (revision or MAIN), commit)

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        passing = self._passing_path()
        passing.write_text(text, encoding="utf-8")
        os.replace(passing, path)

    def _passing_path(self) -> Path:
        return self.folder / f".{os.urandom(8).hex()}"


def model_title(path: Path) -> str:
    """What to call a model's file or folder: in the cache, a folder's own name is but a commit."""
    repository = path.parent.parent
    if path.parent.name == "snapshots" and repository.name.startswith("models--"):
        return repository.name.removeprefix("models--").replace("--", "/")
    return path.name
