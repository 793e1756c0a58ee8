"""Verifies the files that cullama keeps, by checksums: a start compares their sizes only.

The default model against the hash in the source, converted weights against the checksum in each
file, models from the hub against the hashes under which its cache has them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from ..cpu.storage import is_as_written
from ..errors import CullamaError
from ..files.cache_folder import cache_folder
from ..files.checksum import sha256_of
from ..files.regular_file import first_names
from ..hub.cached import CONVERTED, DEFAULT, default_path
from ..hub.resolve import DEFAULT_MODEL
from .findings import Fact, failing
from .host import megabytes

_SHA256 = re.compile(r"[0-9a-f]{64}")  # the name of a blob whose content git LFS keeps


def stored_files() -> Iterator[Fact]:
    """Yield a fact about the default model, and one about converted weights, if they are there."""
    try:
        path, folder = default_path(), cache_folder() / "converted"
    except CullamaError:  # no home folder, which the host's facts report
        return
    if path.is_file():
        yield _default_model(path)
    weights = sorted(folder.glob("*.weights"))
    if weights:
        yield _converted(weights)


def _default_model(path: Path) -> Fact:
    found = sha256_of(path)
    details = {"path": str(path), "sha256": found}
    if found == DEFAULT_MODEL.model_sha256:
        return Fact("default", f"{path.name} · as it was published", details)
    return failing(
        "default",
        f"{path} has sha256 {found}, so it is damaged",
        DEFAULT_MODEL.model_sha256,
        f"`cullama models --remove {DEFAULT}`; it is fetched again when it is needed",
        **details,
    )


def _converted(weights: list[Path]) -> Fact:
    damaged = [path.name for path in weights if not is_as_written(path)]
    size = megabytes(sum(path.stat().st_size for path in weights))
    count = f"{len(weights)} file{'s' if len(weights) > 1 else ''}, {size}"
    details = {"folder": str(weights[0].parent), "files": len(weights), "damaged": damaged}
    if not damaged:
        return Fact("converted", f"{count} · as they were written", details)
    return failing(
        "converted",
        f"{count}, of which {first_names(damaged)} is damaged",
        "weights as they were written",
        f"`cullama models --remove {CONVERTED}`; they are made again when they are needed",
        **details,
    )


def damaged_blobs(files: Collection[Path]) -> list[Path]:
    """Return those of a model's files that are blobs of a hub's cache and not what their hash says.

    Files that lie elsewhere have no hash to be held against.
    """
    blobs = {path: path.resolve() for path in files}
    return [
        path
        for path, blob in blobs.items()
        if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name)
        if sha256_of(blob) != blob.name
    ]
