"""Settings that change a result are obeyed, refused by name or warned about; the lists are true."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cullama import LLM
from cullama.checkpoint.opening import open_checkpoint
from cullama.checkpoint.sampling_defaults import GENERATION_CONFIG, GGUF
from cullama.checkpoint.settings.config_json import CONFIG_JSON_RULES, ROPE_RULES
from cullama.checkpoint.settings.generation_config import GENERATION_CONFIG_RULES
from cullama.checkpoint.settings.gguf import (
    GGUF_MODEL_RULES,
    GGUF_SAMPLING_RULES,
    GGUF_TOKENIZER_RULES,
)
from cullama.checkpoint.settings.quantization import NAMES
from cullama.checkpoint.settings.tokenizer_config import TOKENIZER_CONFIG_RULES
from cullama.checkpoint.settings.verdict import Rule, check_settings, rule
from cullama.errors import UnsupportedModelError
from cullama.model.config import ModelConfig
from cullama.model.families import FAMILIES

PATH = Path("m/config.json")
LISTS = {
    "config.json": CONFIG_JSON_RULES,
    "rope_scaling": ROPE_RULES,
    "generation_config.json": GENERATION_CONFIG_RULES,
    "tokenizer_config.json": TOKENIZER_CONFIG_RULES,
    "gguf model": GGUF_MODEL_RULES,
    "gguf tokenizer": GGUF_TOKENIZER_RULES,
    "gguf sampling": GGUF_SAMPLING_RULES,
}
RULES = (
    rule("obeyed", "a size", "size"),
    rule("refused", "another scale", "scale other_scale", 1, True),
    rule("warned", "another order", "order", 0),
    rule("harmless", "a name", "title"),
)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING]


# --- the mechanism


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"size": 8, "title": "x"},
        {"scale": 1, "other_scale": 1.0, "order": 0},
        {"scale": None, "order": None, "new": None},
        {"scale": [1, 1.0, True], "order": []},
        {"scale": np.ones(3, np.float32), "order": {}},
    ],
)
def test_known_fields_and_neutral_values_are_passed_over_silently(
    values: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    check_settings(PATH, values, RULES)
    assert warnings(caplog) == []


@pytest.mark.parametrize("value", [2, 0, 0.5, "1", [1, 2], False, np.array([1, 3]), {"a": 1}])
def test_another_value_is_refused_by_name(value: Any) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        check_settings(PATH, {"size": 8, "scale": value}, RULES)
    message = str(caught.value)
    assert message.startswith(f"{PATH}: scale is ")
    assert message.endswith(
        ": another scale, which cullama does not run, expected 1 or True or no such field"
    )


def test_a_field_that_only_changes_the_text_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check_settings(PATH, {"order": 3}, RULES, prefix="general.")
    assert warnings(caplog) == [
        f"{PATH}: general.order is 3: another order, which cullama leaves out"
    ]


def test_unknown_fields_are_named_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    unknown = {f"x{number}\n": number for number in range(12)}
    check_settings(PATH, {"size": 8, **unknown}, RULES)
    [message] = warnings(caplog)
    assert message.startswith(f"{PATH}: passed over, not known to cullama: x0\\n, x1\\n, ")
    assert message.endswith("x7\\n and 4 more")
    assert len(message.splitlines()) == 1


# --- the lists


@pytest.mark.parametrize("name", LISTS)
def test_a_field_stands_in_a_list_once(name: str) -> None:
    counts = Counter(field for each in LISTS[name] for field in each.names)
    assert [field for field, count in counts.items() if count > 1] == []


class Recorder(Mapping[str, Any]):
    """A mapping that remembers which keys were asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values, self.asked = values, set[str]()

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        self.asked.add(str(name))
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def obeyed(rules: tuple[Rule, ...]) -> set[str]:
    return {name for each in rules if each.verdict == "obeyed" for name in each.names}


CONFIG: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "sliding_window": 16,
    "use_sliding_window": True,
}


def test_what_is_said_to_be_obeyed_in_config_json_is_what_is_read() -> None:
    asked: set[str] = set()
    for name in FAMILIES:
        for more in ({}, {"rope_scaling": {"type": "yarn", "factor": 2.0}}):
            values = Recorder({**CONFIG, "architectures": [name], **more})
            ModelConfig.from_huggingface(PATH, values)
            asked |= values.asked
    assert asked - {"partial_rotary_factor"} == obeyed(CONFIG_JSON_RULES)  # which must be 1


