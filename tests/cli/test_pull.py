"""`cullama pull`, and `--model` with a hub id, in real processes against a hub on this machine."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer, Repository, commit_of

CONTENT = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "model.safetensors": random.Random(5).randbytes(2_000_000),
}
GGUFS = {"m-Q4_0.gguf": b"four", "m-Q8_0.gguf": b"eight"}
SIZE = sum(map(len, CONTENT.values()))


@pytest.fixture
def hub() -> Iterator[HubServer]:
    server = HubServer()
    server.repositories["owner/name"] = Repository(dict(CONTENT))
    server.repositories["owner/gguf"] = Repository(dict(GGUFS))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def settings(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    unset = {"HF_TOKEN": "", "HF_HUB_CACHE": "", "HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": ""}
    return {**unset, "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1"}


@pytest.fixture
def pull(cullama_command: Any, settings: dict[str, str]) -> Callable[..., Any]:
    def run(*arguments: str, **changes: str) -> Any:
        return cullama_command("pull", *arguments, environment={**settings, **changes})

    return run


def snapshot(tmp_path: Path, name: str = "name", files: dict[str, bytes] = CONTENT) -> Path:
    return tmp_path / "hub" / f"models--owner--{name}" / "snapshots" / commit_of(files)


def test_a_fetched_model_is_reported_and_its_path_printed(
    pull: Callable[..., Any], hub: HubServer, tmp_path: Path
) -> None:
    ended = pull("owner/name")
    assert (ended.code, ended.out) == (0, f"{snapshot(tmp_path)}\n")
    fetching, fetched = ended.err.splitlines()
    place = tmp_path / "hub" / "models--owner--name"
    assert fetching.startswith("fetching owner/name: 2.0 MB in 4 files, 2.0 MB to go, from http")
    assert fetching.endswith(f" to {place}")
    assert fetched == "owner/name: fetched"
    again = pull("owner/name")
    assert again == (0, ended.out, "owner/name: already here\n")


def test_several_models_are_fetched_and_reported_as_json(
    pull: Callable[..., Any], tmp_path: Path
) -> None:
    gguf = snapshot(tmp_path, "gguf", GGUFS) / "m-Q8_0.gguf"
    ended = pull("--json", "-q", "owner/gguf:Q8_0", "owner/name")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["models"] == [
        {"name": "owner/gguf:Q8_0", "path": str(gguf), "fetched": True},
        {"name": "owner/name", "path": str(snapshot(tmp_path)), "fetched": True},
    ]
    assert gguf.read_bytes() == b"eight"


@pytest.mark.parametrize(
    ("name", "settings_of_one", "named"),
    [
        ("owner/none", {}, "no model 'owner/none' is cached here or on http://127.0.0.1"),
        ("owner/gguf", {}, "name one: owner/gguf:Q4_0, owner/gguf:Q8_0"),
        ("owner/name", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        ("owner/name", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "check the network"),
        ("owner/name", {"HF_ENDPOINT": "no url"}, "HF_ENDPOINT"),
        ("nothing", {}, "'nothing'"),
        ("", {}, "empty"),
    ],
)
def test_a_failed_download_is_one_line_and_quick(
    pull: Callable[..., Any], name: str, settings_of_one: dict[str, str], named: str
) -> None:
    started = time.monotonic()
    ended = pull(name, **settings_of_one)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("cullama: ")
    assert len(ended.err.splitlines()) == 1
    assert named in ended.err
    assert time.monotonic() - started < 10  # huggingface_hub alone would take 23 s offline


def start(command: Any, settings: dict[str, str], error: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command.command("pull", "owner/name"),
        env=command.environment(settings),
        stdout=subprocess.PIPE,
        stderr=error,
    )


def partial_bytes(tmp_path: Path) -> int:
    return max((path.stat().st_size for path in tmp_path.rglob("*.incomplete")), default=0)


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGKILL])
def test_after_an_interruption_the_next_pull_continues(
    cullama_command: Any,
    pull: Callable[..., Any],
    settings: dict[str, str],
    hub: HubServer,
    tmp_path: Path,
    with_signal: signal.Signals,
) -> None:
    hub.seconds_between_pieces = 0.05
    with start(cullama_command, settings, subprocess.PIPE) as process:
        while partial_bytes(tmp_path) < 300_000:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(with_signal)
        _, errors = process.communicate(timeout=20)
    kept = partial_bytes(tmp_path)
    assert 300_000 <= kept < SIZE
    if with_signal == signal.SIGINT:
        assert process.returncode == 130
        assert (
            errors.splitlines()[-1]
            == b"owner/name: interrupted; the same command continues the download"
        )
    hub.seconds_between_pieces = 0.0
    offline = pull("owner/name", HF_HUB_OFFLINE="1")  # half a model is not taken for one
    assert offline.code == 1
    ended = pull("owner/name")
    assert (ended.code, ended.out) == (0, f"{snapshot(tmp_path)}\n")
    assert (snapshot(tmp_path) / "model.safetensors").read_bytes() == CONTENT["model.safetensors"]
    assert hub.transfers[-1].headers["Range"] == f"bytes={kept}-"


def test_a_terminal_sees_a_bar_with_the_models_name(
    cullama_command: Any, settings: dict[str, str], hub: HubServer
) -> None:
    hub.seconds_between_pieces = 0.02
    ours, theirs = pty.openpty()
    with start(cullama_command, {**settings, "COLUMNS": "100"}, theirs) as process:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 65536):
                seen += piece
        except OSError:  # the other end was closed
            pass
    os.close(ours)
    assert process.returncode == 0
    assert b"fetching owner/name \x1b" in seen or b"fetching owner/name \xe2" in seen
    assert b"/2.0 MB" in seen
    assert b"it/s" not in seen  # as bars of others would show


def test_a_command_fetches_the_model_it_is_given(
    cullama_command: Any, settings: dict[str, str], hub: HubServer, tiny_model: Path
) -> None:
    files = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    hub.repositories["owner/tiny"] = Repository(files)
    arguments = ("story", "--backend", "cpu", "-n", "5", "--seed", "1", "-m")
    ended = cullama_command(*arguments, "owner/tiny", environment=settings)
    local = cullama_command(*arguments, tiny_model, environment=settings)
    assert (ended.code, ended.out) == (0, local.out)
    assert ended.err.startswith("fetching owner/tiny: ")
    offline = {**settings, "HF_HUB_OFFLINE": "1"}
    again = cullama_command(*arguments, "owner/tiny", environment=offline)
    assert (again.code, again.out) == (0, local.out)
    assert len(again.err.splitlines()) == 1


def test_the_doctor_tells_what_it_fetches(
    cullama_command: Any, settings: dict[str, str], hub: HubServer, tiny_model: Path
) -> None:
    files = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    hub.repositories["owner/tiny"] = Repository(files)
    arguments = ("doctor", "--quick", "--backend", "cpu", "-m", "owner/tiny")
    ended = cullama_command(*arguments, environment=settings)
    assert ended.err.startswith("fetching owner/tiny: ")
    assert "LlamaForCausalLM" in ended.out
