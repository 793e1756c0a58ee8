"""Metadata of real GGUF files that change a result: obeyed, refused by name, or warned about."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import gguf
import numpy as np
import pytest
from split_gguf import copy_metadata, write_gguf

from cullama import LLM
from cullama.checkpoint.opening import open_checkpoint
from cullama.errors import UnsupportedModelError

WithMetadata: TypeAlias = Callable[..., Path]

KINDS = {
    bool: gguf.GGUFValueType.BOOL,
    int: gguf.GGUFValueType.UINT32,
    float: gguf.GGUFValueType.FLOAT32,
    str: gguf.GGUFValueType.STRING,
}
IDS = [5, 9, 33, 7, 60, 12, 3] * 4


@pytest.fixture(scope="module")
def plain(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tiny_model, tmp_path_factory.mktemp("gguf") / "plain.gguf")


@pytest.fixture
def with_metadata(plain: Path, tmp_path: Path) -> WithMetadata:
    """Write the tiny model with more metadata, or with one tensor more."""

    def write(fields: dict[str, Any], divisors: Any = None) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.gguf"
        reader, writer = gguf.GGUFReader(plain), gguf.GGUFWriter(path, "llama")
        copy_metadata(reader, writer)
        for key, value in fields.items():
            if isinstance(value, list):
                writer.add_array(key, value)
            else:
                writer.add_key_value(key, value, KINDS[type(value)])
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        if divisors is not None:
            writer.add_tensor("rope_freqs.weight", np.asarray(divisors, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def logits(path: Path) -> np.ndarray[Any, Any]:
    with LLM(path, backend="cpu:numpy", keep_converted=False) as llm:
        return llm.logits(IDS)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING]


LINEAR = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
YARN = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
DIVISORS = [1.0, 1.5, 2.0, 3.0]


def test_a_factor_without_a_type_and_the_old_key_are_linear(
    with_metadata: WithMetadata, plain: Path
) -> None:
    linear = logits(with_metadata(LINEAR))
    assert np.abs(linear - logits(plain)).max() > 0.1
    for fields in ({"llama.rope.scaling.factor": 4.0}, {"llama.rope.scale_linear": 4.0}):
        np.testing.assert_array_equal(logits(with_metadata(fields)), linear)


def test_stored_divisors_and_a_scaling_multiply(with_metadata: WithMetadata) -> None:
    divided = logits(with_metadata({}, DIVISORS))
    linear = logits(with_metadata(LINEAR, DIVISORS))
    all_divided = logits(with_metadata({}, [4 * divisor for divisor in DIVISORS]))
    np.testing.assert_allclose(linear, all_divided, atol=1e-4)
    assert np.abs(linear - divided).max() > 0.1
    assert np.abs(logits(with_metadata(YARN, DIVISORS)) - divided).max() > 0.1


def test_an_attention_factor_is_obeyed(with_metadata: WithMetadata, plain: Path) -> None:
    stronger = logits(with_metadata({"llama.rope.scaling.attn_factor": 2.0}))
    assert np.abs(stronger - logits(plain)).max() > 0.1


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("llama.attention.scale", 0.5, "another scale of attention scores"),
        ("llama.logit_scale", 0.25, "scaled embeddings, residuals or logits"),
        ("llama.attn_logit_softcapping", 50.0, "capped logits or attention scores"),
        ("llama.use_parallel_residual", True, "side by side"),
        ("llama.attention.causal", False, "attention to later tokens"),
        ("llama.attention.sliding_window_pattern", [True, False], "another window in some layers"),
        ("llama.rope.dimension_sections", [1, 1, 2, 0], "several kinds of rotary embedding"),
        ("llama.rope.scaling.yarn_ext_factor", 0.5, "a YaRN of another strength"),
    ],
)
def test_metadata_of_another_model_are_refused_by_name(
    with_metadata: WithMetadata, name: str, value: Any, what: str
) -> None:
    path = with_metadata({name: value})
    with pytest.raises(UnsupportedModelError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {name} is ")
    assert what in message
    assert len(message.splitlines()) == 1


def test_neutral_metadata_and_bookkeeping_are_silent(
    with_metadata: WithMetadata, caplog: pytest.LogCaptureFixture
) -> None:
    neutral = {
        "llama.logit_scale": 1.0,
        "llama.attention.causal": True,
        "llama.expert_count": 0,
        "llama.rope.dimension_sections": [0, 0, 0, 0],
        "llama.rope.scaling.finetuned": False,
        "general.author": "nobody",
        "quantize.imatrix.entries_count": 3,
    }
    open_checkpoint(with_metadata(neutral))
    assert warnings(caplog) == []


def test_unknown_metadata_of_the_model_are_named(
    with_metadata: WithMetadata, caplog: pytest.LogCaptureFixture
) -> None:
    fields = {
        "llama.new_setting": 3,
        "tokenizer.ggml.new_flag": True,
        "general.sampling.mirostat": 2,
    }
    open_checkpoint(with_metadata(fields))
    first, second, third = warnings(caplog)
    assert first.endswith("passed over, not known to cullama: llama.new_setting")
    assert second.endswith("passed over, not known to cullama: tokenizer.ggml.new_flag")
    assert "general.sampling.mirostat is 2: another way to choose tokens" in third