def test_what_is_said_to_be_obeyed_in_a_scaling_is_what_is_read() -> None:
    llama3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    asked: set[str] = set()
    for more in ({"rope_type": "yarn"}, {"rope_type": "llama3", **llama3}, {"type": "default"}):
        group = Recorder({"factor": 2.0, **more})
        values = {**CONFIG, "architectures": ["LlamaForCausalLM"], "rope_scaling": group}
        ModelConfig.from_huggingface(PATH, values)
        asked |= group.asked
    assert asked - {"partial_rotary_factor"} == obeyed(ROPE_RULES)


def test_what_is_said_to_be_obeyed_in_a_gguf_is_what_is_read() -> None:
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 48,
        "llama.block_count": 2,
        "llama.attention.head_count": 4,
        "llama.context_length": 2048,
    }
    yarn = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0}
    shapes = {"token_embd.weight": (100, 32)}
    asked: set[str] = set()
    for more in ({}, yarn):
        values = Recorder({**metadata, **more})
        ModelConfig.from_gguf(Path("x.gguf"), values, shapes)
        asked |= values.asked
    ours = {name.removeprefix("llama.") for name in asked if name.startswith("llama.")}
    assert ours == obeyed(GGUF_MODEL_RULES)
    tokens = {it.removeprefix("tokenizer.ggml.") for it in asked if it.startswith("tokenizer.")}
    # Some ids that decide nothing are only held against the vocabulary.
    assert tokens - {"padding_token_id"} < obeyed(GGUF_TOKENIZER_RULES)


def test_what_is_said_to_be_obeyed_of_sampling_is_what_is_read() -> None:
    names = {*GENERATION_CONFIG, "do_sample", "eos_token_id"}
    assert names == obeyed(GENERATION_CONFIG_RULES)
    assert {name.removeprefix("general.sampling.") for name in GGUF} == obeyed(GGUF_SAMPLING_RULES)


