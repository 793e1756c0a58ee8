"""`cullama quantize`: what it writes, what it says of it, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import click
import gguf
import pytest

from cullama.checkpoint.opening import open_checkpoint
from cullama.cli import quantize as command
from cullama.cli import run
from cullama.quantize import TYPES, rows

Capture: TypeAlias = "pytest.CaptureFixture[str]"
MODELS = Path(__file__).parents[1] / "fixtures" / "models"


@pytest.fixture
def quantize(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> Callable[..., tuple[int, str, str]]:
    """Exit code, output and complaints, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path, model: str | Path = tiny_model) -> tuple[int, str, str]:
        code = run(["quantize", str(model), "--backend", "cpu:numpy", *map(str, arguments)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_model_becomes_a_file_and_its_loss_is_shown(quantize: Any, tmp_path: Path) -> None:
    code, out, err = quantize("--type", "q4_0")
    assert code == 0
    assert files(tmp_path) == ["tiny-q4_0.gguf"]
    first, second = out.splitlines()
    size = (tmp_path / "tiny-q4_0.gguf").stat().st_size
    assert first.startswith(f"tiny-q4_0.gguf: {size / 1e3:.1f} kB, ")
    assert first.endswith(" bits a parameter; tensors: 13 Q4_0, 5 F32, 2 F16, 1 Q8_0")
    assert second.startswith("over ")
    assert " nats a token (at most " in second
    assert "perplexity" in second
    assert "Q8_0: lm_head.weight, which predicts the tokens\n" in err
    assert "tiny-q4_0.gguf · GGUF Q4_0 · cpu" in err


def test_in_float32_nothing_is_lost(quantize: Any) -> None:
    code, out, err = quantize("--type", "F32", "--quiet")
    assert code == 0
    assert "divergence 0 nats a token (at most 0), the same likeliest token for 100.00%" in out
    assert "·" not in err


def test_json_has_path_size_types_loss_and_notes(quantize: Any, tmp_path: Path) -> None:
    code, out, _ = quantize("--type", "q8_0", "-o", "other.gguf", "--json")
    assert code == 0
    said = json.loads(out)
    assert said["path"] == "other.gguf"
    assert said["size"] == (tmp_path / "other.gguf").stat().st_size
    assert said["types"] == {"Q8_0": 14, "F32": 5, "F16": 2}
    assert said["loss"].keys() >= {"tokens", "mean_divergence", "same_top", "perplexity"}
    assert 0 < said["loss"]["mean_divergence"] < 0.1
    assert said["loss"]["perplexity"]["source"] == pytest.approx(
        said["loss"]["perplexity"]["found"], rel=0.1
    )
    assert [note[:4] for note in said["notes"]] == ["F16:"]


@pytest.mark.parametrize("is_json", [False, True])
def test_the_check_can_be_left_out(quantize: Any, is_json: bool) -> None:
    code, out, err = quantize("--type", "q8_0", "--no-check", *["--json"][: int(is_json)])
    assert code == 0
    assert len(out.splitlines()) == 1
    assert "·" not in err
    if is_json:
        assert json.loads(out)["loss"] is None


def test_the_text_can_be_chosen(quantize: Any, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("Once upon a time " * 10, encoding="utf-8")
    code, out, _ = quantize("--type", "bf16", "--json", "--text", "text")
    assert code == 0
    assert 50 < json.loads(out)["loss"]["tokens"] < 300


def test_a_model_without_a_tokenizer_is_written_and_not_checked(
    quantize: Any, tmp_path: Path
) -> None:
    code, out, err = quantize("--type", "q8_0", model=MODELS / "llama_gqa")
    assert code == 0
    assert len(out.splitlines()) == 1
    assert "the model has no tokenizer, so the file takes token ids\n" in err
    assert err.endswith("no check: the model has no tokenizer to read a text\n")
    (tmp_path / "text").write_text("Once upon a time")
    code, _, err = quantize("--type", "f16", "--text", "text", model=MODELS / "llama_gqa")
    assert code == 1
    assert err.splitlines()[-1].startswith("cullama: ")


def test_a_tokenizer_can_be_left_out(quantize: Any, tmp_path: Path) -> None:
    code, out, _ = quantize("--type", "f32", "--no-tokenizer")
    assert code == 0
    assert "divergence 0 nats" in out  # the source's is there to read the text
    fields = gguf.GGUFReader(tmp_path / "tiny-f32.gguf").fields
    assert fields["tokenizer.ggml.model"].contents() == "no_vocab"


def test_a_known_shape_gets_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["quantize", "--config", "tinystories-656k", "--type", "q8_0"]) == 0
    assert open_checkpoint(tmp_path / "tinystories-656k-q8_0.gguf").config.hidden_size == 128
    assert run(["quantize", "model", "--config", "tinystories-656k", "--type", "q8_0"]) == 2
    assert "--config takes random weights, MODEL a file" in capfd.readouterr().err


# --- what goes wrong


def test_a_file_that_is_there_is_replaced_only_when_asked(quantize: Any, tmp_path: Path) -> None:
    (tmp_path / "tiny-q8_0.gguf").write_text("precious")
    code, out, err = quantize("--type", "q8_0", "--no-check")
    assert (code, out) == (2, "")
    assert err == (
        "cullama: tiny-q8_0.gguf exists; add --force to replace it, or choose another with -o\n"
    )
    assert (tmp_path / "tiny-q8_0.gguf").read_text() == "precious"
    assert quantize("--type", "q8_0", "--no-check", "--force")[0] == 0
    assert open_checkpoint(tmp_path / "tiny-q8_0.gguf").format_name == "GGUF Q8_0"


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ((), 2, "Missing option '--type'"),
        (("--type", "q4_k"), 2, "'q4_0', 'q4_1', 'q8_0', 'f16', 'bf16', 'f32'"),
        (
            ("--type", "q8_0", "-o", "none/x.gguf"),
            2,
            "'none' is not a folder, expected one to write",
        ),
        (("--type", "q8_0", "--text", "none"), 2, "cannot read none: No such file"),
        (("--type", "q8_0", "--text", "binary"), 2, "binary is not UTF-8 text"),
        (("--type", "q8_0", "--text", "binary", "--no-check"), 2, "--no-check leaves it out"),
        (("--type", "q8_0", "--text", "empty"), 2, "the text holds 0 tokens"),
        (("--type", "q8_0", "--backend", "tpu"), 2, "'tpu', expected one of auto, cpu"),
    ],
)
def test_misuse_is_one_line(
    quantize: Any, tmp_path: Path, arguments: tuple[str, ...], code: int, named: str
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_text("")
    found, _, err = quantize(*arguments)
    complaints = [line for line in err.splitlines() if line.startswith("cullama: ")]
    assert found == code
    assert len(complaints) == 1
    assert err.splitlines()[-1] == complaints[0]
    assert named in complaints[0]


def test_a_model_that_is_not_there_is_named(quantize: Any, tmp_path: Path) -> None:
    code, _, err = quantize("--type", "q8_0", model="nowhere.gguf")
    assert (code, files(tmp_path)) == (1, [])
    assert err.startswith("cullama: no model 'nowhere.gguf'")


def test_what_is_interrupted_leaves_nothing(
    quantize: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*ignored: object) -> None:
        assert len(files(tmp_path)) == 1  # under its passing name
        raise KeyboardInterrupt

    monkeypatch.setattr(rows, "_encoded", interrupted)
    code, out, _ = quantize("--type", "q8_0")
    assert (code, out, files(tmp_path)) == (130, "", [])


def test_types_are_those_of_the_library() -> None:
    [option] = [it for it in command.command.params if it.name == "dtype"]
    assert isinstance(option.type, click.Choice)
    assert sorted(option.type.choices) == sorted(TYPES)
