"""The Backend interface: a device's memory, and what lies in it.

It moves arrays between host and device, lays weights and the KV cache out, and says how much
memory a cache may take. The math on those arrays is `operators.py`'s. A backend stands for one
device and one storage type; it does not know the model that runs on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

from .batch import BatchType
from .layer import Array, Weight

if TYPE_CHECKING:
    from ..files.tensor import HostArray, StoredTensor
    from .batch import Batch
    from .config import ModelConfig
    from .kv_cache import KVCache, LayerCache


class Backend(ABC, Generic[Array, Weight, BatchType]):
    """A device in one storage type.

    Array, Weight and BatchType are the backend's own classes: what lies between two operators, a
    matrix that `linear` multiplies with, and the integers of one pass.
    """

    description: str  # one line: device, storage type, threads
    dtype_name: str  # storage type of the weights, as people read it
    is_asynchronous: bool = False  # whether operators return before their results are computed
    compile_seconds: float = 0.0  # spent on compiling kernels so far, as at the first start

    # --- between host and device -----------------------------------------------------------------

    @abstractmethod
    def upload(self, host: HostArray) -> Array:
        """Copy a host array to the device, keeping its type."""

    @abstractmethod
    def upload_batch(self, batch: Batch[HostArray]) -> BatchType:
        """Copy one pass's integers to the device, in one transfer."""

    @abstractmethod
    def download(self, array: Array) -> HostArray:
        """Copy an array to the host; waits until it is computed."""

    # --- weights ---------------------------------------------------------------------------------

    @contextmanager
    def loading(
        self, conversion_key: str | None, tensors: Collection[StoredTensor]
    ) -> Iterator[None]:
        """Wrap the creation of all weights of a model, made of these tensors.

        A backend may keep converted weights between runs, under the key.
        """
        yield

    @abstractmethod
    def weight(self, parts: Sequence[StoredTensor]) -> Weight:
        """Stack matrices [O₁, I], [O₂, I] … to one [O₁ + O₂ …, I], laid out for `linear`."""

    @abstractmethod
    def vector(self, parts: Sequence[StoredTensor]) -> Array:
        """Join vectors end to end: norm weights and biases."""

    @property
    def causes_of_nan(self) -> str:
        """Say what may be wrong where logits are NaN or infinite, and what to do, for users."""
        return (
            f"numbers may be too large for {self.dtype_name} (dtype float32 has room for them), "
            "or the model's files damaged (`cullama doctor` checks the default model, and with "
            "--model one from the hub)"
        )

    # --- the KV cache ----------------------------------------------------------------------------

    @abstractmethod
    def cache(self, config: ModelConfig, tokens: int) -> KVCache[Array]:
        """Allocate an empty KV cache for that many tokens, in blocks of the backend's choice."""

    @abstractmethod
    def cache_bytes_per_token(self, config: ModelConfig) -> int:
        """Return the bytes that one token takes in the cache."""

    @property
    @abstractmethod
    def cache_budget(self) -> tuple[int, int]:
        """Bytes that a cache may take, once the weights are loaded: by default, and at most."""

    @abstractmethod
    def stored_keys(self, cache: LayerCache[Array], tokens: int) -> HostArray:
        """Copy the keys of a layer's first slots to the host: float32 [tokens, K, E]."""

    @abstractmethod
    def copy_blocks(self, cache: KVCache[Array], copies: Sequence[tuple[int, int]]) -> None:
        """Copy blocks of all layers, (from, to) each, one after the other."""

    def after_fork(self) -> None:
        """Make the backend work in a forked child, which has none of its parent's threads.

        Raises:
            DeviceError: the device is the parent's alone.
        """
        return

    def close(self) -> None:
        """Return all memory. Afterwards only `close` may be called, and does nothing."""
        return


AnyBackend: TypeAlias = Backend[Any, Any, Any]
