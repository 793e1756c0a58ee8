"""Without a home folder cullama runs, keeps nothing, and makes no folder named `~`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CommandLine

from cullama.cli.chat.editor import history_file
from cullama.errors import CullamaError
from cullama.files.cache_folder import cache_folder, cache_folder_or_none, expand_home, home_folder
from cullama.hub.cache import hub_cache_folder

VARIABLES = (
    *("HOME", "CULLAMA_CACHE", "XDG_CACHE_HOME", "XDG_STATE_HOME"),
    *("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"),
)

# As `os.path.expanduser` does for a user id without a name, in a container.
HOMELESS = "import os.path; os.path.expanduser = lambda path: path\n"


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)


def test_no_home_folder_is_no_cache_folder(nobody: None) -> None:
    assert cache_folder_or_none() is None
    with pytest.raises(CullamaError, match=r"no home folder.*set CULLAMA_CACHE"):
        cache_folder()
    with pytest.raises(CullamaError, match=r"no home folder.*set HF_HOME"):
        hub_cache_folder()


def test_an_empty_home_is_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes it for the root of the file system."""
    for each in VARIABLES:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv("HOME", "")
    assert home_folder() is None
    assert cache_folder_or_none() is None
    assert history_file() is None


@pytest.mark.parametrize("name", ["CULLAMA_CACHE", "XDG_CACHE_HOME"])
def test_a_variable_names_the_home_folder_as_a_shell_would(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Dockerfile's ENV leaves `~` as it is: a folder of that name was made."""
    for each in VARIABLES:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv(name, "~/caches")
    expected = Path("/home/ada/caches")
    assert cache_folder() == (expected if name == "CULLAMA_CACHE" else expected / "cullama")
    if name == "XDG_CACHE_HOME":
        assert hub_cache_folder() == expected / "huggingface" / "hub"


@pytest.mark.parametrize("name", ["CULLAMA_CACHE", "XDG_CACHE_HOME"])
def test_a_variable_that_names_no_home_folder_is_refused(
    nobody: None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "~/caches")
    with pytest.raises(CullamaError, match=f"{name} is '~/caches': there is no such home folder"):
        cache_folder_or_none()
    with pytest.raises(CullamaError, match="the file is '~ada/x': there is no such home folder"):
        expand_home("~ada/x", "the file")


def test_a_model_runs_without_a_home_folder_and_leaves_nothing(
    cullama_command: CommandLine, tiny_model: Path, tmp_path: Path
) -> None:
    environment = cullama_command.environment()
    for name in VARIABLES:
        environment.pop(name, None)
    start = HOMELESS + "from cullama.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start, "story", "-m", str(tiny_model), "-n", "3", "-q"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
