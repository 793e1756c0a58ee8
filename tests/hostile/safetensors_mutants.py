"""Mutants of safetensors files, each wrong in one field, and what the library makes of them.

It begins with files written by the `safetensors` library, takes their header apart, and puts it
together again with one thing changed. It does so by the format's description, not by cullama's
reader.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from mutation import Mutant
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cullama.checkpoint.safetensors_file import SafetensorsFile

EXTREMES = [1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 10**30]
# What may stand in the place of a number, or of anything.
ODDITIES = [
    "-1",
    "-0",
    "1.0",
    "1e3",
    "1e309",
    "NaN",
    "null",
    "true",
    '"4"',
    "[[4]]",
    "{}",
    "9" * 50,
]
NAMES = ["a", "model.norm.weight", "blk.0", "é.weight", "東京", "x" * 60]
PLAIN = [np.float32, np.float16, ml_dtypes.bfloat16]
OTHER = [np.int8, np.int64, np.bool_, np.float64, ml_dtypes.float8_e4m3fn]

# Why we refuse what the library takes: by a rule of ours (docs/hostile-files.md) or the format's.
RULES = {
    "given twice": "duplicate keys",
    "key is": "members that the format does not have",
    "beginning is": "a header begins with {",
    "dimensions, expected at most": "at most 64 dimensions, as numpy",
    "elements": "a product of dimensions that overflows",
    "number of": "at most 65,536 tensors",
    "length of all": "names of 8 MiB in all",
}


@dataclass
class Header:
    """A header as text still to be put together: raw JSON in the place of each value."""

    tensors: list[tuple[str, dict[str, str]]]  # name → member → JSON
    data: bytes
    metadata: str | None = None  # JSON
    padding: bytes = b""
    parts: list[str] = field(default_factory=list)  # more entries, as they are

    @classmethod
    def of(cls, content: bytes) -> Header:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        metadata = header.pop("__metadata__", None)
        tensors = [(n, {k: json.dumps(v) for k, v in entry.items()}) for n, entry in header.items()]
        return cls(tensors, content[8 + length :], metadata and json.dumps(metadata))

    def text(self) -> bytes:
        entries = list(self.parts)
        if self.metadata is not None:
            entries.append(f'"__metadata__":{self.metadata}')
        for name, members in self.tensors:
            inside = ",".join(f'"{key}":{value}' for key, value in members.items())
            entries.append(f"{json.dumps(name)}:{{{inside}}}")
        return b"{" + ",".join(entries).encode("utf-8", "surrogatepass") + b"}" + self.padding

    def content(self) -> bytes:
        return framed(self.text(), self.data)


def framed(text: bytes, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + data


def valid_file(draw: random.Random) -> bytes:
    tensors = {}
    for name in draw.sample(NAMES, draw.randint(1, 4)):
        shape = tuple(
            draw.randint(0 if draw.random() < 0.1 else 1, 5) for _ in range(draw.randint(0, 3))
        )
        kind = draw.choice(OTHER if draw.random() < 0.05 else PLAIN)
        count = int(np.prod(shape, dtype=np.int64))
        values = np.frombuffer(draw.randbytes(8 * count), np.uint8).astype(np.float32)[:count]
        tensors[name] = values.astype(kind).reshape(shape)
    return save(tensors, {"format": "np"} if draw.random() < 0.5 else None)


def mutants(count: int, seed: int) -> Iterator[Mutant]:
    draw = random.Random(seed)
    for _ in range(count):
        content = valid_file(draw)
        yield draw.choices(KINDS, WEIGHTS)[0](content, draw)


# One field of one tensor


def _one_tensor(header: Header, draw: random.Random) -> tuple[str, dict[str, str]]:
    return draw.choice(header.tensors)


def break_dtype(content: bytes, draw: random.Random) -> Mutant:
    header = Header.of(content)
    _, members = _one_tensor(header, draw)
    value = draw.choice(['"F31"', '"f32"', '""', '"Q4_0"', '"F32}"', '"I8"', '"F64"', *ODDITIES])
    is_same = value == members["dtype"]
    members["dtype"] = value
    is_empty = "0" in members["shape"].strip("[]").split(", ")
    words = () if is_same or is_empty else ("dtype", "data_offsets")
    return Mutant(f"dtype {value}", header.content(), words)


def break_shape(content: bytes, draw: random.Random) -> Mutant:
    header = Header.of(content)
    _, members = _one_tensor(header, draw)
    shape = json.loads(members["shape"])
    values: list[Any] = [json.dumps(it) for it in shape] or ["1"]
    at = draw.randrange(len(values))
    change = draw.randrange(5)
    if change == 0:
        values[at] = str(draw.choice(EXTREMES))
    elif change == 1:
        values[at] = draw.choice(ODDITIES)
    elif change == 2:
        values[at] = str(int(values[at]) + draw.choice([1, -1, 7]))
    elif change == 3:
        values = ["1"] * draw.choice([65, 100, 5000])
    else:
        values = [draw.choice(["65536", "4294967296"])] * draw.randint(4, 9)
    members["shape"] = (
        f"[{','.join(values)}]" if change else draw.choice([f"[{','.join(values)}]", *ODDITIES])
    )
    return Mutant(
        f"shape {members['shape']:.60}", header.content(), ("shape", "data_offsets", "dtype")
    )


def break_offsets(content: bytes, draw: random.Random) -> Mutant:
    header = Header.of(content)
    _, members = _one_tensor(header, draw)
    begin, end = json.loads(members["data_offsets"])
    bad = draw.choice(ODDITIES) if draw.random() < 0.5 else str(draw.choice(EXTREMES))
    members["data_offsets"] = draw.choice(
        [
            f"[{bad}, {end}]",
            f"[{begin}, {bad}]",
            f"[{begin}.0, {end}.0]",
            f"[{end}, {begin}]",
            f"[{begin + 1}, {end + 1}]",
            f"[{begin}, {end + 4}]",
            f"[{begin}]",
            f"[{begin}, {end}, {end}]",
            "[]",
            bad,
        ]
    )
    what = f"data_offsets {members['data_offsets']}"
    return Mutant(what, header.content(), ("data_offsets", "data", "dtype"))


def break_members(content: bytes, draw: random.Random) -> Mutant:
    header = Header.of(content)
    _, members = _one_tensor(header, draw)
    key = draw.choice(list(members))
    change = draw.randrange(4)
    if change == 0:
        del members[key]
        return Mutant(f"without {key}", header.content(), (key,), is_broken=True)
    if change == 1:
        value = members.pop(key)
        members[f'{key}":{value},"{key}'] = value
        return Mutant(f"{key} twice", header.content(), (key,), is_broken=True)
    if change == 2:
        other = draw.choice(["Shape", "scale", "", "\\u0064type2", "data_offsets "])
        members[other] = draw.choice(ODDITIES)
        return Mutant(f"member {other}", header.content(), ("key", "entry"))
    shuffled = list(members.items())
    draw.shuffle(shuffled)
    members.clear()
    members.update(shuffled)
    return Mutant("members in another order", header.content(), is_valid=has_plain_types(header))


def break_entry(content: bytes, draw: random.Random) -> Mutant:
    header = Header.of(content)
    value = draw.choice([*ODDITIES, "[" * 70_000, "[" * 50, '{"a":' * 20_000, "[]", "F32", "{"])
    header.parts.append(f'"the entry":{value}')
    return Mutant(f"entry {value:.40}", header.content(), ("'the entry'",))


def break_name(content: bytes, draw: random.Random) -> Mutant:
    header = Header.of(content)
    at = draw.randrange(len(header.tensors))
    name, members = header.tensors[at]
    change = draw.randrange(5)
    if change == 0:
        header.tensors.append((name, members))
        return Mutant(
            "a name twice", header.content(), ("name", "control characters"), is_broken=True
        )
    if change == 1:
        bad = draw.choice(
            ["\\ud800", "\\ud800\\u0041", "\\x41", "\\u12", "\x01", "\n", "\\udc00\\ud800"]
        )
        header.parts.append(f'"n{bad}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}')
        return Mutant(f"name {bad!r}", header.content(), ("name", "control characters"))
    if change == 2:
        header.tensors[at] = ("n" * (9 << 20), members)
        return Mutant("a name of 9 MiB", header.content(), ("name", "control characters"))
    if change == 3:
        good = draw.choice(
            ["\\u0041", "\\ud83e\\udd99", '\\"', "\\\\", "}", "", "\\/", "🦙", "\\b"]
        )
        header.parts.append(f'"n{good}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}')
        return Mutant(f"name n{good}", header.content(), is_valid=has_plain_types(header))
    header.tensors[at] = (draw.choice(["../a", "\u202e", "\x7f", " ", "."]), members)
    return Mutant("another name", header.content(), is_valid=has_plain_types(header))


def has_plain_types(header: Header) -> bool:
    return all(json.loads(it["dtype"]) in ("F32", "F16", "BF16") for _, it in header.tensors)


# The whole header


def break_metadata(content: bytes, draw: random.Random) -> Mutant:
    header = Header.of(content)
    good = ["{}", '{"a":"b"}', '{"a":"\\n","b":"🦙\\ud83e\\udd99"}', ' {"a" : "b"\n} ', '{"":""}']
    if draw.random() < 0.3:
        header.metadata = draw.choice(good)
        return Mutant(
            f"metadata {header.metadata}", header.content(), is_valid=has_plain_types(header)
        )
    bad = ['{"a":1}', '{"a":{"b":"c"}}', '{"a":["b"]}', '{"a":"b","a":"b"}', '{"a":null}', "[]",
           "7", "null", '"a"', '{"a":"b"', '{"a"}', '{"a":}', '{"\\ud800":"b"}', '{"a":"b",}',
           '{"a":"\\ud800"}', "{7:7}", "[" * 9999]  # fmt: skip
    header.metadata = draw.choice(bad)
    return Mutant(f"metadata {header.metadata:.40}", header.content(), ("metadata", "header"))


def break_layout(content: bytes, draw: random.Random) -> Mutant:
    header = Header.of(content)
    change = draw.randrange(7)
    if change == 0:
        header.data += draw.randbytes(draw.choice([1, 4, 4096]))
        return Mutant(
            "bytes behind the last tensor", header.content(), ("end of the file",), is_broken=True
        )
    if change == 1 and header.data:
        header.data = header.data[: draw.randrange(len(header.data))]
        return Mutant("data cut short", header.content(), ("end of the file",))
    if change == 2:
        gap = draw.choice([1, 4, 1 << 20])
        for _, members in header.tensors:
            begin, end = json.loads(members["data_offsets"])
            members["data_offsets"] = f"[{begin + gap}, {end + gap}]"
        header.data = bytes(gap) + header.data
        return Mutant("bytes before the first tensor", header.content(), ("data_offsets",))
    if change == 3 and len(header.tensors) > 1:
        (_, one), (_, other) = draw.sample(header.tensors, 2)
        one["data_offsets"] = other["data_offsets"]
        return Mutant(
            "two tensors in a place", header.content(), ("data_offsets", "end of the file")
        )
    if change == 4 and len(header.tensors) > 1 and len(header.data) > 4:
        return _overlapping(header, draw)
    draw.shuffle(header.tensors)
    header.padding = b" " * draw.choice([0, 1, 8, 1000])
    return Mutant("order and padding", header.content(), is_valid=has_plain_types(header))


def _overlapping(header: Header, draw: random.Random) -> Mutant:
    """The last tensors begin within those before them, and the data ends with the last."""
    header.tensors.sort(key=lambda it: json.loads(it[1]["data_offsets"]))
    first, _ = json.loads(header.tensors[0][1]["data_offsets"])
    by = draw.randint(1, 4)
    for _, members in header.tensors[1:]:
        begin, end = json.loads(members["data_offsets"])
        if begin - first < by:
            return Mutant("tensors of no size", header.content())
        members["data_offsets"] = f"[{begin - by}, {end - by}]"
    header.data = header.data[:-by]
    return Mutant("overlapping tensors", header.content(), ("data_offsets",), is_broken=True)


def break_length(content: bytes, draw: random.Random) -> Mutant:
    length = int.from_bytes(content[:8], "little")
    close = [length - 1, length + 1, length - 8, length + 8, 0, 1, 2]
    other = draw.choice([*close, *(it for it in EXTREMES if it < 1 << 64)])
    changed = (max(other, 0) % (1 << 64)).to_bytes(8, "little") + content[8:]
    words = ("header length",) if other > len(content) else ("header", "tensor", "data")
    return Mutant(f"header length {other}", changed, words)


def break_text(content: bytes, draw: random.Random) -> Mutant:
    header = Header.of(content)
    text = header.text()
    at = draw.randrange(1, len(text))
    changed = draw.choice(
        [
            b" " + text,
            b"\xef\xbb\xbf" + text,
            text + b"x",
            text + b"\0",
            text + b"{}",
            text[:at],
            text[:at] + b"\xff" + text[at:],
            text[:at] + b"," + text[at:],
            text.replace(b":", b"=", 1),
            text.replace(b",", b",,", 1) if b"," in text else text[:-1],
            b"[" + text + b"]",
            b"[" * 100_000,
            b"",
            b"null",
            text.decode().encode("utf-16-le"),
        ]
    )
    return Mutant(
        f"text {changed[:30]!r} …", framed(changed, header.data), ("header", "tensor", "metadata")
    )


def break_bytes(content: bytes, draw: random.Random) -> Mutant:
    damaged = bytearray(content)
    length = 8 + int.from_bytes(content[:8], "little")
    for _ in range(draw.randint(1, 3)):
        damaged[draw.randrange(length)] ^= 1 << draw.randrange(8)
    return Mutant("flipped bits", bytes(damaged))


def cut(content: bytes, draw: random.Random) -> Mutant:
    return Mutant("cut", content[: draw.randrange(len(content))], ("header", "end of the file"))


def whole(content: bytes, draw: random.Random) -> Mutant:
    return Mutant("a valid file", content, is_valid=has_plain_types(Header.of(content)))


KINDS: list[Callable[[bytes, random.Random], Mutant]] = [
    break_dtype,
    break_shape,
    break_offsets,
    break_members,
    break_entry,
    break_name,
    break_metadata,
    break_layout,
    break_length,
    break_text,
    break_bytes,
    cut,
    whole,
]
WEIGHTS = [3, 5, 5, 3, 1, 1, 2, 3, 1, 2, 3, 1, 1]


# The reference


def read(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Everything in a file, by cullama."""
    file = SafetensorsFile(path)
    return {name: file.stored_tensor(name).read() for name in file.tensors}


def agree(path: Path, found: object, refusal: str) -> str:
    """The library's opinion of a file, see `mutants.attack`."""
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            arrays = {name: file.get_tensor(name) for name in names} if not refusal else {}
    except (SafetensorError, OSError, ValueError, OverflowError, MemoryError) as error:
        return "" if refusal else f"the library refuses it: {error}"
    if refusal:
        if "expected one of F32, F16, BF16" in refusal:
            return "rule: types that no Llama is stored in"
        rule = next((rule for words, rule in RULES.items() if words in refusal), None)
        return f"rule: {rule}" if rule else f"no rule: {refusal}"
    assert isinstance(found, dict)
    if names != found.keys():
        return "other names"
    for name, array in arrays.items():
        mine = found[name]
        if array.shape != mine.shape or (array.size and mine.tobytes() != array.tobytes()):
            return f"{name!r} differs"
    return ""
