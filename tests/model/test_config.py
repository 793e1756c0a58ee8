"""config.json and GGUF give the same ModelConfig, and doubtful settings are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cullama.errors import CullamaError, ModelError, ModelFileError, UnsupportedModelError
from cullama.model.config import ModelConfig
from cullama.model.families import FAMILIES
from cullama.model.rope import LinearScaling, Llama3Scaling, Rope, YarnScaling

Values: TypeAlias = dict[str, Any]

PATH = Path("a model/config.json")
GGUF = Path("a model.gguf")
HUGE = (1 << 31) + 1

LLAMA: Values = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 100,
}
MISTRAL = {**LLAMA, "architectures": ["MistralForCausalLM"], "num_key_value_heads": 2}
QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 2}
QWEN3 = {**QWEN2, "architectures": ["Qwen3ForCausalLM"], "head_dim": 16}
LLAMA3_ROPE: Values = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}

METADATA: Values = {
    "general.architecture": "llama",
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 48,
    "llama.block_count": 3,
    "llama.attention.head_count": 4,
    "llama.context_length": 2048,
    "llama.attention.layer_norm_rms_epsilon": 1e-6,
}
SHAPES = {"token_embd.weight": (100, 32), "output.weight": (100, 32)}

ABSENT: Any = object()


def changed(values: Values, changes: Values) -> Values:
    return {key: value for key, value in {**values, **changes}.items() if value is not ABSENT}


def huggingface(base: Values = LLAMA, generation: Values | None = None, **changes: Any) -> Any:
    return ModelConfig.from_huggingface(PATH, changed(base, changes), generation)


def gguf(changes: Values | None = None, shapes: Values | None = None, **rest: Any) -> ModelConfig:
    return ModelConfig.from_gguf(GGUF, changed(METADATA, changes or {}), shapes or SHAPES, **rest)


def features(config: ModelConfig) -> set[str]:
    """What the model has beyond the plainest of its family."""
    names = ("qkv_bias", "output_bias", "mlp_bias", "qk_norm", "tied")
    return {name for name in names if getattr(config, name)}


def is_read_or_refused(path: Path, read: Callable[[], ModelConfig]) -> None:
    try:
        config = read()
    except ModelError as error:
        message = str(error)
    else:
        assert isinstance(config, ModelConfig)
        return
    assert str(path) in message
    assert len(message.splitlines()) == 1


def refusal(caught: pytest.ExceptionInfo[CullamaError], *named: str) -> None:
    """One line that can be read, and that holds everything `named`."""
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 500
    for word in named:
        assert word in message


# --- what a config means


def test_a_minimal_llama_has_the_defaults_of_llama_1() -> None:
    assert huggingface() == ModelConfig(
        architecture="LlamaForCausalLM",
        hidden_size=32,
        intermediate_size=48,
        layers=3,
        heads=4,
        kv_heads=4,
        head_dim=8,
        vocab_size=100,
        context_length=2048,
        norm_eps=1e-6,
        rope=Rope(10000.0),
        windows=(0, 0, 0),
    )


def test_a_spelled_out_llama_is_read_field_by_field() -> None:
    config = huggingface(
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    assert (config.kv_heads, config.head_dim, config.context_length) == (2, 16, 8192)
    assert config.norm_eps == 1e-5
    assert features(config) == {"qkv_bias", "output_bias", "mlp_bias", "tied"}
    assert (config.bos_id, config.eos_ids) == (1, (2,))
    assert config.qkv_size == (4 + 2 * 2) * 16
    assert config.cache_elements == 2 * 3 * 2 * 16
    matrices = 32 * (8 * 16) + 32 * (4 * 16) + 3 * 32 * 48
    assert config.parameters == 3 * matrices + 100 * 32
    assert replace(config, tied=False).parameters == 3 * matrices + 2 * 100 * 32


@pytest.mark.parametrize("name", ["torch_dtype", "dtype"])
def test_how_the_weights_are_stored_does_not_change_the_shape(name: str) -> None:
    changes: Values = {name: "bfloat16"}
    assert huggingface(**changes) == huggingface()


def test_null_is_the_same_as_absent() -> None:
    names = ["num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps"]
    names += ["rope_theta", "rope_scaling", "rope_parameters", "attention_bias", "mlp_bias"]
    names += ["tie_word_embeddings", "bos_token_id", "eos_token_id", "hidden_act"]
    nothing: Values = dict.fromkeys(names)
    assert huggingface(**nothing) == huggingface()


# --- RoPE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            {"rope_theta": 500000.0, "rope_scaling": None, "torch_dtype": "float32"},
            {
                "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
                "dtype": "float32",
            },
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 4.0}},
            {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
        ),
        (
            {"rope_theta": 500000, "rope_scaling": LLAMA3_ROPE},
            {"rope_parameters": {**LLAMA3_ROPE, "rope_theta": 500000.0}},
        ),
        (
            {"rope_theta": 1e6, "rope_scaling": {**LLAMA3_ROPE, "type": "llama3"}},
            {"rope_theta": 1e6, "rope_parameters": LLAMA3_ROPE},
        ),
        ({"rope_scaling": {}}, {"rope_parameters": {"rope_theta": 10000}}),
    ],
    ids=["default", "linear", "llama3", "theta outside", "empty"],
)
@pytest.mark.parametrize(
    "base", [LLAMA, MISTRAL, QWEN2, QWEN3], ids=lambda b: b["architectures"][0]
)
def test_both_spellings_of_rope_give_equal_configs(base: Values, old: Values, new: Values) -> None:
    assert huggingface(base, **old) == huggingface(base, **new)


def test_scalings_are_read_as_they_are_written() -> None:
    linear = huggingface(rope_scaling={"rope_type": "linear", "factor": 2})
    assert linear.rope == Rope(10000.0, LinearScaling(2.0))
    llama3 = huggingface(rope_theta=500000.0, rope_scaling=LLAMA3_ROPE)
    assert llama3.rope == Rope(500000.0, Llama3Scaling(8.0, 1.0, 4.0, 512))


def test_llama3_scaling_takes_the_context_where_it_names_no_original() -> None:
    scaling = {**LLAMA3_ROPE, "original_max_position_embeddings": None}
    config = huggingface(rope_scaling=scaling, max_position_embeddings=4096)
    assert config.rope.scaling == Llama3Scaling(8.0, 1.0, 4.0, 4096)


@pytest.mark.parametrize("kind", ["longrope", "su", "mrope", ""])
@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_a_scaling_that_is_not_supported_is_refused_by_name(key: str, kind: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        huggingface(rope_scaling={key: kind, "factor": 2.0})
    refusal(caught, str(PATH), repr(kind), "default, linear, dynamic, yarn, llama3")


@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("name", ["factor", "low_freq_factor", "high_freq_factor"])
@pytest.mark.parametrize("value", [ABSENT, None, "8", True, 0, -1.0, math.nan, math.inf, 1e13, []])
def test_a_wrong_number_in_a_scaling_is_named(spelling: str, name: str, value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        huggingface(**{spelling: changed(LLAMA3_ROPE, {name: value})})
    refusal(caught, str(PATH), f"{name} is ")


@pytest.mark.parametrize("value", ["linear", 4.0, ["linear"], True])
def test_a_scaling_that_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        huggingface(rope_scaling=value)
    refusal(caught, str(PATH), "rope_scaling is ", "an object")


@pytest.mark.parametrize("low", [4.0, 5.0])
def test_a_llama3_ramp_without_a_slope_is_refused(low: float) -> None:
    """The ramp between slow and fast pairs divides by the difference of its ends."""
    with pytest.raises(ModelFileError) as caught:
        huggingface(rope_scaling={**LLAMA3_ROPE, "low_freq_factor": low})
    refusal(caught, str(PATH), "low_freq_factor", "high_freq_factor")


def test_a_partly_rotated_head_is_refused() -> None:
    with pytest.raises(ModelError) as caught:
        huggingface(rope_parameters={"rope_theta": 10000.0, "partial_rotary_factor": 0.5})
    refusal(caught, str(PATH), "partial_rotary_factor is 0.5")


def test_a_partly_rotated_head_is_refused_also_outside_of_rope_parameters() -> None:
    with pytest.raises(ModelError) as caught:
        huggingface(partial_rotary_factor=0.5)
    refusal(caught, str(PATH), "partial_rotary_factor is 0.5")


@given(st.floats() | st.integers())
@example(theta=5e-324)
@example(theta=1e-60)
@example(theta=1e-38)
@example(theta=1e12)
def test_any_theta_is_refused_or_gives_finite_angles(theta: float) -> None:
    try:
        rope = huggingface(rope_theta=theta).rope
    except ModelFileError:
        return
    assert np.isfinite(rope.table(head_dim=8, positions=16)).all()


# --- wrong values, one by one

REQUIRED = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
]
COUNTS = [*REQUIRED, "num_key_value_heads", "head_dim", "max_position_embeddings"]
NUMBERS = ["rms_norm_eps", "rope_theta"]
FLAGS = ["attention_bias", "mlp_bias", "tie_word_embeddings"]


@pytest.mark.parametrize("value", [ABSENT, None], ids=["absent", "null"])
@pytest.mark.parametrize("name", [*REQUIRED, "architectures"])
def test_a_required_field_that_is_missing_is_named(name: str, value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        huggingface(**{name: value})
    refusal(caught, str(PATH), f"{name} is missing")


@pytest.mark.parametrize("value", ["32", 32.0, True, False, 0, -1, -32, HUGE, 10**30, [], [32], {}])
@pytest.mark.parametrize("name", COUNTS)
def test_a_wrong_count_is_named(name: str, value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        huggingface(**{name: value})
    refusal(caught, str(PATH), f"{name} is {value!r}"[:60], "expected a whole number from 1")


@pytest.mark.parametrize("value", ["1e-6", True, 0, -1e-6, 1e13, math.nan, math.inf, [], {}])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_wrong_number_is_named(name: str, value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        huggingface(**{name: value})
    refusal(caught, str(PATH), f"{name} is {value!r}", "expected a number")


@pytest.mark.parametrize("value", ["true", "false", 0, 1, 1.0, [], {}])
@pytest.mark.parametrize("name", FLAGS)
def test_a_wrong_flag_is_named(name: str, value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        huggingface(**{name: value})
    refusal(caught, str(PATH), f"{name} is {value!r}", "expected true or false")


@pytest.mark.parametrize("value", ["2", 2.0, True, [2, "3"], [[2]], {}])
@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id"])
def test_a_wrong_token_id_is_named(name: str, value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        huggingface(**{name: value})
    refusal(caught, str(PATH), f"{name} is {value!r}", "expected a token id")


def test_swish_is_another_name_of_silu() -> None:
    assert huggingface(hidden_act="swish") == huggingface()


@pytest.mark.parametrize("value", ["gelu", "relu", 1, ["silu"]])
def test_another_activation_is_refused(value: Any) -> None:
    with pytest.raises(ModelError) as caught:
        huggingface(hidden_act=value)
    refusal(caught, str(PATH), f"hidden_act is {value!r}")


def test_more_layers_than_any_model_has_are_refused() -> None:
    with pytest.raises(ModelFileError) as caught:
        huggingface(num_hidden_layers=10_001)
    refusal(caught, str(PATH), "num_hidden_layers is 10001", "from 1 to 10000")


def test_heads_that_are_no_multiple_of_kv_heads_are_refused() -> None:
    with pytest.raises(ModelFileError) as caught:
        huggingface(num_key_value_heads=3)
    refusal(caught, str(PATH), "4 attention heads share 3")


@pytest.mark.parametrize("changes", [{"head_dim": 7}, {"hidden_size": 28}])
def test_an_odd_head_width_is_refused(changes: Values) -> None:
    with pytest.raises(ModelFileError) as caught:
        huggingface(**changes)
    refusal(caught, str(PATH), "head_dim is 7", "even")


def test_more_heads_than_hidden_numbers_are_refused() -> None:
    with pytest.raises(ModelFileError) as caught:
        huggingface(num_attention_heads=64)
    refusal(caught, str(PATH), "head_dim is 0")


@given(st.sampled_from([*COUNTS, *NUMBERS, *FLAGS, "architectures", "eos_token_id", "hidden_act",
                        "rope_scaling", "rope_parameters", "sliding_window", "layer_types"]),
       st.sampled_from([LLAMA, MISTRAL, QWEN2, QWEN3]),
       st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(list(LLAMA3_ROPE)), inner, max_size=3),
                    max_leaves=4))  # fmt: skip
def test_any_value_in_any_field_is_read_or_refused(name: str, base: Values, value: Any) -> None:
    is_read_or_refused(PATH, lambda: huggingface(base, **{name: value}))


# --- architectures


@pytest.mark.parametrize(
    "name", ["GPT2LMHeadModel", "MixtralForCausalLM", "Gemma2ForCausalLM", "LlamaModel", ""]
)
def test_another_architecture_is_refused_with_a_list_of_those_that_run(name: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        huggingface(architectures=[name])
    refusal(caught, str(PATH), repr(name), *FAMILIES)


@pytest.mark.parametrize(
    "value",
    ["LlamaForCausalLM", [], ["LlamaForCausalLM", "GPT2LMHeadModel"], [None], [1], [[]], {}],
)
def test_architectures_that_are_no_list_of_one_are_refused(value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        huggingface(architectures=value)
    refusal(caught, str(PATH), "architectures is ", *FAMILIES)


@pytest.mark.parametrize("base", [LLAMA, MISTRAL, QWEN2, QWEN3])
@pytest.mark.parametrize("value", [ABSENT, None, []], ids=["absent", "null", "empty"])
def test_without_architectures_the_model_type_decides(base: Values, value: Any) -> None:
    [name] = base["architectures"]
    kind = FAMILIES[name].gguf_name
    assert huggingface(base, architectures=value, model_type=kind) == huggingface(base)


def test_the_old_spelling_of_llama_is_understood() -> None:
    assert huggingface(architectures=["LLaMAForCausalLM"]) == huggingface()


def test_an_unknown_model_type_is_refused_with_a_list_of_those_that_run() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        huggingface(architectures=None, model_type="gemma2")
    refusal(caught, str(PATH), "model_type is 'gemma2', ", "llama, mistral, qwen2, qwen3")


def test_a_model_type_that_contradicts_architectures_is_refused() -> None:
    assert huggingface(model_type="llama") == huggingface(model_type="of_their_own")
    with pytest.raises(ModelFileError) as caught:
        huggingface(model_type="mistral")
    refusal(caught, str(PATH), "model_type is 'mistral', expected 'llama'")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}, "mixture of experts"),
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "mixture of experts"),
        ({"architectures": ["NewForCausalLM"], "num_local_experts": 8}, "mixture of experts"),
        ({"architectures": None, "model_type": "qwen2_moe"}, "mixture of experts"),
        ({"architectures": ["LlavaForConditionalGeneration"]}, "multimodal"),
        ({"architectures": ["NewModel"], "vision_config": {"hidden_size": 8}}, "multimodal"),
        ({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {}}, "multimodal"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "an encoder"),
        ({"architectures": ["T5Model"], "is_encoder_decoder": True}, "an encoder and a decoder"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "a classifier"),
        ({"architectures": ["LlamaModel"]}, "without an output matrix"),
        ({"architectures": ["MambaForCausalLM"]}, "state-space"),
    ],
)
def test_another_kind_of_model_is_refused_by_what_it_is(changes: Values, what: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        huggingface(**changes)
    refusal(caught, str(PATH), what, "which cullama does not run, expected one of")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"general.architecture": "qwen3moe"}, "mixture of experts"),
        ({"general.architecture": "clip"}, "projector of images"),
        ({"general.architecture": "nomic-bert"}, "an encoder"),
        ({"general.architecture": "gemma2"}, "'gemma2', which cullama does not run"),
    ],
)
def test_another_kind_of_gguf_is_refused_by_what_it_is(changes: Values, what: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        gguf(changes)
    refusal(caught, str(GGUF), what, "expected")


def test_a_list_with_the_same_for_each_layer_is_that_number() -> None:
    config = huggingface(num_key_value_heads=[2, 2, 2], intermediate_size=[48] * 3)
    assert config == huggingface(num_key_value_heads=2)
    lists = {
        "llama.attention.head_count": np.full(3, 4, np.uint32),
        "llama.attention.head_count_kv": np.full(3, 2, np.int32),
        "llama.feed_forward_length": np.full(3, 48, np.uint32),
    }
    assert gguf(lists) == gguf({"llama.attention.head_count_kv": 2})


@pytest.mark.parametrize("value", [[2, 2, 4], [2, 2], [], [[2, 2, 2]] * 3, ["2"] * 3])
def test_a_list_that_differs_by_layer_is_refused(value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        huggingface(num_key_value_heads=value)
    refusal(caught, str(PATH), "num_key_value_heads is ", "expected")
    with pytest.raises(ModelFileError) as caught:
        gguf({"llama.attention.head_count_kv": np.array([2, 2, 4])})
    refusal(caught, str(GGUF), "head_count_kv is ", "expected a whole number, the same for all")


def test_values_of_another_width_than_keys_are_refused() -> None:
    assert gguf({"llama.attention.value_length": 8}) == gguf()
    with pytest.raises(ModelFileError) as caught:
        gguf({"llama.attention.value_length": 16})
    refusal(caught, str(GGUF), "llama.attention.value_length is 16", "from 8 to 8")


def test_qwen2_has_biases_on_query_key_and_value_only() -> None:
    biases: list[Values] = [{}, {"attention_bias": False}, {"attention_bias": True}]
    for changes in biases:
        assert features(huggingface(QWEN2, **changes)) == {"qkv_bias"}


def test_qwen3_has_norms_on_query_and_key() -> None:
    assert features(huggingface(QWEN3)) == {"qk_norm"}
    with_bias = huggingface(QWEN3, attention_bias=True)
    assert features(with_bias) == {"qk_norm", "qkv_bias", "output_bias"}


def test_other_families_have_biases_and_norms_only_where_config_says_so() -> None:
    for base in (LLAMA, MISTRAL):
        assert features(huggingface(base)) == set()


def test_llama_has_no_window() -> None:
    assert huggingface(sliding_window=16, use_sliding_window=True).windows == (0, 0, 0)


def test_mistral_has_transformers_default_window_where_none_is_given() -> None:
    assert huggingface(MISTRAL).windows == (4096,) * 3


def test_mistral_has_no_window_where_it_is_null() -> None:
    assert huggingface(MISTRAL, sliding_window=None).windows == (0, 0, 0)


def test_mistral_has_its_window_in_all_layers() -> None:
    assert huggingface(MISTRAL, sliding_window=16).windows == (16, 16, 16)


@pytest.mark.parametrize("base", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])
@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({}, (0, 0, 0)),
        ({"sliding_window": 16}, (0, 0, 0)),
        ({"sliding_window": 16, "use_sliding_window": False}, (0, 0, 0)),
        ({"sliding_window": 16, "use_sliding_window": True}, (0, 0, 0)),  # above layer 28
        ({"use_sliding_window": True, "max_window_layers": 0}, (4096,) * 3),
        (
            {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 1},
            (0, 16, 16),
        ),
        ({"sliding_window": None, "use_sliding_window": True, "max_window_layers": 0}, (0, 0, 0)),
        (
            {
                "sliding_window": 16,
                "use_sliding_window": True,
                "max_window_layers": 0,
                "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            },
            (0, 16, 0),
        ),
    ],
)
def test_qwen_has_windows_in_the_layers_it_names(
    base: Values, changes: Values, windows: Any
) -> None:
    assert huggingface(base, **changes).windows == windows


@pytest.mark.parametrize(
    "changes",
    [
        {"sliding_window": "16"},
        {"sliding_window": 0},
        {"sliding_window": -1},
        {"sliding_window": 16.0},
        {"sliding_window": True},
        {"use_sliding_window": 1},
        {"max_window_layers": -1},
        {"max_window_layers": "1"},
        {"layer_types": ["full_attention"]},
        {"layer_types": []},
        {"layer_types": "full_attention"},
        {"layer_types": {}},
        {"layer_types": ["full_attention", "linear_attention", "full_attention"]},
        {"layer_types": ["full_attention", None, "full_attention"]},
        {"layer_types": [1, 2, 3]},
        {"layer_types": [[], {}, []]},
    ],
)
def test_a_wrong_window_is_named(changes: Values) -> None:
    with pytest.raises(ModelError) as caught:
        huggingface(QWEN2, **{"use_sliding_window": True, "max_window_layers": 0, **changes})
    refusal(caught, str(PATH), f"{next(iter(changes))} is ")


# --- end tokens


def test_the_end_tokens_of_generation_config_come_first() -> None:
    config = huggingface(eos_token_id=2, generation={"eos_token_id": [5, 2, 7]})
    assert config.eos_ids == (5, 2, 7)
    assert huggingface(eos_token_id=2, generation={"eos_token_id": 3}).eos_ids == (3,)


@pytest.mark.parametrize("generation", [None, {}, {"eos_token_id": None}, {"eos_token_id": []}])
def test_without_generation_config_the_config_counts(generation: Values | None) -> None:
    assert huggingface(eos_token_id=[2, 3], generation=generation).eos_ids == (2, 3)
    assert huggingface(generation=generation).eos_ids == ()


@pytest.mark.parametrize("value", ["2", 2.5, True, [2, None]])
def test_a_wrong_end_token_is_named_with_its_own_file(value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        huggingface(generation={"eos_token_id": value})
    refusal(caught, "generation_config.json", f"eos_token_id is {value!r}")


@pytest.mark.parametrize("outside", [-1, 100, 10**30])
def test_an_id_outside_of_the_vocabulary_is_passed_over_with_a_warning(
    outside: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = huggingface(eos_token_id=[2, outside], bos_token_id=outside)
    assert (config.bos_id, config.eos_ids) == (None, (2,))
    first, second = caplog.messages
    assert str(PATH) in first
    assert "bos_token_id holds the id " in first
    assert "eos_token_id holds the id " in second
    assert "and the vocabulary 100 tokens: it is passed over" in second


def test_an_end_token_outside_of_the_vocabulary_is_blamed_on_the_file_that_has_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = huggingface(eos_token_id=2, generation={"eos_token_id": [5, 151645]})
    assert found.eos_ids == (5,)
    [message] = caplog.messages
    assert "generation_config.json: eos_token_id holds the id 151645" in message
    assert huggingface(eos_token_id=2, generation={"eos_token_id": 100}).eos_ids == (2,)


@pytest.mark.parametrize("outside", [-1, 100, 0xFFFFFFFF])
@pytest.mark.parametrize("name", ["bos", "eos", "eot", "eom", "unknown", "padding"])
def test_an_id_of_a_gguf_outside_of_the_vocabulary_is_warned_about_once(
    name: str, outside: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = gguf({f"tokenizer.ggml.{name}_token_id": outside})
    assert outside not in (config.bos_id, *config.eos_ids)
    [message] = caplog.messages
    assert f"tokenizer.ggml.{name}_token_id holds the id {outside}" in message


def test_a_gguf_of_the_same_model_gives_the_same_config() -> None:
    assert gguf() == huggingface(tie_word_embeddings=False)


def test_a_spelled_out_gguf_is_read_field_by_field() -> None:
    config = gguf(
        {
            "llama.attention.head_count_kv": 2,
            "llama.attention.key_length": 16,
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "llama.attention.sliding_window": 64,
            "llama.rope.freq_base": 500000.0,
            "llama.rope.scaling.type": "linear",
            "llama.rope.scaling.factor": 4.0,
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.eot_token_id": 3,
            "tokenizer.ggml.eom_token_id": 2,
        },
        {"token_embd.weight": (100, 32)},
    )
    assert (config.kv_heads, config.head_dim, config.norm_eps) == (2, 16, 1e-5)
    assert config.rope == Rope(500000.0, LinearScaling(4.0))
    assert config.windows == (64, 64, 64)
    assert (config.bos_id, config.eos_ids) == (1, (2, 3))
    assert config.tied


def test_optional_parts_are_recognised_by_their_tensors() -> None:
    biases = {f"blk.0.{stem}.bias": (1,) for stem in ("attn_q", "attn_output", "ffn_down")}
    config = gguf(None, {**SHAPES, **biases, "blk.0.attn_q_norm.weight": (8,)})
    assert features(config) == {"qkv_bias", "output_bias", "mlp_bias", "qk_norm"}
    assert config.vocab_size == 100


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_each_architecture_has_a_name_in_gguf(name: str) -> None:
    metadata = {key.replace("llama.", f"{name}."): value for key, value in METADATA.items()}
    config = ModelConfig.from_gguf(GGUF, {**metadata, "general.architecture": name}, SHAPES)
    assert config.family.gguf_name == name


@pytest.mark.parametrize("name", ["gpt2", "gemma", "phi3", "", "Llama"])
def test_another_architecture_in_a_gguf_is_refused_with_a_list(name: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        gguf({"general.architecture": name})
    refusal(caught, str(GGUF), repr(name), *(family.gguf_name for family in FAMILIES.values()))


@pytest.mark.parametrize("value", [ABSENT, 3, True, ["llama"]])
def test_a_gguf_without_an_architecture_is_refused(value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        gguf({"general.architecture": value})
    refusal(caught, str(GGUF), "general.architecture is ")


GGUF_REQUIRED = [
    "embedding_length",
    "feed_forward_length",
    "block_count",
    "attention.head_count",
    "context_length",
]


@pytest.mark.parametrize("name", GGUF_REQUIRED)
def test_a_required_key_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        gguf({f"llama.{name}": ABSENT})
    refusal(caught, str(GGUF), f"llama.{name} is missing")


@pytest.mark.parametrize(
    "value",
    ["32", 32.0, True, 0, -1, HUGE, np.arange(3, dtype=np.int32), np.zeros(10_000, np.int64), []],
    ids=["text", "float", "bool", "zero", "negative", "huge", "array", "long array", "list"],
)
@pytest.mark.parametrize(
    "name", [*GGUF_REQUIRED, "attention.head_count_kv", "attention.key_length"]
)
def test_a_wrong_count_in_a_gguf_is_named_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        gguf({f"llama.{name}": value})
    refusal(caught, str(GGUF), f"llama.{name} is ", "expected a whole number")


@pytest.mark.parametrize("value", ["1", True, 0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["attention.layer_norm_rms_epsilon", "rope.freq_base"])
def test_a_wrong_number_in_a_gguf_is_named(name: str, value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        gguf({f"llama.{name}": value})
    refusal(caught, str(GGUF), f"llama.{name} is ", "expected a number")


@pytest.mark.parametrize("value", ["2", True, 2.0, np.arange(2, dtype=np.uint32)])
def test_a_wrong_end_token_in_a_gguf_is_named(value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        gguf({"tokenizer.ggml.eos_token_id": value})
    refusal(caught, str(GGUF), "tokenizer.ggml.eos_token_id is ")


@pytest.mark.parametrize(
    "shapes", [{"output.weight": (100, 32)}, {"token_embd.weight": (3200,)}], ids=["none", "flat"]
)
def test_a_gguf_without_an_embedding_is_refused(shapes: Values) -> None:
    with pytest.raises(ModelFileError) as caught:
        gguf(None, shapes)
    refusal(caught, str(GGUF), "token_embd.weight")


@pytest.mark.parametrize("kind", ["longrope", "", 3])
def test_a_scaling_in_a_gguf_that_is_not_supported_is_refused(kind: Any) -> None:
    with pytest.raises(ModelError) as caught:
        gguf({"llama.rope.scaling.type": kind})
    refusal(caught, str(GGUF), repr(kind))


def test_a_linear_scaling_needs_its_factor() -> None:
    with pytest.raises(ModelFileError) as caught:
        gguf({"llama.rope.scaling.type": "linear"})
    refusal(caught, str(GGUF), "llama.rope.scaling.factor is missing")


def test_divisors_stand_beside_a_scaling() -> None:
    divisors = (1.0, 1.0, 4.0, 8.0)
    assert gguf(rope_divisors=divisors).rope == Rope(divisors=divisors)
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    rope = gguf(scaling, rope_divisors=divisors).rope
    assert rope == Rope(10000.0, LinearScaling(4.0), divisors=divisors)


def test_yarn_makes_the_context_as_long_as_it_stretches_it() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    for stated in (512, 2048):
        config = huggingface(rope_scaling=yarn, max_position_embeddings=stated)
        assert config.rope.scaling == YarnScaling(4.0, 512)
        assert config.context_length == 2048
    metadata = {
        "llama.context_length": 512,
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 4.0,
    }
    assert gguf(metadata).context_length == 2048


@pytest.mark.parametrize(
    "divisors",
    [(), (1.0,), (1.0,) * 5, (1.0, 0.0, 1.0, 1.0), (1.0, math.nan, 1.0, 1.0),
     (1.0, math.inf, 1.0, 1.0), (1.0, -2.0, 1.0, 1.0)],
)  # fmt: skip
def test_divisors_that_are_not_one_positive_number_a_pair_are_refused(divisors: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        gguf(rope_divisors=divisors)
    refusal(caught, str(GGUF), "rope_freqs.weight")


def test_a_gguf_that_rotates_a_part_of_its_heads_is_refused() -> None:
    assert gguf({"llama.rope.dimension_count": 8}) == gguf()
    with pytest.raises(ModelError) as caught:
        gguf({"llama.rope.dimension_count": 4})
    refusal(caught, str(GGUF), "llama.rope.dimension_count is 4")


@given(st.sampled_from([*METADATA, "llama.attention.head_count_kv", "llama.attention.key_length",
                        "llama.rope.freq_base", "llama.rope.scaling.type",
                        "llama.attention.sliding_window", "tokenizer.ggml.bos_token_id"]),
       st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
       | st.lists(st.text(max_size=9)))  # fmt: skip
def test_any_value_under_any_key_is_read_or_refused(name: str, value: Any) -> None:
    is_read_or_refused(GGUF, lambda: gguf({name: value}))
