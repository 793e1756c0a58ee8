"""A checkpoint written as GGUF is read as the same model, by us and by gguf-py; and what a file
that cannot be written leaves behind, which is nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

import cullama
from cullama.benchmark.shapes import random_checkpoint
from cullama.checkpoint.checkpoint import Checkpoint
from cullama.checkpoint.gguf_file import GgufFile
from cullama.checkpoint.opening import open_checkpoint
from cullama.errors import CullamaError, ModelFileError, UnsupportedModelError, UsageError
from cullama.model.rope import Llama3Scaling, Rope
from cullama.quantize import TYPES, file_name, quantize
from cullama.text.tokenizer import Tokenizer

MODELS = Path(__file__).parents[1] / "fixtures" / "models"
SAYABLE = sorted(
    path.name
    for path in MODELS.iterdir()
    if path.name not in ("qwen2_mixed_windows", "qwen3_layer_types", "qwen3_rope_yarn")
)
IDS = list(range(2, 34))


def logits(model: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    with cullama.LLM(model, backend="cpu:numpy", dtype="float32", keep_converted=False) as llm:
        return llm.logits(IDS)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# --- the same model


@pytest.mark.parametrize("name", SAYABLE)
def test_in_float32_the_file_predicts_what_its_source_does(name: str, tmp_path: Path) -> None:
    source = open_checkpoint(MODELS / name)
    written = quantize(source, tmp_path / "m.gguf", "f32")
    assert set(written.types) == {"F32"}
    before, after = logits(MODELS / name), logits(written.path)
    if isinstance(source.config.rope.scaling, Llama3Scaling):  # is divided out once more
        assert np.abs(after - before).max() <= 1e-4
    else:
        assert after.tolist() == before.tolist()


def test_a_yarn_scaling_that_gguf_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="whose ramp begins and ends between two pairs"):
        quantize(open_checkpoint(MODELS / "qwen3_rope_yarn"), tmp_path / "m.gguf", "f32")


@pytest.mark.parametrize("name", SAYABLE)
def test_the_shape_is_written_in_full(name: str, tmp_path: Path) -> None:
    before = open_checkpoint(MODELS / name).config
    quantize(open_checkpoint(MODELS / name), tmp_path / "m.gguf", "f16")
    after = open_checkpoint(tmp_path / "m.gguf").config
    if before.architecture == "MistralForCausalLM":
        before = replace(before, architecture="LlamaForCausalLM")
    assert after.norm_eps == pytest.approx(before.norm_eps, rel=1e-7)
    turns = [config.rope.inverse_frequencies(before.head_dim) for config in (before, after)]
    assert turns[1] == pytest.approx(turns[0], rel=3e-7)
    assert replace(after, norm_eps=0, rope=Rope()) == replace(before, norm_eps=0, rope=Rope())


def test_quantised_weights_have_the_layout_of_float_ones(tmp_path: Path, tiny_model: Path) -> None:
    """Names, order of rows and of dimensions, seen with gguf-py's eyes."""
    source = open_checkpoint(tiny_model)
    for dtype in ("f32", "q8_0"):
        quantize(source, tmp_path / f"{dtype}.gguf", dtype)
    plain, coarse = (gguf.GGUFReader(tmp_path / f"{dtype}.gguf") for dtype in ("f32", "q8_0"))
    for exact, rounded in zip(plain.tensors, coarse.tensors, strict=True):
        assert exact.name == rounded.name
        assert exact.shape.tolist() == rounded.shape.tolist()
        numbers = dequantize(rounded.data, rounded.tensor_type).reshape(exact.data.shape)
        assert np.abs(numbers - exact.data).max() <= 0.01 * np.abs(exact.data).max()


