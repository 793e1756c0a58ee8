"""List the cached models, and remove one: what `cullama models` shows and does.

They are in the Hugging Face cache, which other programs fill as well, and in cullama's own: the
default model, and converted weights. Only names, sizes and config.json are read, so cullama may
fail to run a model that is listed here without a `problem`.
"""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.foreign import foreign_among
from ..checkpoint.settings.quantization import quantised_by
from ..errors import CullamaError, ModelError, ModelNotFoundError
from ..files.cache_folder import cache_folder
from ..files.fields import Fields, load_json
from ..files.gguf_names import first_part, is_weights, missing_parts, parts_among
from ..files.regular_file import short_repr
from ..model.which_family import family_of_config, kind_of
from .cache import INDEX, MAIN, SINGLE, cached_model, cached_parts, hub_cache_folder
from .name import HubName, quantisation_of
from .resolve import DEFAULT_MODEL, default_model_folder

if TYPE_CHECKING:
    from huggingface_hub import CachedFileInfo, CachedRepoInfo, CachedRevisionInfo, HFCacheInfo

DEFAULT, CONVERTED = "default", "converted"
SHORT_COMMIT = 12  # digits


@dataclass(frozen=True)
class CachedModel:
    """A model in one of the caches."""

    name: str  # as `--model` takes it, "default" or "converted"
    kind: str  # "safetensors BF16", "GGUF Q4_K_M"
    size: int  # bytes on the disk
    last_used: float  # seconds since the epoch; the file system's access time
    path: Path
    problem: str | None  # why cullama cannot run it, None if it seems to be able to


def cached_models() -> list[CachedModel]:
    """Return all cached models, sorted by name, after the files of cullama's own cache."""
    own, path, folder = [], default_path(), cache_folder() / "converted"
    if path.is_file():
        kind = _gguf_kind(path.name)
        own.append(CachedModel(DEFAULT, kind, *_size_and_use([path]), path, None))
    if weights := _converted_weights():
        kind = f"{len(weights)} weights file{'s' if len(weights) > 1 else ''}"
        own.append(CachedModel(CONVERTED, kind, *_size_and_use(weights), folder, None))

    repositories = _model_repositories(_scan())
    of_hub = [model for repository in repositories for model in _models_in(repository)]
    return own + sorted(of_hub, key=lambda model: model.name.lower())


# ------------------------------------------------------------------------------ cullama's own cache


def default_path() -> Path:
    """Return where the default model's file is kept; it may not be there."""
    return default_model_folder() / DEFAULT_MODEL.file_name


def _converted_weights() -> list[Path]:
    """Return the files of weights that were converted for the CPU; a load makes them again."""
    folder = cache_folder() / "converted"
    return [path for path in folder.glob("*") if path.suffix in (".weights", ".part")]


def _size_and_use(paths: list[Path]) -> tuple[int, float]:
    status = [path.stat() for path in paths]
    return sum(one.st_size for one in status), max(one.st_atime for one in status)


def _gguf_kind(file: str) -> str:
    quantisation = quantisation_of(file)
    return f"GGUF {quantisation.upper()}" if quantisation else "GGUF"


# -------------------------------------------------------------------------- the Hugging Face cache


