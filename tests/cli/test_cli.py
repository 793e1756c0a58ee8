"""The command line as a whole: help, exit codes, and one line for everything that goes wrong.

Most of it is called in this process, which is the same code and a hundred times faster; that real
processes behave alike is seen at the end, and in `test_story.py`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import cullama
from cullama.cli import COMMANDS, run

WriteModel: TypeAlias = Callable[..., Path]
Told: TypeAlias = Callable[..., str]


@pytest.fixture
def refusal(capfd: pytest.CaptureFixture[str]) -> Told:
    """The one line on standard error with which a command ends; it holds everything `named`."""

    def call(code: int, arguments: list[str], *named: str) -> str:
        assert run(arguments) == code
        out, err = capfd.readouterr()
        assert out == ""
        assert "Traceback" not in err
        assert err.startswith("cullama: ")
        assert err.endswith("\n")
        assert len(err.splitlines()) == 1
        assert len(err) < 2000
        assert all(c.isprintable() for c in err.rstrip("\n"))
        for word in named:
            assert word in err
        return err

    return call


# --- help


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_lists_every_command(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_the_options_that_all_share(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    if name not in ("pull", "models", "quantize", "eval", "kernels"):  # run none; eval's tasks do
        assert all(option in out for option in ("--model", "--backend", "--dtype", "--threads"))
    assert max(map(len, out.splitlines())) <= 80


def test_without_a_command_there_is_help_and_a_code_for_misuse(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run([]) == 2
    assert "story" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert run([option]) == 0
    assert capsys.readouterr().out == f"cullama {cullama.__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from cullama.cli import run; run(['story', '--help']);"
        "assert not {'numpy', 'tokenizers', 'safetensors', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# --- misuse: 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--bogus"], "--bogus"),
        (["stroy"], "stroy"),
        (["story", "--bogus"], "--bogus"),
        (["story", "--tempreature", "1"], "--temperature"),
        (["quantize", "--type", "f16", "one", "two"], "two"),
        (["story", "--model"], "--model"),
        (["story", "--json=5"], "--json"),
        (["story", "--backend", "tpu"], "auto, cpu, cpu:numpy, cuda"),
        (["story", "--dtype", "int4"], "bfloat16"),
        (["story", "--threads", "many"], "many"),
        (["story", "--context", "1.5"], "1.5"),
        (["bench", "--contexts", "many"], "many"),
        (["story", "--\x1b[31mred"], "see `cullama story --help`"),
        (["st\x1b[31mory"], "see `cullama --help`"),
        (["story", "--seed", "\x1b[31m\n\r7"], "see `cullama story --help`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_misuse_is_named_with_a_hint_where_to_look(
    refusal: Told, arguments: list[str], named: str
) -> None:
    refusal(2, arguments, named, "--help")


BAD_VALUES = {
    "--max-tokens": ["0", "-2", "1.5", "abc", ""],
    "--temperature": ["-0.1", "nan", "inf", "abc"],
    "--top-k": ["-2", "1.5", "abc"],
    "--top-p": ["0", "-1", "1.1", "nan", "abc"],
    "--min-p": ["-0.1", "1.1", "nan"],
    "--repetition-penalty": ["0", "-1", "nan", "inf"],
    "--presence-penalty": ["nan", "inf", "abc"],
    "--frequency-penalty": ["nan", "-inf", "abc"],
    "--seed": ["-2", str(1 << 64), "1.5", "abc", ""],
    "--stop": [""],
    "--stop-token-id": ["-1", "abc"],
    "--logit-bias": ["5", "=", "x=1", "5=", "5=x", "5=nan", "5=1e9", "-1=2", "1.5=2", ""],
    "--logprobs": ["5", "-1", "abc"],
    "--n": ["0", "-1", "1025", "abc"],
}


@pytest.mark.parametrize(
    ("option", "value"),
    [(option, value) for option, values in BAD_VALUES.items() for value in values],
)
def test_a_bad_sampling_value_is_named_before_any_model_is_touched(
    refusal: Told, option: str, value: str
) -> None:
    shown = option.lstrip("-").replace("-", "_")
    message = refusal(2, ["story", "-m", "no such model", f"{option}={value}"])
    assert shown in message or option in message
    assert "no such model" not in message


def test_more_logprobs_than_there_are_is_misuse(refusal: Told) -> None:
    refusal(2, ["story", "-m", "nothing", "--json", "--logprobs", "21"], "logprobs is 21")


def test_a_stop_token_outside_of_the_vocabulary_is_misuse(refusal: Told, tiny_model: Path) -> None:
    refusal(2, ["story", "-q", "-m", str(tiny_model), "--stop-token-id", "300"], "300")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--threads", "0"], "threads is 0"),
        (["--threads", "100000"], "threads is 100000"),
        (["--context", "0"], "1 to 128"),
        (["--context", "129"], "1 to 128"),
        (["x" * 1000], "context of 128 tokens"),
        (["-n", "1000"], "context of 128 tokens"),
        (["--context", "5"], "context of 5 tokens"),
        (["--logit-bias", "300=1"], "below 300"),
        (["\ud800"], "well-formed"),
    ],
    ids=lambda value: (
        " ".join(value).encode(errors="replace").decode()[:20] if isinstance(value, list) else None
    ),
)
def test_what_the_model_cannot_do_is_misuse(
    refusal: Told, tiny_model: Path, arguments: list[str], named: str
) -> None:
    refusal(2, ["story", "-q", "-m", str(tiny_model), *arguments], named)


# --- failure: 1


@pytest.mark.parametrize("name", ["nowhere/at all", "", "a.gguf", "a\x1b[31m\nb"])
def test_a_model_that_is_not_there_is_a_failure(refusal: Told, name: str) -> None:
    refusal(1, ["story", "-m", name], "model", "give a path")


def test_a_model_that_is_not_in_the_cache_is_a_failure_offline(
    cullama_command: Any, tmp_path: Path
) -> None:
    # In a process of its own: huggingface_hub reads this setting when it is imported.
    offline = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    ended = cullama_command("story", "-m", "owner/name", environment=offline)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert "HF_HUB_OFFLINE" in ended.err


def test_a_file_that_is_no_model_is_a_failure(refusal: Told, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("Once upon a time")
    refusal(1, ["story", "-m", str(tmp_path / "story.txt")], "story.txt", "GGUF")


def test_a_folder_that_is_no_model_is_a_failure(refusal: Told, tmp_path: Path) -> None:
    refusal(1, ["story", "-m", str(tmp_path)], str(tmp_path), "config.json")


def test_a_broken_file_is_a_failure(refusal: Told, tmp_path: Path, write_model: WriteModel) -> None:
    weights = write_model(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refusal(1, ["story", "-m", str(tmp_path)], str(weights))


def test_a_model_of_another_architecture_is_a_failure(
    refusal: Told, tmp_path: Path, write_model: WriteModel
) -> None:
    write_model(tmp_path, architectures=["GPT2LMHeadModel"])
    refusal(1, ["story", "-m", str(tmp_path)], "GPT2LMHeadModel", "LlamaForCausalLM")


def test_a_model_without_a_tokenizer_is_a_failure(
    refusal: Told, tmp_path: Path, write_model: WriteModel
) -> None:
    refusal(1, ["story", "-q", "-m", str(write_model(tmp_path))], "tokenizer.json")


def test_a_model_that_computes_nonsense_is_a_failure(
    refusal: Told,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    write_model: WriteModel,
    tiny_tensors: dict[str, Any],
    tokenizer_file: Path,
) -> None:
    tiny_tensors["model.norm.weight"][:] = float("nan")
    write_model(tmp_path, tiny_tensors, tokenizer=tokenizer_file)
    assert run(["story", "-q", "-m", str(tmp_path)]) == 1
    out, err = capfd.readouterr()
    assert out in ("", "Once upon a time", "Once upon a time\n")
    assert err.startswith("cullama: ")
    assert "nan" in err
    assert len(err.splitlines()) == 1


def test_only_a_bug_shows_a_traceback(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    def broken(*arguments: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("cullama.engine.runner.Runner.launch", broken)
    with pytest.raises(ZeroDivisionError):
        run(["story", "-q", "-m", str(tiny_model)])


# --- in real processes


def test_codes_and_lines_are_the_same_from_a_shell(cullama_command: Any, tmp_path: Path) -> None:
    for code, arguments in (
        (2, ["story", "--bogus"]),
        (2, ["story", "-m", "nothing", "--top-p", "7"]),
        (1, ["story", "-m", tmp_path / "nothing"]),
    ):
        ended = cullama_command(*arguments)
        assert (ended.code, ended.out) == (code, "")
        assert ended.err.startswith("cullama: ")
        assert len(ended.err.splitlines()) == 1


def test_arguments_that_are_not_utf_8_are_misuse(cullama_command: Any, tiny_model: Path) -> None:
    command = [*cullama_command.command("story", "-q", "-m", tiny_model), b"caf\xe9"]
    done = subprocess.run(
        command, capture_output=True, env=cullama_command.environment(), check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"cullama: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">/dev/full", "2>/dev/full"])
def test_a_stream_that_is_closed_or_full_shows_no_traceback(
    cullama_command: Any, tiny_model: Path, closed: str
) -> None:
    """As started by cron, a supervisor, or onto a full disk."""
    arguments = cullama_command.command("story", "-", "-m", tiny_model, "-n", "5", "--seed", "1")
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *arguments],
        input=b"Once",
        capture_output=True,
        env=cullama_command.environment(),
        check=False,
        timeout=60,
    )
    said = done.stderr.decode()
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    expected = {"<&-": (2,), ">&-": (0, 1), "2>&-": (0,), ">/dev/full": (1,), "2>/dev/full": (0, 1)}
    assert done.returncode in expected[closed]
    if closed in ("<&-", ">/dev/full"):
        assert said.splitlines()[-1].startswith("cullama: ")


def test_help_into_a_closed_pipe_ends_quietly(cullama_command: Any) -> None:
    process = subprocess.Popen(
        cullama_command.command("story", "--help"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=cullama_command.environment(),
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) in (0, 1)
