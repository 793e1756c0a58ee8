"""Mutants of shard indexes: they name other files, or disagree with their shards.

A valid sharded model lies between decoys: files that would be accepted if a name led to them. It
knows what a shard name may be: one plain part, in the folder of the index or in a hub cache.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from config_mutants import LLAMA, VALUES
from mutation import Mutant, Tally, attack
from safetensors.numpy import save_file

from cullama.checkpoint.names import expected_shapes
from cullama.checkpoint.opening import open_checkpoint
from cullama.model.config import ModelConfig

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
NORM = "model.norm.weight"

# Forty names and more under which an index may try to reach a file that is not beside it.
TRAVERSALS = [
    "../decoy.safetensors",
    "../../decoy.safetensors",
    "./../decoy.safetensors",
    "sub/../../decoy.safetensors",
    "sub/decoy.safetensors",
    "sub//decoy.safetensors",
    "./sub/decoy.safetensors",
    "./decoy.safetensors",
    f"./{SECOND}",
    f"sub/../{SECOND}",
    f"{SECOND}/",
    f"{SECOND}/.",
    f"{SECOND}/..",
    "/decoy.safetensors",
    "//decoy.safetensors",
    "/tmp/decoy.safetensors",
    "/proc/self/root/tmp/decoy.safetensors",
    "/dev/fd/0.safetensors",
    "~/decoy.safetensors",
    "~root/decoy.safetensors",
    "~decoy.safetensors",
    "$HOME/decoy.safetensors",
    "${HOME}.safetensors",
    "%HOME%.safetensors",
    "`id`.safetensors",
    "file:///tmp/decoy.safetensors",
    "https://example.com/decoy.safetensors",
    "..\\decoy.safetensors",
    "..\\..\\decoy.safetensors",
    "sub\\decoy.safetensors",
    "C:\\decoy.safetensors",
    "C:decoy.safetensors",
    "\\\\host\\share\\decoy.safetensors",
    "\\\\?\\C:\\decoy.safetensors",
    "//host/share/decoy.safetensors",
    "%2e%2e%2fdecoy.safetensors",
    "..%2fdecoy.safetensors",
    "%252e%252e%252fdecoy.safetensors",
    "..%c0%afdecoy.safetensors",
    "\uff0e\uff0e\uff0fdecoy.safetensors",
    "..\u2215decoy.safetensors",
    "..\u2044decoy.safetensors",
    "..\u29f8decoy.safetensors",
    "\u2025/decoy.safetensors",
    "decoy\u200b.safetensors",
    "\u202edecoy.safetensors",
    "decoy.safetensors\0",
    "decoy\0.safetensors",
    "../decoy.safetensors\0.safetensors",
    "decoy.safetensors\n",
    "\tdecoy.safetensors",
    "decoy.safetensors:stream.safetensors",
    "..",
    ".",
    "",
    " ",
    "..safetensors/../decoy.safetensors",
    "x" * 300 + ".safetensors",
    "\ud800.safetensors",
    "*.safetensors",
    "?ecoy.safetensors",
    "decoy.safetensors;id",
    "CON",
    "decoy.bin",
    "config.json",
]


def write_sharded(folder: Path) -> dict[str, str]:
    """A valid model in two shards, decoys above and below it; returns its weight_map."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    shapes = expected_shapes(ModelConfig.from_huggingface(folder / "config.json", LLAMA))
    names = sorted(shapes)
    tensors = {name: np.ones(shapes[name], np.float32) for name in names}
    shards = {FIRST: names[::2], SECOND: names[1::2]}
    if NORM not in shards[SECOND]:
        shards = {FIRST: names[1::2], SECOND: names[::2]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    for decoy in (folder.parent, folder / "sub", folder.parent.parent):
        decoy.mkdir(exist_ok=True)
        save_file({name: tensors[name] for name in shards[SECOND]}, decoy / "decoy.safetensors")
    weight_map = {name: file for file, held in shards.items() for name in held}
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def redirected(weight_map: dict[str, str], name: str) -> dict[str, str]:
    """The second shard under another name."""
    return {tensor: name if file == SECOND else file for tensor, file in weight_map.items()}


def index_mutants(count: int, seed: int, weight_map: dict[str, str]) -> Iterator[Mutant]:
    draw = random.Random(seed)
    for _ in range(count):
        kind = draw.randrange(5)
        if kind == 0:
            yield _mutant("valid", weight_map, (), is_valid=True)
        elif kind == 1:
            name = draw.choice(TRAVERSALS)
            yield _mutant(
                f"all of {name!r}", redirected(weight_map, name), ("weight_map", "missing")
            )
        elif kind == 2:
            tensor = draw.choice(list(weight_map))
            name = draw.choice([*TRAVERSALS, FIRST, SECOND])
            words = () if name == weight_map[tensor] else ("weight_map", "missing")
            yield _mutant(f"one of {name!r}", {**weight_map, tensor: name}, words)
        elif kind == 3:
            changed = dict(weight_map)
            gone = changed.pop(draw.choice(list(changed)))
            if draw.random() < 0.5:
                changed["a ghost"] = gone
            yield _mutant("names that do not fit", changed, ("weight_map",))
        else:
            yield _odd(weight_map, draw)


def _mutant(what: str, weight_map: Any, words: tuple[str, ...], is_valid: bool = False) -> Mutant:
    return Mutant(what, json.dumps({"weight_map": weight_map}).encode(), words, is_valid)


def _odd(weight_map: dict[str, str], draw: random.Random) -> Mutant:
    value = draw.choice(VALUES)
    words = ("weight_map", "content is", "a value is", "nesting is", "key ", INDEX)
    if draw.random() < 0.5:
        return Mutant(f"weight_map {value:.40}", f'{{"weight_map":{value}}}'.encode(), words)
    tensor = json.dumps(draw.choice(list(weight_map)))
    text = json.dumps({"weight_map": weight_map})
    text = text.replace(f"{tensor}: ", f"{tensor}: {value}, {tensor}: ", 1)
    return Mutant(f"{tensor} twice, once {value:.40}", text.encode(), words)


def attack_indexes(root: Path, count: int, seed: int) -> Tally:
    folder = root / "between" / "model"
    weight_map = write_sharded(folder)
    return attack(index_mutants(count, seed, weight_map), folder, open_checkpoint, folder / INDEX)


# Shards themselves


def _link(folder: Path, target: str) -> None:
    (folder / SECOND).unlink()
    (folder / SECOND).symlink_to(target)


def _resize(folder: Path, by: int) -> None:
    content = (folder / SECOND).read_bytes()
    (folder / SECOND).write_bytes(content[:by] if by < 0 else content + bytes(by))


def _copy(folder: Path) -> None:
    shutil.copy(folder / FIRST, folder / SECOND)


def _empty(folder: Path) -> None:
    (folder / SECOND).write_bytes(b"")


def _folder_instead(folder: Path) -> None:
    (folder / SECOND).unlink()
    (folder / SECOND).mkdir()


# What is done to the folder, and what the refusal must name.
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a shard is missing": (lambda folder: (folder / SECOND).unlink(), SECOND),
    "a shard twice": (_copy, SECOND),
    "a shard too short": (lambda folder: _resize(folder, -4), SECOND),
    "a shard too long": (lambda folder: _resize(folder, 4), SECOND),
    "an empty shard": (_empty, SECOND),
    "a link to anywhere": (lambda folder: _link(folder, "/etc/passwd"), SECOND),
    "a link to a device": (lambda folder: _link(folder, "/dev/zero"), SECOND),
    "a link to itself": (lambda folder: _link(folder, SECOND), SECOND),
    "a link to another shard": (lambda folder: _link(folder, FIRST), SECOND),
    "a link to nothing": (lambda folder: _link(folder, "nothing.safetensors"), SECOND),
    "a folder in place of a shard": (
        _folder_instead,
        SECOND,
    ),
}
