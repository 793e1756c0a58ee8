"""Finds the safetensors files of a folder, and in which of them each tensor lies.

One file, several with an index, or several without. An index is believed where files agree with it,
and where they do not, the files are: a tensor is where it is. What they hold is not looked at.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelFileError, ModelNotFoundError
from ..files.fields import load_json
from ..files.regular_file import first_names, short_repr
from .foreign import foreign_among, refuse_foreign
from .safetensors_file import SafetensorsFile

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

LOG = logging.getLogger("cullama")

_SERIES = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.safetensors")


@dataclass(frozen=True)
class WeightFiles:
    """Where the tensors of a folder lie."""

    path: Path  # the file, the index, or the folder of several files without one: for messages
    files: dict[str, SafetensorsFile]  # by tensor
    absent: dict[str, str]  # why a tensor that the index names is not there, by tensor


def find_weights(folder: Path) -> WeightFiles:
    """Read the headers of a folder's safetensors files.

    Raises:
        ModelNotFoundError: there are none, or not clearly those of one model.
        ModelFileError: a file is damaged, or the index names something else than files beside it.
    """
    if (folder / SINGLE).exists():
        return _together(folder / SINGLE, [folder / SINGLE])
    if (folder / INDEX).exists():
        return _indexed(folder / INDEX)
    others = _one_model(list(filter(_is_weights, names_in(folder))))
    if not others:
        listing = first_names(names_in(folder))
        raise ModelNotFoundError(f"{folder}: holds {listing}, expected {SINGLE} or {INDEX}")
    paths = [folder / name for name in others]
    return _together(paths[0] if len(paths) == 1 else folder, paths)


def refuse_without_weights(folder: Path) -> None:
    """Refuse a folder without safetensors by what it has instead, where that is known.

    Raises:
        UnsupportedModelError: it holds an adapter, pickles, an unfinished download or the like.
    """
    names = names_in(folder)
    if not any(map(_is_weights, names)):
        refuse_foreign(folder, names)


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", INDEX)) and foreign_among([name]) is None


def names_in(folder: Path) -> list[str]:
    """Return the names of a folder's files, with those that `hf download` has not finished."""
    unfinished = (folder / ".cache" / "huggingface" / "download").glob("*.incomplete")
    return [path.name for path in (*folder.iterdir(), *unfinished)]


def _one_model(names: Collection[str]) -> list[str]:
    """Return the only file, or the files of the only series if it is complete; none otherwise."""
    series = [match for name in names if (match := _SERIES.fullmatch(name))]
    if len(names) == 1 and not series:
        return list(names)
    numbers = sorted(int(match[2]) for match in series)
    is_complete = bool(series) and numbers == list(range(1, int(series[0][3]) + 1))
    is_one = len({(match[1], match[3]) for match in series}) == 1
    return sorted(match[0] for match in series) if is_one and is_complete else []


def _together(path: Path, paths: list[Path]) -> WeightFiles:
    """Read files that no index describes."""
    files: dict[str, SafetensorsFile] = {}
    for file in map(SafetensorsFile, paths):
        for name in file.tensors:
            if files.setdefault(name, file) is not file:
                raise _in_two_files(path, name, [files[name].path.name, file.path.name])
    return WeightFiles(path, files, {})


def _in_two_files(path: Path, name: str, files: list[str]) -> ModelFileError:
    return ModelFileError(
        f"{path}: tensor {short_repr(name)}: lies in {' and in '.join(files)}, "
        "expected it in one file"
    )


def _indexed(index: Path) -> WeightFiles:
    weight_map = _weight_map(index)
    shards = sorted({*weight_map.values()})
    there = {name: SafetensorsFile(index.parent / name) for name in shards if _exists(index, name)}
    for path in _unnamed(index, shards):
        LOG.warning("%s: passed over: a shard that %s does not name", path, INDEX)
    holders: dict[str, list[str]] = {}
    for shard, file in there.items():
        for name in file.tensors:
            holders.setdefault(name, []).append(shard)
    files = {
        name: there[_holder(index, name, shards, weight_map.get(name))]
        for name, shards in holders.items()
    }
    absent = {
        name: _why_absent(index, name, shard, shard in there)
        for name, shard in weight_map.items()
        if name not in files
    }
    return WeightFiles(index, files, absent)


def _weight_map(index: Path) -> dict[str, str]:
    """Return the shard of each tensor, from the index."""
    weight_map = load_json(index).get("weight_map", "missing")
    if not isinstance(weight_map, dict) or not weight_map:
        expected = "tensor names and the files they lie in"
        raise ModelFileError(
            f"{index}: weight_map is {short_repr(weight_map)}, expected {expected}"
        )
    for name, shard in weight_map.items():
        # One plain name, so that an index cannot name files elsewhere.
        is_plain = isinstance(shard, str) and re.fullmatch(r"[\w.+=@ -]{1,255}", shard, re.ASCII)
        if not is_plain or not shard.endswith(".safetensors"):
            raise ModelFileError(
                f"{index}: tensor {short_repr(name)}: weight_map is {short_repr(shard)}, "
                "expected a .safetensors file beside it"
            )
    return weight_map


def _exists(index: Path, shard: str) -> bool:
    """Return whether a shard is there, as a file or a link: where a link leads is its maker's."""
    path = index.parent / shard
    if path.is_symlink() and not path.exists():
        raise ModelFileError(f"{path}: a link to {path.readlink()}, where nothing is")
    return path.exists()


def _unnamed(index: Path, shards: Collection[str]) -> Iterator[Path]:
    """Yield shards of the same series that the index does not name."""
    series = {match.group(1, 3) for shard in shards if (match := _SERIES.fullmatch(shard))}
    for path in sorted(index.parent.iterdir()):
        match = _SERIES.fullmatch(path.name)
        if match and match.group(1, 3) in series and path.name not in shards:
            yield path


def _holder(index: Path, name: str, shards: list[str], named: str | None) -> str:
    """Return the shard to read a tensor from: the one that the index names, or the only one."""
    if named in shards:
        return named
    if len(shards) > 1:
        raise _in_two_files(index, name, shards)
    return shards[0]


def _why_absent(index: Path, name: str, shard: str, is_there: bool) -> str:
    path = index.parent / shard
    if not is_there:
        return (
            f"{path}: missing, expected a shard: {INDEX} names it; "
            "finish the download, or fetch it again"
        )
    return (
        f"{index}: tensor {short_repr(name)}: weight_map is {short_repr(shard)}, which does not "
        "hold it, expected each tensor in the file that the index names"
    )
