"""A tokenizer.json written as GGUF encodes as it did, or is refused.

The tokenizers are trained here, in the ways published ones are made; the one in `story` form has
pieces over several words, as models of small vocabularies have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from cullama.chat.template import ChatTemplate
from cullama.checkpoint.checkpoint import Checkpoint
from cullama.checkpoint.gguf_tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    build_tokenizer,
)
from cullama.checkpoint.opening import open_checkpoint
from cullama.errors import ChatTemplateError, UnsupportedModelError
from cullama.quantize.sample import sample_text
from cullama.quantize.tokenizer_fields import tokenizer_fields

MODEL = open_checkpoint(Path(__file__).parents[1] / "fixtures/models/llama_gqa")
SPECIAL = ["<s>", "</s>", "<|im_end|>"]
SIZE = 700

any_text = st.one_of(
    st.text(max_size=60),
    st.text("abcdehilnorstuwyAB  \t\n\r0123456789'.,!é漢🙂ſ", max_size=60),
    st.lists(st.sampled_from(sample_text().split(" "))).map(" ".join),
)
examples = settings(max_examples=60)


def checkpoint(tokenizer: Tokenizer, size: int = SIZE, **changes: Any) -> Checkpoint:
    """A model with this tokenizer; of its weights only the shape counts."""
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    fields = {"bos_id": 0, "eos_ids": (1,), **changes}
    template = fields.pop("template", None)
    names = fields.pop("names", names)
    return replace(
        MODEL,
        config=replace(MODEL.config, vocab_size=size, **fields),
        load_tokenizer=lambda: tokenizer,
        template_names=lambda: names,
        load_chat_template=lambda: template and ChatTemplate(template, "here", names),
    )


def fields_of(tokenizer: Tokenizer, **changes: Any) -> dict[str, Any]:
    return without_prefix(tokenizer_fields(checkpoint(tokenizer, **changes), {})[0])


def without_prefix(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}


def rebuilt(tokenizer: Tokenizer) -> Tokenizer:
    return build_tokenizer(tokenizer_fields(checkpoint(tokenizer), {})[0])


def trained(tokenizer: Tokenizer, alphabet: list[str], bos: bool = False) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator([sample_text()], trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return tokenizer


# --- byte-level

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SEED_CODER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}"
    r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )


SPLITTINGS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": digits(),
    "llama-bpe": split(LLAMA3),
    "qwen2": split(LLAMA3.replace("{1,3}", "")),
    "tekken": split(TEKKEN),
    "smaug-bpe": split(LLAMA3),
    "seed-coder": split(SEED_CODER),
    "gpt-4o": split(GPT4O),
    "deepseek-coder": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\r\n]"), "isolated"),
            pre_tokenizers.Split(Regex(r"\s?\p{L}+"), "isolated"),
            pre_tokenizers.Split(Regex(r"\s?\p{P}+"), "isolated"),
            pre_tokenizers.Split(Regex("[一-龥ࠀ-一가-퟿]+"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


def byte_level(pre: str, **settings: Any) -> Tokenizer:
    settings = {"ignore_merges": pre in ("llama-bpe", "tekken"), **settings}
    tokenizer = Tokenizer(models.BPE(**settings))
    tokenizer.pre_tokenizer = SPLITTINGS[pre]
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return trained(tokenizer, alphabet, bos=pre == "llama-bpe")


BYTE_LEVEL = {pre: byte_level(pre) for pre in SPLITTINGS}
REBUILT = {pre: rebuilt(tokenizer) for pre, tokenizer in BYTE_LEVEL.items()}


@pytest.mark.parametrize("pre", SPLITTINGS)
def test_a_pre_tokenizer_is_recognised_by_name(pre: str) -> None:
    fields = fields_of(BYTE_LEVEL[pre])
    assert (fields["model"], fields["pre"]) == ("gpt2", pre)
    assert fields["add_bos_token"] == (pre == "llama-bpe")
    assert fields["add_eos_token"] is False
    assert fields["bos_token_id"] == 0
    assert fields["eos_token_id"] == 1


@pytest.mark.parametrize("pre", SPLITTINGS)
@examples
@given(text=any_text)
@example(text="It's they're I'LL  two\n\n three   \n12345 é 漢字's HTTPServer/\n/ ")
def test_byte_level_texts_keep_their_ids(pre: str, text: str) -> None:
    original, other = BYTE_LEVEL[pre], REBUILT[pre]
    ids = original.encode(text).ids
    assert other.encode(text).ids == ids
    assert other.decode(ids) == original.decode(ids)


def test_small_vocabularies_do_not_hide_how_text_is_split() -> None:
    """Ids alone would not tell: hardly a token spans two letters."""
    for pre in ("smollm", "qwen2"):
        tokenizer = byte_level(pre)
        bare = json.loads(tokenizer.to_str())
        del bare["model"]["merges"][1:]
        assert fields_of(Tokenizer.from_str(json.dumps(bare)))["pre"] == pre


def test_ignore_merges_is_part_of_a_pre_tokenizer() -> None:
    with pytest.raises(UnsupportedModelError, match="gives other ids"):
        fields_of(byte_level("gpt-2", ignore_merges=True))


# --- SentencePiece-like

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def sentencepiece(prefix: bool = True) -> Tokenizer:
    """As transformers writes Llama 2's: spaces are letters, words have no bounds."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    before = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    after = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    trained(tokenizer, [], bos=True)
    document = json.loads(tokenizer.to_str())
    vocabulary = document["model"]["vocab"]
    vocabulary |= {token: len(vocabulary) + place for place, token in enumerate(["<unk>", *BYTES])}
    return Tokenizer.from_str(json.dumps(document))


