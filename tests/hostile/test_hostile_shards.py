"""An index names nothing outside its folder, and has to agree with its shards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from shards_mutants import (
    DAMAGE,
    FIRST,
    INDEX,
    NORM,
    SECOND,
    TRAVERSALS,
    attack_indexes,
    redirected,
    write_index,
    write_sharded,
)

from cullama.checkpoint.opening import open_checkpoint
from cullama.errors import ModelFileError

SEED = 20250607


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid sharded model between decoys, to be broken."""
    write_sharded(tmp_path / "between" / "model")
    return tmp_path / "between" / "model"


def test_mutants_are_refused_by_name_or_open(tmp_path: Path) -> None:
    tally = attack_indexes(tmp_path, 300, SEED)
    assert not tally.complaints, f"seed {SEED}"
    assert 20 < tally.accepted < 150  # some of each, or the mutants are no good


def test_no_shard_name_leaves_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "between" / "model"
    weight_map = write_sharded(folder)
    assert len(set(TRAVERSALS)) >= 40
    for name in TRAVERSALS:
        write_index(folder, redirected(weight_map, name))
        with pytest.raises(ModelFileError) as caught:
            open_checkpoint(folder)
        assert "weight_map is" in str(caught.value) or "missing" in str(caught.value), name


def test_a_decoy_would_be_accepted_if_it_were_reached(tmp_path: Path) -> None:
    """Otherwise the refusals above would be no proof."""
    folder = tmp_path / "between" / "model"
    weight_map = write_sharded(folder)
    shutil.copy(folder.parent / "decoy.safetensors", folder)
    (folder / SECOND).unlink()
    write_index(folder, redirected(weight_map, "decoy.safetensors"))
    assert NORM in open_checkpoint(folder).tensors


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_named(folder: Path, damage: str) -> None:
    harm, message = DAMAGE[damage]
    harm(folder)
    with pytest.raises(ModelFileError, match=message):
        open_checkpoint(folder)


def test_a_link_within_the_folder_is_followed(folder: Path) -> None:
    (folder / "inside").mkdir()
    shutil.move(folder / SECOND, folder / "inside")
    (folder / SECOND).symlink_to(f"inside/{SECOND}")
    assert NORM in open_checkpoint(folder).tensors


@pytest.mark.parametrize("blobs", ["blobs", "snapshots/blobs", "elsewhere"])
def test_a_link_that_leaves_the_folder_is_its_owners_choice(folder: Path, blobs: str) -> None:
    """The index cannot make links; whoever can may as well put the file there."""
    repository = folder.parent / "models--owner--name"
    snapshot = repository / "snapshots" / "abc"
    (repository / blobs).mkdir(parents=True)
    shutil.move(folder, snapshot)
    for name in (FIRST, SECOND):
        shutil.move(snapshot / name, repository / blobs / f"blob of {name}")
        (snapshot / name).symlink_to(repository / blobs / f"blob of {name}")
    assert NORM in open_checkpoint(snapshot).tensors


def test_shards_of_another_series_are_ignored(folder: Path) -> None:
    (folder / "other-00001-of-00002.safetensors").write_bytes(b"junk")
    (folder / "model-00003-of-00007.safetensors").write_bytes(b"junk")
    assert NORM in open_checkpoint(folder).tensors


def test_an_index_is_not_read_as_a_weights_file(folder: Path) -> None:
    weight_map = dict.fromkeys(["a", "b"], INDEX)
    write_index(folder, weight_map)
    with pytest.raises(ModelFileError, match="weight_map is"):
        open_checkpoint(folder)
