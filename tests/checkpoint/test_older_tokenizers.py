"""Tokenizers of folders without tokenizer.json give the ids of the libraries they come from.

`fixtures/sentencepiece` holds models trained by sentencepiece and what it encodes them to
(`scripts/make_sentencepiece_fixtures.py`).
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protobuf_encoder import field
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from cullama.checkpoint import older_tokenizers, sentencepiece_file
from cullama.checkpoint.opening import open_checkpoint
from cullama.checkpoint.sentencepiece_file import parse_model
from cullama.checkpoint.tokenizer_file import load_tokenizer
from cullama.errors import CullamaError, ModelFileError, NoTokenizerError
from cullama.quantize.tokenizer_fields import tokenizer_fields

FIXTURES = Path(__file__).parents[1] / "fixtures" / "sentencepiece"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())
BPE = (FIXTURES / "bpe.model").read_bytes()
LLAMA = {"tokenizer_class": "LlamaTokenizer"}


@pytest.fixture(autouse=True, scope="module")
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """So that each tokenizer is probed once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CULLAMA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def model_folder(path: Path, model: str | bytes = "bpe", **config: Any) -> Path:
    content = (FIXTURES / f"{model}.model").read_bytes() if isinstance(model, str) else model
    (path / "tokenizer.model").write_bytes(content)
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


# --- tokenizer.model


@pytest.mark.parametrize("name", EXPECTED)
def test_a_sentencepiece_model_gives_the_ids_of_the_library(name: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model_folder(tmp_path, name, **LLAMA))
    tokenizer.encode_special_tokens = True  # it finds no control tokens in a text
    unknown = tokenizer.token_to_id("<unk>")
    for row in EXPECTED[name]:
        if "<tool>" in row["text"]:
            continue
        ids = tokenizer.encode(row["text"], add_special_tokens=False).ids
        assert ids == row["ids"], row["text"]
        # It writes unknown characters as ⁇, and drops more than one space at the start.
        if unknown not in ids and "▁" not in row["text"]:
            assert tokenizer.decode(ids) == row["decoded"]


@pytest.mark.parametrize("name", ["bpe", "unigram"])
def test_only_the_older_way_puts_a_space_behind_every_token_found_in_a_text(
    name: str, tmp_path: Path
) -> None:
    """As transformers does unless `legacy` is false; then behind them, it is as the library."""
    older = load_tokenizer(model_folder(tmp_path, name, **LLAMA))
    assert "".join(older.encode("paints<tool>paints").tokens) == "<s>▁paints<tool>▁paints"
    newer = load_tokenizer(model_folder(tmp_path, name, **LLAMA, legacy=False))
    [row] = [row for row in EXPECTED[name] if "<tool>" in row["text"]]
    assert newer.encode(row["text"], add_special_tokens=False).ids == row["ids"]
    assert newer.decode(row["ids"]) == row["text"]


def test_control_tokens_and_marks_are_those_of_the_model(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model_folder(tmp_path, **LLAMA))
    tokens = tokenizer.encode("paints<|im_end|>").tokens
    assert tokens == ["<s>", "▁paints", "<|im_end|>"]
    assert tokenizer.decode(tokenizer.encode("paints</s>").ids) == "paints"
    bare = load_tokenizer(model_folder(tmp_path, **LLAMA, add_bos_token=False, add_eos_token=True))
    assert bare.encode("paints").tokens == ["▁paints", "</s>"]
    nameless = load_tokenizer(model_folder(tmp_path))
    assert nameless.encode("paints").tokens == ["<s>", "▁paints"]


def test_a_tokenizer_json_goes_first(tmp_path: Path, tokenizer_file: Path) -> None:
    folder = model_folder(tmp_path)
    shutil.copy(tokenizer_file, folder / "tokenizer.json")
    assert load_tokenizer(folder).get_vocab_size() == 300


