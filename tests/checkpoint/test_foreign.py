"""What is no model is refused as what it is, with what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from cullama.checkpoint.foreign import recognise_start
from cullama.checkpoint.opening import open_checkpoint
from cullama.errors import CullamaError, ModelFileError, UnsupportedModelError

CONFIG = "config.json"


def refusal(path: Path, kind: type[CullamaError] = UnsupportedModelError) -> str:
    with pytest.raises(kind) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}")
    assert len(message.splitlines()) == 1
    return message


# --- folders


FOLDERS = {
    "an adapter": (["adapter_config.json", "adapter_model.safetensors"], "LoRA adapter", "merge"),
    "an adapter in a pickle": (["adapter_model.bin"], "LoRA adapter", "merge"),
    "an adapter with a config": ([CONFIG, "adapter_model.safetensors"], "LoRA adapter", "merge"),
    "diffusers": (["model_index.json", "unet"], "pipeline of diffusers", "language model"),
    "a pickle": ([CONFIG, "pytorch_model.bin"], "pickles", "convert"),
    "pickles": ([CONFIG, "pytorch_model-00001-of-00002.bin"], "pickles", "convert"),
    "Meta's": (["params.json", "consolidated.00.pth"], "maker's own format", "transformers"),
    "Mistral's": (["params.json", "consolidated.safetensors"], "own format", "transformers"),
    "ONNX": ([CONFIG, "model.onnx", "model.onnx_data"], "an ONNX model", "safetensors or GGUF"),
    "MLX": ([CONFIG, "weights.npz"], "arrays of MLX", "safetensors or GGUF"),
    "TensorFlow": ([CONFIG, "tf_model.h5"], "TensorFlow", "safetensors or GGUF"),
    "Flax": ([CONFIG, "flax_model.msgpack"], "Flax", "safetensors or GGUF"),
    "OpenVINO": ([CONFIG, "openvino_model.xml", "openvino_model.bin"], "OpenVINO", "safetensors"),
    "unfinished": ([CONFIG, "model.safetensors.incomplete"], "unfinished download", "finish"),
    "a browser's": ([CONFIG, "model.safetensors.crdownload"], "unfinished download", "finish"),
    "an archive": (["model.tar.gz"], "an archive", "unpack"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_of_something_else_is_refused_as_what_it_is(kind: str, tmp_path: Path) -> None:
    names, what, remedy = FOLDERS[kind]
    for name in [*names, "README.md", "training_args.bin", "tokenizer.json"]:
        (tmp_path / name).write_text("{}")
    message = refusal(tmp_path)
    assert what in message
    assert remedy in message


def test_a_download_into_a_folder_that_is_not_finished_is_named(tmp_path: Path) -> None:
    """`hf download --local-dir` keeps the bytes that came in a folder of their own."""
    place = tmp_path / ".cache" / "huggingface" / "download"
    place.mkdir(parents=True)
    (place / "abc.etag.incomplete").touch()
    (tmp_path / CONFIG).write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(CullamaError):
        open_checkpoint(tmp_path)


def test_an_adapter_beside_a_model_is_not_applied_and_a_warning_says_so(
    tmp_path: Path, write_model: Any, tiny_tensors: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_model(tmp_path, tiny_tensors)
    (folder / "training_args.bin").touch()
    (folder / "model.onnx").touch()
    save_file({"a": np.ones(2, np.float32)}, folder / "adapter_model.safetensors")
    assert open_checkpoint(folder).tensors.keys() == tiny_tensors.keys()
    assert not caplog.records
    (folder / "adapter_config.json").touch()
    assert open_checkpoint(folder).tensors.keys() == tiny_tensors.keys()
    assert "is not applied" in caplog.text


# --- files by their names


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.onnx", "an ONNX model"),
        ("model.gguf.part", "an unfinished download"),
        ("model.pt", "pickles"),
        ("model.tflite", "TensorFlow"),
    ],
)
def test_a_file_of_no_known_beginning_is_refused_by_its_name(
    tmp_path: Path, name: str, what: str
) -> None:
    (tmp_path / name).write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x05")
    assert what in refusal(tmp_path / name)


# --- files by their content


STARTS = {
    b"": "an empty file",
    bytes(64): "begins with zeros",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n": "pointer of git LFS",
    b"<!DOCTYPE html><html><body>": "a web page",
    b"\n <html lang=en>": "a web page",
    b"PK\x03\x04\x14\x00\x08\x08": "PyTorch's pickles",
    b"\x80\x02}q\x00(X\x05\x00\x00\x00": "a pickle of PyTorch",
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00": "an archive",
    b"tjgg\x03\x00\x00\x00\x00\x7d": "a GGML file from before GGUF",
    b"Entry not found": "'Entry not found', as of an error page",
    b'{"error":"Repository not found"}': "an error page",
}


@pytest.mark.parametrize("content", STARTS, ids=STARTS.values())
@pytest.mark.parametrize("name", ["model.gguf", "model.safetensors", "unnamed"])
def test_a_file_that_holds_something_else_is_refused_as_what_it_is(
    tmp_path: Path, write_model: Any, name: str, content: bytes
) -> None:
    folder = write_model(tmp_path)
    (folder / name).write_bytes(content)
    path = folder if name.endswith(".safetensors") else folder / name
    message = refusal(path, ModelFileError)
    assert STARTS[content] in message
    assert "expected safetensors; " in message or "expected a GGUF file; " in message


def test_each_format_is_recognised_in_the_others_place(tmp_path: Path, write_model: Any) -> None:
    folder = write_model(tmp_path)
    (folder / "model.safetensors").rename(folder / "model.gguf")
    assert "a safetensors file" in refusal(folder / "model.gguf", ModelFileError)
    (folder / "model.safetensors").write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(64))
    assert "a GGUF file" in refusal(folder, ModelFileError)


@pytest.mark.parametrize("start", [b"GGU", b"\xff" * 24, b"GGUG\x03\0\0\0", b"\x01" + bytes(23)])
def test_what_may_be_a_damaged_model_is_not_called_something_else(start: bytes) -> None:
    assert recognise_start(start) is None


# --- GGUF files of another kind


@pytest.mark.parametrize(
    ("architecture", "fields", "what"),
    [
        ("llama", {"general.type": "adapter", "adapter.type": "lora"}, "a LoRA adapter"),
        ("clip", {"general.type": "mmproj"}, "a projector of images"),
        ("clip", {}, "a projector of images"),
        ("llama", {"general.type": "imatrix"}, "an importance matrix"),
        ("llama", {"llama.expert_count": 8}, "a mixture of experts"),
        ("llama", {"tokenizer.ggml.model": "gpt2"}, "holds a vocabulary and no tensors"),
    ],
)
def test_a_gguf_file_of_another_kind_is_refused_as_what_it_is(
    tmp_path: Path, architecture: str, fields: dict[str, Any], what: str
) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in fields.items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    message = refusal(path)
    assert what in message


# --- types of weights


@pytest.mark.parametrize(
    ("dtype", "kind"), [("float8_e4m3fn", "FP8 weights"), ("uint8", "quantised weights")]
)
def test_weights_of_a_quantised_type_are_named_as_such(
    tmp_path: Path, write_model: Any, tiny_tensors: Any, dtype: str, kind: str
) -> None:
    import ml_dtypes  # noqa: F401  (numpy knows its names then)

    name = "model.layers.0.mlp.up_proj.weight"
    tensors = {**tiny_tensors, name: tiny_tensors[name].astype(np.dtype(dtype))}
    folder = write_model(tmp_path, tensors)
    with pytest.raises(UnsupportedModelError, match=rf"{name}.*\({kind}\).*a GGUF file of it"):
        open_checkpoint(folder)