@pytest.mark.parametrize("dtype", TYPES)
def test_the_metadata_that_llama_cpp_requires_is_written(
    tmp_path: Path, tiny_model: Path, dtype: str
) -> None:
    written = quantize(open_checkpoint(tiny_model), tmp_path / "m.gguf", dtype)
    reader = gguf.GGUFReader(written.path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    assert metadata["GGUF.version"] == 3
    assert metadata["general.architecture"] == "llama"
    assert metadata["general.name"] == "tiny"
    kind = "ALL_F32" if dtype == "f32" else f"MOSTLY_{dtype.upper()}"
    assert metadata["general.file_type"] == gguf.LlamaFileType[kind]
    assert metadata["general.quantization_version"] == 2
    assert metadata["llama.vocab_size"] == len(metadata["tokenizer.ggml.tokens"]) == 300
    assert metadata["llama.attention.key_length"] == metadata["llama.attention.value_length"] == 8
    assert reader.fields["llama.attention.head_count_kv"].types == [gguf.GGUFValueType.UINT32]
    assert reader.fields["llama.rope.freq_base"].types == [gguf.GGUFValueType.FLOAT32]
    assert reader.fields["tokenizer.ggml.token_type"].types[-1] == gguf.GGUFValueType.INT32
    assert written.size == written.path.stat().st_size
    assert written.parameters == sum(tensor.n_elements for tensor in reader.tensors)
    found = [tensor.tensor_type.name for tensor in reader.tensors]
    assert written.types == {name: found.count(name) for name in found}


def test_a_file_encodes_and_renders_as_its_source(tmp_path: Path, chat_model: Path) -> None:
    quantize(open_checkpoint(chat_model), tmp_path / "m.gguf", "q8_0")
    before, after = open_checkpoint(chat_model), open_checkpoint(tmp_path / "m.gguf")
    text = "<|user|>once upon a naïve café\n<|end|>東京 42"
    tokenizers = [Tokenizer(checkpoint.load_tokenizer()) for checkpoint in (before, after)]
    for allow_special in (True, False):
        first, second = (it.encode(text, allow_special=allow_special) for it in tokenizers)
        assert first == second
        assert first[0] == 0
    conversation = [{"role": "user", "content": "Hi"}]
    templates = [checkpoint.load_chat_template() for checkpoint in (before, after)]
    assert templates[0] is not None
    assert templates[1] is not None
    assert templates[0].render(conversation) == templates[1].render(conversation)


# --- from one GGUF file to another


def test_a_gguf_source_keeps_its_metadata(tmp_path: Path, chat_model: Path) -> None:
    first = quantize(open_checkpoint(chat_model), tmp_path / "first.gguf", "f32").path
    second = quantize(open_checkpoint(first), tmp_path / "second.gguf", "q4_0").path
    before, after = GgufFile(first).metadata, GgufFile(second).metadata
    assert before.keys() == after.keys()
    for key in before.keys() - {"general.file_type"}:
        assert np.array_equal(before[key], after[key]), key
    assert after["general.name"] == "tiny-chat"
    from_folder = quantize(open_checkpoint(chat_model), tmp_path / "third.gguf", "q4_0").path
    names = GgufFile(second).tensors
    for name in names:
        one, other = (GgufFile(path).stored_tensor(name).read() for path in (second, from_folder))
        assert one.tolist() == other.tolist()


def test_what_a_folder_recommends_of_sampling_is_written(write_model: Any, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    recommended = {"do_sample": True, "temperature": 1, "top_k": 20, "max_new_tokens": 99}
    (folder / "generation_config.json").write_text(json.dumps(recommended))
    written = quantize(open_checkpoint(folder), tmp_path / "m.gguf", "f32")
    assert open_checkpoint(written.path).sampling_defaults == {"temperature": 1.0, "top_k": 20}
    assert isinstance(GgufFile(written.path).metadata["general.sampling.temp"], float)
    assert "GGUF has no place for what the model recommends of max_tokens" in written.notes


def test_weights_of_the_type_already_are_copied(tmp_path: Path, tiny_model: Path) -> None:
    first = quantize(open_checkpoint(tiny_model), tmp_path / "first.gguf", "q4_0")
    second = quantize(open_checkpoint(first.path), tmp_path / "second.gguf", "q4_0")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert second.notes[0] == "the source is GGUF Q4_0 already: the losses add up"


# --- without a tokenizer


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_without_a_tokenizer_a_file_takes_token_ids(
    tmp_path: Path, tiny_model: Path, has_tokenizer: bool
) -> None:
    source = MODELS / "llama_gqa" if has_tokenizer else tiny_model
    written = quantize(
        open_checkpoint(source), tmp_path / "m.gguf", "f32", has_tokenizer=has_tokenizer
    )
    metadata = GgufFile(written.path).metadata
    assert metadata["tokenizer.ggml.model"] == "no_vocab"
    assert "tokenizer.ggml.tokens" not in metadata
    config = open_checkpoint(source).config
    assert open_checkpoint(written.path).config.eos_ids == config.eos_ids != ()
    assert open_checkpoint(written.path).config.bos_id == config.bos_id is not None
    assert ("the model has no tokenizer, so the file takes token ids" in written.notes) == (
        has_tokenizer
    )
    again = quantize(open_checkpoint(written.path), tmp_path / "again.gguf", "f32")
    assert open_checkpoint(again.path).config.eos_ids == config.eos_ids


def test_random_weights_of_a_known_shape_can_be_written(tmp_path: Path) -> None:
    source = random_checkpoint("tinystories-656k")
    written = quantize(source, tmp_path / "m.gguf", "q8_0")
    assert replace(open_checkpoint(written.path).config, norm_eps=0) == replace(
        source.config, norm_eps=0
    )


# --- notes and refusals


def test_deviations_from_the_type_asked_for_are_noted(tmp_path: Path, tiny_model: Path) -> None:
    narrow = "model.layers.0.mlp.down_proj.weight and 1 more matrices"
    assert quantize(open_checkpoint(tiny_model), tmp_path / "a.gguf", "q4_0").notes == (
        f"F16: {narrow}, whose rows are no multiple of 32",
        "Q8_0: lm_head.weight, which predicts the tokens",
    )
    assert quantize(open_checkpoint(tiny_model), tmp_path / "b.gguf", "bf16").notes == ()
    window = quantize(open_checkpoint(MODELS / "mistral_window"), tmp_path / "c.gguf", "f16")
    assert "beyond 8 tokens" in window.notes[-1]


@pytest.mark.parametrize(
    ("name", "changes", "what"),
    [
        ("qwen2_mixed_windows", {}, "layers with windows of 0 and of 8 tokens"),
        ("qwen2", {"mlp_bias": True}, "biases behind attention or feed-forward in a qwen2"),
        ("qwen3", {"output_bias": True}, "biases behind attention or feed-forward in a qwen3"),
        ("llama_gqa", {"qk_norm": True}, "norms of queries and keys in a llama"),
        (
            "qwen3",
            {"rope": Rope(1e4, Llama3Scaling(8.0, 1.0, 4.0, 32))},
            "rotary embedding scaled frequency by frequency in a qwen3",
        ),
    ],
)
def test_models_that_llama_cpp_cannot_load_are_not_written(
    tmp_path: Path, name: str, changes: dict[str, Any], what: str
) -> None:
    source = open_checkpoint(MODELS / name)
    source = replace(source, config=replace(source.config, **changes))
    with pytest.raises(
        UnsupportedModelError, match=f"{name}: has {what}, which llama.cpp cannot read"
    ):
        quantize(source, tmp_path / "m.gguf", "f16")
    assert leftovers(tmp_path) == []


def test_types_that_are_not_known_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(UsageError, match=r"'q4_k', expected one of f32, bf16, f16, q8_0"):
        quantize(open_checkpoint(tiny_model), tmp_path / "m.gguf", "q4_k")


def test_an_existing_file_is_not_replaced_without_overwrite(
    tmp_path: Path, tiny_model: Path
) -> None:
    path = tmp_path / "m.gguf"
    path.write_text("precious")
    with pytest.raises(UsageError, match=r"m.gguf exists; add --force"):
        quantize(open_checkpoint(tiny_model), path, "f32")
    assert path.read_text() == "precious"
    quantize(open_checkpoint(tiny_model), path, "f32", overwrite=True)
    assert open_checkpoint(path).config.layers == 2
    assert leftovers(tmp_path) == ["m.gguf"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_never_replaces_its_source(
    tmp_path: Path, tiny_model: Path, overwrite: bool
) -> None:
    path = quantize(open_checkpoint(tiny_model), tmp_path / "m.gguf", "f32").path
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    with pytest.raises(UsageError, match="is the model itself"):
        quantize(open_checkpoint(path), link, "q8_0", overwrite=overwrite)
    with pytest.raises(UsageError, match="is a folder"):
        quantize(open_checkpoint(path), tmp_path, "q8_0", overwrite=overwrite)
    with pytest.raises(UsageError, match="is not a folder"):
        quantize(open_checkpoint(path), tmp_path / "none/m.gguf", "q8_0", overwrite=overwrite)


# --- a file that cannot be written


def failing(checkpoint: Checkpoint, at: str, error: BaseException) -> Checkpoint:
    """The same model, until one of its tensors is read."""

    def tiles() -> Any:
        raise error
        yield

    tensors = checkpoint.tensors
    return replace(checkpoint, tensors={**tensors, at: replace(tensors[at], tiles=tiles)})


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ModelFileError("damaged")])
@pytest.mark.parametrize("is_there", [False, True])
def test_an_interrupted_write_leaves_nothing_behind(
    tmp_path: Path, tiny_model: Path, error: BaseException, is_there: bool
) -> None:
    path = tmp_path / "m.gguf"
    if is_there:
        path.write_text("precious")
    source = failing(open_checkpoint(tiny_model), "model.layers.1.mlp.up_proj.weight", error)
    with pytest.raises(type(error)):
        quantize(source, path, "q8_0", overwrite=True)
    assert leftovers(tmp_path) == (["m.gguf"] if is_there else [])
    assert not is_there or path.read_text() == "precious"


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path, tiny_model: Path) -> None:
    seen: list[set[str]] = []
    quantize(
        open_checkpoint(tiny_model),
        tmp_path / "m.gguf",
        "q8_0",
        progress=lambda done, total: seen.append(set(leftovers(tmp_path))),
    )
    assert all(len(names) == 1 and "m.gguf" not in names for names in seen)
    assert leftovers(tmp_path) == ["m.gguf"]


