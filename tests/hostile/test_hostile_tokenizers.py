"""Hostile tokenizers are refused and kill no process (F7 in docs/hostile-files.md)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import hostile_gguf_tokenizers
import hostile_tokenizers
import pytest
import tokenizers_soak
from command_line import SOURCE

WriteModel = Callable[..., Path]

FILES = dict(hostile_tokenizers.corpus())
FIELDS = {name: (fields, refusal) for name, fields, refusal in hostile_gguf_tokenizers.corpus()}

MAX_MESSAGE_LENGTH = 600
SECONDS = 200  # for a whole corpus; it takes a twentieth

Outcomes = dict[str, list[str]]  # of each name: the outcome, and the message


def outcomes_of(mode: str, lines: Iterable[str], cache: Path) -> Outcomes:
    """Run all in one process while it lives; the last one that began is the one it died of."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "CULLAMA_CACHE": str(cache)}
    victim = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("tokenizer_victim.py")), mode],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        env={**environment, "RUST_BACKTRACE": "0"},
        timeout=SECONDS,
        check=False,
        text=True,
    )
    return {name: rest for name, *rest in map(json.loads, victim.stdout.splitlines())}


@pytest.fixture(scope="module")
def of_files(write_model: WriteModel, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    folder = tmp_path_factory.mktemp("hostile")
    model = write_model(folder / "model")
    folders = {
        str(write(model, folder / str(number), content)): name
        for number, (name, (content, _)) in enumerate(FILES.items())
    }
    outcomes = outcomes_of("--folders", folders, folder / "cache")
    return {folders[name]: outcome for name, outcome in outcomes.items()}


def write(model: Path, folder: Path, content: bytes) -> Path:
    shutil.copytree(model, folder)
    (folder / "tokenizer.json").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def of_fields(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    lines = (json.dumps([name, fields]) for name, (fields, _) in FIELDS.items())
    return outcomes_of("--metadata", lines, tmp_path_factory.mktemp("cache"))


def test_the_corpora_are_large_enough() -> None:
    assert sum(refusal is not None for _, refusal in FILES.values()) >= 50
    assert len(FIELDS) >= 20


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused_by_name_or_harmless(name: str, of_files: Outcomes) -> None:
    check(of_files, name, FILES[name][1], "tokenizer.json: ")


@pytest.mark.parametrize("name", FIELDS)
def test_hostile_fields_are_refused_by_name_or_harmless(name: str, of_fields: Outcomes) -> None:
    check(of_fields, name, FIELDS[name][1], "GGUF: ")


def check(outcomes: Outcomes, name: str, refusal: str | None, file: str) -> None:
    assert name in outcomes, "the process died of another one before"
    outcome, message = outcomes[name]
    assert outcome == ("harmless" if refusal is None else "refused"), message
    if refusal is not None:
        assert file in message
        assert refusal in message
        assert message.isprintable()
        assert len(message) < MAX_MESSAGE_LENGTH


def test_no_mutant_passes_the_probe_and_then_kills_a_process() -> None:
    """A slice of `make soak-files`."""
    [figure] = tokenizers_soak.figures(30, seed=7)
    assert figure.is_met, figure.reached
    assert " used)" in figure.reached
    assert " refused in the probe" in figure.reached