def test_it_is_written_to_gguf(tmp_path: Path) -> None:
    original = load_tokenizer(model_folder(tmp_path, **LLAMA))
    model = open_checkpoint(FIXTURES.parent / "models" / "llama_gqa")
    checkpoint = replace(
        model,
        config=replace(model.config, vocab_size=original.get_vocab_size(), bos_id=1, eos_ids=(2,)),
        load_tokenizer=lambda: original,
    )
    fields, notes = tokenizer_fields(checkpoint, {})
    assert notes == []
    assert fields["tokenizer.ggml.model"] == "llama"
    assert fields["tokenizer.ggml.add_bos_token"] is True


def piece(text: bytes, kind: int = 1, score: bytes = b"\0\0\0\0") -> bytes:
    return field(1, field(1, text) + b"\x15" + score + field(3, kind))


TRAINER = field(2, field(3, 2))  # BPE
UNSOUND: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not a SentencePiece model: no pieces"),
    "text": (b"a model, surely", "not a SentencePiece model: wire type"),
    "half of it": (BPE[: len(BPE) // 2], "not a SentencePiece model: field"),
    "a piece that is no text": (piece(b"\xff") + TRAINER, "not a SentencePiece model: 'utf-8'"),
    "a score that is NaN": (piece(b"a", 1, b"\0\0\xc0\x7f"), "the score of piece 'a' is nan"),
    "a piece that is a number": (field(1, 7), "the number 7, expected bytes"),
    "a short score": (field(1, b"\x12\x02ab"), "not a SentencePiece model: unpack requires"),
    "a piece twice": (piece(b"a") * 2 + TRAINER, "tokens holds 'a' twice"),
    "a piece of a megabyte": (piece(b"a" * (1 << 20)) + TRAINER, "1,048,576 characters in one"),
    "a table of nothing": (
        piece(b"a") + TRAINER + field(3, field(2, b"\xff" * 9)),
        "precompiled_charsmap has a trie of",
    ),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_a_damaged_model_is_refused_by_name(name: str, tmp_path: Path) -> None:
    content, message = UNSOUND[name]
    with pytest.raises(ModelFileError) as caught:
        load_tokenizer(model_folder(tmp_path, content))
    assert str(caught.value).startswith(f"{tmp_path / 'tokenizer.model'}: ")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("settings_", "what"),
    [
        (field(2, field(3, 3)), "of words or characters"),
        (field(2, field(3, 2) + field(24, 1)), "with its own way of writing spaces"),
        (TRAINER + field(3, field(5, 0)), "with its own way of writing spaces"),
    ],
)
def test_other_kinds_of_models_are_refused_as_such(
    settings_: bytes, what: str, tmp_path: Path
) -> None:
    with pytest.raises(NoTokenizerError, match=what):
        load_tokenizer(model_folder(tmp_path, piece(b"a") + settings_))


def test_more_pieces_than_any_model_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentencepiece_file, "MAX_PIECES", 449)
    with pytest.raises(ModelFileError, match="more than 449 pieces"):
        parse_model(Path("m"), BPE)


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(older_tokenizers, "MAX_MODEL_BYTES", len(BPE) - 1)
    with pytest.raises(ModelFileError, match="holds more than"):
        load_tokenizer(model_folder(tmp_path))


def test_a_model_of_millions_of_fields_is_refused_before_they_are_read(tmp_path: Path) -> None:
    content = TRAINER + b"\x48\0" * (12 << 20)  # a field of two bytes that means nothing here
    with pytest.raises(ModelFileError, match="holds more than 16,777,216 bytes"):
        load_tokenizer(model_folder(tmp_path, content))


def test_the_time_for_a_row_of_spaces_is_not_its_square(tmp_path: Path) -> None:
    """Of a model that drops them; a quarter of an hour for this row where they are searched for
    from each of them."""
    tokenizer = load_tokenizer(model_folder(tmp_path, "bpe_spaces"))
    spaces = " " * 500_000
    assert tokenizer.encode(f"{spaces}a{spaces}b{spaces}").ids == tokenizer.encode("a b").ids


