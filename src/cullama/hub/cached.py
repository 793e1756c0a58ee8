"""The models on this machine that have a name, and how to be rid of one.

They are in the Hugging Face cache, which other programs fill as well, and in cullama's own: the
default model, and converted weights. It looks at names, sizes and config.json only, so a model
listed here without a `problem` may still turn out to be one that cullama cannot run.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CullamaError, ModelNotFoundError
from ..files.cache_folder import cache_folder
from ..model.families import FAMILIES
from .cache import INDEX, MAIN, SINGLE, cached_model, hub_cache_folder
from .name import HubName, is_weights, quantisation_of
from .resolve import DEFAULT_MODEL

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, CachedRevisionInfo, HFCacheInfo

DEFAULT, CONVERTED = "default", "converted"
SHORT_COMMIT = 12  # digits


@dataclass(frozen=True)
class CachedModel:
    name: str  # as `--model` takes it, "default" or "converted"
    kind: str  # "safetensors BF16", "GGUF Q4_K_M"
    size: int  # bytes on the disk
    last_used: float  # seconds since the epoch, as exactly as the file system keeps it
    path: Path
    problem: str | None  # why cullama cannot run it


def cached_models() -> list[CachedModel]:
    """Everything cached, by name, cullama's own first."""
    of_hub = [model for repository in _repositories() for model in _models_in(repository)]
    return [*_own_models(), *sorted(of_hub, key=lambda model: model.name.lower())]


# ----------------------------------------------------------------------------------------- our own


def default_path() -> Path:
    return cache_folder() / "models" / DEFAULT_MODEL.file_name


def _own_models() -> Iterator[CachedModel]:
    path, folder = default_path(), cache_folder() / "converted"
    if path.is_file():
        yield CachedModel(DEFAULT, _gguf_kind(path.name), *_size_and_use([path]), path, None)
    if weights := _converted_weights():
        kind = f"{len(weights)} weights file{'s' * (len(weights) > 1)}"
        yield CachedModel(CONVERTED, kind, *_size_and_use(weights), folder, None)


def _converted_weights() -> list[Path]:
    """Weights of GGUF files as the CPU computes with them; they are made again when needed."""
    folder = cache_folder() / "converted"
    return [path for path in folder.glob("*") if path.suffix in (".weights", ".part")]


def _size_and_use(paths: list[Path]) -> tuple[int, float]:
    status = [path.stat() for path in paths]
    return sum(one.st_size for one in status), max(one.st_atime for one in status)


def _gguf_kind(file: str) -> str:
    quantisation = quantisation_of(file)
    return f"GGUF {quantisation.upper()}" if quantisation else "GGUF"


# ---------------------------------------------------------------------------------------- the hub's


def _scan() -> HFCacheInfo | None:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    with suppress(CacheNotFound):
        return scan_cache_dir(hub_cache_folder())
    return None


def _repositories() -> list[CachedRepoInfo]:
    scan = _scan()
    return [one for one in scan.repos if one.repo_type == "model"] if scan else []


def _models_in(repository: CachedRepoInfo) -> Iterator[CachedModel]:
    for revision in repository.revisions:
        name = HubName(repository.repo_id, revision=_revision_name(revision))
        files = {_path_in(revision, file.file_path): file for file in revision.files}
        ggufs = [path for path in files if is_weights(path)]
        for path in ggufs:
            file = files[path]
            known_as = str(name.with_file(path, ggufs))
            use = file.blob_last_accessed
            yield CachedModel(
                known_as, _gguf_kind(path), file.size_on_disk, use, file.file_path, None
            )
        if not ggufs or SINGLE in files or INDEX in files:
            yield _folder_model(name, repository, revision, [files[path] for path in ggufs])


def _revision_name(revision: CachedRevisionInfo) -> str | None:
    """None for the main branch."""
    if MAIN in revision.refs:
        return None
    return min(revision.refs, default=revision.commit_hash[:SHORT_COMMIT])


def _path_in(revision: CachedRevisionInfo, path: Path) -> str:
    return path.relative_to(revision.snapshot_path).as_posix()


def _folder_model(
    name: HubName, repository: CachedRepoInfo, revision: CachedRevisionInfo, ggufs: list[Any]
) -> CachedModel:
    config = _config_in(revision.snapshot_path)
    size = revision.size_on_disk - sum(file.size_on_disk for file in ggufs)
    if len(repository.revisions) == 1:
        size += sum(path.stat().st_size for path in _partials(repository))
    used = max((file.blob_last_accessed for file in revision.files), default=0.0)
    problem = _problem(name, config, revision.snapshot_path)
    return CachedModel(str(name), _folder_kind(config), size, used, revision.snapshot_path, problem)


