"""Write tests/fixtures/chat: conversations as transformers renders them with each chat template.

A style is a folder with a `chat_template.jinja`, written by hand; this script trains a small
tokenizer with the style's control tokens beside it, renders every conversation, and stores text
and token ids in `expected.json`, or that the template refuses. It does not import cullama; it needs
transformers and tokenizers:

    python scripts/make_chat_fixtures.py [folder]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

Messages: TypeAlias = list[dict[str, Any]]

VOCABULARY = 420


# --- the styles: data only


@dataclass(frozen=True)
class Style:
    """The control tokens of a model family, and its kind of tokenizer."""

    name: str
    tokens: tuple[str, ...]  # control tokens, by id
    bos: str | None
    eos: str
    is_sentencepiece: bool = False
    adds_bos: bool = False  # by the tokenizer, not the template
    variables: dict[str, Any] = field(default_factory=dict)
    plain: tuple[str, ...] = ()  # tokens that user text may contain


IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
THINK, TOOL_CALL = ("<think>", "</think>"), ("<tool_call>", "</tool_call>")
LLAMA3 = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<|eom_id|>", "<|python_tag|>",
)  # fmt: skip
SENTENCEPIECE = ("<unk>", "<s>", "</s>")
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
COMMAND_R = (
    "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>",
    "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
)  # fmt: skip

STYLES = (
    Style("chatml", IM, None, "<|im_end|>"),
    Style("smollm2", IM, "<|im_start|>", "<|im_end|>"),
    Style("smollm3", (*IM, *THINK), None, "<|im_end|>", plain=THINK),
    Style("qwen25", (*IM, *TOOL_CALL), None, "<|im_end|>", plain=TOOL_CALL),
    Style(
        "qwen3",
        (*IM, *THINK),
        None,
        "<|im_end|>",
        variables={"enable_thinking": False},
        plain=THINK,
    ),
    Style("llama2", SENTENCEPIECE, "<s>", "</s>", is_sentencepiece=True, adds_bos=True),
    Style("llama3", LLAMA3, "<|begin_of_text|>", "<|eot_id|>", adds_bos=True),
    Style(
        "llama31",
        LLAMA3,
        "<|begin_of_text|>",
        "<|eot_id|>",
        adds_bos=True,
        variables={"date_string": "26 Jul 2024"},
    ),
    Style("mistral_v1", SENTENCEPIECE, "<s>", "</s>", is_sentencepiece=True, adds_bos=True),
    Style(
        "mistral_v3",
        (*SENTENCEPIECE, "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]"),
        "<s>",
        "</s>",
        is_sentencepiece=True,
        adds_bos=True,
    ),
    Style("zephyr", SENTENCEPIECE, "<s>", "</s>", is_sentencepiece=True, adds_bos=True),
    Style("tinyllama", SENTENCEPIECE, "<s>", "</s>", is_sentencepiece=True, adds_bos=True),
    Style("vicuna", SENTENCEPIECE, "<s>", "</s>", is_sentencepiece=True, adds_bos=True),
    Style("alpaca", SENTENCEPIECE, "<s>", "</s>", is_sentencepiece=True, adds_bos=True),
    Style(
        "gemma",
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<bos>",
        "<eos>",
        adds_bos=True,
    ),
    Style(
        "phi3",
        (*SENTENCEPIECE, "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<s>",
        "</s>",
        is_sentencepiece=True,
    ),
    Style("falcon", ("<|endoftext|>",), None, "<|endoftext|>"),
    Style("deepseek", DEEPSEEK, DEEPSEEK[0], DEEPSEEK[1], adds_bos=True),
    Style("command_r", COMMAND_R, "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", adds_bos=True),
)


# --- the conversations


def turns(*contents: str, system: str | None = None) -> Messages:
    messages = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return messages + [
        {"role": roles[index % 2], "content": content} for index, content in enumerate(contents)
    ]


LONG = " ".join(f"The llama counts to {number} and rests a while." for number in range(1, 60))
JINJA_LOOKING = (
    "{{ 7 * 7 }} {% raise %} {# no comment #} {%- set x = '}}' -%}\n"
    'def f(x): return {"a": [x, {}]} # %s {0} ${y}'
)

CONVERSATIONS: dict[str, tuple[Messages, bool]] = {  # messages, add_generation_prompt
    "question": (turns("What is the capital of France?"), True),
    "system": (turns("Hello!", system="You are terse."), True),
    "turns": (turns("Hi", "Hello, how can I help?", "Count to 3.", "1, 2, 3.", "Again"), True),
    "system and turns": (turns("Hi", "Hello.", "Bye", system="Speak like a pirate.\n"), True),
    "answered": (turns("Say yes.", "yes"), False),
    "answered and asked to speak": (turns("Say yes.", "yes"), True),
    "unicode": (turns("Grüße, 東京! 🦙🏽 — ﬁne\u00a0e\u0301", "Ünïcödé ✓", "ΐ ﷽ \u200d"), True),
    "whitespace": (turns("  two before, \t and after  \n\n", "\n\nanswer\n", "\r\nx\r\n"), True),
    "empty": (turns("", "", "", system=""), True),
    "long": (turns(LONG, LONG, "Go on."), True),
    "braces": (turns(JINJA_LOOKING, JINJA_LOOKING, "so?", system=JINJA_LOOKING), True),
    "thinking": (turns("2+2?", "<think>\neasy\n</think>\n\n4", "3+3?", "6 </think> 7"), False),
    "markup": (turns("a < b && c > \"d\" 'e' &amp; <b>f</b>", "<i>g</i>"), False),
    "two systems": (
        [*turns("a", system="One."), {"role": "system", "content": "Two."}, *turns("b")],
        True,
    ),
    "assistant first": ([{"role": "assistant", "content": "Ready."}, *turns("Go")], True),
    "unknown role": ([*turns("a"), {"role": "narrator", "content": "Meanwhile."}], True),
}


# --- their tokenizers


def training_text() -> Iterator[str]:
    for messages, _ in CONVERSATIONS.values():
        for message in messages:
            yield message["content"]


def sentencepiece_like(style: Style) -> Tokenizer:
    """BPE over text whose spaces are ▁, with bytes for what it does not know, as Llama 2's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY + 100,
        special_tokens=[*style.tokens, *bytes_],
        max_token_length=8,
        show_progress=False,
    )
    # Letters beyond ASCII are left to be spelled in bytes.
    texts = (text.encode("ascii", "ignore").decode() for text in training_text())
    words = (part for text in texts for part in text.replace(" ", " ▁").split())
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def with_kinds(tokenizer: Tokenizer, style: Style) -> Tokenizer:
    """The trainer makes every token it is given a special one; bytes must not even be added."""
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [
        {**token, "special": token["content"] not in style.plain}
        for token in content["added_tokens"]
        if token["content"] in style.tokens
    ]
    return Tokenizer.from_str(json.dumps(content))


