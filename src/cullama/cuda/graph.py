"""Steps captured once and replayed: one launch instead of several for every layer.

A CUDA graph holds kernels with their arguments as they were, so all that changes from step to step
lies in device memory: the batch is copied to where the graph reads it. A graph is captured for a
size of step (`Bucket`) when that is met for the second time; the first goes kernel by kernel, as
steps of mixed sizes always do. All graphs share one pool, which nothing else takes from: what is in
it lasts until the next replay.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from typing import Any

import numpy as np

from ..errors import DeviceError
from ..model.batch import Batch
from ..model.operators import Step
from .batch import Bucket, CudaBatch, bucket_length, full_bucket
from .driver import Device
from .memory import DeviceArray, Pool, copy_on_device, empty

CudaStep = Step[DeviceArray]


class CapturedSteps:
    """A step that is captured by and by.

    Args:
        taking_from: a context in which all operators take their memory from a pool.
        parts: closes the graphs; they do not know the step, nor what that holds on to.
    """

    def __init__(
        self,
        step: CudaStep,
        device: Device,
        pool: Pool,
        taking_from: Callable[[Pool], AbstractContextManager[None]],
        block_size: int,
        parts: ExitStack,
    ) -> None:
        self._step, self._device, self._pool = step, device, pool
        self._taking_from, self._block_size, self._parts = taking_from, block_size, parts
        self._met: set[Bucket] = set()
        self._graphs: dict[Bucket, _Graph] = {}

    def __call__(self, batch: Batch[DeviceArray]) -> DeviceArray:
        assert isinstance(batch, CudaBatch)
        bucket = batch.bucket
        if bucket is None:
            return self._step(batch)
        if bucket not in self._met:
            self._met.add(bucket)
            return self._step(batch)
        if bucket not in self._graphs:
            graph = self._capture(bucket, batch)
            self._graphs[bucket] = self._parts.enter_context(closing(graph))
        return self._graphs[bucket].replay(batch)

    def _capture(self, bucket: Bucket, batch: CudaBatch) -> _Graph:
        device = self._device
        with self._taking_from(self._pool):
            whole = empty(self._pool, (bucket_length(bucket),), np.int32)
            fixed = full_bucket(bucket, whole, self._block_size)
            copy_on_device(device, batch.whole, whole)
            self._make_room(fixed)
            with _without_garbage_collection():
                graph, logits = self._recorded(fixed)
        return _Graph(device, graph, fixed, logits)

    def _make_room(self, batch: CudaBatch) -> None:
        """Steps until the pool is large enough: during a capture it cannot grow.

        Once may not do: where a new arena lies below others, the next step begins to fill it.
        """
        held = -1
        while held != self._pool.arenas:
            held = self._pool.arenas
            self._step(batch)

    def _recorded(self, batch: CudaBatch) -> tuple[Any, DeviceArray]:
        device = self._device
        mode = device.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        try:
            device.call("cuStreamBeginCapture", device.stream, mode)
            logits = self._step(batch)
            return device.call("cuStreamEndCapture", device.stream), logits
        except BaseException:
            with suppress(DeviceError):  # says again what went wrong
                device.call("cuGraphDestroy", device.call("cuStreamEndCapture", device.stream))
            raise


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """It may find a model that was dropped; returning its memory would spoil a capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Graph:
    def __init__(self, device: Device, graph: Any, batch: CudaBatch, logits: DeviceArray) -> None:
        self._device, self._batch, self._logits = device, batch, logits
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
        self._device.driver.cuGraphExecDestroy(self._launchable)
