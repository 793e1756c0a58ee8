"""The families of models that cullama runs: one record for each says how it differs from a Llama.

A family that `Llama.forward` computes is a record here and nothing else; config.json, GGUF in both
directions and the cached-model list read it. It holds settings and names, no weights or tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..files.fields import Fields

# Parts of a model that GGUF has names for and llama.cpp reads in some families only.
Part = Literal["qk_norm", "output_bias", "mlp_bias", "rope_divisors"]


def full_attention(fields: Fields, layers: int) -> tuple[int, ...]:
    """Every layer sees the whole context: 0 stands for no window."""
    return (0,) * layers


def sliding_window(fields: Fields, layers: int) -> tuple[int, ...]:
    """Every layer has the window `sliding_window`, as in Mistral."""
    return (_window(fields),) * layers


def sliding_window_of_some_layers(fields: Fields, layers: int) -> tuple[int, ...]:
    """The window belongs to the layers that `layer_types` or `max_window_layers` name (Qwen)."""
    window = _window(fields)
    if not fields.flag("use_sliding_window", False):
        return (0,) * layers
    kinds = fields.values.get("layer_types")
    if kinds is None:
        full = fields.integer("max_window_layers", 28, low=0)
        return tuple(window if i >= full else 0 for i in range(layers))
    known = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != layers or any(k not in known for k in kinds):
        fields.fail("layer_types", f"a list of {layers} entries, each one of {', '.join(known)}")
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def _window(fields: Fields) -> int:
    # Null switches the window off; a file that does not mention it means transformers' default.
    return fields.integer("sliding_window", 0) if "sliding_window" in fields.values else 4096


@dataclass(frozen=True)
class Family:
    """How a family is named, and what its files leave unsaid."""

    architecture: str  # in config.json's `architectures`
    gguf_name: str  # in GGUF's `general.architecture`, when read
    # Whether q, k and v have biases and the attention's output has none. Otherwise
    # `attention_bias` in config.json speaks for all four.
    has_qkv_bias_only: bool = False
    has_qk_norm: bool = False
    # Where config.json leaves `head_dim` out; None: hidden size / heads.
    default_head_dim: int | None = None
    # Tokens back that each layer sees, itself included, from config.json; 0: all of them.
    read_windows: Callable[[Fields, int], tuple[int, ...]] = full_attention
    # Whether llama.cpp's converter interleaves the halves of each head in the rows of q and k.
    has_interleaved_qk: bool = False
    llama_cpp_name: str = ""  # in GGUF files to be written, where it is not `gguf_name`
    llama_cpp_reads: frozenset[Part] = frozenset()

    @property
    def written_name(self) -> str:
        return self.llama_cpp_name or self.gguf_name


_LLAMA_PARTS: frozenset[Part] = frozenset({"output_bias", "mlp_bias", "rope_divisors"})

LLAMA = Family("LlamaForCausalLM", "llama", has_interleaved_qk=True, llama_cpp_reads=_LLAMA_PARTS)
MISTRAL = Family(
    "MistralForCausalLM",
    "mistral",
    read_windows=sliding_window,
    has_interleaved_qk=True,
    llama_cpp_name="llama",  # which is what llama.cpp runs a Mistral as
    llama_cpp_reads=_LLAMA_PARTS,
)
QWEN2 = Family(
    "Qwen2ForCausalLM",
    "qwen2",
    has_qkv_bias_only=True,
    read_windows=sliding_window_of_some_layers,
    llama_cpp_reads=frozenset({"qk_norm"}),
)
QWEN3 = Family(
    "Qwen3ForCausalLM",
    "qwen3",
    has_qk_norm=True,
    default_head_dim=128,  # transformers' default; it does not follow from the other sizes
    read_windows=sliding_window_of_some_layers,
    llama_cpp_reads=frozenset({"qk_norm"}),
)

FAMILIES = {family.architecture: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3)}