def test_progress_ends_at_everything(tmp_path: Path, tiny_model: Path) -> None:
    seen: list[tuple[int, int]] = []
    written = quantize(
        open_checkpoint(tiny_model),
        tmp_path / "m.gguf",
        "q4_1",
        progress=lambda *amounts: seen.append(amounts),
    )
    assert seen == sorted(seen)
    assert seen[-1] == (written.parameters, written.parameters)


def test_a_disk_without_room_is_found_before_anything_is_written(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2_000_000))
    with pytest.raises(CullamaError, match=r"m.gguf needs 9 MB, and there are 2 MB free") as caught:
        quantize(open_checkpoint(tiny_model), tmp_path / "m.gguf", "f32")
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []


def test_a_disk_that_fills_up_is_named_and_leaves_nothing(tmp_path: Path, tiny_model: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # as if there were no more
    try:
        with pytest.raises(CullamaError, match=r"cannot write .*m.gguf: .*; make room for"):
            quantize(open_checkpoint(tiny_model), tmp_path / "m.gguf", "f32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert leftovers(tmp_path) == []


# --- names


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("models/smol.gguf", "smol-q8_0.gguf"),
        ("models/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct-q8_0.gguf"),
        ("models/smol-bf16.gguf", "smol-q8_0.gguf"),
        ("models/Q4_0.gguf", "Q4_0-q8_0.gguf"),
        ("models/smol-Q6_K-00001-of-00003.gguf", "smol-q8_0.gguf"),
        ("models/story", "story-q8_0.gguf"),
        ("hub/models--owner--name-1B/snapshots/abcdef", "name-1B-q8_0.gguf"),
        ("hub/models--owner--name/snapshots/abcdef/name.Q6_K.gguf", "name-q8_0.gguf"),
    ],
)
def test_the_default_file_name_is_the_models_name(source: str, expected: str) -> None:
    assert file_name(Path(source), "q8_0") == expected


def test_the_current_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "story").mkdir()
    monkeypatch.chdir(tmp_path / "story")
    assert file_name(Path("."), "f16") == "story-f16.gguf"
