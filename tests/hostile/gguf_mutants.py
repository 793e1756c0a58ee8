"""Mutants of GGUF files, each wrong in one field, and what gguf-py makes of them.

It begins with files written by gguf-py's GGUFWriter, walks through their header to learn where each
field lies, and changes one. It finds them by the format's description, not by cullama's reader.
"""

from __future__ import annotations

import gc
import random
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from mutation import Mutant

from cullama.checkpoint.gguf_file import GgufFile

U32_EXTREMES = [0, 1, 5, 13, 77, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
U64_EXTREMES = [0, 1, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 32, 1 << 40, 1 << 61, 1 << 62,
                (1 << 63) - 1, 1 << 63, (1 << 64) - 32, (1 << 64) - 1]  # fmt: skip
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9

# Why we refuse what gguf-py takes: by a rule of ours (docs/hostile-files.md) or the format's.
RULES = {
    "offset is": "tensors lie end to end, aligned",
    "given twice": "duplicate keys or names",
    "element type is array": "arrays in arrays (recursion)",
    "a bool of": "a bool is 0 or 1",
    "value is": "an alignment that is no power of two, or a value past the file",
    "version is": "versions 2 and 3",
    "byte order is": "little-endian files",
    "shape is": "no dimension of 0, no product that overflows",
    "row length is": "whole blocks",
    "number of dimensions is": "1 to 4 dimensions",
    "not UTF-8": "texts are UTF-8",
    "type is": "types that exist and are read",
    "magic is": "the magic",
    "count is": "counts within the file",
    "end of the data is": "data within the file",
    "in a string": "a string of 1 MiB",
}


@dataclass(frozen=True)
class Field:
    """A number in a header: where it lies, and what an error about it is called."""

    at: int
    size: int
    owner: str  # "metadata 'k'", "tensor 'a'", "header"
    word: str


@dataclass
class Walk:
    """All numbers of a valid header, in order."""

    content: bytes
    at: int = 0
    fields: list[Field] = field(default_factory=list)
    entries: list[tuple[int, int]] = field(default_factory=list)  # metadata, then tensors
    tensors_from: int = 0  # in `entries`
    data_at: int = 0

    def number(self, size: int, owner: str, word: str) -> int:
        self.fields.append(Field(self.at, size, owner, word))
        found = int.from_bytes(self.content[self.at : self.at + size], "little")
        self.at += size
        return found

    def text(self, owner: str, word: str) -> str:
        length = self.number(8, owner, word)
        self.at += length
        return self.content[self.at - length : self.at].decode()

    @classmethod
    def of(cls, content: bytes) -> Walk:
        walk = cls(content)
        walk.number(4, "header", "magic")
        walk.number(4, "header", "version")
        tensors = walk.number(8, "header", "tensor count")
        entries = walk.number(8, "header", "metadata count")
        for index in range(entries):
            walk.entry(index)
        walk.tensors_from = len(walk.entries)
        for index in range(tensors):
            walk.tensor(index)
        walk.data_at = -(-walk.at // 32) * 32
        return walk

    def entry(self, index: int) -> None:
        start = self.at
        key = self.text(f"metadata entry {index}", "key")
        owner = f"metadata {key!r}"
        tag = self.number(4, owner, "type")
        if tag == STRING:
            self.text(owner, "value")
        elif tag == ARRAY:
            self.array(owner)
        else:
            self.at += SIZES[tag]
        self.entries.append((start, self.at))

    def array(self, owner: str) -> None:
        tag = self.number(4, owner, "element type")
        count = self.number(8, owner, "array")
        if tag == STRING:
            for index in range(count):
                self.text(owner, f"string {index}")
        else:
            self.at += count * SIZES[tag]

    def tensor(self, index: int) -> None:
        start = self.at
        name = self.text(f"tensor entry {index}", "name")
        owner = f"tensor {name!r}"
        for _ in range(self.number(4, owner, "number of dimensions")):
            self.number(8, owner, "shape")
        self.number(4, owner, "type")
        self.number(8, owner, "offset")
        self.entries.append((start, self.at))


def valid_file(path: Path, draw: random.Random) -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.name", "a name of é and 東京")
    writer.add_uint32("llama.block_count", draw.randint(1, 9))
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_float32("llama.rope.freq_base", 1e4)
    writer.add_uint64("a.u64", draw.randrange(1 << 60))
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "▁the", "", "🦙"])
    writer.add_array("tokenizer.ggml.scores", [0.5, -1.0, 3.25])
    writer.add_array("tokenizer.ggml.token_type", [1, 2, 3])
    for index in range(draw.randint(1, 3)):
        kind = draw.choice([GGMLQuantizationType.F32, GGMLQuantizationType.F16,
                            GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0])  # fmt: skip
        shape = (draw.randint(1, 3), 32 * draw.randint(1, 2))
        values = np.array([draw.uniform(-1, 1) for _ in range(shape[0] * shape[1])], np.float32)
        writer.add_tensor(f"blk.{index}", quantize(values.reshape(shape), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def mutants(count: int, seed: int, scratch: Path) -> Iterator[Mutant]:
    draw = random.Random(seed)
    walks = [Walk.of(valid_file(scratch, draw)) for _ in range(8)]
    for _ in range(count):
        yield draw.choices(KINDS, WEIGHTS)[0](draw.choice(walks), draw)


def _with(content: bytes, at: int, size: int, value: int) -> bytes:
    return content[:at] + (value % (1 << 8 * size)).to_bytes(size, "little") + content[at + size :]


# The kinds of damage


def extreme_number(walk: Walk, draw: random.Random) -> Mutant:
    """A length, a count, a type or an offset from the ends of its range."""
    it = draw.choice(walk.fields)
    value = draw.choice(U32_EXTREMES if it.size == 4 else U64_EXTREMES)
    content = _with(walk.content, it.at, it.size, value)
    # A small number in place of a length shifts everything behind it: any field may complain.
    is_beyond = value > len(walk.content) and it.word not in ("offset",)
    other = ("value is", "element count", "end of the data", "row length")
    words = (it.word, *other) if is_beyond else ()
    return Mutant(f"{it.owner}: {it.word} {value}", content, words)


def nearby_number(walk: Walk, draw: random.Random) -> Mutant:
    it = draw.choice(walk.fields)
    value = int.from_bytes(walk.content[it.at : it.at + it.size], "little")
    changed = value + draw.choice([-32, -8, -1, 1, 8, 32])
    return Mutant(
        f"{it.owner}: {it.word} {value} → {changed}", _with(walk.content, it.at, it.size, changed)
    )


def wrong_tag(walk: Walk, draw: random.Random) -> Mutant:
    it = draw.choice([it for it in walk.fields if it.word in ("type", "element type")])
    tag = draw.choice([13, 14, 42, 99, 255, 1 << 16, 1 << 31, (1 << 32) - 1])
    return Mutant(
        f"{it.owner}: {it.word} {tag}",
        _with(walk.content, it.at, 4, tag),
        ("type is", "row length"),
    )


def wrong_dimensions(walk: Walk, draw: random.Random) -> Mutant:
    shapes = [it for it in walk.fields if it.word == "shape"]
    it = draw.choice(shapes)
    value = draw.choice([0, 1 << 16, 1 << 32, 1 << 58, 1 << 62, (1 << 64) - 1])
    words = ("shape", "row length", "end of the data")
    return Mutant(f"{it.owner}: shape {value}", _with(walk.content, it.at, 8, value), words)


def wrong_offset(walk: Walk, draw: random.Random) -> Mutant:
    it = draw.choice([it for it in walk.fields if it.word == "offset"])
    value = int.from_bytes(walk.content[it.at : it.at + 8], "little")
    changed = draw.choice([value + 1, value + 32, value - 32, 1 << 40, 1 << 63, (1 << 64) - 32])
    content = _with(walk.content, it.at, 8, changed)
    return Mutant(
        f"{it.owner}: offset {changed}", content, ("offset", "end of the data", "end of the file")
    )


def twice(walk: Walk, draw: random.Random) -> Mutant:
    """A key or a name that is given twice, and counted."""
    at = draw.randrange(len(walk.entries))
    start, end = walk.entries[at]
    count_at = 16 if at < walk.tensors_from else 8
    count = int.from_bytes(walk.content[count_at : count_at + 8], "little")
    header = walk.content[:end] + walk.content[start:end] + walk.content[end : walk.at]
    header += bytes(-len(header) % 32)
    content = _with(header + walk.content[walk.data_at :], count_at, 8, count + 1)
    return Mutant("an entry twice", content, ("given twice",), is_broken=True)


def nested_array(walk: Walk, draw: random.Random) -> Mutant:
    depth = draw.choice([1, 10, 2000])
    value = struct.pack("<IQ", ARRAY, 1) * depth + struct.pack("<IQB", 0, 1, 7)
    entry = struct.pack("<Q", 4) + b"deep" + struct.pack("<I", ARRAY) + value
    count = int.from_bytes(walk.content[16:24], "little")
    header = walk.content[:24] + entry + walk.content[24 : walk.at]
    header += bytes(-len(header) % 32)
    content = _with(header + walk.content[walk.data_at :], 16, 8, count + 1)
    return Mutant("arrays in arrays", content, ("'deep': element type is array",), is_broken=True)


def alignment(walk: Walk, draw: random.Random) -> Mutant:
    value = draw.choice([0, 3, 33, 1 << 31, (1 << 32) - 1])
    key = b"general.alignment"
    entry = struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, value)
    count = int.from_bytes(walk.content[16:24], "little")
    header = walk.content[:24] + entry + walk.content[24 : walk.at]
    header += bytes(-len(header) % 32)
    content = _with(header + walk.content[walk.data_at :], 16, 8, count + 1)
    return Mutant(f"alignment {value}", content, ("general.alignment", "offset", "end of the"))


def not_utf8(walk: Walk, draw: random.Random) -> Mutant:
    texts = [
        it for it in walk.fields if it.word in ("key", "name", "value") or it.word[:6] == "string"
    ]
    it = draw.choice([it for it in texts if it.size == 8])
    length = int.from_bytes(walk.content[it.at : it.at + 8], "little")
    damaged = bytearray(walk.content)
    if length:
        damaged[it.at + 8 + draw.randrange(length)] = draw.choice([0x80, 0xC3, 0xFF])
    return Mutant(
        f"{it.owner}: {it.word} not UTF-8", bytes(damaged), ("not UTF-8",) if length else ()
    )


def cut(walk: Walk, draw: random.Random) -> Mutant:
    end = draw.randrange(len(walk.content) - 32)
    return Mutant(f"cut at {end}", walk.content[:end])


def more(walk: Walk, draw: random.Random) -> Mutant:
    content = walk.content + draw.randbytes(draw.choice([64, 4096]))
    return Mutant("bytes behind the last tensor", content, is_valid=True)


def flipped(walk: Walk, draw: random.Random) -> Mutant:
    damaged = bytearray(walk.content)
    for _ in range(draw.randint(1, 3)):
        damaged[draw.randrange(walk.at)] ^= 1 << draw.randrange(8)
    return Mutant("flipped bits", bytes(damaged))


def whole(walk: Walk, draw: random.Random) -> Mutant:
    """A valid file, with or without the padding behind its last tensor, or of version 2."""
    content = draw.choice([walk.content, _with(walk.content, 4, 4, 2), walk.content.rstrip(b"\0")])
    is_valid = len(content) == len(walk.content)
    return Mutant("a valid file", content, is_valid=is_valid)


KINDS: list[Callable[[Walk, random.Random], Mutant]] = [
    extreme_number,
    nearby_number,
    wrong_tag,
    wrong_dimensions,
    wrong_offset,
    twice,
    nested_array,
    alignment,
    not_utf8,
    cut,
    more,
    flipped,
    whole,
]
WEIGHTS = [8, 3, 2, 2, 2, 1, 1, 1, 2, 2, 1, 4, 1]


# The reference


def read(path: Path) -> dict[str, Any]:
    """Everything in a file, by cullama."""
    file = GgufFile(path)
    return {name: file.stored_tensor(name).read() for name in file.tensors} | {"": file.metadata}


class _TooSlowError(Exception):
    pass


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """gguf-py loops without end on some of these files, and takes memory as it goes.

    Nothing is collected meanwhile: the alarm often comes within a collection, and what is raised
    in a callback of the collector, as Hypothesis has one, is lost.
    """

    def stop(*_: object) -> None:
        raise _TooSlowError

    before = signal.signal(signal.SIGALRM, stop)
    gc.disable()
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.enable()
        signal.signal(signal.SIGALRM, before)


def agree(path: Path, found: object, refusal: str) -> str:
    """gguf-py's opinion of a file, see `mutants.attack`."""
    try:
        with _at_most(0.3), np.errstate(all="ignore"):
            reader = gguf.GGUFReader(path)
            expected = {it.name: _values(it) for it in reader.tensors} if not refusal else {}
    except Exception as error:  # it raises whatever comes
        return "" if refusal else f"gguf-py refuses it: {type(error).__name__} {error}"
    if refusal:
        rule = next((rule for words, rule in RULES.items() if words in refusal), None)
        return f"rule: {rule}" if rule else f"no rule: {refusal}"
    return _difference(found, expected, reader)


def _values(tensor: Any) -> Any:
    is_plain = tensor.tensor_type in (GGMLQuantizationType.F32, GGMLQuantizationType.F16)
    return np.array(tensor.data) if is_plain else dequantize(tensor.data, tensor.tensor_type)


def _difference(found: Any, expected: dict[str, Any], reader: Any) -> str:
    metadata = found[""]
    keys = {key for key in reader.fields if not key.startswith("GGUF.")}
    if metadata.keys() != keys or found.keys() - {""} != expected.keys():
        return "other keys or names"
    for key in keys:
        theirs = reader.fields[key].contents()
        mine = metadata[key].tolist() if isinstance(metadata[key], np.ndarray) else metadata[key]
        if repr(mine) != repr(theirs):
            return f"metadata {key!r} is {mine!r:.60}, there {theirs!r:.60}"
    for name, array in expected.items():
        if array.tobytes() != found[name].tobytes():
            return f"tensor {name!r} differs"
    return ""
