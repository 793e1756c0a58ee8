"""What the CPU backend's two implementations share: host arrays, the KV cache, converted weights.

`CpuOperators` (numpy) and `CompiledOperators` add the math and the layout of weights. This file
contains no operator.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path

import numpy as np

from ..errors import HostMemoryError
from ..files.host_memory import available_memory, memory_limit
from ..files.tensor import HostArray
from ..model.backend import Backend
from ..model.batch import BatchType
from ..model.config import ModelConfig
from ..model.kv_cache import KVCache, LayerCache
from ..model.layer import Weight
from .storage import ALIGNMENT, Memory, Storage, weight_file
from .thread_pool import ThreadPool

logger = logging.getLogger("cullama")

BLOCK_SIZE = 32  # tokens; the best of 16 … 256 for the product of a query and a run of blocks

# The default cache's share of all memory that this process may have, of which pages that are never
# touched cost nothing; and of what is left of it, which the rest of the work needs, too.
SHARE_FOR_CACHE, SHARE_OF_AVAILABLE = 0.25, 0.5

MAX_ARRAYS = 65_536  # of one model: each may need padding to a cache line


class HostBackend(Backend[HostArray, Weight, BatchType]):
    def __init__(
        self, dtype: np.dtype, dtype_name: str, threads: int, weight_folder: Path | None
    ) -> None:
        """`dtype`: of the KV cache. `weight_folder`: where converted weights are kept between
        runs; None keeps none.
        """
        self.dtype, self.dtype_name = dtype, dtype_name
        self._weight_folder = weight_folder
        self._storage: Storage = Memory()
        self._has_converted = False  # whether weights lie in a file of converted ones
        self.use_threads(threads)

    def use_threads(self, threads: int) -> None:
        """Change the number of threads; results stay the same, bit for bit."""
        self.thread_pool = ThreadPool(threads)
        self.description = f"cpu · {self.dtype_name} · {threads} thread{'s' * (threads > 1)}"

    def after_fork(self) -> None:
        self.thread_pool = ThreadPool(self.thread_pool.size)

    def upload(self, host: HostArray) -> HostArray:
        return host

    def download(self, array: HostArray) -> HostArray:
        return array

    # --- the KV cache ----------------------------------------------------------------------------

    def cache(self, config: ModelConfig, tokens: int) -> KVCache[HostArray]:
        heads, width, blocks = config.kv_heads, config.head_dim, -(-tokens // BLOCK_SIZE)
        try:
            layers = tuple(
                LayerCache(
                    keys=_zeros((heads, blocks, width, BLOCK_SIZE), self.dtype),
                    values=_zeros((heads, blocks, BLOCK_SIZE, width), self.dtype),
                    window=window,
                )
                for window in config.windows
            )
        except (OSError, MemoryError, OverflowError):
            size = tokens * self.cache_bytes_per_token(config)
            raise HostMemoryError(
                f"a KV cache of {tokens:,} tokens needs {size / 1e9:.1f} GB, and "
                f"{available_memory() / 1e9:.1f} GB are free; lower cache_tokens (--cache-tokens)"
            ) from None
        return KVCache(layers, blocks, BLOCK_SIZE)

    def cache_bytes_per_token(self, config: ModelConfig) -> int:
        return config.cache_elements * self.dtype.itemsize

    @property
    def cache_budget(self) -> tuple[int, int]:
        limit, available = memory_limit(), available_memory()
        return int(min(limit * SHARE_FOR_CACHE, available * SHARE_OF_AVAILABLE)), limit

    def stored_keys(self, cache: LayerCache[HostArray], tokens: int) -> HostArray:
        heads, blocks, width, size = cache.keys.shape
        by_slot = cache.keys.transpose(1, 3, 0, 2).reshape(blocks * size, heads, width)
        return by_slot[:tokens].astype(np.float32)

    def copy_blocks(self, cache: KVCache[HostArray], copies: Sequence[tuple[int, int]]) -> None:
        for layer in cache.layers:
            for source, target in copies:
                layer.keys[:, target] = layer.keys[:, source]
                layer.values[:, target] = layer.values[:, source]

    # --- converted weights -----------------------------------------------------------------------

    @property
    def causes_of_nan(self) -> str:
        if not self._has_converted:
            return super().causes_of_nan
        return (
            "its converted weights may be damaged (`cullama doctor` checks them, `cullama models "
            f"--remove converted` has them made again), {super().causes_of_nan}"
        )

    @contextmanager
    def _converted_weights(
        self, conversion_key: str | None, layout: str, size: int
    ) -> Iterator[None]:
        """Take the memory of weights, `size` bytes in all, from a file that is kept between runs.

        Without a key or a folder, or where the file cannot be written, they are in memory only.
        `layout` tells files of the same weights in different layouts apart.
        """
        folder = self._weight_folder
        if conversion_key is not None and folder is not None:
            room = size + MAX_ARRAYS * ALIGNMENT
            try:
                self._storage = weight_file(folder, conversion_key, layout, room)
                self._has_converted = True
            except OSError as error:
                self._warn_not_kept(error)
        try:
            _check_room(size, is_mapped=self._has_converted)
            yield
            self._finish_storage()
        except MemoryError:  # a limit of the process, or others that took the memory meanwhile
            raise _no_room(size, available_memory()) from None
        finally:
            self._storage.abandon()
            self._storage = Memory()

    def _finish_storage(self) -> None:
        try:
            if kept := self._storage.finish():
                size = kept.stat().st_size / 1e6
                logger.info("the converted weights are kept in %s (%.0f MB)", kept, size)
        except OSError as error:  # the weights are in memory all the same
            self._warn_not_kept(error)

    def _warn_not_kept(self, error: OSError) -> None:
        logger.warning(
            "cannot keep converted weights in %s (%s); they are converted again at each start",
            self._weight_folder,
            error.strerror or error,
        )


def _check_room(size: int, is_mapped: bool) -> None:
    """Check that weights fit the memory before any is read; mapped ones need not, and are slow.

    Raises:
        HostMemoryError: they do not.
    """
    available = available_memory(with_swap=True)
    if size <= available:
        return
    if not is_mapped:
        raise _no_room(size, available)
    logger.warning(
        "the weights take %.1f GB, and %.1f GB of memory are free: what does not fit is read from "
        "the disk again and again, which is slow",
        size / 1e9,
        available / 1e9,
    )


def _no_room(size: int, available: int) -> HostMemoryError:
    if available < size:
        found = f"{_size(available)} of memory are free; close other programs"
    else:  # it was refused all the same
        found = "the system gives no more; raise the limit (ulimit -v, or the container's)"
    return HostMemoryError(
        f"the weights need {_size(size)}, and {found}, take a type of fewer bits (dtype, "
        "--dtype q8_0) or a smaller model"
    )


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> HostArray:
    """Allocate memory that is made resident page by small page, as it is touched.

    With huge pages, each head's few used blocks would make resident two megabytes of unused ones.
    It is private: a process and its forked child must not write into one cache.
    """
    memory = mmap.mmap(-1, prod(shape) * dtype.itemsize, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages does not know the word
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)
