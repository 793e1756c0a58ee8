"""Download a model from the Hugging Face hub into its cache: resumed, verified, then renamed.

It chooses the files that a model needs and writes them to the cache; it does not read models.
huggingface_hub is not used for the download itself because (from 1.31 on) it discards the bytes of
an interrupted download, and compares only sizes where hashes are known.

A blob is written to a partial file, which a later run continues, and renamed when its hash is
right. Weights come after the small files, and the revision's ref is written last.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from ..checkpoint.foreign import foreign_among
from ..errors import DownloadError, ModelNotFoundError, UnsupportedModelError
from ..files.gguf_names import parts_among
from ..files.regular_file import first_names
from .api import Hub, Listing, RemoteFile, with_retries
from .cache import INDEX, NEEDED, SETTINGS, SINGLE, CachedRepository, shards_of
from .name import HubName, chosen_gguf
from .packaged import Progress, write_errors_explained

LOG = logging.getLogger("cullama")
CHUNK_BYTES = 1 << 20  # read at once


def fetched_model(name: HubName, progress: Progress) -> Path:
    """Download what the cache lacks of a model, and return its folder or GGUF file.

    Raises:
        ModelNotFoundError: no such repository or revision, or no model in it.
        UnsupportedModelError: it holds an adapter, pickles or the like.
        DownloadError: the hub cannot be reached or refuses, the disk is full, bytes are wrong.
    """
    cache = CachedRepository.of(name.repository)
    if is_offline():
        raise DownloadError(
            f"{name} is not complete in {str(cache.folder)!r}, and HF_HUB_OFFLINE is set, so it is "
            "not fetched; unset that, or give a path"
        )
    hub = Hub(name)
    with hub.errors_translated():
        return _Download(hub, cache, hub.listing(), progress).run()


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, as huggingface_hub reads it."""
    setting = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return setting.upper() in ("1", "ON", "YES", "TRUE")


class _Download:
    """The download of one model into the cache."""

    def __init__(
        self, hub: Hub, cache: CachedRepository, listing: Listing, progress: Progress
    ) -> None:
        self._hub, self._cache, self._listing = hub, cache, listing
        self._snapshot = cache.snapshot(listing.commit)
        self._meter = _ProgressMeter(progress)

    def run(self) -> Path:
        path, wanted = self._plan()
        self._announce(wanted)
        for file in wanted:
            self._store(file)
        absent = [file for file in SETTINGS if file not in self._listing.files]
        with self._disk():
            self._cache.record(self._listing.commit, self._hub.name.revision, absent)
        return path

    def _make_folders(self) -> None:
        with self._disk():
            self._cache.make_folders(self._listing.commit)

    def _disk(self) -> AbstractContextManager[None]:
        return write_errors_explained(self._cache.folder, "HF_HUB_CACHE")

    # ------------------------------------------------------------------------------- which files

    def _plan(self) -> tuple[Path, list[RemoteFile]]:
        """Return the model's path when it is complete, and its files, weights last."""
        files, name = self._listing.files, self._hub.name
        if name.file is None and (SINGLE in files or INDEX in files):
            if NEEDED[0] not in files:
                raise ModelNotFoundError(
                    f"{name} has weights and no config.json to read them by; "
                    "name another repository"
                )
            settings = [files[file] for file in SETTINGS if file in files]
            return self._snapshot, settings + self._safetensors()
        if not any(file.endswith(".gguf") for file in files):
            if found := foreign_among(files):
                file, foreign = found
                raise UnsupportedModelError(
                    f"{name} holds {foreign.what} ({file}), expected {SINGLE} or a GGUF file; "
                    f"{foreign.remedy}"
                )
            raise ModelNotFoundError(
                f"{name} holds {first_names(files)}, expected {SINGLE} or a GGUF file; "
                "name a repository that has one"
            )
        gguf = chosen_gguf(name, files)
        return self._snapshot / gguf, [files[part] for part in parts_among(gguf, files)]

    def _safetensors(self) -> list[RemoteFile]:
        files = self._listing.files
        if SINGLE in files:
            return [files[SINGLE]]
        self._make_folders()
        self._store(files[INDEX])  # it names the shards; some repositories hold two sets
        shards = sorted(shards_of(self._snapshot / INDEX))
        missing = [shard for shard in shards if shard not in files]
        if missing or not shards:
            raise ModelNotFoundError(
                f"{self._hub.name}: {INDEX} names {first_names(missing or ['no files'])}, "
                "expected weights that the repository has; name another"
            )
        return [files[shard] for shard in shards]

    # -------------------------------------------------------------------------- into the cache

    def _announce(self, wanted: list[RemoteFile]) -> None:
        """Log what will be downloaded, after checking that the disk has room for it."""
        missing = [file for file in wanted if not self._is_cached(file)]
        if not missing:
            return
        self._make_folders()
        total = sum(file.size for file in wanted)
        rest = sum(file.size - self._bytes_on_disk(file) for file in missing)
        free = shutil.disk_usage(self._cache.folder).free
        if free < rest:
            raise DownloadError(
                f"{self._hub.name} needs {rest / 1e6:,.0f} MB more, and "
                f"{str(self._cache.folder)!r} has {free / 1e6:,.0f} MB free; make room there "
                "(`cullama models` shows what is cached), or set HF_HUB_CACHE to another folder"
            )
        LOG.info(
            "fetching %s: %s MB in %d files, %s MB to go, from %s to %s",
            self._hub.name,
            f"{total / 1e6:,.1f}",
            len(wanted),
            f"{rest / 1e6:,.1f}",
            self._hub.endpoint,
            self._cache.folder,
        )
        self._meter.begin(total)

    def _is_cached(self, file: RemoteFile) -> bool:
        return _size(self._snapshot / file.path) == file.size

    def _bytes_on_disk(self, file: RemoteFile) -> int:
        """Return how many bytes of a file need not be downloaded."""
        if _size(self._cache.blob(file.digest)) == file.size:
            return file.size
        return max(0, min(_size(self._cache.partial(file.digest)), file.size))

    def _store(self, file: RemoteFile) -> None:
        """Put a file into the cache, downloading what is missing of it."""
        from huggingface_hub.utils import WeakFileLock

        if not self._is_cached(file):
            with ExitStack() as stack:
                with self._disk():
                    stack.enter_context(WeakFileLock(self._cache.lock(file.digest)))
                blob = self._cache.blob(file.digest)
                if _size(blob) != file.size:
                    self._download(file, blob)
                with self._disk():
                    self._cache.link(self._listing.commit, file.path, file.digest)
        self._meter.complete(file.size)

    def _download(self, file: RemoteFile, blob: Path) -> None:
        """Append the rest of a file's bytes; a lost connection keeps those that came."""

        def receive() -> None:
            if partial.size == file.size:
                return
            with self._hub.stream(file, self._listing.commit, partial.size) as (start, chunks):
                if start == 0:
                    partial.restart()
                for chunk in chunks:
                    partial.write(chunk)
                    self._meter.update(partial.size)

        with _PartialFile(file, self._cache.partial(file.digest), self._disk) as partial:
            self._meter.update(partial.size)
            with_retries(receive, lambda: partial.most)
            partial.finish(blob)


