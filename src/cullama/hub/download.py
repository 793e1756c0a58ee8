"""Fetch a model from the Hugging Face hub into its cache: resumed, verified, landed by rename.

It knows which files a model needs and how bytes become a file of the cache; not what is in them.
The bytes are moved here because huggingface_hub (from 1.31 on) throws away what an interrupted
download had, and compares sizes where hashes are known.

A file grows in `blobs` under a passing name, goes on from there after an interruption, and gets
its own name when its hash is right. Weights come after the small files, and the revision's name
is written last.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from ..errors import DownloadError, ModelNotFoundError
from .api import Hub, Listing, RemoteFile, patiently
from .cache import INDEX, NEEDED, SETTINGS, SINGLE, CachedRepository, shards_of
from .name import HubName, chosen_gguf
from .packaged import Progress, write_errors_explained

LOG = logging.getLogger("cullama")
READ_AT_ONCE = 1 << 20  # bytes


def fetched_model(name: HubName, progress: Progress) -> Path:
    """The model's folder or GGUF file, after what the cache lacks of it was fetched.

    Raises:
        ModelNotFoundError: no such repository or revision, or no model in it that cullama reads.
        DownloadError: the hub cannot be reached or refuses, the disk is full, bytes are wrong.
    """
    cache = CachedRepository.of(name.repository)
    if is_offline():
        raise DownloadError(
            f"{name} is not in {str(cache.folder)!r} in full, and HF_HUB_OFFLINE is set, so it is "
            "not fetched; unset that, or give a path"
        )
    hub = Hub(name)
    with hub.explained():
        return _Download(hub, cache, hub.listing(), progress).run()


def is_offline() -> bool:
    """As huggingface_hub reads it."""
    setting = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return setting.upper() in ("1", "ON", "YES", "TRUE")


class _Download:
    """One model on its way into the cache."""

    def __init__(
        self, hub: Hub, cache: CachedRepository, listing: Listing, progress: Progress
    ) -> None:
        self._hub, self._cache, self._listing = hub, cache, listing
        self._snapshot = cache.snapshot(listing.commit)
        self._meter = _Meter(progress)

    def run(self) -> Path:
        path, wanted = self._plan()
        self._begin(wanted)
        for file in wanted:
            self._land(file)
        absent = [file for file in SETTINGS if file not in self._listing.files]
        with self._disk():
            self._cache.settle(self._listing.commit, self._hub.name.revision, absent)
        return path

    def _prepare(self) -> None:
        with self._disk():
            self._cache.prepare(self._listing.commit)

    def _disk(self) -> AbstractContextManager[None]:
        return write_errors_explained(self._cache.folder, "HF_HUB_CACHE")

    # ------------------------------------------------------------------------------- which files

    def _plan(self) -> tuple[Path, list[RemoteFile]]:
        """What the model's path will be, and its files, weights last."""
        files, name = self._listing.files, self._hub.name
        if name.file is None and (SINGLE in files or INDEX in files):
            self._check_config()
            settings = [files[file] for file in SETTINGS if file in files]
            return self._snapshot, settings + self._safetensors()
        if not any(file.endswith(".gguf") for file in files):
            raise ModelNotFoundError(
                f"{name} holds {_few(files)}, expected {SINGLE} or a GGUF file; "
                "name a repository that has one"
            )
        gguf = chosen_gguf(name, files)
        return self._snapshot / gguf, [files[gguf]]

    def _check_config(self) -> None:
        if NEEDED[0] not in self._listing.files:
            raise ModelNotFoundError(
                f"{self._hub.name} has weights and no config.json to read them by; "
                "name another repository"
            )

    def _safetensors(self) -> list[RemoteFile]:
        files = self._listing.files
        if SINGLE in files:
            return [files[SINGLE]]
        self._prepare()
        self._land(files[INDEX])  # it says which files there are; some repositories hold two sets
        shards = sorted(shards_of(self._snapshot / INDEX))
        missing = [shard for shard in shards if shard not in files]
        if missing or not shards:
            raise ModelNotFoundError(
                f"{self._hub.name}: {INDEX} names {_few(missing or ['no files'])}, "
                "expected weights that the repository has; name another"
            )
        return [files[shard] for shard in shards]

    # -------------------------------------------------------------------------- into the cache

    def _begin(self, wanted: list[RemoteFile]) -> None:
        """Say what comes, and see that there is room for it."""
        missing = [file for file in wanted if not self._is_here(file)]
        if not missing:
            return
        self._prepare()
        total = sum(file.size for file in wanted)
        rest = sum(file.size - self._came(file) for file in missing)
        self._check_room(rest)
        LOG.info(
            *("fetching %s: %s MB in %d files, %s MB to go, from %s to %s", self._hub.name),
            *(f"{total / 1e6:,.1f}", len(wanted), f"{rest / 1e6:,.1f}"),
            *(self._hub.endpoint, self._cache.folder),
        )
        self._meter.begin(total)

    def _is_here(self, file: RemoteFile) -> bool:
        return _size(self._snapshot / file.path) == file.size

    def _came(self, file: RemoteFile) -> int:
        """Bytes of a file on this disk already."""
        if _size(self._cache.blob(file.digest)) == file.size:
            return file.size
        return max(0, min(_size(self._cache.partial(file.digest)), file.size))

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self._cache.folder).free
        if free < needed:
            raise DownloadError(
                f"{self._hub.name} needs {needed / 1e6:,.0f} MB more, and "
                f"{str(self._cache.folder)!r} has {free / 1e6:,.0f} MB free; make room there "
                "(`cullama models` shows what is cached), or set HF_HUB_CACHE to another folder"
            )

    def _land(self, file: RemoteFile) -> None:
        if not self._is_here(file):
            with ExitStack() as stack:
                self._lock(file, stack)
                blob = self._cache.blob(file.digest)
                if _size(blob) != file.size:
                    self._fetch(file, blob)
                with self._disk():
                    self._cache.link(self._listing.commit, file.path, file.digest)
        self._meter.landed(file.size)

    def _lock(self, file: RemoteFile, stack: ExitStack) -> None:
        from huggingface_hub.utils import WeakFileLock

        with self._disk():
            stack.enter_context(WeakFileLock(self._cache.lock(file.digest)))

    def _fetch(self, file: RemoteFile, blob: Path) -> None:
        with _Growing(file, self._cache.partial(file.digest), self._disk) as growing:
            self._meter.at(growing.size)
            patiently(lambda: self._pour(file, growing), lambda: growing.most)
            growing.land(blob)

    def _pour(self, file: RemoteFile, growing: _Growing) -> None:
        if growing.size == file.size:
            return
        with self._hub.bytes_of(file, self._listing.commit, growing.size) as (start, chunks):
            growing.cut(start)
            for chunk in chunks:
                growing.write(chunk)
                self._meter.at(growing.size)


