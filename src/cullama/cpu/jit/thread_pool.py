"""Threads that run kernels together: awake while there is work, asleep soon after it.

A program is a row of steps: a kernel, its arguments, and how many chunks it is cut into. The
caller and the workers take chunks as they come, so a core that another process keeps busy takes
fewer. A chunk is computed the same way by any of them. Workers spin while they wait for the next
step, since a layer's steps follow each other within microseconds; after a while without work they
sleep in a `read` of a pipe, outside Python and its lock.

A worker that loses its core in the middle of a chunk delays all others until it has it back. Where
that takes more time than sharing saves, the caller runs alone for a while, twice as long each time
it happens again: a busy neighbour costs what the workers would have added, and not much more.

Python starts and stops the workers (`../thread_pool.py`); the loops that caller and workers run
are compiled kernels, below. This file contains no kernel of a model.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from functools import partial
from types import SimpleNamespace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...process.interrupts import INTERRUPTS
from ..thread_pool import Workers
from .compiler import JIT, CompiledKernel, Kernel, address_of
from .kernel_builder import I32, I64, POINTER, KernelBuilder, Value

# Byte offsets in the memory that all threads share, each in a cache line of its own.
TICKET, DONE, SLEEPING, STOPPED, STEP, PIPE, ALONE, LOST, SIZE = range(0, 576, 64)

# A ticket is the number of the next chunk, below the number of chunks.
CHUNK_BITS = 32

SPINS_BEFORE_SLEEP = 2_000  # of a worker at an empty ticket: about 50 µs
SPINS_BEFORE_CLOCK = (
    1_000  # of the caller at unfinished work, before it takes the time: about 25 µs
)

# A worker was held up if it takes longer, after the caller has run out of work, than the caller
# worked, and longer than any chunk of a small step. Such waits are added up, less a quarter of the
# time between them, which sharing gains even where two cores share one memory: so the short gaps
# that a virtual machine has are forgiven.
MIN_HELD_UP = 200_000  # nanoseconds
FORGIVEN_SHARE = 4  # one part in so many of the time between two waits
MAX_LOST = 20_000_000  # nanoseconds
MIN_ALONE, MAX_ALONE = 100_000_000, 2_000_000_000  # nanoseconds that the caller runs alone

Words: TypeAlias = NDArray[np.int64]

_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64)  # releases Python's lock


class KernelThreadPool:
    """Runs kernels on `size` threads, the caller's counted."""

    def __init__(self, jit: JIT, size: int) -> None:
        self.size = size
        self._execute, worker_loop = jit.compile(EXECUTE), jit.compile(WORKER_LOOP)
        self._call = _KERNEL(self._execute.address)
        make_channel = partial(_Channel, worker_loop, size - 1)
        self._workers = Workers(size - 1, make_channel, _run_worker, _stop)

    def execute(self, steps: Words) -> None:
        """Run steps one after the other; each is the address of a record (see `_execute`)."""
        channel = self._workers.channel()
        with INTERRUPTS.deferred, channel.lock:
            shared = {"shared": channel.shared, "steps": steps, "count": len(steps)}
            self._call(self._execute.record(shared), 0)


