"""Names and shapes of a model's tensors; all problems are reported at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest

from cullama.checkpoint.names import (
    EMBEDDING,
    HEAD,
    expected_shapes,
    huggingface_name,
    select_tensors,
)
from cullama.errors import ModelError, ModelFileError, UnsupportedModelError
from cullama.model.config import ModelConfig
from cullama.model.rope import Rope

Shape: TypeAlias = tuple[int, ...]

PATH = Path("a model")
CONFIG = ModelConfig(
    architecture="LlamaForCausalLM",
    hidden_size=32,
    intermediate_size=48,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocab_size=100,
    context_length=64,
    norm_eps=1e-5,
    rope=Rope(),
    windows=(0, 0),
)
LAYER = {
    "self_attn.q_proj.weight": (64, 32),
    "self_attn.k_proj.weight": (32, 32),
    "self_attn.v_proj.weight": (32, 32),
    "self_attn.o_proj.weight": (32, 64),
    "mlp.gate_proj.weight": (48, 32),
    "mlp.up_proj.weight": (48, 32),
    "mlp.down_proj.weight": (32, 48),
    "input_layernorm.weight": (32,),
    "post_attention_layernorm.weight": (32,),
}
SHAPES = {
    "model.embed_tokens.weight": (100, 32),
    "model.norm.weight": (32,),
    "lm_head.weight": (100, 32),
    **{f"model.layers.{layer}.{name}": shape for layer in (0, 1) for name, shape in LAYER.items()},
}


def found(changes: dict[str, Shape | None] | None = None) -> dict[str, Shape]:
    return {name: shape for name, shape in {**SHAPES, **(changes or {})}.items() if shape}


def refusal(
    tensors: dict[str, Shape],
    config: ModelConfig = CONFIG,
    kind: type[ModelError] = ModelFileError,
) -> str:
    with pytest.raises(kind) as caught:
        select_tensors(PATH, config, tensors)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(PATH) in message
    return message


# --- which there are


def test_a_plain_llama_has_these_tensors() -> None:
    assert expected_shapes(CONFIG) == SHAPES


def test_a_tied_model_has_one_table() -> None:
    without_head = {name: shape for name, shape in SHAPES.items() if name != HEAD}
    assert expected_shapes(replace(CONFIG, tied=True)) == without_head


def test_biases_and_norms_are_those_of_the_config() -> None:
    config = replace(CONFIG, qkv_bias=True, output_bias=True, mlp_bias=True, qk_norm=True)
    more = {
        "self_attn.q_proj.bias": (64,),
        "self_attn.k_proj.bias": (32,),
        "self_attn.v_proj.bias": (32,),
        "self_attn.o_proj.bias": (32,),
        "mlp.gate_proj.bias": (48,),
        "mlp.up_proj.bias": (48,),
        "mlp.down_proj.bias": (32,),
        "self_attn.q_norm.weight": (16,),
        "self_attn.k_norm.weight": (16,),
    }
    layers = {f"model.layers.{i}.{name}": shape for i in (0, 1) for name, shape in more.items()}
    assert expected_shapes(config) == SHAPES | layers


def test_qwen2_has_no_bias_behind_its_attention() -> None:
    shapes = expected_shapes(replace(CONFIG, qkv_bias=True))
    assert shapes["model.layers.1.self_attn.q_proj.bias"] == (64,)
    assert "model.layers.1.self_attn.o_proj.bias" not in shapes


# --- GGUF's names


@pytest.mark.parametrize(
    ("gguf", "ours"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"),
        ("blk.12.attn_q.weight", "model.layers.12.self_attn.q_proj.weight"),
        ("blk.0.attn_k.bias", "model.layers.0.self_attn.k_proj.bias"),
        ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight"),
        ("blk.0.attn_output.weight", "model.layers.0.self_attn.o_proj.weight"),
        ("blk.0.attn_q_norm.weight", "model.layers.0.self_attn.q_norm.weight"),
        ("blk.0.attn_k_norm.weight", "model.layers.0.self_attn.k_norm.weight"),
        ("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
        ("blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight"),
        ("blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight"),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
    ],
)
def test_a_gguf_name_is_translated(gguf: str, ours: str) -> None:
    assert huggingface_name(gguf) == ours


@pytest.mark.parametrize(
    "name",
    [
        "",
        "rope_freqs.weight",
        "blk.0.ffn_gate_exps.weight",
        "blk.x.attn_q.weight",
        "blk.0.token_embd.weight",
        "attn_q.weight",
        "token_embd.weight.more",
        "token_embd.scale",
        "token_embd.weight\n",
        "model.norm.weight",
    ],
)
def test_an_unknown_name_stays_and_is_reported_later(name: str) -> None:
    assert huggingface_name(name) == name


@pytest.mark.parametrize("name", ["blk.00.attn_q.weight", "blk.\u0660.attn_q.weight"])
def test_layer_numbers_with_leading_zeros_are_unknown_names(name: str) -> None:
    """Or two tensors of a file would silently be one."""
    assert huggingface_name(name) == name


# --- what is found


def test_each_tensor_is_taken_under_its_own_name() -> None:
    assert select_tensors(PATH, CONFIG, found()) == {name: name for name in SHAPES}


LAYER_0 = "model.layers.0.self_attn."
HARMLESS = {
    f"{LAYER_0}rotary_emb.inv_freq": (8,),
    f"{LAYER_0}rotary_emb.cos_cached": (1, 1, 64, 16),
    f"{LAYER_0}rotary_emb.sin_cached": (1, 1, 64, 16),
    "model.layers.11.self_attn.rotary_emb.inv_freq": (8,),
    "model.rotary_emb.inv_freq": (8,),
    "model.rotary_emb.original_inv_freq": (8,),
    "rotary_emb.cos_sin_cache": (64, 16),
    "rope_freqs.weight": (8,),
    "blk.0.attn_rot_embd": (8,),
    f"{LAYER_0}k_scale": (1,),
    f"{LAYER_0}v_proj.v_scale": (1,),
    f"{LAYER_0}attn.kv_scale": (),
    f"{LAYER_0}masked_bias": (),
    f"{LAYER_0}bias": (1, 1, 64, 64),
    "model.causal_mask": (64, 64),
    "model.embeddings.position_ids": (1, 64),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_table_that_is_recomputed_is_passed_over_silently(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = {**SHAPES, name: HARMLESS[name]}
    assert select_tensors(PATH, CONFIG, tensors).keys() == SHAPES.keys()
    assert not caplog.records


@pytest.mark.parametrize(
    "name",
    [
        "score.weight",
        "model.layers.2.mlp.up_proj.weight",
        "vision_tower.layers.0.self_attn.qkv_proj.weight",
        "vision_tower.layers.0.mlp.experts.0.weight",
        "mtp.layers.0.mlp.up_proj.weight",
        "a surprise",
    ],
)
def test_a_tensor_of_something_else_is_passed_over_with_a_warning(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert select_tensors(PATH, CONFIG, found({name: (1,)})).keys() == SHAPES.keys()
    [record] = caplog.records
    message = record.getMessage()
    assert f"{PATH}: a tensor that the model does not need is passed over: {name!r}" == message


def test_many_tensors_of_something_else_are_one_short_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    select_tensors(PATH, CONFIG, found({f"{number}{'x' * 1000}": (1,) for number in range(1000)}))
    [record] = caplog.records
    assert "1000 tensors that the model does not need are passed over" in record.getMessage()
    assert len(record.getMessage()) < 1000


@pytest.mark.parametrize(
    "name",
    [
        f"{LAYER_0}q_proj.bias",
        f"{LAYER_0}q_norm.weight",
        f"{LAYER_0}sinks",
        "model.layers.1.post_feedforward_layernorm.weight",
        "model.layers.1.input_layernorm.bias",
        "model.norm.bias",
        "lm_head.bias",
        "blk.1.attn_sinks.weight",
        "blk.0.post_ffw_norm.weight",
    ],
)
def test_a_tensor_that_would_change_what_the_model_computes_is_refused(name: str) -> None:
    assert f"unexpected {name!r}" in refusal(found({name: (1,)}))


def test_biases_that_the_config_leaves_out_are_refused_with_the_settings_for_them() -> None:
    assert "attention_bias, mlp_bias" in refusal(found({f"{LAYER_0}q_proj.bias": (64,)}))


FOREIGN = {
    f"{LAYER_0}q_proj.qweight": "AWQ or GPTQ weights",
    f"{LAYER_0}q_proj.g_idx": "GPTQ weights",
    "model.layers.1.mlp.up_proj.weight.absmax": "bitsandbytes weights",
    "model.layers.1.mlp.up_proj.SCB": "bitsandbytes weights",
    f"{LAYER_0}q_proj.weight_scale_inv": "FP8 or FP4 weights",
    f"{LAYER_0}q_proj.weight_packed": "weights of compressed-tensors",
    f"{LAYER_0}q_proj.biases": "MLX's quantised weights",
    f"{LAYER_0}q_proj.lora_A.default.weight": "a LoRA adapter",
    "model.layers.0.block_sparse_moe.experts.0.w1.weight": "a mixture of experts",
    "model.layers.0.mlp.experts.3.up_proj.weight": "a mixture of experts",
    "blk.0.ffn_gate_exps.weight": "a mixture of experts",
    "blk.0.attn_q.scale": "FP8 or FP4 weights",
    f"{LAYER_0}qkv_proj.weight": "fused projections",
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("is_complete", [True, False])
def test_weights_of_another_kind_are_refused_by_that_kinds_name(
    name: str, is_complete: bool
) -> None:
    changes: dict[str, Shape | None] = {name: (1,)}
    if not is_complete:
        changes["model.layers.0.self_attn.q_proj.weight"] = None
    message = refusal(found(changes), kind=UnsupportedModelError)
    assert f"tensor {name!r} is of {FOREIGN[name]}" in message


@pytest.mark.parametrize("name", ["layers.0.attention.wq.weight", "base.layer.lora_a"])
def test_weights_under_names_of_another_program_are_refused_by_kind(name: str) -> None:
    changes: dict[str, Shape | None] = {LAYER_0 + "q_proj.weight": None, name: (1,)}
    message = refusal(found(changes), kind=UnsupportedModelError)
    assert "own names" in message or "LoRA adapter: merge" in message.replace("; ", ": ")


def test_a_tied_model_may_hold_its_table_under_either_name_or_both() -> None:
    tied = replace(CONFIG, tied=True)
    for changes, name in (({HEAD: None}, EMBEDDING), ({EMBEDDING: None}, HEAD), ({}, EMBEDDING)):
        taken = select_tensors(PATH, tied, found(dict(changes)))
        assert taken.keys() == SHAPES.keys() - {HEAD}
        assert taken[EMBEDDING] == name


def test_an_untied_model_needs_both() -> None:
    message = refusal(found({HEAD: None}))
    assert "missing 'lm_head.weight' [100, 32]" in message
    assert "models for embeddings or classification have none" in message


def test_a_tied_table_under_the_other_name_is_checked_too() -> None:
    tensors = found({EMBEDDING: None, HEAD: (99, 32)})
    message = refusal(tensors, replace(CONFIG, tied=True))
    assert "[99, 32]" in message
    assert "[100, 32]" in message


def test_missing_unexpected_and_misshaped_tensors_are_listed_together() -> None:
    message = refusal(
        found(
            {
                "model.norm.weight": None,
                "model.layers.1.mlp.up_proj.weight": None,
                "model.layers.1.mlp.up_proj.bias": (48,),
                "model.norm.bias": (32,),
                "model.layers.0.self_attn.q_proj.weight": (32, 64),
                EMBEDDING: (100, 32, 1),
            }
        )
    )
    assert "6 tensors" in message
    assert "missing 'model.norm.weight' [32]" in message
    assert "missing 'model.layers.1.mlp.up_proj.weight' [48, 32]" in message
    assert "unexpected 'model.layers.1.mlp.up_proj.bias'" in message
    assert "unexpected 'model.norm.bias'" in message
    assert (
        "'model.layers.0.self_attn.q_proj.weight' has shape [32, 64], expected [64, 32]" in message
    )
    assert "'model.embed_tokens.weight' has shape [100, 32, 1], expected [100, 32]" in message


def test_one_wrong_tensor_is_one_tensor() -> None:
    assert "1 tensor does not fit" in refusal(found({"model.norm.weight": None}))


def test_names_with_control_characters_stay_in_the_line(caplog: pytest.LogCaptureFixture) -> None:
    part, other = "model.layers.0.evil\x1b[31m\u2028name.q_proj.bias", "evil\n\x1b[31m\u2028name"
    message = refusal(found({part: (1,)}))
    assert "name.q_proj.bias" in message
    assert "\x1b" not in message
    select_tensors(PATH, CONFIG, found({other: (1,)}))
    assert not {"\x1b", "\n", "\u2028"} & set(caplog.text.rstrip())


def test_a_file_of_another_model_is_refused_in_one_short_line() -> None:
    """Ten thousand layers miss 90,000 tensors: their number is given, and some of them."""
    config = replace(CONFIG, layers=10_000, windows=(0,) * 10_000)
    message = refusal(found(), config)
    assert f"{9_998 * 9:,}" in message or str(9_998 * 9) in message
    assert "missing 'model.layers.2." in message
    assert len(message) < 10_000


@pytest.mark.parametrize("filling", ["x", "x.", "norm", "_proj", "x_proj.", "9", "model."])
def test_a_name_of_a_megabyte_is_looked_at_once(filling: str) -> None:
    """Not once for each of its characters: that would take minutes."""
    for prefix in ("model.layers.0.", "model.", "model.layers.", "blk.", ""):
        name = prefix + filling * (1_000_000 // len(filling))
        assert name not in select_tensors(PATH, CONFIG, found({name: (1,)}))


def test_a_name_of_a_megabyte_is_not_repeated() -> None:
    name = f"model.layers.0.{'x' * 1_000_000}.q_proj.bias"
    assert len(refusal(found({name: (1,)}))) < 10_000
