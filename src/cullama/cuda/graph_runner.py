"""Captures forward passes as CUDA graphs and replays them: one launch, not several a layer.

A CUDA graph holds kernels with their arguments as they were, so all that changes from pass to pass
is in device memory: the batch is copied to where the graph reads it. A graph is captured for a
size of batch (`Bucket`) when that is met for the second time; the first goes kernel by kernel, as
batches of mixed sizes always do. All graphs share one pool, which nothing else allocates from, and
the same memory of it: a step's logits stay valid until the next replay, so there is one buffer of
them for all graphs, as large as the largest needs.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, TypeAlias

import numpy as np

from ..errors import DeviceError, DeviceMemoryError
from ..model.operators import Forward
from .batch import Bucket, CudaBatch, bucket_length, full_bucket
from .driver import Device
from .launcher import Launcher
from .memory import DeviceArray, Pool, copy_on_device, empty

logger = logging.getLogger("cullama")

CudaForward: TypeAlias = Forward[CudaBatch, DeviceArray]


class CudaGraphRunner:
    """Runs passes, capturing those of a size that came before.

    Args:
        pool: what the graphs' arrays are allocated from.
        resources: closes the graphs. They hold no reference to the step, nor to its model.
    """

    def __init__(
        self,
        forward: CudaForward,
        device: Device,
        launcher: Launcher,
        pool: Pool,
        block_size: int,
        resources: ExitStack,
    ) -> None:
        self._forward, self._device, self._launcher, self._pool = forward, device, launcher, pool
        self._block_size, self._resources = block_size, resources
        self._met: set[Bucket] = set()
        self._graphs: dict[Bucket, _Graph | None] = {}  # None: there was no room for one
        self._generation = launcher.kernels.generation

    def __call__(self, batch: CudaBatch) -> DeviceArray:
        bucket = batch.bucket
        if bucket is None:
            return self._forward(batch)
        if bucket not in self._met:
            self._met.add(bucket)
            return self._forward(batch)
        if self._generation != self._launcher.kernels.generation:  # kernels were replaced
            for captured in filter(None, self._graphs.values()):
                captured.close()
            self._graphs.clear()
            self._generation = self._launcher.kernels.generation
        if bucket not in self._graphs:
            self._graphs[bucket] = self._capture_if_it_fits(bucket, batch)
        graph = self._graphs[bucket]
        return self._forward(batch) if graph is None else graph.replay(batch)

    def _capture_if_it_fits(self, bucket: Bucket, batch: CudaBatch) -> _Graph | None:
        try:
            return self._resources.enter_context(closing(self._capture(bucket, batch)))
        except DeviceMemoryError as error:
            if None not in self._graphs.values():
                logger.warning("some steps go kernel by kernel, which is slower: %s", error)
            return None

    def _capture(self, bucket: Bucket, batch: CudaBatch) -> _Graph:
        """Return a graph for a size of batch; it is captured with the numbers of `batch`."""
        device = self._device
        with self._launcher.allocating_from(self._pool):
            whole = empty(self._pool, (bucket_length(bucket),), np.int32)
            fixed = full_bucket(bucket, whole, self._block_size)
            copy_on_device(device, batch.whole, whole)
            # During a capture the pool cannot grow, so passes are run until one needs no new arena.
            # One may not be enough: where the new arena lies at a lower address, the next pass
            # fills it first, and its buffers may then fall so that another arena is needed.
            arenas = -1
            while arenas != self._pool.arenas:
                arenas = self._pool.arenas
                self._forward(fixed)
            with _without_garbage_collection():
                graph, logits = self._record_step(fixed)
        return _Graph(device, graph, fixed, logits.borrowed())

    def _record_step(self, batch: CudaBatch) -> tuple[Any, DeviceArray]:
        """Capture one step, and return the CUDA graph and the step's logits."""
        device = self._device
        mode = device.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        try:
            device.call("cuStreamBeginCapture", device.stream, mode)
            logits = self._forward(batch)
            return device.call("cuStreamEndCapture", device.stream), logits
        except BaseException:
            with suppress(DeviceError):  # the capture's end reports the same failure
                device.call("cuGraphDestroy", device.call("cuStreamEndCapture", device.stream))
            raise


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Disable Python's garbage collection: closing a dropped model would fail the capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Graph:
    """A captured step that can be replayed with any batch of its size."""

    def __init__(self, device: Device, graph: Any, batch: CudaBatch, logits: DeviceArray) -> None:
        self._device, self._batch, self._logits = device, batch, logits
        self._is_closed = False
        try:
            self._launchable = device.call("cuGraphInstantiate", graph, 0)
        finally:
            device.driver.cuGraphDestroy(graph)

    def replay(self, batch: CudaBatch) -> DeviceArray:
        device = self._device
        device.make_current()
        copy_on_device(device, batch.whole, self._batch.whole)
        device.last_launched = "a captured step"
        device.call("cuGraphLaunch", self._launchable, device.stream)
        return self._logits.first_rows(batch.logit_rows.shape[0])

    def close(self) -> None:
        if not self._is_closed:
            self._device.driver.cuGraphExecDestroy(self._launchable)
        self._is_closed = True
