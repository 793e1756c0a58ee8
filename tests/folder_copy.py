"""Write a GGUF model as a Hugging Face folder with the same weights, in float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from cullama.checkpoint.opening import open_checkpoint


def copy_as_folder(gguf: Path, folder: Path) -> Path:
    checkpoint = open_checkpoint(gguf)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: np.concatenate([np.float32(tile) for tile in tensor.tiles()]).reshape(tensor.shape)
        for name, tensor in checkpoint.tensors.items()
    }
    save_file(tensors, folder / "model.safetensors")
    checkpoint.load_tokenizer().save(str(folder / "tokenizer.json"))
    template = checkpoint.load_chat_template()
    if template is not None:
        (folder / "chat_template.jinja").write_text(template.source, encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(dict(template.names)))
    (folder / "config.json").write_text(json.dumps(_config(checkpoint.config)))
    return folder


def _config(config: Any) -> dict[str, Any]:
    """Return config.json for a Llama without RoPE scaling, biases or sliding windows."""
    assert config.rope.scaling is None
    return {
        "architectures": [config.architecture],
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope.theta,
        "tie_word_embeddings": config.tied,
        "bos_token_id": config.bos_id,
        "eos_token_id": list(config.eos_ids),
    }
