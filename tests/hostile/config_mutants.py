"""Mutants of config.json, generation_config.json, and the same settings in GGUF metadata.

It begins with a valid model of each architecture, changes one setting, and opens the whole folder,
so that settings are also compared with the tensors.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mutation import Mutant, Tally, attack
from safetensors.numpy import save_file

from cullama.checkpoint.names import expected_shapes
from cullama.checkpoint.opening import open_checkpoint
from cullama.model.config import ModelConfig

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 6,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "vocab_size": 20,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "bos_token_id": 0,
    "eos_token_id": [1, 2],
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
}
BASES = [
    LLAMA,
    {**LLAMA, "architectures": ["MistralForCausalLM"], "sliding_window": 16},
    {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True,
     "sliding_window": 16, "layer_types": ["sliding_attention"]},
    {**LLAMA, "architectures": ["Qwen3ForCausalLM"], "use_sliding_window": True,
     "max_window_layers": 0, "sliding_window": 16},
]  # fmt: skip

# JSON texts that may stand in the place of any value.
VALUES = ["null", "true", "false", "0", "-1", "1", "3", "7", "2147483648", "2147483649", "1e309",
          "-1e309", "NaN", "Infinity", "1.5", "8.0", "0.0", "1e-320", "9" * 20, "9" * 5000, '"8"',
          '""', '"x"', '"' + "x" * 3000 + '"', "[]", "[8]", "{}", '{"a":1}', "[[]]", '["yarn"]',
          '{"rope_type":"yarn"}', '{"factor":NaN}', '"\\ud800"', '"\\u0000\\u001b[31m"',
          "[" * 40 + "]" * 40, "[" * 9999 + "]" * 9999, "[1,2,3,99]", "[1,-1]", "[1,null]",
          '["GPT2LMHeadModel"]', '["' + "x" * 3000 + '"]', "10001", "1e3"]  # fmt: skip

# A size that is valid by itself is held against the tensors, or against other sizes.
SIZES = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
         "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings", "mlp_bias",
         "attention_bias", "architectures"}  # fmt: skip
AGAINST_OTHERS = (
    "expected by the config",
    "attention heads share",
    "head_dim",
    "outside the vocabulary",
)
FIELD_OF_THE_PARSER = ("content is", "a value is", "nesting is", "key ")


class Folder:
    """A model folder for each base, whose config is rewritten for each mutant."""

    def __init__(self, root: Path) -> None:
        self.paths = []
        for index, base in enumerate(BASES):
            folder = root / f"model {index}"
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(base))
            shapes = expected_shapes(ModelConfig.from_huggingface(folder / "config.json", base))
            tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
            save_file(tensors, folder / "model.safetensors")
            self.paths.append(folder)


def config_mutants(count: int, seed: int, base: dict[str, Any]) -> Iterator[Mutant]:
    draw = random.Random(seed)
    for _ in range(count):
        kind = draw.random()
        if kind < 0.75:
            yield _changed_field(base, draw)
        elif kind < 0.9:
            yield _changed_text(json.dumps(base), draw)
        else:
            yield Mutant(
                "as it is", json.dumps(base, indent=draw.choice([None, 2])).encode(), is_valid=True
            )


def _changed_field(base: dict[str, Any], draw: random.Random) -> Mutant:
    texts = {name: json.dumps(value) for name, value in base.items()}
    name, value = draw.choice(list(texts)), draw.choice(VALUES)
    words: tuple[str, ...] = (name, *FIELD_OF_THE_PARSER)
    if name == "rope_scaling" and draw.random() < 0.7:
        inner = {key: json.dumps(it) for key, it in base[name].items()}
        key = draw.choice(list(inner))
        inner[key] = value
        texts[name] = _object(inner)
        words = (key, "rope_scaling", "RoPE scaling", *FIELD_OF_THE_PARSER)
    elif draw.random() < 0.1:
        del texts[name]
        value = "absent"
    else:
        texts[name] = value
    if name == "rope_scaling":
        words += ("rope_type", "factor", "RoPE scaling", "set of settings", "original_max")
    if name in SIZES:
        words += AGAINST_OTHERS
    words += ("layer_types",) if name in ("num_hidden_layers", "architectures") else ()
    return Mutant(f"{name}: {value:.40}", _object(texts).encode(), words)


def _object(texts: dict[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in texts.items()) + "}"


def _changed_text(text: str, draw: random.Random) -> Mutant:
    at = draw.randrange(1, len(text))
    changed = draw.choice(
        [
            text[:at].encode(),
            text[:at].encode() + b"\xff" + text[at:].encode(),
            text.encode("utf-16"),
            b"\xef\xbb\xbf" + text.encode(),
            b"[" + text.encode() + b"]",
            text[:-1].encode() + b"," + text[1:].encode(),
            b"{" * 100_000,
            b"",
            b'{"a":' + b"[]," * 300_000,
            b" " * (9 << 20),
            text.encode() + b"x",
            b'{"eos_token_id":1,' + text[1:].encode(),  # a key that is there again
        ]
    )
    words = (*FIELD_OF_THE_PARSER, "number of values", "size is")
    return Mutant(f"text {changed[:40]!r} …", changed, words, is_broken=True)


def generation_mutants(count: int, seed: int) -> Iterator[Mutant]:
    """End tokens decide where a text ends, and nothing else of generation_config.json is read."""
    draw = random.Random(seed)
    valid = {"eos_token_id": [1, 2], "bos_token_id": 0, "temperature": 0.6}
    for _ in range(count):
        if draw.random() < 0.3:
            yield _changed_text(json.dumps(valid), draw)
        else:
            texts = {name: json.dumps(value) for name, value in valid.items()}
            texts["eos_token_id"] = draw.choice(VALUES)
            words = ("eos_token_id", *FIELD_OF_THE_PARSER)
            yield Mutant(
                f"eos_token_id: {texts['eos_token_id']:.40}", _object(texts).encode(), words
            )


def attack_configs(root: Path, count: int, seed: int) -> Tally:
    """`count` mutants in all, a fifth of them of generation_config.json."""
    tally, folders = Tally(), Folder(root).paths
    for index, (folder, base) in enumerate(zip(folders, BASES, strict=True)):
        share = count // len(BASES)
        mutants = config_mutants(share - share // 5, seed + index, base)
        attack(mutants, folder, open_checkpoint, folder / "config.json", tally=tally)
        (folder / "config.json").write_text(json.dumps(base))
        ends = folder / "generation_config.json"
        attack(
            generation_mutants(share // 5, seed + index), folder, open_checkpoint, ends, tally=tally
        )
    return tally