def _scan() -> HFCacheInfo | None:
    """Return huggingface_hub's listing of the cache, None if there is no cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    with suppress(CacheNotFound):
        return scan_cache_dir(hub_cache_folder())
    return None


def _model_repositories(scan: HFCacheInfo | None) -> list[CachedRepoInfo]:
    return [one for one in scan.repos if one.repo_type == "model"] if scan else []


def _models_in(repository: CachedRepoInfo) -> Iterator[CachedModel]:
    """Yield each GGUF file, and the folder of each revision that has something else."""
    for revision in repository.revisions:
        # A branch or tag, or else the commit; the main branch needs no name.
        ref = min(revision.refs, default=revision.commit_hash[:SHORT_COMMIT])
        name = HubName(repository.repo_id, revision=None if MAIN in revision.refs else ref)
        files = {
            file.file_path.relative_to(revision.snapshot_path).as_posix(): file
            for file in revision.files
        }
        ggufs = [path for path in files if is_weights(path)]
        for first in sorted({first_part(path) for path in ggufs}):
            yield _gguf_model(name.with_file(first, ggufs), first, files)
        if not ggufs or SINGLE in files or INDEX in files:
            yield _folder_model(name, repository, revision, [files[path] for path in ggufs])


def _gguf_model(name: HubName, first: str, files: dict[str, CachedFileInfo]) -> CachedModel:
    """Describe the model of a GGUF file, or of all parts of which `first` is the first."""
    parts = [files[path] for path in parts_among(first, files)]
    return CachedModel(
        name=str(name),
        kind=_gguf_kind(first),
        size=sum(part.size_on_disk for part in parts),
        last_used=max(part.blob_last_accessed for part in parts),
        path=parts[0].file_path,
        problem="incomplete" if missing_parts(first, files) else None,
    )


def _folder_model(
    name: HubName, repository: CachedRepoInfo, revision: CachedRevisionInfo, ggufs: list[Any]
) -> CachedModel:
    snapshot, config, problem = revision.snapshot_path, dict[str, Any](), None
    try:
        config = load_json(snapshot / "config.json")
    except ModelError:
        problem = "a damaged config.json" if (snapshot / "config.json").exists() else None
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "")
    short = {"float32": " F32", "float16": " F16", "bfloat16": " BF16"}
    kind = "safetensors" + short.get(dtype, "")

    size = revision.size_on_disk - sum(file.size_on_disk for file in ggufs)
    if len(repository.revisions) == 1:  # so partial downloads can only be of this one
        partials = (repository.repo_path / "blobs").glob("*.incomplete")
        size += sum(path.stat().st_size for path in partials)
    used = max((file.blob_last_accessed for file in revision.files), default=0.0)
    problem = problem or _problem(name, config, snapshot)
    return CachedModel(str(name), kind, size, used, snapshot, problem)


def _problem(name: HubName, config: dict[str, Any], snapshot: Path) -> str | None:
    """Return why cullama cannot run a model, as far as its config and files tell."""
    names = [entry.name for entry in snapshot.iterdir()]
    foreign = None if {SINGLE, INDEX} & {*names} else foreign_among(names)
    if foreign is not None:
        return foreign[1].what
    try:
        if config:
            family_of_config(Fields(snapshot / "config.json", config))
    except ModelError:
        architectures = config.get("architectures") or config.get("model_type")
        found = architectures[0] if isinstance(architectures, list) else architectures
        shown = short_repr(found)[1:-1] if isinstance(found, str) and found else "no architecture"
        return f"{shown}: {kind_of(str(found), config) or 'not supported'}"
    if cached_model(name, must_be_complete=False) is None:
        return "incomplete"
    quantised = quantised_by(config)
    return None if quantised is None else quantised[1]


# ----------------------------------------------------------------------------------------- removal


@dataclass(frozen=True)
class Removal:
    """What would be removed, and the function that does it."""

    name: str
    size: int  # bytes that are freed
    execute: Callable[[], object]


def removal_of(name: str) -> Removal:
    """Return what removing a cached model would free; nothing is removed before `execute()`.

    Args:
        name: one that `cached_models` lists, or owner/name for all cached files of a repository.

    Raises:
        ModelNotFoundError: nothing of that name is cached.
    """
    if name == CONVERTED and (weights := _converted_weights()):
        return _removal_of_files(name, weights)
    if name == DEFAULT and default_path().is_file():
        return _removal_of_files(name, [default_path()])
    parsed = HubName.parsed(name)
    found = _removal_from_hub(parsed) if parsed is not None else None
    if found is not None:
        return found
    names = [model.name for model in cached_models()]
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else "`cullama models` lists what is"
    raise ModelNotFoundError(f"no model {name!r} is cached; {hint}")


def _removal_of_files(name: str, paths: list[Path]) -> Removal:
    def execute() -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    return Removal(name, _size_and_use(paths)[0], execute)


def _removal_from_hub(name: HubName) -> Removal | None:
    """Return the removal of a file, a revision or a repository; None if it is not cached."""
    scan = _scan()
    repository = next(
        (it for it in _model_repositories(scan) if it.repo_id == name.repository), None
    )
    if scan is None or repository is None:
        return None
    if name.file is not None:
        return _removal_of_gguf(name, repository)
    if name.revision is not None:
        commits = [
            each.commit_hash
            for each in repository.revisions
            if name.revision in each.refs or each.commit_hash.startswith(name.revision)
        ]
        if not commits:
            return None
        strategy = scan.delete_revisions(*commits)
        return Removal(str(name), strategy.expected_freed_size, strategy.execute)
    folder = repository.repo_path
    paths = (Path(where, file) for where, _, files in os.walk(folder) for file in files)
    size = sum(path.lstat().st_size for path in paths if not path.is_symlink())
    return Removal(str(name), size, partial(shutil.rmtree, folder))


def _removal_of_gguf(name: HubName, repository: CachedRepoInfo) -> Removal | None:
    """Return the removal of a GGUF model, of all its parts; None if none is cached."""
    removed, size = [], 0
    for path in cached_parts(name):
        removed.append(path)
        blob = path.resolve()
        if not _has_other_links(blob, path, repository):
            size += blob.stat().st_size
            removed += [blob] if blob != path else []
    if not removed:
        return None
    return Removal(str(name), size, _removal_of_files(str(name), removed).execute)


def _has_other_links(blob: Path, path: Path, repository: CachedRepoInfo) -> bool:
    return any(
        file.blob_path == blob and file.file_path != path
        for revision in repository.revisions
        for file in revision.files
    )


def remove(removal: Removal) -> None:
    """Carry out a removal.

    Raises:
        CullamaError: the file system refuses.
    """
    try:
        removal.execute()
    except OSError as error:
        raise CullamaError(
            f"cannot remove {removal.name}: {error.strerror or error}; "
            "make its folder writable, or remove it yourself"
        ) from error
