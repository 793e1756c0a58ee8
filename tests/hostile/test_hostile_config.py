"""Mutants of config.json and generation_config.json are refused: a slice of `make soak-files`."""

from __future__ import annotations

import sys
from pathlib import Path

import large_files
import pytest
from config_mutants import BASES, Folder, attack_configs
from measuring import refusal_costs

from cullama.checkpoint.opening import open_checkpoint

SEED = 20250607


def test_mutants_are_refused_by_name_or_open(tmp_path: Path) -> None:
    tally = attack_configs(tmp_path, 400, SEED)
    assert not tally.complaints, f"seed {SEED}"
    assert 20 < tally.accepted < 200  # some of each, or the mutants are no good


def test_the_base_folders_cover_every_architecture(tmp_path: Path) -> None:
    opened = [open_checkpoint(folder).config.architecture for folder in Folder(tmp_path).paths]
    assert [opened] == [[base["architectures"][0] for base in BASES]]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_large_settings_are_refused_in_a_second_and_little_memory(tmp_path: Path) -> None:
    files = [large_files.write(tmp_path, "config", name) for name in large_files.CONFIGS]
    for cost, (_, size) in zip(refusal_costs([path for path, _ in files]), files, strict=True):
        assert cost.outcome.startswith("ModelFileError: ")
        assert cost.seconds < 1
        assert cost.growth <= large_files.ALLOWED + 2 * size
