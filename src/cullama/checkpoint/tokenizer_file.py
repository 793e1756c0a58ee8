"""A stranger's tokenizer.json, tried in a process of its own before it is let into this one.

It knows that the `tokenizers` library may abort, hang or panic on a hostile file, and what to do
about it: bound the file, try it elsewhere, remember that it passed. What is tried is in
`tokenizer_probe.py`; what a tokenizer is for is not known here.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CullamaError, ModelError, ModelFileError, NoTokenizerError
from ..files.cache_folder import cache_folder
from ..files.regular_file import open_regular_file
from ..text.rust_panics import is_panic
from .tokenizer_probe import AT, REFUSED, SOUND

if TYPE_CHECKING:
    import tokenizers

MAX_FILE_BYTES = 128 << 20  # bytes; Gemma 3, with 262 K tokens, has 33 MB

# Far above what an ordinary file takes: one of 13 MB a second and 0.25 GiB.
PROBE_CPU_SECONDS = 20  # of processor time
PROBE_WALL_SECONDS = 120  # seconds on the clock, for machines that are busy with other things
PROBE_MEMORY = 4 << 30  # bytes of address space

_PROBE = Path(__file__).with_name("tokenizer_probe.py")

# What this process may import is what that one may; never the folder the user happens to be in,
# which may be the stranger's, and is where `python -m` looks first.
_START = """
import sys
program, seconds, size, *sys.path = sys.argv[1:]
import runpy
runpy.run_path(program)["main"](int(seconds), int(size))
"""


def load_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a folder's tokenizer.json, without the padding and truncation it may ask.

    The first time a file is met, it is tried in a child process; that it passed is remembered in
    the cache folder by the file's sha256, where the cache folder can be written to.

    Raises:
        NoTokenizerError: there is none.
        ModelFileError: it is not a sound tokenizer, or the library fails on it.
        ModelError: no child process could be started.
    """
    path = folder / "tokenizer.json"
    content = _read(path)
    remembered = _remembered(content)
    if remembered is None or not remembered.exists():
        _try(path, content)
        _remember(remembered)
    return _loaded(path, content)


def _read(path: Path) -> bytes:
    if not path.exists():
        raise NoTokenizerError(
            f"{path.parent}: has no tokenizer.json; "
            "give token ids, or add the file the model came with"
        )
    with open_regular_file(path, "a tokenizer") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ModelFileError(f"{path}: holds more than {MAX_FILE_BYTES:,} bytes, expected fewer")
    return content


def _loaded(path: Path, content: bytes) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
    except BaseException as error:  # the library raises plain Exception, or panics
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise ModelFileError(f"{path}: not a sound tokenizer: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


# ----------------------------------------------------------------------------------- what is known


def _remembered(content: bytes) -> Path | None:
    """The empty file whose existence says that just these bytes have passed just this trial."""
    import tokenizers

    known = hashlib.sha256(content)
    known.update(_PROBE.read_bytes())
    known.update(tokenizers.__version__.encode())
    with suppress(CullamaError):  # no cache folder: it is tried each time
        return cache_folder() / "tried-tokenizers" / known.hexdigest()
    return None


def _remember(remembered: Path | None) -> None:
    if remembered is not None:
        with suppress(OSError):
            remembered.parent.mkdir(parents=True, exist_ok=True)
            remembered.touch()


# --------------------------------------------------------------------------------------- the child


def _try(path: Path, content: bytes) -> None:
    """Start `tokenizer_probe.py` on these bytes and wait for its verdict."""
    command = [sys.executable or "python", "-c", _START, str(_PROBE)]
    command += [str(PROBE_CPU_SECONDS), str(PROBE_MEMORY), *filter(None, sys.path)]
    # The library's own threads would only be in each other's way.
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
        status, said = ended.returncode, ended.stdout
    except subprocess.TimeoutExpired as error:
        status, said = None, error.stdout or b""
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be tried: Python at {sys.executable!r}: {error.strerror}; "
            "start cullama from an ordinary Python"
        ) from error
    _judge(path, status, said.decode(errors="replace").splitlines() or [""])


def _judge(path: Path, status: int | None, lines: list[str]) -> None:
    last = lines[-1]
    if status == 0 and last == SOUND:
        return
    if status == 0 and last.startswith(REFUSED):
        raise ModelFileError(f"{path}: {last.removeprefix(REFUSED)}")
    if not last.startswith(AT):
        raise ModelError(
            f"{path}: cannot be tried: Python at {sys.executable!r} ended with status {status}; "
            "start cullama from an ordinary Python"
        )
    raise ModelFileError(
        f"{path}: not a sound tokenizer: the tokenizers library {_end(status)} "
        f"while {last.removeprefix(AT)}"
    )


def _end(status: int | None) -> str:
    if status is None:
        return f"took more than {PROBE_WALL_SECONDS} s"
    if status == -signal.SIGXCPU:
        return f"took more than {PROBE_CPU_SECONDS} s"
    if status < 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-status).name}"
    return f"ended the process with status {status}"