SENTENCEPIECE = sentencepiece()
SPM_SIZE = SENTENCEPIECE.get_vocab_size() + 3


def test_scores_keep_the_order_of_merges() -> None:
    fields = fields_of(SENTENCEPIECE, size=SPM_SIZE)
    assert (fields["model"], fields["add_space_prefix"]) == ("llama", True)
    tokens, kinds = fields["tokens"], fields["token_type"].tolist()
    assert tokens[fields["unknown_token_id"]] == "<unk>"
    found = [kinds[tokens.index(it)] for it in ("<s>", "<unk>", "<0x0A>", "e")]
    assert found == [CONTROL, UNKNOWN, BYTE, NORMAL]
    assert kinds[-3:] == [UNUSED] * 3
    assert tokens[-1] == f"[PAD{SPM_SIZE - 1}]"
    merges = json.loads(SENTENCEPIECE.to_str())["model"]["merges"]
    scores = [fields["scores"][tokens.index(left + right)] for left, right in merges]
    assert all(first > second for first, second in pairwise(scores))


SPM_REBUILT = build_tokenizer(tokenizer_fields(checkpoint(SENTENCEPIECE, SPM_SIZE), {})[0])


@examples
@given(text=any_text)
@example(text="aaaaaaa the ferry the ferryferry  two\n\n漢🙂")
def test_pieces_of_texts_keep_their_ids(text: str) -> None:
    ids = SENTENCEPIECE.encode(text).ids
    assert SPM_REBUILT.encode(text).ids == ids
    assert SPM_REBUILT.decode(ids) == SENTENCEPIECE.decode(ids)


def test_no_space_is_added_before_a_text_where_the_file_says_so() -> None:
    assert fields_of(sentencepiece(prefix=False), size=SPM_SIZE)["add_space_prefix"] is False


