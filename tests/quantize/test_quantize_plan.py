"""Each tensor's type in the file, and its name in llama.cpp."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer

from cullama.checkpoint.checkpoint import Checkpoint
from cullama.checkpoint.names import EMBEDDING, HEAD, expected_shapes, huggingface_name
from cullama.errors import NoTokenizerError
from cullama.files.tensor import StoredTensor
from cullama.model.choices import GGUF_TYPES
from cullama.model.config import ModelConfig
from cullama.model.families import FAMILIES
from cullama.model.rope import LinearScaling, Llama3Scaling, Rope, YarnScaling
from cullama.quantize.plan import Target, targets

CONFIG = ModelConfig(
    architecture="LlamaForCausalLM",
    hidden_size=64,
    intermediate_size=96,
    layers=12,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocab_size=320,
    context_length=128,
    norm_eps=1e-5,
    rope=Rope(),
    windows=(0,) * 12,
)
BIASED: dict[str, Any] = {"qkv_bias": True, "output_bias": True, "mlp_bias": True}


def checkpoint(config: ModelConfig) -> Checkpoint:
    """A model of nothing but names and shapes."""

    def no_tokenizer() -> Tokenizer:
        raise NoTokenizerError("none")

    tensors = {
        name: StoredTensor(name, shape, "F32", lambda: iter([]))
        for name, shape in expected_shapes(config).items()
    }
    return Checkpoint(Path("nowhere"), config, tensors, no_tokenizer, "nothing")


def planned(config: ModelConfig, dtype: str) -> dict[str, Target]:
    return {target.source.name: target for target in targets(checkpoint(config), dtype)}


@pytest.mark.parametrize("architecture", FAMILIES)
def test_names_are_those_that_the_reader_knows(architecture: str) -> None:
    more: dict[str, dict[str, Any]] = {
        "LlamaForCausalLM": BIASED,
        "Qwen2ForCausalLM": {"qkv_bias": True},
        "Qwen3ForCausalLM": {"qk_norm": True},
    }
    config = replace(CONFIG, architecture=architecture, **more.get(architecture, {}))
    plan = planned(config, "q8_0")
    assert list(plan) == list(expected_shapes(config))
    table = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[config.family.written_name.upper()], config.layers
    )
    for name, target in plan.items():
        assert target.name != name
        assert target.name == table.get_name(name, try_suffixes=(".weight", ".bias"))
        assert huggingface_name(target.name) == name


def test_queries_and_keys_of_a_llama_are_interleaved_and_nothing_else() -> None:
    plan = planned(replace(CONFIG, **BIASED), "f16")
    rotated = {name for name, target in plan.items() if target.head_dim is not None}
    stems = [f"model.layers.{i}.self_attn.{stem}_proj" for i in range(12) for stem in "qk"]
    assert rotated == {f"{stem}.{kind}" for stem in stems for kind in ("weight", "bias")}
    assert {plan[name].head_dim for name in rotated} == {16}


@pytest.mark.parametrize("architecture", ["Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_queries_and_keys_of_a_qwen_are_not_interleaved(architecture: str) -> None:
    plan = planned(replace(CONFIG, architecture=architecture), "f16")
    assert {target.head_dim for target in plan.values()} == {None}


@pytest.mark.parametrize("dtype", GGUF_TYPES)
def test_matrices_get_the_type_and_vectors_float32(dtype: str) -> None:
    plan = planned(replace(CONFIG, tied=True, **BIASED), dtype)
    del plan[EMBEDDING]
    for target in plan.values():
        expected = "F32" if len(target.source.shape) == 1 else dtype.upper()
        assert target.dtype == expected


@pytest.mark.parametrize(
    ("dtype", "head"), [("q4_0", "Q8_0"), ("q4_1", "Q8_0"), ("q8_0", "Q8_0"), ("bf16", "BF16")]
)
@pytest.mark.parametrize("tied", [False, True])
def test_the_output_matrix_has_eight_bits_at_least(dtype: str, head: str, tied: bool) -> None:
    plan = planned(replace(CONFIG, tied=tied), dtype)
    if tied:
        assert plan[EMBEDDING].dtype == head
    else:
        assert (plan[EMBEDDING].dtype, plan[HEAD].dtype) == (dtype.upper(), head)


@pytest.mark.parametrize(
    ("dtype", "narrow"), [("q4_0", "F16"), ("q8_0", "F16"), ("bf16", "BF16"), ("f32", "F32")]
)
def test_rows_that_are_no_multiple_of_a_block_are_not_quantised(dtype: str, narrow: str) -> None:
    plan = planned(replace(CONFIG, intermediate_size=40), dtype)
    assert plan["model.layers.3.mlp.down_proj.weight"].dtype == narrow  # [64, 40]
    assert plan["model.layers.3.mlp.up_proj.weight"].dtype == dtype.upper()  # [40, 64]
    heads = planned(replace(CONFIG, hidden_size=40), dtype)
    assert heads[HEAD].dtype == narrow


DIVISORS = tuple(np.linspace(1, 9, 8).tolist())


@pytest.mark.parametrize(
    ("rope", "largest"),
    [
        (Rope(5e5, Llama3Scaling(8.0, 1.0, 4.0, 32)), 8),
        (Rope(5e5, divisors=DIVISORS), 9),
        (Rope(5e5, Llama3Scaling(8.0, 1.0, 4.0, 32), divisors=DIVISORS), 72),
    ],
)
def test_scaled_frequencies_become_divisors(rope: Rope, largest: float) -> None:
    config = replace(CONFIG, rope=rope)
    target = planned(config, "q4_0")["rope_freqs.weight"]
    assert (target.name, target.dtype) == ("rope_freqs.weight", "F32")
    divisors = target.source.read()
    frequencies = Rope(5e5, divisors=tuple(divisors.tolist())).inverse_frequencies(16)
    assert frequencies == pytest.approx(config.rope.inverse_frequencies(16), rel=3e-7)
    assert divisors.max() == pytest.approx(largest)


@pytest.mark.parametrize("scaling", [LinearScaling(4.0), YarnScaling(4.0, 32)])
def test_a_scaling_that_metadata_express_is_not_in_the_divisors(
    scaling: LinearScaling | YarnScaling,
) -> None:
    rope = Rope(1e4, scaling, divisors=DIVISORS)
    target = planned(replace(CONFIG, rope=rope), "q4_0")["rope_freqs.weight"]
    assert target.source.read().tolist() == pytest.approx(DIVISORS)


@pytest.mark.parametrize(
    "rope", [Rope(), Rope(1e4, LinearScaling(4.0)), Rope(1e4, YarnScaling(4.0, 32))]
)
def test_other_ropes_need_no_divisors(rope: Rope) -> None:
    assert "rope_freqs.weight" not in planned(replace(CONFIG, rope=rope), "q4_0")
