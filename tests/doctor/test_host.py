"""Facts that every machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cullama import __version__
from cullama.doctor.findings import Fact
from cullama.doctor.host import bytes_in, host_facts


def facts() -> dict[str, Fact]:
    return {fact.name: fact for fact in host_facts()}


def test_versions_and_the_machine_are_named() -> None:
    found = facts()
    assert found["cullama"].details["version"] == __version__
    assert "CPython" in found["Python"].found or "PyPy" in found["Python"].found
    assert found["numpy"].details["version"] in found["numpy"].found
    assert 1 <= found["CPU"].details["cores"] <= found["CPU"].details["processors"]
    assert found["memory"].details["total_bytes"] > 1 << 28
    assert not any(fact.problem for fact in found.values())


def test_environment_variables_are_shown_with_their_meaning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    found = facts()["environment"]
    assert found.details["CUDA_LAUNCH_BLOCKING"] == "1"
    assert "CUDA_LAUNCH_BLOCKING='1' (1 waits for every kernel" in found.found


def test_the_model_cache_is_shown_with_its_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CULLAMA_CACHE", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(bytes(1_500_000))
    assert facts()["model cache"].found == f"{tmp_path} · 1.5 MB"


def test_a_missing_home_folder_is_reported_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CULLAMA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "")
    assert "set CULLAMA_CACHE" in facts()["model cache"].found


def test_a_size_counts_neither_missing_folders_nor_targets_of_links(tmp_path: Path) -> None:
    assert bytes_in(tmp_path / "missing") == 0
    (tmp_path / "file").write_bytes(bytes(10))
    os.symlink("/nowhere/at/all", tmp_path / "link")
    assert bytes_in(tmp_path) == 10 + len("/nowhere/at/all")
