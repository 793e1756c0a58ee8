"""A model's shape, written as GGUF metadata and read back, is the same model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cullama.errors import UnsupportedModelError
from cullama.model.config import ModelConfig
from cullama.model.rope import LinearScaling, Rope, YarnScaling
from cullama.quantize.model_fields import check_expressible, model_fields

CONFIG = ModelConfig.from_huggingface(
    Path("config.json"),
    {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
    },
)
SHAPES = {"token_embd.weight": (100, 32), "output.weight": (100, 32)}


@pytest.mark.parametrize(
    "rope",
    [
        Rope(5e5),
        Rope(1e4, LinearScaling(4.0)),
        Rope(1e4, YarnScaling(4.0, 512), YarnScaling(4.0, 512).attention_factor),
        Rope(1e4, YarnScaling(8.0, 512, 24.0, 2.0), 0.75),
        Rope(1e4, None, 1.5),
    ],
    ids=str,
)
def test_a_rope_is_read_back_as_it_was_written(rope: Rope) -> None:
    metadata = {"general.architecture": "llama", **model_fields(replace(CONFIG, rope=rope))}
    found = ModelConfig.from_gguf(Path("x.gguf"), metadata, SHAPES).rope
    assert replace(found, attention_factor=0) == replace(rope, attention_factor=0)
    assert found.attention_factor == pytest.approx(rope.attention_factor)
    np.testing.assert_allclose(found.table(8, 40), rope.table(8, 40), rtol=1e-6, atol=1e-7)


def test_a_yarn_that_is_not_rounded_to_pairs_is_not_written() -> None:
    rope = Rope(1e4, YarnScaling(4.0, 512, is_truncated=False))
    with pytest.raises(UnsupportedModelError, match="has a yarn scaling whose ramp"):
        check_expressible(Path("m"), replace(CONFIG, rope=rope))