# --- folders


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"logit_scale": 0.0625}, "logit_scale is 0.0625: scaled logits"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0: capped logits"),
        ({"embedding_multiplier": 12}, "embedding_multiplier is 12: scaled embeddings"),
        ({"query_pre_attn_scalar": 256}, "another scale of attention scores"),
        ({"use_qk_norm": True}, "norms of queries and keys"),
        ({"clip_qkv": 8.0}, "clipped queries"),
        ({"use_parallel_residual": True}, "side by side"),
        ({"num_local_experts": 8}, "a mixture of experts"),
        ({"rope_interleaved": True}, "rotated"),
        ({"no_rope_layers": [1, 1, 0]}, "layers without positions"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0, "alpha": 1000.0}},
            "rope_scaling.alpha is 1000.0: a scaling by other means",
        ),
        ({"is_causal": False}, "attention to later tokens"),
    ],
)
def test_a_setting_of_another_model_is_refused_by_name(
    write_model: Any, tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(Exception, match=r"config.json: .*expected") as caught:
        open_checkpoint(write_model(tmp_path / "m", **changes))
    assert what in str(caught.value)


def test_what_common_models_have_in_their_configs_is_silent(
    write_model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_model(
        tmp_path / "m",
        **{
            "_name_or_path": "x/y",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "head_dim": 8,
            "initializer_range": 0.02,
            "is_llama_config": True,
            "mlp_bias": False,
            "pad_token_id": 2,
            "pretraining_tp": 1,
            "rope_interleaved": False,
            "rope_scaling": {"rope_type": "default"},
            "torch_dtype": "bfloat16",
            "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
            "transformers_version": "4.42.3",
            "use_cache": True,
            "use_mrope": False,
        },
    )
    generation = {"_from_model_config": True, "bos_token_id": 0, "eos_token_id": 1,
                  "pad_token_id": 2, "transformers_version": "4.42.3"}  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(generation))
    open_checkpoint(folder)
    assert warnings(caplog) == []


def test_what_generation_config_asks_for_beyond_the_sampler_is_named(
    write_model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_model(tmp_path / "m")
    generation = {"num_beams": 4, "no_repeat_ngram_size": 3, "typical_p": 1.0, "min_length": 0}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    open_checkpoint(folder)
    first, second = warnings(caplog)
    assert "generation_config.json: num_beams is 4: another way to choose tokens" in first
    assert "no_repeat_ngram_size is 3" in second


def test_an_unknown_field_and_custom_code_are_named(
    write_model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    auto = {"AutoModelForCausalLM": "modeling_x.XForCausalLM"}
    scaling = {"type": "linear", "factor": 2.0, "slope": 3}
    changes = {"auto_map": auto, "my_new_setting": 3, "rope_scaling": scaling}
    open_checkpoint(write_model(tmp_path / "m", **changes))
    assert any("cullama: rope_scaling.slope" in message for message in warnings(caplog))
    assert any("auto_map is " in message for message in warnings(caplog))
    assert any(message.endswith("cullama: my_new_setting") for message in warnings(caplog))


def test_older_models_recommend_sampling_in_config_json(write_model: Any, tmp_path: Path) -> None:
    changes = {"do_sample": False, "top_k": 50, "temperature": 0.6, "top_p": 1.0, "num_beams": 1}
    folder = write_model(tmp_path / "m", **changes)
    assert open_checkpoint(folder).sampling_defaults == {"temperature": 0.6}
    (folder / "generation_config.json").write_text("{}")
    assert open_checkpoint(folder).sampling_defaults == {}


# --- quantised weights


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "AWQ 4-bit weights"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, "GPTQ 8-bit weights"),
        ({"quantization_config": {"quant_method": "fp8"}}, "FP8 weights"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "bitsandbytes 4-bit weights",
        ),
        (
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "config_groups": {"group_0": {"weights": {"num_bits": 8}}},
                }
            },
            "compressed-tensors 8-bit weights",
        ),
        ({"quantization_config": {"quant_method": "new"}}, "quantised ('new') weights"),
        ({"quantization_config": {"bits": 3}}, "quantised 3-bit weights"),
        ({"quantization_config": [1]}, "quantised weights"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "MLX 4-bit weights"),
        ({"compression_config": {"format": "x"}}, "quantised weights"),
    ],
)
def test_quantised_weights_are_refused_by_their_method(
    write_model: Any, tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        open_checkpoint(write_model(tmp_path / "m", **changes))
    assert what in str(caught.value)
    assert "take the model that they were made from, or a GGUF of it" in str(caught.value)


@pytest.mark.parametrize("method", NAMES)
def test_every_method_is_refused(write_model: Any, tmp_path: Path, method: str) -> None:
    settings = {"quant_method": method}
    with pytest.raises(UnsupportedModelError, match=f"{NAMES[method]} weights"):
        open_checkpoint(write_model(tmp_path / "m", quantization_config=settings))


@pytest.mark.parametrize("value", [None, {}])
def test_no_quantisation_is_none(write_model: Any, tmp_path: Path, value: Any) -> None:
    open_checkpoint(write_model(tmp_path / "m", quantization_config=value))


def test_the_older_files_of_quantisation_are_understood(write_model: Any, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "quantize_config.json").write_text('{"bits": 4, "group_size": 128}')
    with pytest.raises(UnsupportedModelError, match=r"quantize_config.json: .*GPTQ 4-bit weights"):
        open_checkpoint(folder)


# --- a tied flag and two matrices


def test_two_different_matrices_under_a_tied_flag_are_both_used(
    write_model: Any, tmp_path: Path, tiny_tensors: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tied = write_model(tmp_path / "tied", tiny_tensors, tie_word_embeddings=True)
    own = write_model(tmp_path / "own", tiny_tensors, tie_word_embeddings=False)
    with LLM(tied) as one, LLM(own) as another:
        assert not one.config.tied
        np.testing.assert_array_equal(one.logits([5, 6, 7]), another.logits([5, 6, 7]))
    assert any("lm_head.weight differs from the embedding" in it for it in warnings(caplog))


def test_a_matrix_stored_twice_is_tied(
    write_model: Any, tmp_path: Path, tiny_tensors: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_tensors["lm_head.weight"] = tiny_tensors["model.embed_tokens.weight"].copy()
    checkpoint = open_checkpoint(
        write_model(tmp_path / "m", tiny_tensors, tie_word_embeddings=True)
    )
    assert checkpoint.config.tied
    assert "lm_head.weight" not in checkpoint.tensors
    assert warnings(caplog) == []