def _partials(repository: CachedRepoInfo) -> list[Path]:
    return list((repository.repo_path / "blobs").glob("*.incomplete"))


def _config_in(folder: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        config = json.loads((folder / "config.json").read_bytes())
        return config if isinstance(config, dict) else {}
    return {}


def _folder_kind(config: dict[str, Any]) -> str:
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "")
    short = {"float32": " F32", "float16": " F16", "bfloat16": " BF16"}
    return "safetensors" + short.get(dtype, "")


def _problem(name: HubName, config: dict[str, Any], snapshot: Path) -> str | None:
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    if config and architecture not in FAMILIES:
        return f"{architecture or config.get('model_type') or 'no architecture'}: not supported"
    if cached_model(name, is_known_whole=False) is None:
        return "not here in full"
    method = config.get("quantization_config")
    return f"quantised by {method.get('quant_method')}" if isinstance(method, dict) else None


# --------------------------------------------------------------------------------------- and remove


@dataclass(frozen=True)
class Removal:
    name: str
    size: int  # bytes that come free
    execute: Callable[[], object]


def removal_of(name: str) -> Removal:
    """What removing a cached model would free; nothing is removed before `execute()`.

    Args:
        name: one that `cached_models` lists, or owner/name for all that is here of a repository.

    Raises:
        ModelNotFoundError: nothing of that name is cached.
    """
    if name == CONVERTED and (weights := _converted_weights()):
        return _removal_of_files(name, weights)
    if name == DEFAULT and default_path().is_file():
        return _removal_of_files(name, [default_path()])
    parsed = HubName.parsed(name)
    found = _removal_from_hub(parsed) if parsed is not None else None
    if found is None:
        raise _not_cached(name)
    return found


def _not_cached(name: str) -> ModelNotFoundError:
    names = [model.name for model in cached_models()]
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else "`cullama models` lists what is"
    return ModelNotFoundError(f"no model {name!r} is cached; {hint}")


def _removal_of_files(name: str, paths: list[Path]) -> Removal:
    def execute() -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    return Removal(name, _size_and_use(paths)[0], execute)


def _removal_from_hub(name: HubName) -> Removal | None:
    for repository in _repositories():
        if repository.repo_id == name.repository:
            return _removal_from(repository, name)
    return None


def _removal_from(repository: CachedRepoInfo, name: HubName) -> Removal | None:
    if name.file is not None:
        return _removal_of_gguf(name, repository)
    if name.revision is not None:
        return _removal_of_revision(name, repository)
    folder = repository.repo_path
    return Removal(str(name), _bytes_in(folder), lambda: shutil.rmtree(folder))


def _bytes_in(folder: Path) -> int:
    """Of its files; links are names for them."""
    paths = (Path(where, name) for where, _, names in os.walk(folder) for name in names)
    return sum(path.lstat().st_size for path in paths if not path.is_symlink())


def _removal_of_revision(name: HubName, repository: CachedRepoInfo) -> Removal | None:
    scan = _scan()
    meant = _revisions_of(name, repository)
    if scan is None or not meant:
        return None
    strategy = scan.delete_revisions(*(revision.commit_hash for revision in meant))
    return Removal(str(name), strategy.expected_freed_size, strategy.execute)


def _revisions_of(name: HubName, repository: CachedRepoInfo) -> list[CachedRevisionInfo]:
    wanted = name.revision or MAIN
    return [
        revision
        for revision in repository.revisions
        if wanted in revision.refs or (name.revision and revision.commit_hash.startswith(wanted))
    ]


def _removal_of_gguf(name: HubName, repository: CachedRepoInfo) -> Removal | None:
    """The file's names in the revision meant, and its bytes unless another revision has them."""
    path = cached_model(name)
    if path is None:
        return None
    blob = path.resolve()
    others = [
        file
        for revision in repository.revisions
        for file in revision.files
        if file.blob_path == blob and file.file_path != path
    ]
    removed = [path] if others or blob == path else [path, blob]
    size = 0 if others else blob.stat().st_size
    return Removal(str(name), size, _removal_of_files(str(name), removed).execute)


def remove(removal: Removal) -> None:
    """Raises: CullamaError: the file system would not let go of it."""
    try:
        removal.execute()
    except OSError as error:
        raise CullamaError(
            f"cannot remove {removal.name}: {error.strerror or error}; "
            "make its folder writable, or remove it yourself"
        ) from error
