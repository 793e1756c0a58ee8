"""Reads SentencePiece's tokenizer.model: its pieces, their scores and kinds, and how it normalises.

Fields are those of `sentencepiece_model.proto` (https://github.com/google/sentencepiece). Training
settings that do not change how a text is encoded are passed over. What is read becomes a tokenizer
in `older_tokenizers.py`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelFileError, NoTokenizerError
from ..files.protobuf import ProtobufError, Value, message_fields, signed
from .gguf_tokenizer import NORMAL

# Numbers of fields: of the model, of a piece, of the trainer's and the normaliser's settings.
PIECES, TRAINER, NORMALIZER = 1, 2, 3
PIECE_TEXT, PIECE_SCORE, PIECE_KIND = 1, 2, 3
MODEL_TYPE, SPACE_IS_SUFFIX, UNKNOWN_ID, BOS_ID, EOS_ID = 3, 24, 40, 41, 42
CHARSMAP, DUMMY_PREFIX, REMOVES_SPACES, ESCAPES_SPACES = 2, 3, 4, 5

UNIGRAM, BPE = 1, 2  # values of MODEL_TYPE; words and characters, 3 and 4, are in no Llama

MAX_PIECES = 1 << 20  # known models have up to 262,144


@dataclass(frozen=True)
class SentencePieceModel:
    """What decides how a text is encoded."""

    texts: list[str]  # of the pieces, by id
    scores: list[float]
    kinds: list[int]  # as in `tokenizer.ggml.token_type`, which has SentencePiece's numbers
    is_unigram: bool
    unknown_id: int
    bos_id: int
    eos_id: int
    charsmap: bytes  # replaces characters; empty for none
    has_dummy_prefix: bool  # a space before each text
    removes_spaces: bool  # those around a text, and all but one in a row

    @classmethod
    def from_fields(
        cls,
        path: Path,
        pieces: Sequence[tuple[str, float, int]],
        trainer: Mapping[int, Value],
        normalizer: Mapping[int, Value],
    ) -> SentencePieceModel:
        """Take what counts out of the settings, with SentencePiece's own defaults.

        Raises:
            NoTokenizerError: a kind of model that is not built here.
            ProtobufError: a setting of another type.
        """
        kind = trainer.get(MODEL_TYPE, UNIGRAM)
        is_plain = normalizer.get(ESCAPES_SPACES, 1) and not trainer.get(SPACE_IS_SUFFIX, 0)
        if kind not in (UNIGRAM, BPE) or not is_plain:
            what = "of words or characters" if is_plain else "with its own way of writing spaces"
            raise NoTokenizerError(
                f"{path}: a SentencePiece model {what}, expected BPE or unigram pieces that begin "
                "with a space; give token ids"
            )
        texts, scores, kinds = zip(*pieces, strict=True)
        return cls(
            texts=list(texts),
            scores=list(scores),
            kinds=list(kinds),
            is_unigram=kind == UNIGRAM,
            unknown_id=_integer(trainer.get(UNKNOWN_ID, 0)),
            bos_id=_integer(trainer.get(BOS_ID, 1)),
            eos_id=_integer(trainer.get(EOS_ID, 2)),
            charsmap=_bytes(normalizer.get(CHARSMAP, b"")),
            has_dummy_prefix=bool(normalizer.get(DUMMY_PREFIX, 1)),
            removes_spaces=bool(normalizer.get(REMOVES_SPACES, 1)),
        )


def parse_model(path: Path, content: bytes) -> SentencePieceModel:
    """Parse a tokenizer.model.

    Raises:
        ModelFileError: it is damaged.
        NoTokenizerError: a kind of SentencePiece model that is not built here.
    """
    pieces: list[tuple[str, float, int]] = []
    settings: dict[int, dict[int, Value]] = {TRAINER: {}, NORMALIZER: {}}
    try:
        for number, value in message_fields(content):
            if number == PIECES:
                pieces.append(_piece(_bytes(value)))
                if len(pieces) > MAX_PIECES:
                    raise ProtobufError(f"more than {MAX_PIECES:,} pieces")
            elif number in settings:
                settings[number] |= dict(message_fields(_bytes(value)))
        if not pieces:
            raise ProtobufError("no pieces")
        return SentencePieceModel.from_fields(path, pieces, settings[TRAINER], settings[NORMALIZER])
    except (ProtobufError, UnicodeDecodeError, struct.error) as error:
        raise ModelFileError(f"{path}: not a SentencePiece model: {error}") from None


def _piece(content: bytes) -> tuple[str, float, int]:
    """Return a piece's text, score and kind."""
    text, score, kind = "", 0.0, NORMAL
    for number, value in message_fields(content):
        if number == PIECE_TEXT:
            text = _bytes(value).decode()
        elif number == PIECE_SCORE:
            [score] = struct.unpack("<f", _bytes(value))
            if not math.isfinite(score):
                raise ProtobufError(f"the score of piece {text[:40]!r} is {score}")
        elif number == PIECE_KIND:
            kind = _integer(value)
    return text, score, kind


def _bytes(value: Value) -> bytes:
    if isinstance(value, int):
        raise ProtobufError(f"the number {value}, expected bytes")
    return value


def _integer(value: Value) -> int:
    if not isinstance(value, int):
        raise ProtobufError(f"{len(value)} bytes, expected a number")
    return signed(value)
