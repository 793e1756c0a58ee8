"""Samples tokens on the device: packs sample params, launches the kernel, reads back the tokens.

The rules are those of `sampling/sampler.py`, and `kernels/sample.cu` implements them; this file
packs params as the structs of that kernel, and draws nothing itself.
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
from ..sampling.params import MAX_LOGPROBS, TokenLogprobs
from ..sampling.sampler import check_bias, not_finite
from .driver import Device
from .memory import DeviceArray, Pool, ReadbackBuffer, Staging, empty
from .module import Kernels

THREADS = 512  # per block, and so per row of logits

_SAMPLE_PARAMS = struct.Struct("<fiQ4f4I4i")  # as in kernels/sample.cu
_GREEDY = _SAMPLE_PARAMS.pack(0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, -1, -1)
_BIAS = struct.Struct("<if")
_SEEN = struct.Struct("<ii")

GIVEN = -1.0  # in place of a temperature, where the row's token is given

DRAWN = np.dtype(  # as in kernels/sample.cu
    [
        ("token", np.int32),
        ("best", np.float32),
        ("logprob", np.float32),
        ("top", np.int32, MAX_LOGPROBS),
        ("top_logprobs", np.float32, MAX_LOGPROBS),
    ]
)


class PackedSampleParams(NamedTuple):
    """Sample params of all rows, as the kernel reads them."""

    rows: bytes  # a SampleParams struct for each row
    biases: bytes  # of all rows: token, bias
    seen: bytes  # of all rows: token, how often it was generated
    masks: bytes  # of the masked rows, a bit for each token
    masked: int  # rows that have a mask; their copies of logits come first
    changed: int  # rows that need a copy of their logits, with mask, bias or penalties applied

    @property
    def joined(self) -> bytes:
        """All of it as it is uploaded."""
        return self.rows + self.biases + self.seen + self.masks


def pack_sample_params(draws: Sequence[Draw], vocabulary: int) -> PackedSampleParams:
    """Pack the params of a batch's draws.

    Raises:
        UsageError: a logit bias is for a token outside the vocabulary.
    """
    if all(draw.is_plain_greedy for draw in draws):
        return PackedSampleParams(_GREEDY * len(draws), b"", b"", b"", 0, 0)
    rows, biases, seen = bytearray(), bytearray(), bytearray()
    masks = [draw.mask for draw in draws if draw.mask is not None]
    assert all(len(mask) == -(-vocabulary // 32) * 4 for mask in masks)
    masked, changed = 0, len(masks)
    for draw in draws:
        params = draw.params
        scratch = -1
        if draw.mask is not None:
            scratch, masked = masked, masked + 1
        elif params.changes_logits and draw.given is None:
            scratch, changed = changed, changed + 1
        if params.changes_logits and draw.given is None:
            for token, bias in params.logit_bias.items():
                check_bias(token, vocabulary)
                biases += _BIAS.pack(token, bias)
            for token, count in _count_seen(draw).items():
                seen += _SEEN.pack(token, count)
        ends = len(biases) // _BIAS.size, len(seen) // _SEEN.size
        rows += _pack_row(draw, ends, scratch, _num_logprobs(draw, vocabulary))
    return PackedSampleParams(
        bytes(rows), bytes(biases), bytes(seen), b"".join(masks), masked, changed
    )


def _num_logprobs(draw: Draw, vocabulary: int) -> int:
    """Return how many top tokens are reported; −1 where no log probability is wanted at all."""
    wanted = draw.num_logprobs
    return -1 if wanted is None else min(wanted, vocabulary)


def _pack_row(draw: Draw, ends: tuple[int, int], scratch: int, num_logprobs: int) -> bytes:
    """Pack the struct of one row; `ends` are where its biases and its seen tokens end."""
    params, is_given = draw.params, draw.given is not None
    return _SAMPLE_PARAMS.pack(
        GIVEN if is_given else params.temperature,
        draw.given if is_given else min(params.top_k, 0x7FFFFFFF),
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
        num_logprobs,
    )


def _count_seen(draw: Draw) -> dict[int, int]:
    """Return the tokens that penalties apply to, and how often each was generated.

    The prompt's tokens are among them only for the repetition penalty, with a count of 0.
    """
    params, generated = draw.params, draw.tokens[draw.prompt_length :]
    counts_matter = params.presence_penalty or params.frequency_penalty
    if params.repetition_penalty == 1 and not counts_matter:
        return {}
    counts = dict.fromkeys(draw.tokens if params.repetition_penalty != 1 else generated, 0)
    if counts_matter:
        for token in generated:
            counts[token] += 1
    return counts


class Sampler:
    """Launches the sampling kernel; results are read when the caller asks for them."""

    def __init__(self, device: Device, kernels: Kernels, staging: Staging) -> None:
        self._device, self._kernels, self._staging = device, kernels, staging
        self._readback_buffers: list[ReadbackBuffer] = []
        self._idle: list[ReadbackBuffer] = []  # those of them that no result is read from now
        self._greedy: DeviceArray | None = None  # params of the most greedy rows so far

    def launch(
        self, logits: DeviceArray, draws: Sequence[Draw], pool: Pool
    ) -> Callable[[], list[Drawn | NumericalError]]:
        """Launch the draws for logits [R, V]; the returned function waits for the results."""
        rows, vocabulary = len(draws), logits.shape[1]
        assert logits.shape[0] == rows
        packed = pack_sample_params(draws, vocabulary)
        on_device = self._upload(packed, rows, pool)
        scratch = empty(pool, (packed.changed, vocabulary), np.float32)
        drawn = empty(pool, (rows,), DRAWN)
        biases = on_device.address + len(packed.rows)
        seen = biases + len(packed.biases)
        self._kernels("sample", "sample_f32")(
            (rows, 1, 1),
            THREADS,
            *(drawn.address, logits.address, scratch.address),
            *(on_device.address, biases, seen, seen + len(packed.seen)),
            *(packed.masked, vocabulary),
        )
        buffer = self._readback_buffer(drawn.nbytes)
        buffer.start(drawn)

        def read() -> list[Drawn | NumericalError]:
            found = buffer.wait((rows,), DRAWN)
            self._idle.append(buffer)
            return read_drawn(found, draws, vocabulary)

        return read

    def _upload(self, packed: PackedSampleParams, rows: int, pool: Pool) -> DeviceArray:
        """Upload the params; those of plain greedy rows are all equal, and uploaded once."""
        is_greedy = packed.rows == _GREEDY * rows
        if is_greedy and self._greedy is not None and self._greedy.size >= len(packed.rows):
            return self._greedy
        host = np.frombuffer(packed.joined, np.uint8)
        on_device = empty(pool, host.shape, np.uint8)
        self._staging.upload(host, on_device.address)
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
    """Convert the kernel's results [R] of `DRAWN`; rows whose best score is not finite fail."""
    drawn: list[Drawn | NumericalError] = []
    tokens, are_finite = found["token"].tolist(), np.isfinite(found["best"]).tolist()
    for row, token, is_finite, draw in zip(found, tokens, are_finite, draws, strict=True):
        count = _num_logprobs(draw, vocabulary)
        if not is_finite:
            drawn.append(not_finite(float(row["best"])))
        elif count < 0:
            drawn.append(Drawn(token, None))
        else:
            logprobs = row["top_logprobs"][:count].tolist()
            top = tuple(zip(row["top"][:count].tolist(), logprobs, strict=True))
            drawn.append(Drawn(token, TokenLogprobs(token, float(row["logprob"]), top)))
    return drawn
