"""Loads tokenizer.json, and the settings beside it, after a child process has probed them.

The `tokenizers` library may abort, hang or panic on a hostile file. So the file's size is bounded,
it is probed in a process that may die (`tokenizer_probe.py`), and a pass is cached. What the files
beside it change is in `tokenizer_settings.py`; texts are encoded by `text/tokenizer.py`.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError, ModelFileError
from ..files.cache_folder import cache_folder_or_none
from ..files.regular_file import open_regular_file
from ..text.rust_panics import library_errors
from .tokenizer_probe import AT, MAX_TOKEN_ID, REFUSED, VALID

if TYPE_CHECKING:
    import tokenizers

MAX_FILE_BYTES = 128 << 20  # bytes; Gemma 3, with 262 K tokens, has 33 MB

# Far above what an ordinary file takes: one of 13 MB takes a second and 0.25 GiB.
PROBE_CPU_SECONDS = 20
PROBE_WALL_SECONDS = 120  # more, because the machine may be busy
PROBE_MEMORY = 4 << 30  # bytes of address space

_PROBE_FILE = Path(__file__).with_name("tokenizer_probe.py")

# The child imports from this process's `sys.path`, but never from the current folder, which may be
# the stranger's, and is where `python -m` looks first.
_START = """
import sys
program, seconds, size, *sys.path = sys.argv[1:]
import runpy
runpy.run_path(program)["main"](int(seconds), int(size))
"""


def load_tokenizer(folder: Path, vocab_size: int = MAX_TOKEN_ID) -> tokenizers.Tokenizer:
    """Load the tokenizer of a folder, without the padding and truncation its file may ask for.

    A file is probed in a child process once, and once more if other files change its settings;
    the pass is recorded in the cache folder by the sha256 of both, if the folder can be written to.

    Args:
        vocab_size: of the model, which has no token beyond it.

    Raises:
        NoTokenizerError: there is none.
        ModelFileError: it is not a valid tokenizer, or the library fails on it.
        ModelError: no child process could be started.
    """
    # Both import the tokenizers library.
    from .older_tokenizers import build_older
    from .tokenizer_settings import TokenizerSettings, apply_settings

    path = folder / "tokenizer.json"
    if path.exists():
        with open_regular_file(path, "a tokenizer") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            what = f"holds more than {MAX_FILE_BYTES:,} bytes, expected fewer"
            raise ModelFileError(f"{path}: {what}")
        _probe_once(path, [content], lambda: content)
        tokenizer = _loaded(path, content)
    else:
        path, tokenizer = build_older(folder)
        content = tokenizer.to_str().encode()
        _probe_once(path, [content], lambda: content)
    settings = TokenizerSettings.read(folder)
    with library_errors(settings.path):
        changes = apply_settings(settings, tokenizer, vocab_size)
    if changes:
        marked = [content, *(change.encode() for change in changes)]
        _probe_once(path, marked, lambda: tokenizer.to_str().encode())
    return tokenizer


def _probe_once(path: Path, marked: Sequence[bytes], content: Callable[[], bytes]) -> None:
    """Probe the content of a tokenizer.json, unless what it is made of passed before."""
    mark = _pass_mark(marked)
    if mark is not None and mark.exists():
        return
    _probe(path, content())
    if mark is not None:
        with suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


def _loaded(path: Path, content: bytes) -> tokenizers.Tokenizer:
    import tokenizers

    with library_errors(path):
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _pass_mark(marked: Sequence[bytes]) -> Path | None:
    """Return the empty file that exists if these bytes passed this version of the probe.

    None where there is no cache folder.
    """
    import tokenizers

    known = hashlib.sha256(marked[0])
    for change in marked[1:]:
        known.update(hashlib.sha256(change).digest())
    known.update(_PROBE_FILE.read_bytes())
    known.update(tokenizers.__version__.encode())
    folder = cache_folder_or_none()
    return None if folder is None else folder / "tried-tokenizers" / known.hexdigest()


def _probe(path: Path, content: bytes) -> None:
    """Run `tokenizer_probe.py` on these bytes; raise unless they pass."""
    command = [sys.executable or "python", "-c", _START, str(_PROBE_FILE)]
    command += [str(PROBE_CPU_SECONDS), str(PROBE_MEMORY), *filter(None, sys.path)]
    # Threads of the library would cost more to start than they save.
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
    try:
        ended = subprocess.run(
            command,
            input=content,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=PROBE_WALL_SECONDS,
            check=False,
        )
        status, output = ended.returncode, ended.stdout
    except subprocess.TimeoutExpired as error:
        status, output = None, error.stdout or b""
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be probed: Python at {sys.executable!r}: {error.strerror}; "
            "start cullama from an ordinary Python"
        ) from error
    last = (output.decode(errors="replace").splitlines() or [""])[-1]
    _check_verdict(path, status, last)


def _check_verdict(path: Path, status: int | None, last: str) -> None:
    """Raise what a probe's exit status (None: it was killed) and last line of output mean."""
    if status == 0 and last == VALID:
        return
    if status == 0 and last.startswith(REFUSED):
        raise ModelFileError(f"{path}: {last.removeprefix(REFUSED)}")
    if not last.startswith(AT):
        raise ModelError(
            f"{path}: cannot be probed: Python at {sys.executable!r} ended with status {status}; "
            "start cullama from an ordinary Python"
        )
    raise ModelFileError(
        f"{path}: not a valid tokenizer: the tokenizers library {_ending(status)} "
        f"while {last.removeprefix(AT)}"
    )


def _ending(status: int | None) -> str:
    if status is None:
        return f"took more than {PROBE_WALL_SECONDS} s"
    if status == -signal.SIGXCPU:
        return f"took more than {PROBE_CPU_SECONDS} s"
    if status < 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-status).name}"
    return f"ended the process with status {status}"