def byte_level(style: Style) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[
            AddedToken(token, special=True, normalized=False) for token in style.tokens
        ],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    return tokenizer


def tokenizer_of(style: Style) -> Tokenizer:
    trained = sentencepiece_like(style) if style.is_sentencepiece else byte_level(style)
    tokenizer = with_kinds(trained, style)
    if style.adds_bos and style.bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{style.bos} $A",
            special_tokens=[(style.bos, tokenizer.token_to_id(style.bos))],
        )
    return tokenizer


# --- what is written


def rendered(
    peer: PreTrainedTokenizerFast, style: Style, messages: Messages, prompt: bool
) -> dict[str, Any]:
    options: dict[str, Any] = {"add_generation_prompt": prompt, **style.variables}
    try:
        text = peer.apply_chat_template(messages, tokenize=False, **options)
    except Exception as error:  # jinja2's TemplateError, and whatever else a template may meet
        return {"refused": str(error)}
    ids = peer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
    return {"text": text, "token_ids": ids}


def write_style(style: Style, folder: Path) -> None:
    tokenizer = tokenizer_of(style)
    names = {"bos_token": style.bos, "eos_token": style.eos}
    if "<unk>" in style.tokens:
        names["unk_token"] = "<unk>"
    present = {name: token for name, token in names.items() if token is not None}
    source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    peer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=source, **present)
    write_json(folder / "tokenizer_config.json", present)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    expected = {
        name: rendered(peer, style, messages, prompt)
        for name, (messages, prompt) in CONVERSATIONS.items()
    }
    write_json(folder / "expected.json", {"variables": style.variables, "rendered": expected})


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    default = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "chat"
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    conversations = {
        name: {"messages": messages, "add_generation_prompt": prompt}
        for name, (messages, prompt) in CONVERSATIONS.items()
    }
    write_json(root / "conversations.json", conversations)
    for style in STYLES:
        write_style(style, root / style.name)


if __name__ == "__main__":
    main()
