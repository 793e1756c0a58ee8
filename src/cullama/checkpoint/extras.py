"""Tells what the tensors are that a model does not need: tables, parts of others, other weights.

Some are tables that exporters stored and cullama computes; some say that the weights are not what
they seem, quantised by a method that cullama does not read, say; the rest belong to something else.
It sees names only.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import islice

# Tables of rotations and masks, and scales for a KV cache of eight bits: cullama has neither.
_HARMLESS = re.compile(
    r"(?:.*\.)?(?:"
    r"rotary_emb\.(?:\w+_)?(?:inv_freq|cos_cached|sin_cached|cos_sin_cache)"
    r"|rope_freqs\.weight|attn_rot_embd(?:\.weight)?"
    r"|(?:position_ids|masked_bias|causal_mask)|(?:self_)?attn\.bias"
    r"|(?:[qkv]|kv|prob_output)_scale"
    r")"
)

# Parts of the computation that a config may or may not have: to leave one out changes results.
# Where a name begins, and its last two parts: one pattern over a whole name could take time that
# grows with the square of its length, and names come from strangers.
_WHERE = re.compile(r"model\.layers\.(?P<layer>\d+)\.|model\.|lm_head\.|blk\.(?P<block>\d+)\.")
_PART = re.compile(r"(?:\w+_proj|lm_head|\w*norm)\.(?:weight|bias)|.*\.(?:bias|sinks|scale)")

MAX_EXAMINED = 4096  # names that are held against all signs of other weights
TAIL = 200  # characters at the end of a name that are looked at

_FULL = "take the model's unquantised weights, or a GGUF file of it"
_MERGE = "merge it into its base model (peft's merge_and_unload), and give the result"
# What names of tensors tell, and what to do instead; the first that fits any name counts.
_FOREIGN = {
    r"lora_[ab]|lora_(?:[AB]|embedding_[AB]|magnitude_vector)(?:\..*)?": (
        "a LoRA adapter",
        _MERGE,
    ),
    r"(?:block_sparse_moe|experts|shared_experts?|ffn_(?:gate|up|down)_(?:exps|shexp)"
    r"|ffn_gate_inp)\..*": (
        "a mixture of experts, which cullama does not run",
        "take a dense model",
    ),
    r"g_idx": ("GPTQ weights, which cullama does not read", _FULL),
    r"(?:qweight|qzeros)": ("AWQ or GPTQ weights, which cullama does not read", _FULL),
    r"weight\.(?:absmax|quant_map|nested_absmax|quant_state\..*)|SCB|weight_format": (
        "bitsandbytes weights, which cullama does not read",
        _FULL,
    ),
    r"weight_(?:packed|shape|zero_point)": (
        "weights of compressed-tensors, which cullama does not read",
        _FULL,
    ),
    r"weight_scale(?:_inv|_2)?|input_scale|(?:attn|ffn)_\w+\.scale": (
        "FP8 or FP4 weights with scales, which cullama does not read",
        _FULL,
    ),
    r"(?:q_weight|q_scale_max|q_groups|trellis|suh|svh)": (
        "EXL2 or EXL3 weights, which cullama does not read",
        _FULL,
    ),
    r"biases": ("MLX's quantised weights, which cullama does not read", _FULL),
    r"W_q|codebooks|Qidxs": ("quantised weights of a kind that cullama does not read", _FULL),
    r"(?:qkv_proj|query_key_value|gate_up_proj|attn_qkv)\.weight": (
        "fused projections, as other architectures have them",
        "take a model of an architecture that cullama runs",
    ),
    r"attention\.w[qkvo]\.weight": (
        "weights under Meta's or Mistral's own names",
        "take the version for transformers, with config.json",
    ),
}
_SIGNS = [(re.compile(rf"(?:.*\.)?(?:{sign})"), *what) for sign, what in _FOREIGN.items()]


def is_harmless(name: str) -> bool:
    """Return whether a tensor is known to be needed by no one, whatever its type and shape."""
    return _HARMLESS.fullmatch(name[-TAIL:]) is not None


def is_part_of_model(name: str, layers: int) -> bool:
    """Return whether a model of so many layers would compute something else with this tensor."""
    where = _WHERE.match(name)
    if where is None or int((where["layer"] or where["block"] or "0")[:9]) >= layers:
        return False
    if where["block"] is not None:  # llama.cpp refuses all that it does not know
        return True
    return _PART.fullmatch(".".join(name[-TAIL:].rsplit(".", 2)[-2:])) is not None


def foreign_weights(names: Collection[str]) -> tuple[str, str, str] | None:
    """Return a name that tells of weights which cullama does not read, what they are, the remedy.

    None where no name does.
    """
    examined = list(islice(names, MAX_EXAMINED))
    for sign, what, remedy in _SIGNS:
        matching = [name for name in examined if sign.fullmatch(name[-TAIL:])]
        if matching:
            return min(matching), what, remedy
    return None
