"""The tiny model in two types, and on a backend with opaque arrays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize
from planted import OpaqueOperators
from safetensors.numpy import load_file

import cullama.llm
from cullama import LLM


@pytest.fixture(scope="session")
def llm(tiny_model: Path) -> LLM:
    return LLM(tiny_model, backend="cpu")


@pytest.fixture(scope="session")
def numpys(tiny_model: Path) -> LLM:
    """The backend that has composite operators of its own."""
    return LLM(tiny_model, backend="cpu:numpy")


@pytest.fixture(scope="session")
def coarse(tiny_model: Path) -> LLM:
    return LLM(tiny_model, backend="cpu", dtype="bfloat16")


@pytest.fixture
def another(tiny_model: Path) -> LLM:
    """Another instance, to plant faults in."""
    return LLM(tiny_model, backend="cpu")


@pytest.fixture
def elsewhere(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> LLM:
    monkeypatch.setattr(cullama.llm, "operators_for", lambda *options: OpaqueOperators())
    return LLM(tiny_model, backend="cpu")


@pytest.fixture(scope="session")
def write_gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny model's weights as a GGUF file, matrices in the type named where
    its blocks fit. No tokenizer."""
    config = json.loads((tiny_model / "config.json").read_text(encoding="utf-8"))
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}

    def write(kind: str) -> Path:
        path = tmp_path_factory.mktemp("gguf") / f"{kind}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        for key, name in NUMBERS.items():
            writer.add_uint32(f"llama.{key}", config[name])
        writer.add_float32("llama.attention.layer_norm_rms_epsilon", config["rms_norm_eps"])
        for name, tensor in load_file(tiny_model / "model.safetensors").items():
            fits = tensor.ndim == 2 and tensor.shape[1] % 32 == 0
            stored = kind if fits else "F32"
            rows = next((heads[stem] for stem in heads if stem in name), None)
            ordered = tensor if rows is None else permuted(tensor, rows)
            raw = quantize(ordered, GGMLQuantizationType[stored])
            writer.add_tensor(gguf_name(name), raw, raw_dtype=GGMLQuantizationType[stored])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


NUMBERS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
WORDS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "self_attn.o_proj": "attn_output",
    "self_attn": "attn",
    "attn.q_proj": "attn_q",
    "attn.k_proj": "attn_k",
    "attn.v_proj": "attn_v",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    for theirs, short in WORDS.items():
        name = name.replace(theirs, short)
    return name


def permuted(tensor: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k as llama.cpp's converter puts them: rotated pairs next to each other."""
    halves = tensor.reshape(heads, 2, -1, tensor.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))
