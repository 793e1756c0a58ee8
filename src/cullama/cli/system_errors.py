"""Says what failed where the system refuses something: which file, the output, memory."""

from __future__ import annotations

import errno
import sys

OUT_OF_MEMORY = (
    "there is too little memory; lower --cache-tokens or --context, take a smaller model, or raise "
    "the limit (ulimit -v, or the container's)"
)

# What the loader says of a library that the limit of memory leaves no room for.
NO_ROOM_FOR_LIBRARY = ("failed to map segment", "cannot allocate memory", "Cannot allocate memory")

# What a full or broken disk answers, or a file that may not grow; an error has no name of it.
OF_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def describe(error: OSError | MemoryError) -> str:
    """Return one line: what was refused, and why."""
    if isinstance(error, MemoryError) or error.errno == errno.ENOMEM:
        return OUT_OF_MEMORY
    reason = error.strerror or str(error)
    if error.filename is not None:
        names = [repr(name) for name in (error.filename, error.filename2) if name is not None]
        return f"cannot use {' and '.join(names)}: {reason}"
    if error.errno in OF_WRITES and _output_fails_with(error.errno):
        return f"cannot write the output: {reason}"
    return f"the system refused something: {reason} ({errno.errorcode.get(error.errno or 0, '?')})"


def lacks_memory(error: ImportError) -> bool:
    """Whether a library could not be loaded for lack of memory."""
    return any(words in str(error) for words in NO_ROOM_FOR_LIBRARY)


def _output_fails_with(number: int) -> bool:
    """Whether standard output fails so again, with a newline behind what it may have kept."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError as again:
        return again.errno == number
    return False
