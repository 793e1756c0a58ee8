"""A model that says what a test wants: each cue at the end of its prompt is answered by a text.

It is a Llama whose layers do nothing, so that each token decides on the next one: the texts are cut
into pieces of which none comes twice, and each piece is a token of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

BEGIN, END, USER = "<|begin|>", "<|end|>", "<|user|>"  # ids 0, 1, 2
HIDDEN, HEAD = 256, 8

_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def write_scripted(
    folder: Path, template: str, scripts: Mapping[str, str], control: Sequence[str] = ()
) -> Path:
    """Write a model folder.

    Args:
        template: its chat template, which writes a cue at the end of the prompt.
        scripts: the answer to each cue, a token such as "<|cue:one|>".
        control: parts of the answers that are control tokens of the model.
    """
    special = [BEGIN, END, USER, *control, *scripts]
    texts = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {text: index for index, text in enumerate(texts)}
    next_token: dict[int, int] = {}
    for cue, script in scripts.items():
        token = vocabulary[cue]
        for piece in _cut(script, frozenset(vocabulary), control):
            next_token[token] = vocabulary.setdefault(piece, len(vocabulary))
            token = next_token[token]
        next_token[token] = vocabulary[END]

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = _BYTES, decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(_config(len(vocabulary))), encoding="utf-8")
    save_file(_weights(len(vocabulary), next_token), folder / "model.safetensors")
    return folder


def _cut(text: str, known: frozenset[str], control: Sequence[str]) -> list[str]:
    """Cut a text into tokens that are not known yet; raises LookupError where that fails."""
    if not text:
        return []
    if mark := next((mark for mark in control if text.startswith(mark)), None):
        return [mark, *_cut(text[len(mark) :], known, control)]
    for length in (3, 4, 5, 6, 7, 8, 2):
        piece = _spelled(text[:length])
        if piece not in known and not any(mark in text[:length] for mark in control):
            try:
                return [piece, *_cut(text[length:], known | {piece}, control)]
            except LookupError:
                continue
    raise LookupError(text)


def _spelled(text: str) -> str:
    """Return a text as byte-level tokens spell it."""
    return "".join(spelled for spelled, _ in _BYTES.pre_tokenize_str(text))


def _config(vocabulary: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": HEAD,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": HEAD,
        "vocab_size": vocabulary,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": False,
    }


def _weights(vocabulary: int, next_token: Mapping[int, int]) -> dict[str, NDArray[np.float32]]:
    layer = "model.layers.0."
    wide, narrow = np.zeros((HEAD, HIDDEN), np.float32), np.zeros((HIDDEN, HEAD), np.float32)
    attention = {f"{layer}self_attn.{name}_proj.weight": wide for name in "qkv"}
    mlp = {f"{layer}mlp.{name}_proj.weight": wide for name in ("gate", "up")}
    down = (f"{layer}self_attn.o_proj.weight", f"{layer}mlp.down_proj.weight")
    norms = ("input_layernorm.weight", "post_attention_layernorm.weight")
    names = (*(layer + name for name in norms), "model.norm.weight")
    # Directions that are nearly at right angles, one for each token.
    directions = np.random.default_rng(0).standard_normal((vocabulary, HIDDEN)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    head = np.zeros((vocabulary, HIDDEN), np.float32)
    for token, following in next_token.items():
        head[following] += 4 * directions[token]
    return {
        **{name: it.copy() for name, it in (attention | mlp).items()},
        **{name: narrow.copy() for name in down},
        **{name: np.ones(HIDDEN, np.float32) for name in names},
        "model.embed_tokens.weight": directions,
        "lm_head.weight": head,
    }
