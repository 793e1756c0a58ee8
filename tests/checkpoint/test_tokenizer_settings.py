"""What stands beside tokenizer.json changes the tokenizer as it does in transformers 4.

Expected ids were taken from transformers 4.57, except where a test says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers

from cullama.checkpoint import tokenizer_settings
from cullama.checkpoint.tokenizer_file import load_tokenizer
from cullama.errors import ModelFileError
from cullama.text.tokenizer import Tokenizer

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())  # ids 0 to 255
BOS, EOS, START, END, SIZE = 256, 257, 258, 259, 300
TEXT = "a <|im_start|> b<|im_end|> <s>c"
FAST = "PreTrainedTokenizerFast"

ADDS_BOS = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
}


@pytest.fixture(autouse=True, scope="module")
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """So that each tokenizer is probed once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CULLAMA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def token(content: str, special: bool = True, **flags: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    return {"content": content, **plain, "special": special, **flags}


def folder(
    path: Path,
    config: dict[str, Any] | None = None,
    *,
    added: tuple[tuple[str, bool], ...] = (),
    post: dict[str, Any] | None = None,
    prefix: bool = False,
    **files: Any,
) -> Path:
    """Write a tokenizer of single bytes, with <s> and </s>, and the files beside it."""
    tokens = [("<s>", True), ("</s>", True), *added]
    document = {
        "version": "1.0",
        "added_tokens": [{"id": BOS + i, **token(*it)} for i, it in enumerate(tokens)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True},
        "post_processor": post,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "model": {"type": "BPE", "vocab": {it: i for i, it in enumerate(LETTERS)}, "merges": []},
    }
    (path / "tokenizer.json").write_text(json.dumps(document))
    if config is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def ids_of(path: Path, text: str = TEXT, size: int = SIZE) -> list[int]:
    return Tokenizer(load_tokenizer(path, size)).encode(text, allow_special=True)


def letters(text: str) -> list[int]:
    words = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    return [LETTERS.index(letter) for word, _ in words for letter in word]


def parts(*pieces: str | int) -> list[int]:
    return [i for it in pieces for i in (letters(it) if isinstance(it, str) else [it])]


# --- tokens

WHOLE = parts("a ", START, " b", END, " ", BOS, "c")
DECODER = {"258": token("<|im_start|>"), "259": token("<|im_end|>")}
PLACES: dict[str, dict[str, Any]] = {
    "added_tokens_decoder": {"config": {"tokenizer_class": FAST, "added_tokens_decoder": DECODER}},
    "added_tokens.json": {
        "config": {"tokenizer_class": FAST},
        "added_tokens": {"<|im_end|>": 259, "<|im_start|>": 258},
    },
    "additional_special_tokens": {
        "config": {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    },
    "extra_special_tokens": {"config": {"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}},
    "extra_special_tokens by name": {
        "config": {"extra_special_tokens": {"start": "<|im_start|>", "end": "<|im_end|>"}}
    },
    "special_tokens_map.json": {
        "special_tokens_map": {"additional_special_tokens": ["<|im_start|>", token("<|im_end|>")]}
    },
    "bos and eos": {"config": {"bos_token": "<|im_start|>", "eos_token": token("<|im_end|>")}},
    "tokenizer.json": {"added": (("<|im_start|>", True), ("<|im_end|>", True))},
}


@pytest.mark.parametrize("place", PLACES)
def test_control_tokens_are_one_id_each_wherever_they_are_named(place: str, tmp_path: Path) -> None:
    assert ids_of(folder(tmp_path, **PLACES[place])) == WHOLE


def test_a_role_without_a_token_is_passed_over(tmp_path: Path) -> None:
    config = {"tokenizer_class": FAST, "bos_token": "", "unk_token": {"content": ""}}
    assert ids_of(folder(tmp_path, config), "a") == letters("a")


def test_flags_are_those_of_the_settings(tmp_path: Path) -> None:
    decoder = {"258": token("<|im_start|>", rstrip=True), "259": token("<|im_end|>", lstrip=True)}
    unflagged = (("<|im_start|>", False), ("<|im_end|>", False))
    path = folder(tmp_path, {"added_tokens_decoder": decoder}, added=unflagged)
    assert ids_of(path, "a <|im_start|> b <|im_end|> ") == parts("a ", START, "b", END, " ")
    plain = Tokenizer(load_tokenizer(path, SIZE)).encode("<|im_start|>")
    assert plain == letters("<|im_start|>")  # special now, so a user's text spells it


def test_a_special_token_stays_special(tmp_path: Path) -> None:
    """As in transformers, whatever its settings say."""
    decoder = {"258": token("<tool>", special=False)}
    path = folder(tmp_path, {"added_tokens_decoder": decoder}, added=(("<tool>", True),))
    assert Tokenizer(load_tokenizer(path, SIZE)).decode([258, 258]) == ""


def test_known_end_tokens_are_special_whatever_the_files_say(tmp_path: Path) -> None:
    """As in llama.cpp, not in transformers: their text is no part of an answer."""
    unflagged = (("<|im_start|>", False), ("<|im_end|>", False))
    tokenizer = Tokenizer(load_tokenizer(folder(tmp_path, added=unflagged), SIZE))
    assert tokenizer.decode([START, END]) == "<|im_start|>"
    assert tokenizer.encode("<|im_end|>") == letters("<|im_end|>")


def test_a_padding_token_that_is_text_stays_text(tmp_path: Path) -> None:
    path = folder(tmp_path, {"tokenizer_class": FAST, "pad_token": "!"})
    tokenizer = Tokenizer(load_tokenizer(path, SIZE))
    assert tokenizer.decode(letters("a!b!")) == "a!b!"


def test_a_token_behind_a_gap_gets_its_own_id(tmp_path: Path) -> None:
    """Where transformers would take the next free one."""
    path = folder(tmp_path, {"added_tokens_decoder": {"270": token("<x>")}})
    assert ids_of(path, "<x>") == [270]
    beyond = {"added_tokens_decoder": {str(258 + tokenizer_settings.MAX_GAP + 1): token("<x>")}}
    with pytest.raises(ModelFileError, match=r"added_tokens_decoder holds id 4355, expected at mo"):
        ids_of(folder(tmp_path, beyond), "<x>", size=1 << 20)


@pytest.mark.parametrize(
    ("index", "reason"),
    [(97, "id 97 is that of '"), (256, "id 256 is that of '<s>'"), (300, "id 300 is out of range")],
)
def test_a_token_whose_id_is_not_free_is_left_out_with_a_warning(
    index: int, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder(tmp_path, {"added_tokens_decoder": {str(index): token("<x>")}})
    assert ids_of(path, "<x>") == letters("<x>")
    [message] = caplog.messages
    assert f"tokenizer_config.json: token '<x>' is left out: {reason}" in message


def test_settings_that_change_nothing_cost_no_second_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CULLAMA_CACHE", str(tmp_path / "cache"))
    marks = tmp_path / "cache" / "tried-tokenizers"
    (tmp_path / "m").mkdir()
    path = folder(tmp_path / "m", {"added_tokens_decoder": {"256": token("<s>")}})
    load_tokenizer(path, SIZE)
    assert len(list(marks.iterdir())) == 1
    folder(path, {"added_tokens_decoder": DECODER})
    load_tokenizer(path, SIZE)
    load_tokenizer(path, SIZE)
    assert len(list(marks.iterdir())) == 2


# --- BOS and EOS


@pytest.mark.parametrize("post", [None, ADDS_BOS], ids=["bare", "adds-bos"])
@pytest.mark.parametrize("bos", [None, True, False])
@pytest.mark.parametrize("eos", [None, True, False])
@pytest.mark.parametrize("kind", ["LlamaTokenizerFast", "LlamaTokenizer", "GPTNeoXTokenizer"])
def test_classes_that_obey_the_flags_go_by_them_alone(
    kind: str, bos: bool | None, eos: bool | None, post: Any, tmp_path: Path
) -> None:
    flags = {"add_bos_token": bos, "add_eos_token": eos}
    config = {"tokenizer_class": kind, "bos_token": "<s>", "eos_token": "</s>", **flags}
    default = kind != "GPTNeoXTokenizer"
    has_bos = default if bos is None else bos
    assert ids_of(folder(tmp_path, config, post=post), "Hi") == parts(
        *([BOS] if has_bos else []), "Hi", *([EOS] if eos else [])
    )


@pytest.mark.parametrize("kind", [FAST, "GPT2Tokenizer", "Qwen2Tokenizer"])
@pytest.mark.parametrize("post", [None, ADDS_BOS], ids=["bare", "adds-bos"])
@pytest.mark.parametrize("bos", [True, False])
def test_other_classes_go_by_tokenizer_json_and_a_contradiction_is_warned_about(
    kind: str, bos: bool, post: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"tokenizer_class": kind, "bos_token": "<s>", "add_bos_token": bos}
    has_bos = post is not None
    expected = parts(*([BOS] if has_bos else []), "Hi")
    assert ids_of(folder(tmp_path, config, post=post), "Hi") == expected
    assert len(caplog.messages) == (has_bos != bos)
    for message in caplog.messages:
        assert f"add_bos_token is {str(bos).lower()}, which transformers does not obey" in message


def test_without_a_class_the_flags_are_obeyed(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    assert ids_of(folder(tmp_path, config), "Hi") == parts(BOS, "Hi")
    assert ids_of(folder(tmp_path, {**config, "add_bos_token": False}, post=ADDS_BOS), "Hi") == (
        letters("Hi")
    )


def test_a_bos_that_is_asked_for_and_unknown_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert ids_of(folder(tmp_path, {"add_bos_token": True}), "Hi") == letters("Hi")
    assert "add_bos_token is true, and there is no bos_token" in caplog.text


@pytest.mark.parametrize("prefix", [True, False])
def test_the_space_before_a_text_is_the_settings(prefix: bool, tmp_path: Path) -> None:
    config = {"tokenizer_class": FAST, "add_prefix_space": prefix}
    path = folder(tmp_path, config, prefix=not prefix)
    assert ids_of(path, "Hi") == letters(" Hi" if prefix else "Hi")


# --- hostile and damaged settings

LONG = "<" + "x" * 2000 + ">"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "decoder no object": ({"added_tokens_decoder": [1]}, "added_tokens_decoder is [1], expected"),
    "decoder of texts": ({"added_tokens_decoder": {"258": "<x>"}}, "expected an object of tokens"),
    "an id in words": ({"added_tokens_decoder": {"one": token("<x>")}}, "an object of tokens"),
    "an id below zero": ({"added_tokens_decoder": {"-1": token("<x>")}}, "an object of tokens by"),
    "an id of digits": ({"added_tokens_decoder": {"9" * 400: token("<x>")}}, "an object of tokens"),
    "an empty token": ({"added_tokens_decoder": {"258": token("")}}, "an object of tokens"),
    "a long token": ({"added_tokens_decoder": {"258": token(LONG)}}, "an object of tokens"),
    "additional no list": ({"additional_special_tokens": "<x>"}, "expected a list of tokens"),
    "additional numbers": ({"additional_special_tokens": [5]}, "expected a list of tokens"),
    "a flag in words": ({"add_bos_token": "yes"}, "add_bos_token is 'yes', expected true or false"),
    "a class of 3": ({"tokenizer_class": 3}, "tokenizer_class is 3, expected a string"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_damaged_settings_are_refused_by_name(name: str, tmp_path: Path) -> None:
    config, message = REFUSED[name]
    with pytest.raises(ModelFileError) as caught:
        ids_of(folder(tmp_path, config))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "tokenizer_config.json"))


@pytest.mark.parametrize("added", [{"<x>": "258"}, {"<x>": -1}, {"<x>": True}, {"": 258}])
def test_damaged_added_tokens_are_refused(added: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"added_tokens\.json: .*expected a token, and its id"):
        ids_of(folder(tmp_path, {}, added_tokens=added))


def test_thousands_of_tokens_are_added_at_once(tmp_path: Path) -> None:
    many = {str(258 + i): token(f"<extra_{i}>") for i in range(4000)}
    path = folder(tmp_path, {"added_tokens_decoder": many})
    assert ids_of(path, "<extra_3999>", size=5000) == [4257]
