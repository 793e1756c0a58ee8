"""Safetensors folders, valid ones and all kinds of broken ones, written by the real library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from cullama.checkpoint.checkpoint import Checkpoint
from cullama.checkpoint.opening import open_checkpoint
from cullama.errors import (
    CullamaError,
    ModelFileError,
    ModelNotFoundError,
    NoTokenizerError,
    UnsupportedModelError,
)

Tensors: TypeAlias = dict[str, NDArray[Any]]
WriteModel: TypeAlias = Callable[..., Path]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def refusal(path: Path, kind: type[CullamaError], *named: str) -> str:
    """The one line that says why there is no checkpoint; it holds everything `named`."""
    with pytest.raises(kind) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 5000
    for word in named:
        assert word in message
    return message


def assert_holds(checkpoint: Checkpoint, tensors: Tensors) -> None:
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, expected in tensors.items():
        read = checkpoint.tensors[name].read()
        assert read.dtype == expected.dtype
        np.testing.assert_array_equal(read, expected)


def write_shards(folder: Path, shards: dict[str, Tensors], weight_map: Any = None) -> Path:
    """In place of the single file; the index tells the truth unless another is given."""
    (folder / WEIGHTS).unlink(missing_ok=True)
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    if weight_map is None:
        weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def halves(tensors: Tensors) -> dict[str, Tensors]:
    names = sorted(tensors)
    return {
        FIRST: {name: tensors[name] for name in names[::2]},
        SECOND: {name: tensors[name] for name in names[1::2]},
    }


@pytest.fixture
def folder(tmp_path: Path, write_model: WriteModel, tiny_tensors: Tensors) -> Path:
    """A valid model, to be broken."""
    return write_model(tmp_path / "tiny", tiny_tensors)


# --- what is valid


def test_a_single_file_is_read(folder: Path, tiny_tensors: Tensors) -> None:
    checkpoint = open_checkpoint(folder)
    assert_holds(checkpoint, tiny_tensors)
    assert checkpoint.path == folder
    assert checkpoint.format_name == "safetensors F32"
    assert checkpoint.conversion_key is None
    assert (checkpoint.config.layers, checkpoint.config.vocab_size) == (2, 300)


@pytest.mark.parametrize(
    ("dtype", "spelled"), [("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16")]
)
def test_each_type_is_read_as_it_is_stored(
    tmp_path: Path, write_model: WriteModel, dtype: str, spelled: str
) -> None:
    checkpoint = open_checkpoint(write_model(tmp_path, dtype=dtype))
    assert checkpoint.format_name == f"safetensors {spelled}"
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {spelled}
    assert {tensor.read().dtype.name for tensor in checkpoint.tensors.values()} == {dtype}


def test_the_most_common_type_is_named_where_types_are_mixed(
    folder: Path, tiny_tensors: Tensors
) -> None:
    mixed = {
        name: tensor.astype(ml_dtypes.bfloat16) if tensor.ndim > 1 else tensor
        for name, tensor in tiny_tensors.items()
    }
    save_file(mixed, folder / WEIGHTS)
    checkpoint = open_checkpoint(folder)
    assert_holds(checkpoint, mixed)
    assert checkpoint.format_name == "safetensors BF16"


def test_shards_are_read_as_one_model(folder: Path, tiny_tensors: Tensors) -> None:
    write_shards(folder, halves(tiny_tensors))
    assert_holds(open_checkpoint(folder), tiny_tensors)


@pytest.mark.parametrize("index_is_linked", [True, False])
def test_shards_may_be_links_to_another_folder(
    folder: Path, tiny_tensors: Tensors, index_is_linked: bool
) -> None:
    write_shards(folder, halves(tiny_tensors))
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    for file in (FIRST, SECOND, *([INDEX] if index_is_linked else [])):
        shutil.move(folder / file, elsewhere)
        (folder / file).symlink_to(elsewhere / file)
    assert_holds(open_checkpoint(folder), tiny_tensors)


def test_shards_without_an_index_are_read_if_they_are_all_there(
    folder: Path, tiny_tensors: Tensors
) -> None:
    write_shards(folder, halves(tiny_tensors))
    (folder / INDEX).unlink()
    assert_holds(open_checkpoint(folder), tiny_tensors)
    (folder / SECOND).unlink()
    refusal(folder, ModelNotFoundError, FIRST, f"expected {WEIGHTS}")


def test_shards_without_an_index_hold_each_tensor_once(folder: Path, tiny_tensors: Tensors) -> None:
    shards = halves(tiny_tensors)
    shards[FIRST][NORM] = shards[SECOND][NORM] = tiny_tensors[NORM]
    write_shards(folder, shards)
    (folder / INDEX).unlink()
    refusal(folder, ModelFileError, repr(NORM), FIRST, SECOND)


def test_the_only_weights_file_may_have_another_name(folder: Path, tiny_tensors: Tensors) -> None:
    (folder / WEIGHTS).rename(folder / "mine.safetensors")
    assert_holds(open_checkpoint(folder), tiny_tensors)


def test_a_hub_cache_of_links_is_followed(folder: Path, tiny_tensors: Tensors) -> None:
    write_shards(folder, halves(tiny_tensors))
    repository = folder.parent / "models--owner--name"
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.move(file, blobs / f"{number:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:064x}")
    assert_holds(open_checkpoint(snapshot), tiny_tensors)


def test_a_tied_model_may_store_only_its_head(
    tmp_path: Path, write_model: WriteModel, tiny_tensors: Tensors
) -> None:
    table = tiny_tensors.pop(EMBEDDING)
    tiny_tensors[HEAD] = table
    checkpoint = open_checkpoint(write_model(tmp_path, tiny_tensors, tie_word_embeddings=True))
    np.testing.assert_array_equal(checkpoint.tensors[EMBEDDING].read(), table)
    assert HEAD not in checkpoint.tensors


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.1.self_attn.rotary_emb.cos_cached",
        "model.rotary_emb.inv_freq",
        "model.layers.0.self_attn.k_scale",
        "model.position_ids",
        "model.layers.0.self_attn.masked_bias",
    ],
)
def test_tables_of_exporters_are_left_out_whatever_their_type(
    folder: Path, tiny_tensors: Tensors, name: str, dtype: Any, caplog: pytest.LogCaptureFixture
) -> None:
    save_file({**tiny_tensors, name: np.ones(4, dtype)}, folder / WEIGHTS)
    assert_holds(open_checkpoint(folder), tiny_tensors)
    assert not caplog.records


def test_a_tensor_that_nothing_needs_costs_a_warning_whatever_its_type(
    folder: Path, tiny_tensors: Tensors, caplog: pytest.LogCaptureFixture
) -> None:
    save_file({**tiny_tensors, "score.weight": np.ones((2, 32))}, folder / WEIGHTS)
    assert_holds(open_checkpoint(folder), tiny_tensors)
    assert "'score.weight'" in caplog.text


def test_names_without_their_prefix_are_read(
    tmp_path: Path, write_model: WriteModel, tiny_tensors: Tensors
) -> None:
    """As transformers saves a bare LlamaModel, and Qwen3-Embedding comes."""
    bare = {name.removeprefix("model."): tensor for name, tensor in tiny_tensors.items()}
    assert_holds(open_checkpoint(write_model(tmp_path, bare)), tiny_tensors)


def test_end_tokens_come_from_generation_config(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert open_checkpoint(folder).config.eos_ids == (7, 9)


def test_other_files_in_the_folder_are_ignored(folder: Path, tiny_tensors: Tensors) -> None:
    (folder / "README.md").write_bytes(b"\xff")
    (folder / "pytorch_model.bin").write_bytes(b"junk")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"junk")
    (folder / ".git").mkdir()
    assert_holds(open_checkpoint(folder), tiny_tensors)


@given(
    vocabulary=st.integers(1, 40),
    pairs=st.integers(1, 5),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]),
    inner=st.integers(1, 40),
    hidden=st.integers(1, 40),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    tile=st.sampled_from([1, 7, 64, 1 << 18]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_any_shapes_are_read_back_tile_by_tile(
    tmp_path: Path,
    write_model: WriteModel,
    monkeypatch: pytest.MonkeyPatch,
    vocabulary: int,
    pairs: int,
    heads: tuple[int, int],
    inner: int,
    hidden: int,
    dtype: str,
    tile: int,
) -> None:
    monkeypatch.setattr("cullama.checkpoint.safetensors_file.TILE_ELEMENTS", tile)
    folder = write_model(
        tmp_path / "any",
        dtype=dtype,
        vocab_size=vocabulary,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        head_dim=2 * pairs,
        hidden_size=hidden,
        intermediate_size=inner,
        bos_token_id=None,
        eos_token_id=None,
    )
    from safetensors.numpy import load_file

    stored = load_file(folder / WEIGHTS)
    checkpoint = open_checkpoint(folder)
    assert_holds(checkpoint, stored)
    for name, tensor in checkpoint.tensors.items():
        tiles = list(tensor.tiles())
        assert sum(len(part) for part in tiles) == tensor.shape[0]
        assert all(part.shape[1:] == tensor.shape[1:] for part in tiles)
        assert all(part.size <= max(tile, *tensor.shape[1:], 1) for part in tiles)
        np.testing.assert_array_equal(np.concatenate(tiles), stored[name])
        assert tensor.size == stored[name].size


# --- what is not there


def test_a_path_that_is_missing_is_named(tmp_path: Path) -> None:
    refusal(tmp_path / "nothing", ModelNotFoundError, str(tmp_path / "nothing"), "no such file")


def test_an_empty_folder_is_called_empty(tmp_path: Path) -> None:
    refusal(tmp_path, ModelNotFoundError, str(tmp_path), "nothing", "config.json")


def test_a_folder_with_a_config_only_misses_its_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    refusal(folder, ModelNotFoundError, str(folder), WEIGHTS, "holds config.json")


def test_a_folder_of_pickled_weights_is_refused_with_what_is_expected(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    refusal(folder, UnsupportedModelError, str(folder), "pickles", "pytorch_model.bin", "convert")


def test_weights_without_a_config_are_not_enough(folder: Path) -> None:
    (folder / "config.json").unlink()
    refusal(folder, ModelNotFoundError, str(folder), WEIGHTS, "expected config.json")


def test_a_folder_of_several_gguf_files_is_refused_with_their_names(tmp_path: Path) -> None:
    for name in ("model.Q4_1.gguf", "model.Q8_0.gguf", "mmproj-F16.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    message = refusal(tmp_path, ModelNotFoundError, "model.Q4_1.gguf, model.Q8_0.gguf")
    assert "mmproj" not in message


def test_a_folder_of_thousands_of_files_is_not_listed_whole(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / f"file {number}").touch()
    assert len(refusal(tmp_path, ModelNotFoundError, "…")) < 500


def test_file_names_with_control_characters_stay_in_the_line(tmp_path: Path) -> None:
    (tmp_path / "a\nb\x1b[31m").touch()
    assert "\x1b" not in refusal(tmp_path, ModelNotFoundError)


def test_a_weights_file_alone_is_refused_with_its_folder_expected(folder: Path) -> None:
    refusal(folder / WEIGHTS, ModelNotFoundError, WEIGHTS, "folder")


def test_a_device_is_not_a_model() -> None:
    refusal(Path("/dev/null"), ModelFileError, "/dev/null", "not a regular file")


def test_a_path_below_a_file_is_not_a_model(folder: Path) -> None:
    refusal(folder / "config.json" / "more", ModelNotFoundError, "more")


def test_a_path_longer_than_the_system_allows_is_not_a_model() -> None:
    with pytest.raises(CullamaError):
        open_checkpoint(Path("x" * 5000))


# --- weights that cannot be read


def header(entries: Any, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"This is a text, and no weights at all.\n" * 10,
        b"GGUF\x03\x00\x00\x00" + bytes(64),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 140976\n",
        b"<!doctype html><html><body>404: Not found\n</body></html>\n",
        b"\xff" * 8 + b"{}",
        (1 << 40).to_bytes(8, "little") + b"{}",
        bytes(64),
        header(b"[]"),
        header(b"null"),
        header(b"{"),
        header(b"\xff\xfe{}"),
        header(b'{"\n\nname": 7}'),
        header({"a": entry([1], 0, 8)}, bytes(8)),
        header({"a": entry([1], 0, 4)}, bytes(2)),
        header({"a": entry([1], 0, 4)}, bytes(9)),
        header({"a": entry([1], 0, 4), "b": entry([1], 2, 6)}, bytes(6)),
        header({"a": entry([1], 4, 8)}, bytes(8)),
        header({"a": entry([1 << 62, 1 << 62], 0, 4)}, bytes(4)),
        header({"a": entry([-1], 0, 4)}, bytes(4)),
        header({"a": entry([1], 4, 0)}, bytes(4)),
        header({"a": entry([1], 0, 4, "Q4_1")}, bytes(4)),
        header(b'{"a":' + b"[" * 100_000),
    ],
    ids=[
        *("empty", "short", "text", "gguf", "git lfs", "html", "endless", "terabyte", "zeros"),
        *("list", "null", "cut header", "not utf-8", "number", "sizes", "cut data", "more data"),
        *("overlap", "hole", "overflow", "negative", "backwards", "type", "deep"),
    ],
)
def test_a_file_that_is_not_safetensors_is_refused(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    refusal(folder, ModelFileError, str(folder / WEIGHTS))


def test_a_pointer_of_git_lfs_is_recognised(folder: Path) -> None:
    """The most common broken download."""
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\n")
    refusal(folder, ModelFileError, str(folder / WEIGHTS), "git lfs")


def test_a_gguf_under_the_wrong_name_is_recognised(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(64))
    refusal(folder, ModelFileError, str(folder / WEIGHTS), "GGUF")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(folder: Path, share: float) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: int(share * len(content))])
    refusal(folder, ModelFileError, str(folder / WEIGHTS))


def test_a_flipped_byte_anywhere_in_the_header_is_refused_or_harmless(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    draw = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(content)
        damaged[draw.integers(length)] ^= 1 << draw.integers(8)
        (folder / WEIGHTS).write_bytes(damaged)
        message = refusal_if_any(folder)
        assert not message or WEIGHTS in message or str(folder) in message


def refusal_if_any(path: Path) -> str:
    try:
        open_checkpoint(path)
    except CullamaError as error:
        message = str(error)
    else:
        return ""
    assert len(message.splitlines()) == 1
    return message


def test_a_folder_under_the_name_of_weights_is_refused(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    refusal(folder, ModelFileError, str(folder / WEIGHTS))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", WEIGHTS, INDEX])
def test_a_named_pipe_is_refused_without_waiting(folder: Path, name: str) -> None:
    if name == INDEX:
        (folder / WEIGHTS).unlink()
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    # In a process that can be killed: waiting in C for a writer holds Python's lock.
    code = "import sys, pathlib; from cullama.checkpoint.opening import open_checkpoint as o; "
    attempt = [sys.executable, "-c", code + "o(pathlib.Path(sys.argv[1]))", str(folder)]
    ended = subprocess.run(attempt, capture_output=True, timeout=10, check=False, text=True)
    # A pipe that is no config at all may as well be overlooked.
    assert name == "generation_config.json" or "cullama.errors.Model" in ended.stderr


@pytest.mark.parametrize("change", ["removed", "cut", "other"])
def test_a_file_that_changes_after_it_was_opened_is_named(
    folder: Path, tiny_tensors: Tensors, change: str
) -> None:
    checkpoint = open_checkpoint(folder)
    if change == "removed":
        (folder / WEIGHTS).unlink()
    elif change == "cut":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:500])
    else:
        del tiny_tensors[NORM]
        save_file(tiny_tensors, folder / WEIGHTS)
    with pytest.raises(CullamaError, match=WEIGHTS) as caught:
        checkpoint.tensors[NORM].read()
    assert len(str(caught.value).splitlines()) == 1


# --- tensors that do not fit


def test_all_problems_are_listed_in_one_error(folder: Path, tiny_tensors: Tensors) -> None:
    del tiny_tensors[NORM]
    del tiny_tensors["model.layers.1.mlp.up_proj.weight"]
    tiny_tensors["model.layers.1.mlp.up_proj.bias"] = np.zeros(2, np.float32)
    tiny_tensors[EMBEDDING] = tiny_tensors[EMBEDDING][:-1]
    save_file(tiny_tensors, folder / WEIGHTS)
    message = refusal(folder, ModelFileError, str(folder), "4 tensors")
    assert "missing 'model.norm.weight' [32]" in message
    assert "missing 'model.layers.1.mlp.up_proj.weight' [48, 32]" in message
    assert "unexpected 'model.layers.1.mlp.up_proj.bias'" in message
    assert "'model.embed_tokens.weight' has shape [299, 32], expected [300, 32]" in message


@pytest.mark.parametrize(
    "kind", [np.int8, np.uint8, np.int64, np.float64, np.bool_, ml_dtypes.float8_e4m3fn]
)
def test_a_type_that_is_not_supported_is_named_with_its_tensor(
    folder: Path, tiny_tensors: Tensors, kind: Any
) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**tiny_tensors, name: tiny_tensors[name].astype(kind)}, folder / WEIGHTS)
    refusal(folder, UnsupportedModelError, str(folder / WEIGHTS), repr(name), "F32, F16, BF16")


@pytest.mark.parametrize("shape", [(), (0,), (0, 32), (32, 0), (1, 32), (32, 1), (1, 1, 32)])
def test_a_tensor_that_is_empty_or_flat_has_the_wrong_shape(
    folder: Path, tiny_tensors: Tensors, shape: tuple[int, ...]
) -> None:
    save_file({**tiny_tensors, NORM: np.zeros(shape, np.float32)}, folder / WEIGHTS)
    refusal(folder, ModelFileError, str(folder), f"{NORM!r} has shape {list(shape)}, expected [32]")


@pytest.mark.parametrize("shape", [(), (0,), (0, 0, 0)])
def test_an_empty_tensor_that_is_not_expected_is_passed_over(
    folder: Path, tiny_tensors: Tensors, shape: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    save_file({**tiny_tensors, "extra": np.zeros(shape, np.float32)}, folder / WEIGHTS)
    assert_holds(open_checkpoint(folder), tiny_tensors)
    assert "'extra'" in caplog.text


def test_a_file_without_tensors_lists_all_as_missing(folder: Path) -> None:
    save_file({}, folder / WEIGHTS)
    refusal(folder, ModelFileError, str(folder), "missing 'model.embed_tokens.weight'")


def test_an_untied_model_needs_an_output_matrix(folder: Path, tiny_tensors: Tensors) -> None:
    del tiny_tensors[HEAD]
    save_file(tiny_tensors, folder / WEIGHTS)
    refusal(folder, ModelFileError, str(folder), "missing 'lm_head.weight' [300, 32]")


# --- shards


def test_a_missing_shard_is_named(folder: Path, tiny_tensors: Tensors) -> None:
    write_shards(folder, halves(tiny_tensors))
    (folder / SECOND).unlink()
    refusal(folder, ModelFileError, str(folder / SECOND), "missing")


def test_a_broken_shard_is_named(folder: Path, tiny_tensors: Tensors) -> None:
    write_shards(folder, halves(tiny_tensors))
    (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-1])
    refusal(folder, ModelFileError, str(folder / SECOND))


def truth_of(shards: dict[str, Tensors]) -> dict[str, str]:
    return {name: file for file, tensors in shards.items() for name in tensors}


def test_a_tensor_is_read_from_the_shard_that_holds_it_whatever_the_index_says(
    folder: Path, tiny_tensors: Tensors
) -> None:
    shards = halves(tiny_tensors)
    truth = truth_of(shards)
    other = {FIRST: SECOND, SECOND: FIRST}
    write_shards(folder, shards, {**truth, NORM: other[truth[NORM]]})
    assert_holds(open_checkpoint(folder), tiny_tensors)


def test_a_tensor_in_two_shards_is_read_from_the_one_that_the_index_names(
    folder: Path, tiny_tensors: Tensors
) -> None:
    shards = halves(tiny_tensors)
    truth = truth_of(shards)
    for file, tensors in shards.items():
        tensors[NORM] = tiny_tensors[NORM] + (file != truth[NORM])
    write_shards(folder, shards, truth)
    assert_holds(open_checkpoint(folder), tiny_tensors)
    del truth[NORM]
    write_shards(folder, shards, truth)
    refusal(folder, ModelFileError, str(folder / INDEX), repr(NORM), FIRST, SECOND)


def test_a_tensor_that_only_the_index_has_matters_where_the_model_needs_it(
    folder: Path, tiny_tensors: Tensors, caplog: pytest.LogCaptureFixture
) -> None:
    shards = halves(tiny_tensors)
    truth = truth_of(shards)
    write_shards(folder, shards, {**truth, "ghost": FIRST})
    assert_holds(open_checkpoint(folder), tiny_tensors)
    assert "'ghost'" in caplog.text
    del shards[truth[NORM]][NORM]
    write_shards(folder, shards, truth)
    refusal(folder, ModelFileError, str(folder / INDEX), truth[NORM], repr(NORM))


def test_a_missing_shard_matters_where_the_model_needs_it(
    folder: Path, tiny_tensors: Tensors
) -> None:
    write_shards(folder, {FIRST: tiny_tensors, SECOND: {"score.weight": np.ones(1)}})
    (folder / SECOND).unlink()
    assert_holds(open_checkpoint(folder), tiny_tensors)


def test_a_tensor_missing_from_the_index_is_read_all_the_same(
    folder: Path, tiny_tensors: Tensors
) -> None:
    shards = halves(tiny_tensors)
    truth = truth_of(shards)
    del truth[NORM]
    write_shards(folder, shards, truth)
    assert_holds(open_checkpoint(folder), tiny_tensors)


def test_a_shard_that_the_index_does_not_name_costs_a_warning(
    folder: Path, tiny_tensors: Tensors, caplog: pytest.LogCaptureFixture
) -> None:
    write_shards(folder, {"model-00001-of-00003.safetensors": tiny_tensors})
    save_file({"more": np.ones(3)}, folder / "model-00002-of-00003.safetensors")
    assert_holds(open_checkpoint(folder), tiny_tensors)
    assert "model-00002-of-00003.safetensors: passed over" in caplog.text


ELSEWHERE = [
    "../../etc/passwd",
    "/etc/passwd",
    "../other.safetensors",
    "../../../../../../../../etc/other.safetensors",
    "sub/other.safetensors",
    "sub/../other.safetensors",
    "./model-00001-of-00002.safetensors",
    ".//model-00001-of-00002.safetensors",
    "model-00001-of-00002.safetensors/",
    "model-00001-of-00002.safetensors/.",
    "sub/..",
    "..",
    ".",
    "/",
    "//",
    "",
    " ",
    "~/other.safetensors",
    "$HOME/other.safetensors",
    "file:///other.safetensors",
    "https://example.com/other.safetensors",
    "//host/share/other.safetensors",
    "..\\other.safetensors",
    "C:\\other.safetensors",
    "\\\\host\\other.safetensors",
    "%2e%2e%2fother.safetensors",
    "..%2fother.safetensors",
    "\uff0e\uff0e\uff0fother.safetensors",
    "model-00001-of-00002.safetensors\0",
    "model\0.safetensors",
    "../other.safetensors\0.safetensors",
    "model\n.safetensors",
    "\ud800.safetensors",
    "x" * 5000 + ".safetensors",
    "model.bin",
    "config.json",
    "MODEL-00001-OF-00002.SAFETENSORS",
    ".safetensors",
    "...safetensors",
    7,
    None,
    True,
    [],
    ["model-00001-of-00002.safetensors"],
    {},
]


@pytest.mark.parametrize("name", ELSEWHERE, ids=range(len(ELSEWHERE)))
def test_an_index_reaches_nothing_outside_its_folder(
    folder: Path, tiny_tensors: Tensors, name: Any
) -> None:
    shards = halves(tiny_tensors)
    truth = truth_of(shards)
    del shards[truth[NORM]][NORM]
    write_shards(folder, shards, {**truth, NORM: name})
    (folder / "sub").mkdir()
    for decoy in (folder.parent, folder / "sub"):  # would be accepted if it were reached
        save_file({NORM: tiny_tensors[NORM]}, decoy / "other.safetensors")
    message = refusal(folder, ModelFileError, str(folder))
    assert "\x00" not in message


@pytest.mark.parametrize(
    "index",
    [
        "{}",
        "[]",
        '{"weight_map": {}}',
        '{"weight_map": null}',
        '{"weight_map": []}',
        '{"weight_map": ["model-00001-of-00002.safetensors"]}',
        '{"weight_map": "model-00001-of-00002.safetensors"}',
        '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}',
        '{"weight_map": {"a": "x.safeten',
        "",
    ],
)
def test_an_index_that_is_no_index_is_refused(folder: Path, index: str) -> None:
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(index)
    refusal(folder, ModelFileError, str(folder / INDEX))


@pytest.mark.parametrize("target", ["/etc/passwd", "/dev/zero", "/", "nothing", FIRST])
def test_a_shard_that_is_a_link_to_something_else_is_refused(
    folder: Path, tiny_tensors: Tensors, target: str
) -> None:
    write_shards(folder, halves(tiny_tensors))
    (folder / SECOND).unlink()
    (folder / SECOND).symlink_to(target)
    refusal(folder, ModelFileError, SECOND)


# --- the files around the weights


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"a": 1, "a": 2}', b'{"a": NaN}'])
def test_a_broken_config_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    refusal(folder, ModelFileError, str(folder / name))


def test_a_folder_without_a_tokenizer_says_so_when_it_is_asked(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    with pytest.raises(NoTokenizerError, match=r"no tokenizer\.json"):
        checkpoint.load_tokenizer()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"no json\nat all",
        b"\xff\x00",
        b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}',
        b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}',
        b'{"model": {"type": "What", "vocab": {}, "merges": []}}',
    ],
)
def test_a_broken_tokenizer_is_named_in_one_line(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    checkpoint = open_checkpoint(folder)
    with pytest.raises(ModelFileError, match=r"tokenizer\.json") as caught:
        checkpoint.load_tokenizer()
    assert len(str(caught.value).splitlines()) == 1


def test_a_tokenizer_is_loaded(folder: Path, tokenizer_file: Path) -> None:
    shutil.copy(tokenizer_file, folder)
    assert open_checkpoint(folder).load_tokenizer().get_vocab_size() == 300
