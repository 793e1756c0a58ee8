"""Compiles the kernels that a model needs before it asks for them, on all processor cores.

The emulated driver compiles a kernel when a program first asks for it, one after another. What is
compiled here it finds by the link that it would have made itself (libcuda/build.cpp).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .build import build_text, folder, scheduler_library
from .ptx import entries_of

logger = logging.getLogger("cullama")

# What a model launches at each step. Tiled products (cuBLAS has them) and wider heads are rarer:
# they are compiled when they are first launched.
FILES = ("attention", "linear", "sample", "rope_and_store", "rms_norm", "gather", "silu_mul")
RARE = ("gemm_", "attention_128_", "attention_256_")
SUFFIXES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}  # of kernel names
REPORT_SECONDS = 2.0


class _Wanted(NamedTuple):
    ptx: str
    kernel: str

    @property
    def link(self) -> Path:
        """Return what the driver looks for: a hash of the text, its size, and the kernel."""
        letters = np.frombuffer(self.ptx.encode(), np.uint8)
        powers = np.full(letters.size, 1099511628211, np.uint64)
        powers[:1] = 1
        powers = np.multiply.accumulate(powers)[::-1]
        hashed = int((letters * powers).sum(dtype=np.uint64))
        return folder() / f"{hashed}-{letters.size}-{self.kernel}.so"

    def build(self) -> None:
        path = build_text(self.ptx, self.kernel)
        with suppress(FileExistsError):  # another process was first
            self.link.symlink_to(path)


def compile_ahead(ptx: Path, dtype: str) -> None:
    """Compile the kernels of a folder of PTX files for a storage type, unless they are cached.

    The log tells how many there are, and every two seconds how many are done.

    Raises:
        BuildError: the compiler failed.
    """
    missing = [wanted for wanted in _needed(ptx, dtype) if not wanted.link.exists()]
    if not missing:
        return
    logger.info("compiling %d kernels for this processor, kept in %s", len(missing), folder())
    scheduler_library()
    reported = time.monotonic()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for done, task in enumerate(as_completed(pool.submit(w.build) for w in missing), start=1):
            task.result()
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                logger.info("%d of %d kernels compiled", done, len(missing))


def _needed(folder: Path, dtype: str) -> Iterator[_Wanted]:
    """Yield the kernels that take longest to compile first."""
    suffix = SUFFIXES[dtype]
    for file in FILES:
        text = (folder / f"{file}.ptx").read_text(encoding="utf-8")
        for name in entries_of(text):
            is_common = file == "sample" or name.removesuffix("_to_f32").endswith(f"_{suffix}")
            if is_common and not name.startswith(RARE):
                yield _Wanted(text, name)
