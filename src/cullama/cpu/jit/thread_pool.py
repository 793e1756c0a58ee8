"""Threads that run kernels together: awake while there is work, asleep soon after it.

A program is a row of steps: a kernel, its arguments, and how many chunks it is cut into. The
caller and its helpers take chunks as they come, so a core that another process keeps busy takes
fewer. A chunk is computed the same way whoever takes it. Helpers wait for the next step without
sleeping, since a layer's steps follow each other within microseconds; after a while without work
they sleep in a `read` of a pipe, outside Python and its lock.

A helper that loses its core in the middle of a chunk holds everybody up until it has it back. Where
that takes more time than the help is worth, the caller goes on alone for a while, twice as long
each time it happens again: a busy neighbour costs the help, and not much more.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .compiler import Kernel, Machine, address_of
from .kernel_builder import I32, I64, POINTER, Code, Value

# Where things lie in the block that all threads share, each in a cache line of its own.
TICKET, DONE, SLEEPING, STOPPED, STEP, PIPE, ALONE, LOST, SIZE = range(0, 576, 64)

# A ticket is the number of the next chunk, below the number of chunks.
CHUNK_BITS = 32

PATIENCE = 2_000  # looks at an empty ticket before a helper sleeps: about 50 µs
WAIT = 1_000  # looks at unfinished work before time is taken: about 25 µs

# A helper was held up if it takes longer, after the caller has run out of work, than the caller
# worked, and longer than any chunk of a small step. Such waits are added up, less a quarter of the
# time between them, which help is worth even where two share one memory: so the short gaps that a
# virtual machine has are forgiven.
HELD_UP = 200_000  # nanoseconds
WORTH = 4
MOST_LOST = 20_000_000  # nanoseconds
SHORTEST_REST, LONGEST_REST = 100_000_000, 2_000_000_000  # nanoseconds that the caller is alone

Words: TypeAlias = NDArray[np.int64]

MONOTONIC = time.CLOCK_MONOTONIC

SERVE = Kernel("serve", {"shared": POINTER}, lambda code, a, chunk: _serve(code, a.shared))
PLAY = Kernel(
    "play",
    {"shared": POINTER, "steps": POINTER, "count": I64},
    lambda code, a, chunk: _play(code, a.shared, a.steps, a.count),
)


class _Hired(NamedTuple):
    """Helpers, and what they share with a caller. A fork takes none along: its child hires anew."""

    process: int
    shared: Words
    lock: threading.Lock  # one caller at a time


class Team:
    """`size` threads, the caller counted."""

    def __init__(self, machine: Machine, size: int) -> None:
        self.size = size
        self._serve, self._play = machine.compile(SERVE), machine.compile(PLAY)
        self._call = _CALL(self._play.address)
        self._hired: _Hired | None = None

    def play(self, steps: Words) -> None:
        """Run steps one after the other; each is the address of a record (see `_play`)."""
        hired = self._hired
        if hired is None or hired.process != os.getpid():
            # Threads that come here at once may hire twice, and each plays with its own.
            hired = self._hired = self._hire()
        with hired.lock:
            shared = {"shared": hired.shared, "steps": steps, "count": len(steps)}
            self._call(self._play.record(shared), 0)

    def _hire(self) -> _Hired:
        hired = _Hired(os.getpid(), _aligned(SIZE), threading.Lock())
        if self.size == 1:
            return hired
        pipe = _Pipe()
        hired.shared[PIPE // 8 : PIPE // 8 + 2] = pipe.reader, pipe.writer
        record = self._serve.record({"shared": hired.shared})
        for _ in range(self.size - 1):
            # All of it is held as long as the helper lives.
            held = [self._serve.address, record, hired.shared, self._serve, pipe]
            threading.Thread(target=_help, args=held, daemon=True).start()
        weakref.finalize(self, _dismiss, hired.shared, pipe, self.size - 1, hired.process)
        return hired


_CALL = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64)  # lets go of Python's lock


class _Pipe:
    """Closed when nobody holds it any more."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def __del__(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


def _help(address: int, record: bytes, *held: object) -> None:
    _CALL(address)(record, 0)


