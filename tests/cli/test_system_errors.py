"""What the system refuses is named: the file, the output or the memory, never another one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CommandLine, Ended

from cullama.cli import run
from cullama.cli.system_errors import OUT_OF_MEMORY, describe

STORY = ("story", "-q", "-n", "3")


def run_in_shell(cullama_command: CommandLine, tail: str, *arguments: str | Path) -> Ended:
    """Run a command with a redirection or a pipe behind it."""
    shell = ["bash", "-o", "pipefail", "-c", f'"$@" {tail}', "bash"]
    done = subprocess.run(
        [*shell, *cullama_command.command(*arguments)],
        capture_output=True,
        text=True,
        env=cullama_command.environment(),
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


# --- models that cannot be opened


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("n" * 300, "File name too long"),
        ("a/" * 3000, "File name too long"),
        ("file/inside", "Not a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("gone", "does not exist"),
        ("dangling", "does not exist"),
        ("nu\\0ll", "does not exist"),
    ],
)
def test_a_path_that_the_system_refuses_is_named_with_its_reason(
    cullama_command: CommandLine, tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    ended = cullama_command(*STORY, "-m", tmp_path / name)
    assert ended.code == 1
    assert ended.err.startswith("cullama: no model '")
    assert reason in ended.err
    assert "output" not in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("closed", ["folder", "config.json", "model.safetensors"])
def test_a_model_that_may_not_be_read_is_named(
    cullama_command: CommandLine, tiny_model: Path, tmp_path: Path, closed: str
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for file in tiny_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    path = folder if closed == "folder" else folder / closed
    path.chmod(0)
    ended = cullama_command(*STORY, "-m", folder)
    path.chmod(0o700)
    assert (ended.code, ended.out) == (1, "")
    assert f"{path}: cannot be" in ended.err
    assert "ermission denied" in ended.err


# --- an output that cannot be written


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_full_disk_is_the_output_s(
    cullama_command: CommandLine,
    tiny_model: Path,
    more: tuple[str, ...],
    unbuffered: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    ended = run_in_shell(cullama_command, "> /dev/full", *STORY, "-m", tiny_model, *more)
    assert ended.code == 1
    assert ended.err == "cullama: cannot write the output: No space left on device\n"
    silent = run_in_shell(cullama_command, "> /dev/full 2>&1", *STORY, "-m", tiny_model, *more)
    assert silent.code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("story", "--help"),
        ("models",),
        ("models", "--json"),
        (),
        ("doctor", "--quick", "--backend", "cpu:numpy"),
    ],
)
def test_a_reader_that_leaves_ends_a_command_quietly(
    cullama_command: CommandLine, arguments: tuple[str, ...]
) -> None:
    """As `head` does: no traceback, and no complaint."""
    ended = run_in_shell(cullama_command, "| head -c 1 > /dev/null", *arguments)
    assert "Traceback" not in ended.err
    assert "rror" not in ended.err
    assert "cullama:" not in ended.err


@pytest.mark.parametrize("command", [("story", "-n", "100"), ("chat", "-n", "100", "Hi")])
@pytest.mark.parametrize("tail", ["| head -c 1 >/dev/null", "2>&1 | head -c 1 >/dev/null"])
def test_a_reader_that_leaves_ends_an_answer_quietly(
    cullama_command: CommandLine, chat_model: Path, command: tuple[str, ...], tail: str
) -> None:
    ended = run_in_shell(
        cullama_command, tail, *command, "-q", "-m", chat_model, "--ignore-eos", "--stats"
    )
    assert "Traceback" not in ended.err
    assert "cullama:" not in ended.err


# --- memory, and everything else


def test_memory_that_runs_out_is_said_to(cullama_command: CommandLine, tiny_model: Path) -> None:
    start = """
import sys
import cullama.llm
def fails(*arguments, **options):
    {}
cullama.llm.load_weights = fails
from cullama.cli import main
main(sys.argv[1:])
"""
    for failure in ("raise MemoryError", "raise OSError(12, 'Cannot allocate memory')"):
        done = subprocess.run(
            [sys.executable, "-c", start.format(failure), *STORY, "-m", str(tiny_model)],
            capture_output=True,
            text=True,
            env=cullama_command.environment(),
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("cullama: there is too little memory; lower --cache-tokens")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.EIO])
def test_an_error_names_its_file(number: int) -> None:
    error = OSError(number, os.strerror(number), "some/file")
    assert describe(error) == f"cannot use 'some/file': {os.strerror(number)}"
    two = OSError(number, os.strerror(number), "one", None, "other")
    assert describe(two).startswith("cannot use 'one' and 'other': ")


def test_an_error_of_no_file_is_not_called_the_output_s() -> None:
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert describe(error) == f"the system refused something: {os.strerror(errno.EMFILE)} (EMFILE)"


def test_threads_that_cannot_be_started_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from cullama.cpu.thread_pool import ThreadPool
    from cullama.errors import HostMemoryError

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(HostMemoryError, match=r"no more threads, expected 1; lower threads"):
        ThreadPool(2).execute([lambda: None, lambda: None])


# --- libraries that the limit of memory leaves no room for


def test_a_library_that_cannot_be_mapped_is_one_line_and_any_other_import_error_is_raised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(message: str) -> None:
        def main(*arguments: object, **options: object) -> None:
            raise ImportError(message)

        monkeypatch.setattr("cullama.cli.cli.main", main)

    fail("tokenizers.abi3.so: failed to map segment from shared object")
    assert run([]) == 1
    assert capsys.readouterr().err == f"cullama: {OUT_OF_MEMORY}\n"
    fail("no module named tokenizers")
    with pytest.raises(ImportError, match="no module"):
        run([])
