"""A tokenizer.json is probed once, in a child process, and how that ended is reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from command_line import SOURCE
from tokenizers import Tokenizer

from cullama.checkpoint import tokenizer_file, tokenizer_probe
from cullama.checkpoint.tokenizer_file import load_tokenizer
from cullama.errors import ModelError, ModelFileError, NoTokenizerError

TEXT = "Once upon a time, said the llama. 🦙"
LOAD = """
from pathlib import Path
from cullama.checkpoint.tokenizer_file import load_tokenizer
print(load_tokenizer(Path({folder!r})).get_vocab_size())
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CULLAMA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path, cache: Path, tokenizer_file: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
    return folder


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Which files were probed."""
    paths: list[Path] = []
    real = tokenizer_file._probe

    def noted(path: Path, content: bytes) -> None:
        paths.append(path)
        real(path, content)

    monkeypatch.setattr(tokenizer_file, "_probe", noted)
    return paths


def probe_program(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> None:
    """Put another program in the place of the probe."""
    program = folder / "program.py"
    program.write_text(f"def main(seconds, size):\n    {body}\n")
    monkeypatch.setattr(tokenizer_file, "_PROBE_FILE", program)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        load_tokenizer(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'tokenizer.json'}: ")
    assert len(message.splitlines()) == 1
    return message


# --- what comes out


def test_it_is_the_librarys_own_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    assert load_tokenizer(folder).to_str() == Tokenizer.from_file(str(path)).to_str()


def test_padding_and_truncation_are_off(folder: Path) -> None:
    path = folder / "tokenizer.json"
    plain = Tokenizer.from_file(str(path))
    padded = Tokenizer.from_file(str(path))
    padded.enable_padding(length=500)
    padded.enable_truncation(2)
    padded.save(str(path))
    assert load_tokenizer(folder).encode(TEXT).ids == plain.encode(TEXT).ids


# --- probed once


def test_a_file_that_passed_is_not_probed_again(folder: Path, probed: list[Path]) -> None:
    first, second = load_tokenizer(folder), load_tokenizer(folder)
    assert first.encode(TEXT).ids == second.encode(TEXT).ids
    assert probed == [folder / "tokenizer.json"]


def test_a_copy_of_it_elsewhere_is_not_probed_again(folder: Path, probed: list[Path]) -> None:
    load_tokenizer(folder)
    copy = folder.parent / "copy"
    folder.rename(copy)
    load_tokenizer(copy)
    assert len(probed) == 1


def test_a_file_that_changed_by_a_byte_is_probed_again(folder: Path, probed: list[Path]) -> None:
    load_tokenizer(folder)
    with (folder / "tokenizer.json").open("ab") as file:
        file.write(b"\n")
    load_tokenizer(folder)
    assert len(probed) == 2


def test_another_library_or_another_probe_is_run_again(
    folder: Path, probed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_tokenizer(folder)
    with monkeypatch.context() as patch:
        patch.setattr("tokenizers.__version__", "99.0")
        load_tokenizer(folder)
    assert len(probed) == 2
    later = folder / "later.py"
    later.write_text(Path(tokenizer_probe.__file__).read_text() + "\n# a rule more\n")
    monkeypatch.setattr(tokenizer_file, "_PROBE_FILE", later)
    load_tokenizer(folder)
    assert len(probed) == 3


def test_a_file_that_failed_is_not_remembered(folder: Path, probed: list[Path]) -> None:
    (folder / "tokenizer.json").write_text("{}")
    assert refusal(folder) == refusal(folder)
    assert len(probed) == 2


def test_without_a_cache_folder_it_is_probed_each_time(
    folder: Path, probed: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the folder should be")
    load_tokenizer(folder)
    load_tokenizer(folder)
    for name in ("CULLAMA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # a user without a home
    load_tokenizer(folder)
    assert len(probed) == 3


# --- where the child is started from


def test_it_loads_in_a_thread(folder: Path) -> None:
    sizes: list[int] = []
    thread = threading.Thread(target=lambda: sizes.append(load_tokenizer(folder).get_vocab_size()))
    thread.start()
    thread.join()
    assert sizes == [300]


@pytest.mark.parametrize("way", ["-c", "-", "program"])
def test_it_loads_from_any_kind_of_program(folder: Path, way: str, tmp_path: Path) -> None:
    code = LOAD.format(folder=str(folder))
    program = tmp_path / "program.py"
    program.write_text(code)
    arguments = {"-c": ["-c", code], "-": ["-"], "program": [str(program)]}[way]
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        input=code,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("300\n", "")


def test_the_child_imports_nothing_from_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The folder of a model may hold a stranger's tokenizers.py."""
    for name in ("tokenizers", "json", "runpy", "base64", "tokenizer_probe", "sitecustomize"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    load_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


def test_a_python_that_cannot_be_started_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(ModelError, match=r"'/no/such/python': .*; start cullama from an ordinary"):
        load_tokenizer(folder)


def test_a_python_that_cannot_run_the_probe_is_not_blamed_on_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe_program(monkeypatch, folder, "import no_such_module")
    with pytest.raises(ModelError, match=r"cannot be probed: .* ended with status 1") as caught:
        load_tokenizer(folder)
    assert type(caught.value) is ModelError


# --- how it may end


ENDS = {
    "import os; print('at: dancing', flush=True); os.abort()": "was ended by SIGABRT while dancing",
    "import os; print('at: dancing', flush=True); os._exit(3)": "ended the process with status 3",
    "print('refused: it dances')": "tokenizer.json: it dances",
    "import sys; print('at: x'); sys.stdout.flush(); raise MemoryError": "with status 1 while x",
}


@pytest.mark.parametrize("body", ENDS)
def test_how_the_child_ended_is_reported(
    folder: Path, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe_program(monkeypatch, folder, body)
    assert ENDS[body] in refusal(folder)


def spinning(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The probe itself, and a library that does not come back."""
    source = Path(tokenizer_probe.__file__).read_text()
    program = folder / "program.py"
    program.write_text(source.replace("tokenizer.no_padding()", "while True: pass", 1))
    monkeypatch.setattr(tokenizer_file, "_PROBE_FILE", program)


def test_a_library_that_never_finishes_is_stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spinning(monkeypatch, folder)
    monkeypatch.setattr(tokenizer_file, "PROBE_CPU_SECONDS", 1)
    assert "took more than 1 s while loading it" in refusal(folder)


def test_a_library_that_never_returns_is_stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = "import time; print('at: waiting', flush=True); time.sleep(600)"
    probe_program(monkeypatch, folder, waiting)
    monkeypatch.setattr(tokenizer_file, "PROBE_WALL_SECONDS", 0.5)
    assert "took more than 0.5 s while waiting" in refusal(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process's memory")
def test_a_file_that_takes_more_memory_than_is_given_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "tokenizer.json").write_text('{"a": [' + "{}," * 3_000_000 + "{}]}")
    monkeypatch.setattr(tokenizer_file, "PROBE_MEMORY", 128 << 20)
    assert "takes more than 128 MiB of memory" in refusal(folder)


# --- files that are not read at all


def test_a_folder_without_a_tokenizer_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoTokenizerError, match=r"has no tokenizer\.json, nor .*; give token ids"):
        load_tokenizer(tmp_path)


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tokenizer.json")
    assert "not a regular file" in refusal(tmp_path)


def test_a_file_that_no_tokenizer_needs_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (folder / "tokenizer.json").stat().st_size
    monkeypatch.setattr(tokenizer_file, "MAX_FILE_BYTES", size)
    load_tokenizer(folder)
    monkeypatch.setattr(tokenizer_file, "MAX_FILE_BYTES", size - 1)
    assert f"holds more than {size - 1:,} bytes" in refusal(folder)


# --- what is refused, and what only looks like it


def changed(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def replacing(count: int, content: str) -> dict[str, Any]:
    part = {"type": "Replace", "pattern": {"String": "…"}, "content": content}
    return {"type": "Sequence", "normalizers": [part] * count}


def test_many_replacements_are_valid_as_long_as_a_text_stays_about_as_long(folder: Path) -> None:
    changed(folder, normalizer=replacing(100, "..."))  # three bytes for three bytes
    assert load_tokenizer(folder).encode("…").ids == load_tokenizer(folder).encode("...").ids
    changed(folder, normalizer=replacing(20, "...."))
    assert "can make a text 631 times as long" in refusal(folder)


def test_a_component_of_an_unknown_kind_is_refused_by_the_library(folder: Path) -> None:
    document = {"normalizer": {"type": "Singing", "verses": 4, "refrain": {"type": "Solo"}}}
    tokenizer_probe.check(document)
    changed(folder, **document)
    assert "not a valid tokenizer: " in refusal(folder)