def _dismiss(shared: Words, pipe: _Pipe, helpers: int, process: int) -> None:
    if process == os.getpid():
        shared[STOPPED // 8] = 1
        os.write(pipe.writer, bytes(helpers))


def _aligned(size: int) -> Words:
    whole = np.zeros(size // 8 + 8, np.int64)
    start = -address_of(whole) % 64 // 8
    return whole[start : start + size // 8]


# --- what is compiled ----------------------------------------------------------------------------


def _play(code: Code, shared: Value, steps: Value, count: Value) -> None:
    """A step is a record of eight-byte words: the kernel, where its number of chunks is found,
    and its arguments."""
    is_alone = code.load(I64, shared + ALONE) > now(code)
    with code.loop(count) as place:
        step = code.load(POINTER, steps + place * 8)
        chunks = code.load(I64, code.load(POINTER, step + 8))
        with code.builder.if_else((is_alone | (chunks <= 1)).ir) as (by_itself, together):
            with by_itself, code.loop(chunks) as chunk:
                _run(code, step, chunk)
            with together:
                _share(code, shared, step, chunks)


def _run(code: Code, step: Value, chunk: Value) -> None:
    code.jump(code.load(I64, step), step + 16, chunk)


def now(code: Code) -> Value:
    """Nanoseconds of a clock that never goes back."""
    time = code.scratch(16)
    code.call("clock_gettime", I32, code.constant(I32, MONOTONIC), time)
    return code.load(I64, time) * 1_000_000_000 + code.load(I64, time + 8)


def _share(code: Code, shared: Value, step: Value, chunks: Value) -> None:
    start = now(code)
    code.store(step, shared + STEP)
    code.exchange(shared + DONE, 0)
    code.exchange(shared + TICKET, chunks << CHUNK_BITS)
    with code.when(code.seen(shared + SLEEPING) > 0):
        sleepers = code.exchange(shared + SLEEPING, 0)
        writer = code.load(I32, shared + PIPE + 8)
        code.call("write", I64, writer, code.scratch(64), sleepers)
    with code.forever() as leave_if:
        chunk, is_left = _claim(code, shared)
        leave_if(is_left.equals(0))
        _run(code, step, chunk)
        code.fetch_add(shared + DONE, 1)
    with code.when(code.seen(shared + DONE) < chunks):
        _wait(code, shared, chunks, start)


def _wait(code: Code, shared: Value, chunks: Value, start: Value) -> None:
    """For the chunks of others."""
    looks = code.variable(code.i64(0))
    with code.forever() as leave_if:
        leave_if((code.seen(shared + DONE) >= chunks) | (looks.get() > WAIT))
        code.pause()
        looks.add(1)
    with code.when(looks.get() > WAIT):
        out_of_work = now(code)
        with code.forever() as leave_if:
            leave_if(code.seen(shared + DONE) >= chunks)
            code.call("sched_yield", I32)
        _judge(code, shared, now(code) - out_of_work, out_of_work - start)


def _judge(code: Code, shared: Value, waited: Value, worked: Value) -> None:
    """Whether to go on alone."""
    with code.when((waited > HELD_UP) & (waited > worked)):
        moment = now(code)
        before, then = code.load(I64, shared + LOST), code.load(I64, shared + (LOST + 8))
        since = (moment - then).maximum(0)
        lost = (before - since // WORTH).maximum(0) + waited
        code.store(lost, shared + LOST)
        code.store(moment, shared + (LOST + 8))
        with code.when(lost > MOST_LOST):
            _rest(code, shared, moment)


def _rest(code: Code, shared: Value, moment: Value) -> None:
    """Alone for a time; the next is sooner where this was no help."""
    until, last = code.load(I64, shared + ALONE), code.load(I64, shared + (ALONE + 8))
    went_well = moment - until > last  # for longer than the last rest
    rest = went_well.choose(code.i64(0), last * 2)
    rest = rest.maximum(SHORTEST_REST).minimum(LONGEST_REST)
    code.store(moment + rest, shared + ALONE)
    code.store(rest, shared + (ALONE + 8))
    code.store(code.i64(MOST_LOST // 2), shared + LOST)
    code.store(moment + rest, shared + (LOST + 8))


def _claim(code: Code, shared: Value) -> tuple[Value, Value]:
    """The next chunk, and whether there was one."""
    ticket = code.fetch_add(shared + TICKET, 1)
    chunk = ticket & ((1 << CHUNK_BITS) - 1)
    return chunk, chunk < (ticket >> CHUNK_BITS)


def _serve(code: Code, shared: Value) -> None:
    looks = code.variable(code.i64(0))
    with code.forever() as leave_if:
        leave_if(code.seen(shared + STOPPED) > 0)
        ticket = code.seen(shared + TICKET)
        is_work = (ticket & ((1 << CHUNK_BITS) - 1)) < (ticket >> CHUNK_BITS)
        with code.builder.if_else(is_work.ir) as (work, rest):
            with work:
                # Only a ticket that is claimed holds the step still: it is looked up afterwards.
                chunk, is_left = _claim(code, shared)
                with code.when(is_left):
                    _run(code, code.load(POINTER, shared + STEP), chunk)
                    code.fetch_add(shared + DONE, 1)
                looks.set(code.i64(0))
            with rest:
                code.pause()
                looks.add(1)
                with code.when(looks.get() > PATIENCE):
                    _sleep(code, shared)
                    looks.set(code.i64(0))


def _sleep(code: Code, shared: Value) -> None:
    """Until someone writes a byte for us. Who has said it sleeps gets one, even if it has not
    fallen asleep yet, so none is ever left over."""
    code.fetch_add(shared + SLEEPING, 1)
    reader = code.load(I32, shared + PIPE)
    code.call("read", I64, reader, code.scratch(8), code.i64(1))
