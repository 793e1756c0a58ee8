"""Drawing tokens on the device: what each row wishes goes up, what was drawn comes down.

The rules are `cullama/sampling/sampler.py`'s, the kernel is `kernels/sample.cu`; here the wishes
are packed as its structs. It knows what a draw is, not how it is made.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import NumericalError
from ..files.tensor import HostArray
from ..sampling.draw import Draw, Drawn
from ..sampling.params import MAX_LOGPROBS, SamplingParams, TokenLogprobs
from ..sampling.sampler import check_bias, not_finite
from .driver import Device
from .memory import DeviceArray, Pool, ReadbackBuffer, Staging, empty
from .module import Kernels

THREADS = 512  # a block, and so a row

_SAMPLE_PARAMS = struct.Struct("<fiQ4f4I4i")  # as in kernels/sample.cu
_GREEDY = _SAMPLE_PARAMS.pack(0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, -1, -1)
_PAIR = struct.Struct("<if")
_SEEN = struct.Struct("<ii")

DRAWN = np.dtype(
    [
        ("token", np.int32),
        ("best", np.float32),
        ("logprob", np.float32),
        ("top", np.int32, MAX_LOGPROBS),
        ("top_logprobs", np.float32, MAX_LOGPROBS),
    ]
)


class PackedSampleParams(NamedTuple):
    """All rows' wishes as bytes, and how many rows of scores are changed on the way."""

    rows: bytes
    biases: bytes
    seen: bytes
    changed: int


def pack_sample_params(draws: Sequence[Draw], vocabulary: int) -> PackedSampleParams:
    """Raises UsageError for a bias outside the vocabulary."""
    if all(draw.params.is_plain_greedy for draw in draws):
        return PackedSampleParams(_GREEDY * len(draws), b"", b"", 0)
    rows, biases, seen = bytearray(), bytearray(), bytearray()
    changed = 0
    for draw in draws:
        params = draw.params
        scratch = -1
        if params.changes_logits:
            scratch, changed = changed, changed + 1
            biases += _biases(params, vocabulary)
            seen += _seen(draw)
        ends = len(biases) // _PAIR.size, len(seen) // _SEEN.size
        rows += _pack_row(draw, ends, scratch, _reported(draw, vocabulary))
    return PackedSampleParams(bytes(rows), bytes(biases), bytes(seen), changed)


def _reported(draw: Draw, vocabulary: int) -> int:
    """How many likeliest tokens are reported; −1: not even the one that is drawn."""
    wanted = draw.params.logprobs
    return -1 if wanted is None else min(wanted, vocabulary)


def _pack_row(draw: Draw, ends: tuple[int, int], scratch: int, reported: int) -> bytes:
    params = draw.params
    return _SAMPLE_PARAMS.pack(
        params.temperature,
        min(params.top_k, 0x7FFFFFFF),
        0 if params.top_p == 1 else max(1, int(math.ldexp(params.top_p, 64))),
        params.min_p,
        params.repetition_penalty,
        params.presence_penalty,
        params.frequency_penalty,
        draw.seed & 0xFFFFFFFF,
        draw.seed >> 32 & 0xFFFFFFFF,
        draw.position & 0xFFFFFFFF,
        draw.sample_index & 0xFFFFFFFF,
        *ends,
        scratch,
        reported,
    )


def _biases(params: SamplingParams, vocabulary: int) -> bytes:
    for token in params.logit_bias:
        check_bias(token, vocabulary)
    return b"".join(_PAIR.pack(token, bias) for token, bias in params.logit_bias.items())


def _seen(draw: Draw) -> bytes:
    """Each token of the text once, with how often it is in the answer, where that matters."""
    params, answer = draw.params, draw.tokens[draw.prompt_length :]
    counts_matter = params.presence_penalty or params.frequency_penalty
    if params.repetition_penalty == 1 and not counts_matter:
        return b""
    tokens = draw.tokens if params.repetition_penalty != 1 else answer
    counts = dict.fromkeys(tokens, 0)
    for token in answer if counts_matter else ():
        counts[token] += 1
    return b"".join(_SEEN.pack(token, count) for token, count in counts.items())


class Sampler:
    """Launches draws, and reads them when they are there."""

    def __init__(self, device: Device, kernels: Kernels, staging: Staging) -> None:
        self._device, self._kernels, self._staging = device, kernels, staging
        self._readback_buffers: list[ReadbackBuffer] = []
        self._greedy: DeviceArray | None = None  # the wishes of the most greedy rows so far
        self._idle: list[ReadbackBuffer] = []  # of these, the ones nobody waits for now

    def launch(
        self, logits: DeviceArray, draws: Sequence[Draw], pool: Pool
    ) -> Callable[[], list[Drawn | NumericalError]]:
        rows, vocabulary = len(draws), logits.shape[1]
        assert logits.shape[0] == rows
        packed = pack_sample_params(draws, vocabulary)
        on_device = self._upload(packed, rows, pool)
        scratch = empty(pool, (packed.changed, vocabulary), np.float32)
        drawn = empty(pool, (rows,), DRAWN)
        biases = on_device.address + len(packed.rows)
        self._kernels("sample", "sample_f32")(
            (rows, 1, 1),
            THREADS,
            *(drawn.address, logits.address, scratch.address),
            *(on_device.address, biases, biases + len(packed.biases), vocabulary),
        )
        buffer = self._readback_buffer(drawn.nbytes)
        buffer.begin(drawn)

        def read() -> list[Drawn | NumericalError]:
            found = buffer.wait((rows,), DRAWN)
            self._idle.append(buffer)
            return read_drawn(found, draws, vocabulary)

        return read

    def _upload(self, packed: PackedSampleParams, rows: int, pool: Pool) -> DeviceArray:
        """Rows that only want the likeliest token all wish the same: that is sent once."""
        is_greedy = packed.rows == _GREEDY * rows
        if is_greedy and self._greedy is not None and self._greedy.size >= len(packed.rows):
            return self._greedy
        sent = np.frombuffer(packed.rows + packed.biases + packed.seen, np.uint8)
        on_device = empty(pool, sent.shape, np.uint8)
        self._staging.send(sent, on_device.address)
        if is_greedy:
            self._greedy = on_device
        return on_device

    def close(self) -> None:
        while self._readback_buffers:
            self._readback_buffers.pop().close()

    def _readback_buffer(self, size: int) -> ReadbackBuffer:
        for buffer in self._idle:
            if buffer.size >= size:
                self._idle.remove(buffer)
                return buffer
        buffer = ReadbackBuffer(self._device, max(size, 64 * DRAWN.itemsize))
        self._readback_buffers.append(buffer)
        return buffer


def read_drawn(
    found: HostArray, draws: Sequence[Draw], vocabulary: int
) -> list[Drawn | NumericalError]:
    tokens, are_finite = found["token"].tolist(), np.isfinite(found["best"]).tolist()
    return [
        _drawn(found[row], token, _reported(draws[row], vocabulary))
        if is_finite
        else not_finite(float(found["best"][row]))
        for row, (token, is_finite) in enumerate(zip(tokens, are_finite, strict=True))
    ]


def _drawn(row: np.void, token: int, reported: int) -> Drawn:
    if reported < 0:
        return Drawn(token, None)
    top = zip(row["top"][:reported].tolist(), row["top_logprobs"][:reported].tolist(), strict=True)
    return Drawn(token, TokenLogprobs(token, float(row["logprob"]), tuple(top)))