@settings(max_examples=300)
@given(st.integers(0, 1 << 32), st.sampled_from(["bpe", "unigram", "bpe_spaces"]))
def test_a_mutant_is_refused_or_builds_a_tokenizer(seed: int, name: str) -> None:
    draw = random.Random(seed)
    content = bytearray((FIXTURES / f"{name}.model").read_bytes())
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(len(content))
        if draw.random() < 0.3:
            del content[at : at + draw.randint(1, 40)]
        else:
            content[at] = draw.randrange(256)
    try:
        model = parse_model(Path("m"), bytes(content))
        tokenizer = older_tokenizers._sentencepiece(Path("m"), model, draw.random() < 0.5)
    except CullamaError:
        return
    assert isinstance(tokenizer.encode("The old llama <tool> 漢字").ids, list)


# --- vocab.json and merges.txt

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = ["It's 1999, they'LL say: naïve e\u0301  🦙\n\n", "", "<|endoftext|>a", "x=y+1;\r\n"]


def original(kind: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if kind == "Qwen2Tokenizer":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN2), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([row["text"] for row in EXPECTED["bpe"]] * 3, trainer)
    return tokenizer


ORIGINALS = {kind: original(kind) for kind in ("GPT2Tokenizer", "Qwen2Tokenizer")}


def byte_level_folder(path: Path, kind: str = "GPT2Tokenizer", **config: Any) -> Path:
    ORIGINALS[kind].model.save(str(path))  # writes vocab.json and merges.txt
    if config:
        (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("kind", ORIGINALS)
def test_vocabulary_and_merges_give_the_ids_of_their_original(kind: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(byte_level_folder(tmp_path, kind, tokenizer_class=f"{kind}Fast"))
    for text in TEXTS:
        expected = ORIGINALS[kind].encode(text)
        assert tokenizer.encode(text).ids == expected.ids
        assert tokenizer.decode(expected.ids) == ORIGINALS[kind].decode(expected.ids)


def test_a_folder_without_a_class_goes_by_its_model(tmp_path: Path) -> None:
    folder = byte_level_folder(tmp_path, "Qwen2Tokenizer")
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    assert load_tokenizer(folder).encode(TEXTS[0]).ids == (
        ORIGINALS["Qwen2Tokenizer"].encode(TEXTS[0]).ids
    )
    (folder / "config.json").write_text('{"model_type": "llama"}')
    assert load_tokenizer(folder).normalizer is None


def test_bos_is_added_where_the_settings_say(tmp_path: Path) -> None:
    folder = byte_level_folder(tmp_path, tokenizer_class="GPT2Tokenizer", add_bos_token=True)
    assert load_tokenizer(folder).encode("a").ids[0] == 0


def test_a_class_that_splits_in_an_unknown_way_is_refused(tmp_path: Path) -> None:
    folder = byte_level_folder(tmp_path, tokenizer_class="BloomTokenizer")
    with pytest.raises(NoTokenizerError, match="tokenizer_class is 'BloomTokenizer', and vocab"):
        load_tokenizer(folder)


def test_ids_without_a_token_get_one_that_no_text_makes(tmp_path: Path) -> None:
    folder = byte_level_folder(tmp_path)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({**vocabulary, "zyx": 420}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.token_to_id("zyx") == 420
    assert tokenizer.id_to_token(419) == "[unused id 419]"


BROKEN: dict[str, tuple[dict[str, Any] | None, bytes | None, str]] = {
    "an id in words": ({"a": "0"}, None, "vocab.json: the id of token 'a' is '0', expected"),
    "an id far off": ({"a": 10**9}, None, "the id of token 'a' is 1000000000, expected"),
    "an id twice": ({"a": 0, "b": 0}, None, "vocab.json: two tokens have one id"),
    "no tokens": ({}, None, "merges.txt: not a valid tokenizer: "),
    "a merge of one": (None, b"ab\n", "merges.txt: merges holds 'ab', expected two tokens"),
    "a merge of no token": (None, b"nosuch a\n", "merges.txt: not a valid tokenizer: "),
    "no text": (None, b"\xff\xfe", "merges.txt: is not text"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_do_not_fit_are_refused_by_name(name: str, tmp_path: Path) -> None:
    vocabulary, merges, message = BROKEN[name]
    folder = byte_level_folder(tmp_path)
    if vocabulary is not None:
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
    if merges is not None:
        (folder / "merges.txt").write_bytes(merges)
    with pytest.raises(ModelFileError) as caught:
        load_tokenizer(folder)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400
