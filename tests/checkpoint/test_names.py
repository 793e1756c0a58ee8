"""Names and shapes of a model's tensors; all problems are reported at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cullama.checkpoint.names import (
    EMBEDDING,
    HEAD,
    checked_tensors,
    expected_shapes,
    huggingface_name,
)
from cullama.errors import ModelFileError
from cullama.files.tensor import StoredTensor
from cullama.model.config import ModelConfig
from cullama.model.rope import Rope

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


def stored(name: str, shape: tuple[int, ...]) -> StoredTensor:
    return StoredTensor(name, shape, "F32", lambda: iter(()))


def found(changes: dict[str, tuple[int, ...] | None] | None = None) -> dict[str, StoredTensor]:
    shapes = {name: shape for name, shape in {**SHAPES, **(changes or {})}.items() if shape}
    return {name: stored(name, shape) for name, shape in shapes.items()}


def refusal(tensors: dict[str, StoredTensor], config: ModelConfig = CONFIG) -> str:
    with pytest.raises(ModelFileError) as caught:
        checked_tensors(PATH, config, tensors)
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


def test_exactly_the_expected_tensors_are_returned() -> None:
    tensors = found()
    assert checked_tensors(PATH, CONFIG, tensors) == tensors


def test_tables_that_are_recomputed_are_left_out() -> None:
    tensors = found(
        {
            "model.layers.0.self_attn.rotary_emb.inv_freq": (8,),
            "model.layers.11.self_attn.rotary_emb.inv_freq": (8,),
            "rope_freqs.weight": (8,),
        }
    )
    assert checked_tensors(PATH, CONFIG, tensors).keys() == SHAPES.keys()


def test_a_tied_model_may_hold_its_table_under_either_name_or_both() -> None:
    tied = replace(CONFIG, tied=True)
    changed: list[dict[str, tuple[int, ...] | None]] = [{HEAD: None}, {EMBEDDING: None}, {}]
    for changes in changed:
        taken = checked_tensors(PATH, tied, found(changes))
        assert taken.keys() == SHAPES.keys() - {HEAD}
        assert taken[EMBEDDING].shape == (100, 32)


def test_an_untied_model_needs_both() -> None:
    assert "missing 'lm_head.weight' [100, 32]" in refusal(found({HEAD: None}))


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
                "model.layers.2.mlp.up_proj.weight": (48, 32),
                "a surprise": (1,),
                "model.layers.0.self_attn.q_proj.weight": (32, 64),
                EMBEDDING: (100, 32, 1),
            }
        )
    )
    assert "6 tensors" in message
    assert "missing 'model.norm.weight' [32]" in message
    assert "missing 'model.layers.1.mlp.up_proj.weight' [48, 32]" in message
    assert "unexpected 'model.layers.2.mlp.up_proj.weight'" in message
    assert "unexpected 'a surprise'" in message
    assert (
        "'model.layers.0.self_attn.q_proj.weight' has shape [32, 64], expected [64, 32]" in message
    )
    assert "'model.embed_tokens.weight' has shape [100, 32, 1], expected [100, 32]" in message


def test_one_wrong_tensor_is_one_tensor() -> None:
    assert "1 tensor does not fit" in refusal(found({"model.norm.weight": None}))


def test_a_bias_that_the_config_does_not_name_is_unexpected() -> None:
    name = "model.layers.0.self_attn.q_proj.bias"
    assert f"unexpected '{name}'" in refusal(found({name: (64,)}))


def test_names_with_control_characters_stay_in_the_line() -> None:
    message = refusal(found({"evil\n\x1b[31m\u2028name": (1,)}))
    assert "\x1b" not in message


def test_a_file_of_another_model_is_refused_in_one_short_line() -> None:
    """Ten thousand layers miss 90,000 tensors: their number is given, and some of them."""
    config = replace(CONFIG, layers=10_000, windows=(0,) * 10_000)
    message = refusal(found(), config)
    assert f"{9_998 * 9:,}" in message or str(9_998 * 9) in message
    assert "missing 'model.layers.2." in message
    assert len(message) < 10_000


def test_a_name_of_a_megabyte_is_not_repeated() -> None:
    assert len(refusal(found({"x" * 1_000_000: (1,)}))) < 10_000