class _Growing:
    """A file that is not complete yet, and the hash of what there is of it."""

    def __init__(
        self, file: RemoteFile, path: Path, disk: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._file, self._path, self._disk = file, path, disk
        self.size = self.most = 0

    def __enter__(self) -> _Growing:
        with self._disk():
            self._sink = self._path.open("a+b")
            self._take_up()
        return self

    def __exit__(self, *error: object) -> None:
        with self._disk():
            self._sink.close()

    def _take_up(self) -> None:
        """Go on after what an earlier download left."""
        self._hash = self._file.new_hash()
        self._sink.seek(0)
        while chunk := self._sink.read(READ_AT_ONCE):
            self._hash.update(chunk)
            self.size += len(chunk)
        if self.size > self._file.size:
            self.cut(0)

    def cut(self, size: int) -> None:
        """Begin anew, if `size` is 0."""
        if size == 0:
            self._sink.truncate(0)
            self._hash, self.size = self._file.new_hash(), 0

    def write(self, chunk: bytes) -> None:
        with self._disk():
            self._sink.write(chunk)
        self._hash.update(chunk)
        self.size += len(chunk)
        self.most = max(self.most, self.size)
        if self.size > self._file.size:
            raise self._damaged()

    def land(self, target: Path) -> None:
        if self._hash.hexdigest() != self._file.digest:
            raise self._damaged()
        with self._disk():
            self._sink.flush()
            os.fsync(self._sink.fileno())  # before the rename: a name never without its bytes
            os.replace(self._path, target)

    def _damaged(self) -> DownloadError:
        self._path.unlink(missing_ok=True)
        return DownloadError(
            f"{self._file.path} came damaged: {self.size:,} bytes with hash "
            f"{self._hash.hexdigest()}, expected {self._file.size:,} with {self._file.digest}; "
            "they were removed: try again"
        )


class _Meter:
    """Bytes of all files together, which never shrink."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._total = progress, 0
        self._landed = self._shown = 0

    def begin(self, total: int) -> None:
        self._total, self._landed = total, 0
        self._progress(0, total)

    def at(self, size: int) -> None:
        """The file under way has so many bytes."""
        done = min(self._landed + size, self._total)
        if done > self._shown:
            self._shown = done
            self._progress(done, self._total)

    def landed(self, size: int) -> None:
        self.at(size)
        self._landed += size


def _size(path: Path) -> int:
    """Of a regular file, through links; -1 where there is none."""
    return path.stat().st_size if path.is_file() else -1


def _few(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:5]) + (", …" if len(shown) > 5 else "") if shown else "nothing"