class _PartialFile:
    """A blob that is being downloaded, and the hash of the bytes that it has."""

    def __init__(
        self, file: RemoteFile, path: Path, disk: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._file, self._path, self._disk = file, path, disk
        self.size = self.most = 0  # bytes now, and at most so far: a restart drops them

    def __enter__(self) -> _PartialFile:
        """Open the file, and hash the bytes that an earlier download left."""
        with self._disk():
            self._sink = self._path.open("a+b")
            self._hash = self._file.new_hash()
            self._sink.seek(0)
            while chunk := self._sink.read(CHUNK_BYTES):
                self._hash.update(chunk)
                self.size += len(chunk)
            if self.size > self._file.size:
                self.restart()
        return self

    def __exit__(self, *error: object) -> None:
        with self._disk():
            self._sink.close()

    def restart(self) -> None:
        """Drop all bytes."""
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

    def finish(self, target: Path) -> None:
        """Rename the file to `target`, if its hash is right.

        Raises:
            DownloadError: it is not; the bytes are removed.
        """
        if self._hash.hexdigest() != self._file.digest:
            raise self._damaged()
        with self._disk():
            self._sink.flush()
            os.fsync(self._sink.fileno())  # before the rename: no name without its bytes
            os.replace(self._path, target)

    def _damaged(self) -> DownloadError:
        self._path.unlink(missing_ok=True)
        return DownloadError(
            f"{self._file.path} arrived damaged: {self.size:,} bytes with hash "
            f"{self._hash.hexdigest()}, expected {self._file.size:,} with {self._file.digest}; "
            "they were removed: try again"
        )


class _ProgressMeter:
    """Reports the bytes of all files together; the number never shrinks."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._total = progress, 0
        self._completed = self._shown = 0

    def begin(self, total: int) -> None:
        self._total, self._completed = total, 0
        self._progress(0, total)

    def update(self, size: int) -> None:
        """Report that the current file has `size` bytes."""
        done = min(self._completed + size, self._total)
        if done > self._shown:
            self._shown = done
            self._progress(done, self._total)

    def complete(self, size: int) -> None:
        """Report that the current file is complete."""
        self.update(size)
        self._completed += size


def _size(path: Path) -> int:
    """Return the size of a regular file, through links; -1 if there is none."""
    return path.stat().st_size if path.is_file() else -1