class _Channel:
    """What callers share with the workers of a process; it lives as long as any of them."""

    def __init__(self, worker_loop: CompiledKernel, workers: int) -> None:
        self.lock = threading.Lock()  # one caller at a time
        memory = np.zeros(SIZE // 8 + 8, np.int64)
        start = -address_of(memory) % 64 // 8  # where a cache line begins
        self.shared = memory[start : start + SIZE // 8]
        # Reader and writer: two file descriptors, which a caller without workers does not need.
        self.pipe: tuple[int, ...] = os.pipe() if workers else ()
        self.shared[PIPE // 8 : PIPE // 8 + len(self.pipe)] = self.pipe
        self.worker_loop = worker_loop
        self.record = worker_loop.record({"shared": self.shared})

    def __del__(self) -> None:
        for descriptor in self.pipe:
            os.close(descriptor)


def _run_worker(channel: _Channel) -> None:
    _KERNEL(channel.worker_loop.address)(channel.record, 0)


def _stop(channel: _Channel, count: int) -> None:
    channel.shared[STOPPED // 8] = 1
    os.write(channel.pipe[1], bytes(count))


# --- the caller's side, compiled -----------------------------------------------------------------


def _execute(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
    """A step is a record of eight-byte words: the kernel, where its number of chunks is found,
    and its arguments."""
    is_alone = builder.load(I64, a.shared + ALONE) > now(builder)
    with builder.loop(a.count) as index:
        step = builder.load(POINTER, a.steps + index * 8)
        chunks = builder.load(I64, builder.load(POINTER, step + 8))
        with builder.llvm.if_else((is_alone | (chunks <= 1)).ir) as (alone, together):
            with alone, builder.loop(chunks) as chunk:
                _run_chunk(builder, step, chunk)
            with together:
                _share(builder, a.shared, step, chunks)


EXECUTE = Kernel("execute", {"shared": POINTER, "steps": POINTER, "count": I64}, _execute)


def _run_chunk(builder: KernelBuilder, step: Value, chunk: Value) -> None:
    builder.call_address(builder.load(I64, step), step + 16, chunk)


def now(builder: KernelBuilder) -> Value:
    """Nanoseconds of a clock that never goes back."""
    timespec = builder.alloca(16)
    builder.call("clock_gettime", I32, builder.constant(I32, time.CLOCK_MONOTONIC), timespec)
    return builder.load(I64, timespec) * 1_000_000_000 + builder.load(I64, timespec + 8)


def _share(builder: KernelBuilder, shared: Value, step: Value, chunks: Value) -> None:
    """Offer a step to the workers, wake those that sleep, and take chunks until none is left."""
    start = now(builder)
    builder.store(step, shared + STEP)
    builder.exchange(shared + DONE, 0)
    builder.exchange(shared + TICKET, chunks << CHUNK_BITS)
    with builder.when(builder.load_atomic(shared + SLEEPING) > 0):
        sleepers = builder.exchange(shared + SLEEPING, 0)
        writer = builder.load(I32, shared + PIPE + 8)
        builder.call("write", I64, writer, builder.alloca(64), sleepers)
    with builder.loop_forever() as break_if:
        chunk, is_left = _claim(builder, shared)
        break_if(is_left.equals(0))
        _run_chunk(builder, step, chunk)
        builder.fetch_add(shared + DONE, 1)
    with builder.when(builder.load_atomic(shared + DONE) < chunks):
        _wait(builder, shared, chunks, start)


def _wait(builder: KernelBuilder, shared: Value, chunks: Value, start: Value) -> None:
    """Wait until the workers' chunks are done; if it takes long, note how long."""
    spins = builder.variable(builder.i64(0))
    with builder.loop_forever() as break_if:
        break_if(
            (builder.load_atomic(shared + DONE) >= chunks) | (spins.get() > SPINS_BEFORE_CLOCK)
        )
        builder.pause()
        spins.add(1)
    with builder.when(spins.get() > SPINS_BEFORE_CLOCK):
        out_of_work = now(builder)
        with builder.loop_forever() as break_if:
            break_if(builder.load_atomic(shared + DONE) >= chunks)
            builder.call("sched_yield", I32)
        _note_wait(builder, shared, now(builder) - out_of_work, out_of_work - start)


def _note_wait(builder: KernelBuilder, shared: Value, waited: Value, worked: Value) -> None:
    """Add a wait up if a worker was held up, and run alone from a certain sum on.

    The caller runs alone twice as long as last time, or shortly if sharing did well since then.
    """
    with builder.when((waited > MIN_HELD_UP) & (waited > worked)):
        moment = now(builder)
        before, then = builder.load(I64, shared + LOST), builder.load(I64, shared + (LOST + 8))
        since = (moment - then).maximum(0)
        lost = (before - since // FORGIVEN_SHARE).maximum(0) + waited
        builder.store(lost, shared + LOST)
        builder.store(moment, shared + (LOST + 8))
        with builder.when(lost > MAX_LOST):
            until, last = builder.load(I64, shared + ALONE), builder.load(I64, shared + (ALONE + 8))
            went_well = moment - until > last  # for longer than the last time alone
            period = went_well.select(builder.i64(0), last * 2)
            period = period.maximum(MIN_ALONE).minimum(MAX_ALONE)
            builder.store(moment + period, shared + ALONE)
            builder.store(period, shared + (ALONE + 8))
            builder.store(builder.i64(MAX_LOST // 2), shared + LOST)
            builder.store(moment + period, shared + (LOST + 8))


def _claim(builder: KernelBuilder, shared: Value) -> tuple[Value, Value]:
    """The next chunk, and whether there was one."""
    ticket = builder.fetch_add(shared + TICKET, 1)
    chunk = ticket & ((1 << CHUNK_BITS) - 1)
    return chunk, chunk < (ticket >> CHUNK_BITS)


# --- the workers' side, compiled -----------------------------------------------------------------


def _worker_loop(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
    shared = a.shared
    spins = builder.variable(builder.i64(0))
    with builder.loop_forever() as break_if:
        break_if(builder.load_atomic(shared + STOPPED) > 0)
        ticket = builder.load_atomic(shared + TICKET)
        is_work = (ticket & ((1 << CHUNK_BITS) - 1)) < (ticket >> CHUNK_BITS)
        with builder.llvm.if_else(is_work.ir) as (work, no_work):
            with work:
                # Only a ticket that is claimed holds the step still: it is looked up afterwards.
                chunk, is_left = _claim(builder, shared)
                with builder.when(is_left):
                    _run_chunk(builder, builder.load(POINTER, shared + STEP), chunk)
                    builder.fetch_add(shared + DONE, 1)
                spins.set(builder.i64(0))
            with no_work:
                builder.pause()
                spins.add(1)
                with builder.when(spins.get() > SPINS_BEFORE_SLEEP):
                    # Sleep until there is a byte in the pipe. Every worker counted in SLEEPING gets
                    # one, even if it has not fallen asleep yet, so none is ever left over.
                    builder.fetch_add(shared + SLEEPING, 1)
                    reader = builder.load(I32, shared + PIPE)
                    builder.call("read", I64, reader, builder.alloca(8), builder.i64(1))
                    spins.set(builder.i64(0))


WORKER_LOOP = Kernel("worker_loop", {"shared": POINTER}, _worker_loop)
