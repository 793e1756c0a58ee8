"""Sample params as the kernel gets them, and how its results are read."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from cullama.cuda.sampling import DRAWN, pack_sample_params, read_drawn
from cullama.errors import NumericalError, UsageError
from cullama.sampling.draw import Draw, Drawn
from cullama.sampling.params import SamplingParams

ROW_SIZE = 64  # bytes


def draw(tokens: tuple[int, ...] = (5, 6), prompt: int = 1, seed: int = 0, **params: Any) -> Draw:
    return Draw(SamplingParams(**params), seed, 0, tokens, prompt)


def test_sample_params_are_sixteen_words() -> None:
    assert len(pack_sample_params([draw(temperature=0.5)], 10).rows) == ROW_SIZE
    assert len(pack_sample_params([draw(temperature=0)] * 3, 10).rows) == 3 * ROW_SIZE


def test_lists_of_rows_end_where_the_next_begins() -> None:
    packed = pack_sample_params(
        [
            draw(logit_bias={3: 1.5, 4: -2.0}),
            draw(temperature=0),
            draw(tokens=(7, 8, 8, 9), prompt=2, repetition_penalty=2.0, frequency_penalty=0.5),
        ],
        vocabulary=10,
    )
    ends = [
        struct.unpack_from("<iii", packed.rows, row * ROW_SIZE + 48) for row in range(3)
    ]  # biases, seen, scratch
    assert ends == [(2, 0, 0), (2, 0, -1), (2, 3, 1)]
    assert packed.changed == 2
    assert packed.biases == struct.pack("<ifif", 3, 1.5, 4, -2.0)
    assert packed.seen == struct.pack("<iiiiii", 7, 0, 8, 1, 9, 1)


def test_rows_with_a_mask_have_the_first_copies_of_logits() -> None:
    first, second = b"\x05" + bytes(3), b"\x00\x02" + bytes(2)
    packed = pack_sample_params(
        [
            draw(logit_bias={3: 1.5}),
            draw(temperature=0)._replace(mask=first),
            draw(),
            draw(logit_bias={4: 1.0})._replace(mask=second),
        ],
        vocabulary=10,
    )
    scratch = [struct.unpack_from("<i", packed.rows, row * ROW_SIZE + 56)[0] for row in range(4)]
    assert scratch == [2, 0, -1, 1]
    assert (packed.masked, packed.changed) == (2, 3)
    assert packed.masks == first + second
    assert packed.joined.endswith(packed.masks)
    assert packed.biases == struct.pack("<ifif", 3, 1.5, 4, 1.0)


def test_only_generated_tokens_are_seen_without_a_repetition_penalty() -> None:
    packed = pack_sample_params([draw(tokens=(1, 2, 3), prompt=2, presence_penalty=1.0)], 10)
    assert packed.seen == struct.pack("<ii", 3, 1)


def test_a_top_p_of_one_keeps_all_tokens_and_the_smallest_top_p_keeps_one() -> None:
    for share, expected in ((1.0, 0), (0.5, 1 << 63), (5e-324, 1)):
        row = pack_sample_params([draw(top_p=share)], 10).rows
        assert struct.unpack_from("<Q", row, 8) == (expected,)


def test_a_seed_goes_up_in_two_words() -> None:
    row = pack_sample_params([draw(seed=0xFEDCBA9876543210)], 10).rows
    assert struct.unpack_from("<II", row, 32) == (0x76543210, 0xFEDCBA98)


def test_a_bias_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match="token 10, expected below 10"):
        pack_sample_params([draw(logit_bias={10: 1.0})], 10)


def test_rows_with_nan_are_errors_and_the_others_tokens() -> None:
    found = np.zeros(3, DRAWN)
    found["token"], found["best"] = [4, 5, 6], [1.0, np.nan, 2.0]
    drawn = read_drawn(found, [draw()] * 3, vocabulary=10)
    assert (drawn[0], drawn[2]) == (Drawn(4, None), Drawn(6, None))
    assert isinstance(drawn[1], NumericalError)
    assert "nan" in str(drawn[1])


def test_no_more_top_tokens_are_reported_than_the_vocabulary_has() -> None:
    request = draw(logprobs=5)
    assert struct.unpack_from("<i", pack_sample_params([request], 3).rows, 60) == (3,)
    (drawn,) = read_drawn(np.zeros(1, DRAWN), [request], vocabulary=3)
    assert isinstance(drawn, Drawn)
    assert drawn.logprobs is not None
    assert len(drawn.logprobs.top) == 3
