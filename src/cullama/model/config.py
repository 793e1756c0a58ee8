"""The shape of a model: every number that decides what `Llama.forward` computes.

Reads it from Hugging Face's config.json or from GGUF's metadata, and refuses settings that cullama
does not run. How families differ is in `families.py`; where weights lie is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelFileError
from ..files.fields import MAX_COUNT, Fields
from .families import FAMILIES, Family
from .rope import Rope, YarnScaling
from .which_family import family_of_config, family_of_gguf

ACTIVATIONS = ("silu", "swish")  # two names of one function
# Settings that may be a list of one number a layer.
PER_LAYER = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "head_dim")
GGUF_PER_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
GGUF_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
GGUF_MARKS = ("bos_token_id", "unknown_token_id", "padding_token_id")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a Llama-like model; the letters are those of `operators.py`."""

    architecture: str  # a key of `FAMILIES`
    hidden_size: int  # D
    intermediate_size: int  # F
    layers: int
    heads: int  # H
    kv_heads: int  # K
    head_dim: int  # E
    vocab_size: int  # V
    context_length: int
    norm_eps: float
    rope: Rope
    windows: tuple[int, ...]  # per layer: tokens back that it sees, itself included; 0: all
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied: bool = False  # the embedding is the output matrix, too
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()

    @classmethod
    def from_huggingface(
        cls, path: Path, values: Mapping[str, Any], generation: Mapping[str, Any] | None = None
    ) -> ModelConfig:
        """Read config.json, and the end tokens of generation_config.json if there is one.

        Raises:
            UnsupportedModelError: an architecture or setting that cullama does not run.
            ModelFileError: a field is missing, of the wrong kind or out of range.
        """
        fields = Fields(path, values)
        family = family_of_config(fields)
        if fields.text("hidden_act", "silu") not in ACTIVATIONS:
            fields.fail("hidden_act", " or ".join(map(repr, ACTIVATIONS)))
        layers = fields.integer("num_hidden_layers", high=10_000)
        fields = fields.with_constants(PER_LAYER, layers)
        heads, hidden = fields.integer("num_attention_heads"), fields.integer("hidden_size")
        is_qkv_only = family.has_qkv_bias_only
        attention_bias = is_qkv_only or fields.flag("attention_bias", False)
        context = fields.integer("max_position_embeddings", 2048)
        rope = Rope.from_huggingface(fields)
        ends = Fields(path.with_name("generation_config.json"), generation or {})
        vocab_size = fields.integer("vocab_size")
        eos_ids = ends.token_ids("eos_token_id", vocab_size, warns=True)
        config = cls(
            architecture=family.architecture,
            hidden_size=hidden,
            intermediate_size=fields.integer("intermediate_size"),
            layers=layers,
            heads=heads,
            kv_heads=fields.integer("num_key_value_heads", heads),
            head_dim=fields.integer("head_dim", family.default_head_dim or hidden // heads),
            vocab_size=vocab_size,
            context_length=_longest_context(context, rope),
            norm_eps=fields.number("rms_norm_eps", 1e-6, high=1.0),
            rope=rope,
            windows=family.read_windows(fields, layers),
            qkv_bias=attention_bias,
            output_bias=attention_bias and not is_qkv_only,
            mlp_bias=fields.flag("mlp_bias", False),
            qk_norm=family.has_qk_norm,
            tied=fields.flag("tie_word_embeddings", False),
            bos_id=next(iter(fields.token_ids("bos_token_id", vocab_size, warns=True)), None),
            eos_ids=eos_ids or fields.token_ids("eos_token_id", vocab_size, warns=True),
        )
        return config._checked(fields, "num_key_value_heads", "head_dim")

    @classmethod
    def from_gguf(
        cls,
        path: Path,
        metadata: Mapping[str, Any],
        tensors: Mapping[str, tuple[int, ...]],
        rope_divisors: tuple[float, ...] | None = None,
    ) -> ModelConfig:
        """Read GGUF metadata; which optional parts there are is read from the tensors' names.

        Args:
            tensors: shapes by GGUF's names.
            rope_divisors: the values of `rope_freqs.weight`, [E / 2], if the file has it.

        Raises:
            UnsupportedModelError: an architecture or setting that cullama does not run.
            ModelFileError: a field is missing, of the wrong kind or out of range.
        """
        family = family_of_gguf(path, metadata)
        fields = Fields(path, metadata, prefix=f"{family.gguf_name}.")
        tokens = Fields(path, metadata, prefix="tokenizer.ggml.")
        layers = fields.integer("block_count", high=10_000)
        fields = fields.with_constants(GGUF_PER_LAYER, layers)
        hidden = fields.integer("embedding_length")
        heads = fields.integer("attention.head_count")
        window = fields.integer("attention.sliding_window", 0, low=0)
        rope = Rope.from_gguf(fields, rope_divisors)
        vocab_size = _gguf_vocabulary(path, tensors)
        config = cls(
            architecture=family.architecture,
            hidden_size=hidden,
            intermediate_size=fields.integer("feed_forward_length"),
            layers=layers,
            heads=heads,
            kv_heads=fields.integer("attention.head_count_kv", heads),
            head_dim=fields.integer("attention.key_length", hidden // heads),
            vocab_size=vocab_size,
            context_length=_longest_context(fields.integer("context_length"), rope),
            norm_eps=fields.number("attention.layer_norm_rms_epsilon", 1e-6, high=1.0),
            rope=rope,
            windows=(window,) * layers,
            qkv_bias="blk.0.attn_q.bias" in tensors,
            output_bias="blk.0.attn_output.bias" in tensors,
            mlp_bias="blk.0.ffn_down.bias" in tensors,
            qk_norm="blk.0.attn_q_norm.weight" in tensors,
            tied="output.weight" not in tensors,
            bos_id=tokens.token_id("bos_token_id", vocab_size),
            eos_ids=tuple(
                dict.fromkeys(
                    end for name in GGUF_ENDS for end in tokens.token_ids(name, vocab_size)
                )
            ),
        )
        for name in (*GGUF_ENDS, *GGUF_MARKS):  # all here, so that each is warned about once
            tokens.token_ids(name, vocab_size, warns=True)
        for name in ("rope.dimension_count", "attention.value_length"):
            fields.integer(name, config.head_dim, config.head_dim, config.head_dim)
        return config._checked(fields, "attention.head_count_kv", "attention.key_length")

    def _checked(self, fields: Fields, kv_heads: str, head_dim: str) -> ModelConfig:
        """Check relations between fields; `kv_heads` and `head_dim` are their names in the file."""
        path = fields.path
        if self.heads % self.kv_heads:
            raise ModelFileError(
                f"{path}: {fields.prefix}{kv_heads} is {self.kv_heads}: {self.heads} attention "
                f"heads share {self.kv_heads}, expected a whole number of heads for each"
            )
        if self.head_dim % 2 or self.head_dim == 0:
            raise ModelFileError(
                f"{path}: {fields.prefix}{head_dim} is {self.head_dim} (where it is left out: "
                f"{self.hidden_size} hidden numbers shared by {self.heads} heads), "
                "expected an even number above 0, because rotary embedding rotates pairs"
            )
        pairs, divisors = self.head_dim // 2, self.rope.divisors
        if divisors is not None and (
            len(divisors) != pairs or not all(0 < it < math.inf for it in divisors)
        ):
            raise ModelFileError(
                f"{path}: tensor 'rope_freqs.weight': values are {divisors!r:.80}, "
                f"expected {pairs} numbers above 0, one for each rotated pair"
            )
        return self

    @property
    def family(self) -> Family:
        return FAMILIES[self.architecture]

    @property
    def qkv_size(self) -> int:
        """Rows of the fused query, key and value matrix: (H + 2K) E."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def cache_elements(self) -> int:
        """Elements of the KV cache for each token, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Elements of all weight matrices, a tied one counted once."""
        attention = self.hidden_size * (self.qkv_size + self.heads * self.head_dim)
        layer = attention + 3 * self.hidden_size * self.intermediate_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return self.layers * layer + embeddings


def _gguf_vocabulary(path: Path, tensors: Mapping[str, tuple[int, ...]]) -> int:
    shape = tensors.get("token_embd.weight", ())
    if len(shape) != 2:
        raise ModelFileError(
            f"{path}: tensor 'token_embd.weight': shape is {shape or 'missing'}, "
            "expected [vocabulary, hidden size]"
        )
    return shape[0]


def _longest_context(stated: int, rope: Rope) -> int:
    """Return the longest context in tokens: files state the one before or after yarn's stretch."""
    match rope.scaling:
        case YarnScaling(factor, original):
            return max(stated, min(int(factor * original), MAX_COUNT))
    return stated
