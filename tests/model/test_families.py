"""A new family is one record: config.json, GGUF in both directions and the names read it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cullama.checkpoint.names import expected_shapes
from cullama.files.fields import Fields
from cullama.model import families
from cullama.model.config import ModelConfig
from cullama.model.families import FAMILIES, Family
from cullama.quantize.model_fields import model_fields

PATH = Path("config.json")


def every_third_layer(fields: Fields, layers: int) -> tuple[int, ...]:
    return tuple(fields.integer("window") if i % 3 == 2 else 0 for i in range(layers))


ALPACA = Family(
    "AlpacaForCausalLM",
    "alpaca",
    has_qkv_bias_only=True,
    has_qk_norm=True,
    default_head_dim=24,
    read_windows=every_third_layer,
    llama_cpp_name="vicugna",
)
VALUES: dict[str, Any] = {
    "architectures": ["AlpacaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "window": 7,
}


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    monkeypatch.setitem(families.FAMILIES, ALPACA.architecture, ALPACA)
    return ModelConfig.from_huggingface(PATH, VALUES)


def test_config_json_is_read_by_the_record(config: ModelConfig) -> None:
    assert config.family is ALPACA
    assert config.windows == (0, 0, 7, 0)
    assert (config.head_dim, config.qk_norm) == (24, True)
    assert (config.qkv_bias, config.output_bias) == (True, False)
    names = expected_shapes(config)
    assert "model.layers.3.self_attn.q_proj.bias" in names
    assert "model.layers.3.self_attn.k_norm.weight" in names


def test_gguf_is_read_and_written_under_the_record_s_names(config: ModelConfig) -> None:
    written = model_fields(replace(config, windows=(0,) * 4))
    assert {key.partition(".")[0] for key in written} == {"vicugna"}
    metadata = {key.replace("vicugna.", "alpaca."): value for key, value in written.items()}
    metadata["general.architecture"] = "alpaca"
    shapes = {
        "token_embd.weight": (100, 32),
        "output.weight": (100, 32),
        "blk.0.attn_q.bias": (96,),
        "blk.0.attn_q_norm.weight": (24,),
    }
    assert ModelConfig.from_gguf(PATH, metadata, shapes) == replace(config, windows=(0,) * 4)


def test_names_of_families_are_unique() -> None:
    assert list(FAMILIES) == [family.architecture for family in FAMILIES.values()]
    assert len({family.gguf_name for family in FAMILIES.values()}) == len(FAMILIES)
