"""Bad files that are large, or would become large in memory, or take long to be refused.

Each is written to a folder of its own, as a whole model would lie there. The limits are those of
docs/hostile-files.md: a second, and 64 MiB with twice the header.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from config_mutants import LLAMA
from gguf_root_causes import ARRAY, STRING, U8, array, entry, file, tensor, text
from measuring import refusal_costs

HEADER = 100_000_000
ALLOWED = 64 << 20  # bytes, and twice the header
ENTRIES = 65_536


def safetensors(text: bytes, data: int = 0) -> bytes:
    return len(text).to_bytes(8, "little") + text + bytes(data)


def entries(count: int, name: str = "model.layers.{}.mlp.up_proj.weight") -> bytes:
    tensors = {
        name.format(index): {
            "dtype": "F32",
            "shape": [1],
            "data_offsets": [4 * index, 4 * index + 4],
        }
        for index in range(count)
    }
    return json.dumps(tensors, ensure_ascii=False).encode()


def metadata(content: bytes) -> bytes:
    return safetensors(b'{"__metadata__":{"a":"' + content + b'"}}x')


def filled(before: bytes, piece: bytes, after: bytes = b"", size: int = HEADER) -> bytes:
    return before + piece * ((size - len(before) - len(after)) // len(piece)) + after


SAFETENSORS: dict[str, Callable[[], bytes]] = {
    "65,537 tensors": lambda: safetensors(entries(ENTRIES + 1), 4 * (ENTRIES + 1)),
    "65,536 tensors of no model": lambda: safetensors(entries(ENTRIES), 4 * ENTRIES),
    "65,536 tensors and a byte": lambda: safetensors(entries(ENTRIES), 4 * ENTRIES + 1),
    "names of 🦙": lambda: safetensors(entries(20_000, "{}" + "🦙" * 99), 80_000),
    "83 MiB of small tensors": lambda: safetensors(entries(900_000), 0),
    "a header of spaces": lambda: safetensors(filled(b"{", b" ")),
    "a header of brackets": lambda: safetensors(filled(b'{"a":', b"[")),
    "a header of braces": lambda: safetensors(filled(b"", b'{"a":')),
    "a header of commas": lambda: safetensors(filled(b"{", b",")),
    "a header of quotes": lambda: safetensors(filled(b"{", b'"')),
    "a header of empty lists": lambda: safetensors(filled(b'{"a":[', b"[],")),
    "a shape of 50,000,000": lambda: safetensors(filled(b'{"a":{"dtype":"F32","shape":[', b"1,")),
    "a name of 100 MB": lambda: safetensors(filled(b'{"', b"n", b'":7}')),
    "a name of backslashes": lambda: safetensors(filled(b'{"', b"\\")),
    "metadata of a letter": lambda: metadata(b"a" * (HEADER - 99)),
    "metadata of 🦙": lambda: metadata("🦙".encode() * (HEADER // 4 - 99)),
    "metadata of escapes": lambda: metadata(b'\\"' * 524_000 + b"a" * 90_000_000),
    "metadata of many escapes": lambda: metadata(b"\\n" * (HEADER // 2 - 99)),
    "7,000,000 entries of metadata": lambda: safetensors(
        b'{"__metadata__":{' + b",".join(b'"%d":""' % i for i in range(7_000_000)) + b"}}"
    ),
    "a length beyond 100 MB": lambda: safetensors(b"{" + b" " * HEADER),
    "a length of 2^63": lambda: struct.pack("<Q", 1 << 63) + b"{}",
}

GGUF: dict[str, Callable[[], bytes]] = {
    "65,536 tensors of no model": lambda: file(
        [], [tensor(f"t{i}", (8,), 32 * i) for i in range(ENTRIES)], 32 * ENTRIES
    ),
    "65,536 entries of metadata": lambda: file([entry(f"k{i}", U8, b"\1") for i in range(ENTRIES)]),
    "65,536 empty arrays": lambda: file(
        [entry(f"k{i}", ARRAY, array(U8, 0)) for i in range(ENTRIES)]
    ),
    "a million empty strings": lambda: file(
        [entry("k", ARRAY, array(STRING, 1 << 20, bytes(8 << 20)))]
    ),
    "a million strings of é": lambda: _strings("é" * 5, 1 << 20),
    "a million strings of 🦙": lambda: _strings("🦙" * 2, 1 << 20),
    "a million long strings of 🦙": lambda: _strings("a" * 80 + "🦙", 1 << 20),
    "strings of a megabyte with a 🦙": lambda: _strings("a" * 999_990 + "🦙", 99),
    "a string of 90 MB": lambda: file([entry("k", STRING, text(b"a" * 90_000_000))]),
    "an array of 95 MB": lambda: file(
        [entry("k", ARRAY, array(U8, 95_000_000, bytes(95_000_000)))]
    ),
    "a header beyond 100 MB": lambda: file(
        [entry("k", ARRAY, array(U8, 120_000_000, bytes(120_000_000)))]
    ),
    "a RoPE table of 4 GiB": lambda: file(
        [entry("general.architecture", STRING, text(b"llama"))],
        [tensor("rope_freqs.weight", (1 << 30,))],
        0,
    ),
    "100,000 arrays in arrays": lambda: file([entry("k", ARRAY, array(ARRAY, 1) * 100_000)]),
}

SPARSE = {"a RoPE table of 4 GiB": 4 << 30}  # bytes behind a file's content that take no room

CONFIGS: dict[str, Callable[[], bytes]] = {
    "9 MiB of spaces": lambda: b" " * (9 << 20),
    "8 MB of empty lists": lambda: filled(b'{"a":[', b"[],", size=8_000_000),
    "8 MB of one text": lambda: b'{"a":"' + b"\\n" * 4_000_000 + b'"}',
    "8 MB of 🦙": lambda: b'{"a":"' + "🦙".encode() * 2_000_000 + b'"}',
    "190,000 objects": lambda: b'{"a":[' + b'{"a":0},' * 95_000 + b"0]}",
    "190,000 keys": lambda: json.dumps({str(i): i for i in range(190_000)}).encode(),
    "brackets": lambda: b"[" * 8_000_000,
}


def _strings(content: str, count: int) -> bytes:
    return file([entry("k", ARRAY, array(STRING, count, text(content.encode()) * count))])


def write(root: Path, kind: str, name: str) -> tuple[Path, int]:
    """One of the files above as a model: the path to open, and the size of its header."""
    folder = root / f"{kind} {name}"
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "GGUF":
        content = GGUF[name]()
        (folder / "model.gguf").write_bytes(content)
        os.truncate(folder / "model.gguf", len(content) + SPARSE.get(name, 0))
        return folder / "model.gguf", min(len(content), HEADER)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    if kind == "config":
        content = CONFIGS[name]()
        (folder / "config.json").write_bytes(content)
        return folder, len(content)
    content = SAFETENSORS[name]()
    (folder / "model.safetensors").write_bytes(content)
    return folder, min(
        int.from_bytes(content[:8], "little"), HEADER, os.path.getsize(folder / "model.safetensors")
    )


EVERY = [
    *(("safetensors", name) for name in SAFETENSORS),
    *(("GGUF", name) for name in GGUF),
    *(("config", name) for name in CONFIGS),
]


def assert_refused_cheaply(folder: Path, kind: str, messages: dict[str, str]) -> None:
    """Files by name, with what is message of each; the folder goes, as they are large."""
    files = [write(folder, kind, name) for name in messages]
    costs = refusal_costs([path for path, _ in files])
    for cost, (_, header), message in zip(costs, files, messages.values(), strict=True):
        assert cost.outcome.startswith("ModelFileError: "), cost
        assert message in cost.outcome, cost
        assert cost.seconds < 2, cost  # the goal is 1, on a machine that does nothing else
        assert cost.growth <= ALLOWED + 2 * header, cost
    shutil.rmtree(folder)
