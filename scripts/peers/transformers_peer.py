"""transformers as a peer: the same weights in float32, its default attention, a dynamic cache.

The weights are read by cullama's checkpoint readers, so that it takes the same files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

try:
    import torch
    import transformers
    from transformers import LlamaConfig, LlamaForCausalLM
except ImportError:
    raise SystemExit(
        f"transformers is measured with torch, and {sys.executable} does not have both: "
        f"{sys.executable} -m pip install torch transformers, or leave it out: --peers cullama"
    ) from None

from cullama.checkpoint.checkpoint import Checkpoint
from cullama.checkpoint.opening import open_checkpoint
from cullama.model.rope import LinearScaling, Llama3Scaling
from cullama.text.tokenizer import Tokenizer


class Transformers:
    variants: tuple[str, ...] = ()

    def __init__(self, model: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._checkpoint = open_checkpoint(Path(model))
        self._model = _as_transformers(self._checkpoint)
        self.vocabulary = self._checkpoint.config.vocab_size
        self.description = (
            f"transformers {transformers.__version__} · torch {torch.__version__} · float32"
        )

    def use(self, variant: str) -> None:
        raise AssertionError(variant)

    def encode(self, text: str) -> list[int]:
        return Tokenizer(self._checkpoint.load_tokenizer()).encode(text)

    def begin(self, prompts: list[list[int]], tokens: int) -> None:
        self._next, self._cache = torch.tensor(prompts), None

    def step(self) -> None:
        with torch.inference_mode():
            out = self._model(
                self._next, past_key_values=self._cache, use_cache=True, logits_to_keep=1
            )
        self._next, self._cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values


def _as_transformers(checkpoint: Checkpoint) -> Any:
    config = checkpoint.config
    if config.architecture != "LlamaForCausalLM":
        raise SystemExit(
            f"transformers: {checkpoint.path} is a {config.architecture}, expected a "
            "LlamaForCausalLM; leave it out: --peers cullama"
        )
    settings = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.context_length,
        rms_norm_eps=config.norm_eps,
        rope_parameters=_rope_parameters(checkpoint),
        attention_bias=config.qkv_bias,
        mlp_bias=config.mlp_bias,
        tie_word_embeddings=config.tied,
    )
    model = LlamaForCausalLM(settings).eval()
    _load(model, checkpoint)
    return model


def _load(model: Any, checkpoint: Checkpoint) -> None:
    state = {
        name: torch.from_numpy(tensor.read().astype("float32"))
        for name, tensor in checkpoint.tensors.items()
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing  # the tied head


def _rope_parameters(checkpoint: Checkpoint) -> dict[str, Any]:
    rope = checkpoint.config.rope
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": rope.theta}
    match rope.scaling:
        case LinearScaling(factor):
            parameters |= {"rope_type": "linear", "factor": factor}
        case Llama3Scaling(factor, low, high, original):
            parameters |= {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    return parameters