def test_a_token_that_no_merges_make_is_never_produced() -> None:
    """In GGUF a score alone would have it made of any two pieces that are there."""
    document = json.loads(SENTENCEPIECE.to_str())
    places = {left + right: at for at, (left, right) in enumerate(document["model"]["merges"])}
    is_last = {token for token in places if sum(token in other for other in places) == 1}
    lost = max(is_last, key=len)
    del document["model"]["merges"][places[lost]]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    fields, _ = tokenizer_fields(checkpoint(tokenizer, SPM_SIZE), {})
    tokens, kinds = (fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type"))
    unused = [token for token, kind in zip(tokens, kinds, strict=True) if kind == UNUSED]
    assert unused[:-3] == [lost]
    text = lost.replace("▁", " ")
    assert build_tokenizer(fields).encode(text).ids == tokenizer.encode(text).ids


def test_of_two_ways_to_merge_a_token_the_one_taken_counts() -> None:
    """ "abc" is made of a and bc, at rank 2; the merge of ab and c is listed, and never met."""
    pieces = ["<s>", "</s>", "a", "b", "c", "bc", "ab", "abc", "cc"]
    merges = [("b", "c"), ("a", "b"), ("c", "c"), ("ab", "c"), ("a", "bc")]
    tokenizer = Tokenizer(
        models.BPE({it: i for i, it in enumerate([*pieces, *BYTES, "<unk>"])}, merges,
                   unk_token="<unk>", byte_fallback=True)
    )  # fmt: skip
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    fields = fields_of(tokenizer)
    scores = dict(zip(fields["tokens"], fields["scores"].tolist(), strict=True))
    assert [scores[piece] for piece in ("bc", "ab", "cc", "abc")] == [0, -1, -2, -4]


# --- tokens with a role


def test_added_tokens_are_of_their_kind() -> None:
    tokenizer = byte_level("gpt-2")
    tokenizer.add_tokens([AddedToken("<tool call>", normalized=False)])
    fields = fields_of(tokenizer)
    kinds = dict(zip(fields["tokens"], fields["token_type"].tolist(), strict=True))
    assert kinds["<|im_end|>"] == CONTROL
    assert kinds["<tool call>"] == USER_DEFINED
    assert kinds["[PAD650]"] == UNUSED


def test_the_templates_eos_comes_first_of_up_to_three() -> None:
    fields = fields_of(BYTE_LEVEL["gpt-2"], eos_ids=(2, 1, 5), names={"eos_token": "</s>"})
    assert [fields[f"{it}_token_id"] for it in ("eos", "eot", "eom")] == [1, 2, 5]
    assert fields["bos_token_id"] == 0  # the config's, where nothing is named
    four = checkpoint(BYTE_LEVEL["gpt-2"], eos_ids=(1, 2, 5, 6))
    metadata, notes = tokenizer_fields(four, {})
    assert without_prefix(metadata)["eom_token_id"] == 5
    assert notes == ["of the model's 4 end tokens, GGUF has names for 3: eos, eot, eom"]


def test_the_templates_eos_is_used_where_the_model_has_no_end_token() -> None:
    assert fields_of(BYTE_LEVEL["gpt-2"], eos_ids=())["eos_token_id"] == 1
    assert fields_of(BYTE_LEVEL["gpt-2"], eos_ids=(2,))["eos_token_id"] == 2


def test_eos_after_each_text_is_written() -> None:
    tokenizer = byte_level("gpt-2")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    fields = fields_of(tokenizer)
    assert (fields["add_bos_token"], fields["add_eos_token"]) == (True, True)


# --- chat templates


def test_a_template_is_copied_and_changed_tokens_are_noted() -> None:
    source = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    metadata, notes = tokenizer_fields(checkpoint(BYTE_LEVEL["gpt-2"], template=source), {})
    assert metadata["tokenizer.chat_template"] == source
    assert notes == []
    assert "tokenizer.chat_template.tool_use" not in metadata
    own = ChatTemplate("plain", "here", for_tools=ChatTemplate("with tools", "here"))
    both = replace(checkpoint(BYTE_LEVEL["gpt-2"]), load_chat_template=lambda: own)
    metadata, _ = tokenizer_fields(both, {})
    assert metadata["tokenizer.chat_template"] == "plain"
    assert metadata["tokenizer.chat_template.tool_use"] == "with tools"
    nameless = checkpoint(BYTE_LEVEL["gpt-2"], template=source, names={"eos_token": "</s>"})
    assert tokenizer_fields(nameless, {})[1] == [
        "the chat template's bos_token: was None, is '<s>' in the file"
    ]


def test_a_template_that_cannot_be_used_is_left_out_with_a_note() -> None:
    def refused() -> None:
        raise ChatTemplateError("no default")

    source = replace(checkpoint(BYTE_LEVEL["gpt-2"]), load_chat_template=refused)
    metadata, notes = tokenizer_fields(source, {})
    assert "tokenizer.chat_template" not in metadata
    assert notes == ["the chat template is left out: no default"]


# --- what GGUF has no words for


def test_kinds_of_texts_that_are_encoded_differently_are_noted() -> None:
    """Llama's newer tokenizers put a space before the first word alone, and none before a space."""
    tokenizer = sentencepiece()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    _, notes = tokenizer_fields(checkpoint(tokenizer, SPM_SIZE), {})
    assert notes == [
        "the tokenizer in GGUF encodes differently: text beside control tokens, "
        "text that begins with a space"
    ]


def unsayable() -> dict[str, tuple[Tokenizer, str]]:
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    spaced = byte_level("gpt-2")
    spaced.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    lower = byte_level("gpt-2")
    lower.normalizer = normalizers.Lowercase()
    spelled = byte_level("gpt-2")
    spelled.decoder = decoders.WordPiece()
    unsplit = byte_level("gpt-2")
    unsplit.pre_tokenizer = None
    bounded = sentencepiece()
    bounded.normalizer = None
    bounded.pre_tokenizer = pre_tokenizers.Metaspace()
    return {
        "a word for each token": (words, "its model is WordLevel, expected BPE"),
        "a space before each text": (spaced, "it gives other ids"),
        "small letters": (lower, "it gives other ids"),
        "another decoder": (spelled, "it gives other ids"),
        "no words": (unsplit, "it gives other ids"),
        "pieces within words": (bounded, "it gives other ids"),
    }


INEXPRESSIBLE = unsayable()


@pytest.mark.parametrize("name", INEXPRESSIBLE)
def test_tokenizers_that_gguf_cannot_express_are_refused(name: str) -> None:
    tokenizer, reason = INEXPRESSIBLE[name]
    with pytest.raises(
        UnsupportedModelError, match=f"GGUF cannot express its tokenizer: {reason}"
    ) as caught:
        fields_of(tokenizer, size=SPM_SIZE)
    assert str(caught.value).endswith("add --no-tokenizer to write the model without it")


def test_more_tokens_than_the_model_has_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="it has 600 tokens, and the model 599"):
        fields_of(BYTE_LEVEL["gpt-2"], size=599)


def test_the_tokenizer_fields_of_a_gguf_source_are_copied() -> None:
    own = {
        "tokenizer.ggml.model": "never heard of",
        "tokenizer.ggml.scores": np.zeros(3),
        "tokenizer.chat_template": "x",
    }
    assert tokenizer_fields(MODEL, {**own, "llama.block_count": 2}) == (own, [])
