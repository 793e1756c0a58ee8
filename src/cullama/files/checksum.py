"""Checksums of large files: whether the disk still gives back what was written.

They find damage, not intent: whoever can change a file can change its checksum, too.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PIECE = 8 << 20  # bytes that a thread reads at a time
MAX_THREADS = 8


def tree_checksum(path: Path, start: int = 0) -> str:
    """Return the SHA-256 of the SHA-256s of a file's pieces, from byte `start` on.

    Pieces are hashed side by side, as one thread is slower than the disk.
    """

    def hashed(offset: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return hashlib.sha256(file.read(PIECE)).digest()

    offsets = range(start, path.stat().st_size, PIECE)
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        pieces = b"".join(pool.map(hashed, offsets))
    return hashlib.sha256(pieces).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()
