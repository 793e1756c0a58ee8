"""The bar of a list: on a terminal and in a notebook, where it takes long; nowhere else."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pexpect
import pytest
from command_line import SOURCE
from nbclient import NotebookClient

from cullama.text import progress
from cullama.text.progress import GenerationProgress

# Draws at once, and before each step.
PROGRAM = """
import sys
import cullama
from cullama.text import progress
progress.DELAY = progress.INTERVAL = 0
with cullama.LLM({model!r}) as llm:
    params = cullama.SamplingParams(max_tokens=20, seed=1, ignore_eos=True)
    prompts = ["Once upon a time"] * 9
    {call}
print("done")
"""
IN_A_LIST = "llm.generate(prompts, params)"


def program(model: Path, call: str = IN_A_LIST) -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(model=str(model), call=call)]


ENVIRONMENT = {"PYTHONPATH": str(SOURCE), "TERM": "xterm-256color", "CUDA_VISIBLE_DEVICES": ""}


def on_a_terminal(command: list[str]) -> str:
    child = pexpect.spawn(command[0], command[1:], env=ENVIRONMENT, timeout=60, encoding="utf-8")
    child.expect(pexpect.EOF)
    return str(child.before)


def test_a_terminal_shows_a_bar_with_speed(tiny_model: Path) -> None:
    shown = on_a_terminal(program(tiny_model))
    assert "generating" in shown
    assert "/9" in shown
    assert "tok/s" in shown
    assert "done" in shown


@pytest.mark.parametrize(
    "call",
    [
        "llm.generate(prompts, params, progress=False)",
        "llm.generate(prompts[:1], params)",
        "llm.generate(prompts[0], params)",
    ],
)
def test_no_bar_where_it_is_switched_off_or_for_one_prompt(tiny_model: Path, call: str) -> None:
    shown = on_a_terminal(program(tiny_model, call))
    assert "generating" not in shown
    assert "done" in shown


def test_a_pipe_gets_nothing_on_standard_error(tiny_model: Path) -> None:
    done = subprocess.run(
        program(tiny_model), env=ENVIRONMENT, capture_output=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == (b"done\n", b"")


def test_a_notebook_shows_one_line_that_ends_complete(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        **ENVIRONMENT,
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    source = PROGRAM.format(model=str(tiny_model), call=IN_A_LIST)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, timeout=60).execute()
    outputs = notebook.cells[0].outputs
    [line] = [each["data"]["text/plain"] for each in outputs if "data" in each]
    assert line.startswith("generated 9 of 9 · ")
    assert line.endswith(" tok/s")
    assert [each["text"] for each in outputs if "text" in each] == ["done\n"]


@dataclass
class Output:
    token_ids: Sequence[int]
    is_closed: bool


@dataclass
class Sample:
    output: Output


class Drawn:
    """Records what would be drawn."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, int]] = []
        self.is_stopped = False

    def update(self, ended: int, total: int, tokens_per_second: float) -> None:
        assert tokens_per_second > 0
        self.lines.append((ended, total))

    def stop(self) -> None:
        self.is_stopped = True


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    drawn = Drawn()
    monkeypatch.setattr(progress, "_display_here", lambda: lambda: drawn)
    return drawn


SAMPLES: Sequence[Any] = [Sample(Output([5, 6, 7], True)), Sample(Output([5, 6], False))]


def test_the_first_second_draws_nothing(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.5, 10.99, 11.0, 11.0, 11.1, 11.2, 11.2, 11.3])
    # Only the module's: threads of a server that tests share read the clock, too.
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with GenerationProgress(SAMPLES, is_wanted=True) as bar:
        bar()
        bar()
        assert drawn.lines == []
        bar()
        bar()  # a tenth of a second later: not yet again
        assert drawn.lines == [(1, 2)]
        bar()
        assert drawn.lines == [(1, 2)] * 2
    assert drawn.lines == [(1, 2)] * 3
    assert drawn.is_stopped


def test_an_error_ends_the_bar(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0)

    def interrupted() -> None:
        with GenerationProgress(SAMPLES, is_wanted=True) as bar:
            bar()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert drawn.is_stopped


def test_other_threads_draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    found: list[object] = [progress._display_here()]
    thread = threading.Thread(target=lambda: found.append(progress._display_here()))
    thread.start()
    thread.join()
    assert found == [progress.TerminalBar, None]
