"""Reads safetensors files: the header checked entry by entry, tensors in tiles of rows.

It handles the container: a length, a JSON object, the data end to end. It does not know what a
model is, or that several files may make one. The header comes from strangers, and the objects a
JSON parser makes of it may be fifty times its size; so it is parsed here one tensor at a time, and
errors name the place. The data of a checked file is read by the `safetensors` library, which maps
it into memory for one tensor at a time.

Format: https://github.com/huggingface/safetensors/blob/main/README.md#format
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes  # noqa: F401  (safetensors returns bfloat16 arrays only once it is imported)
from safetensors import SafetensorError, safe_open

from ..errors import ModelFileError, UnsupportedModelError
from ..files.regular_file import open_regular_file, short_repr
from ..files.tensor import FILE_DTYPES, HostArray, StoredTensor
from .foreign import SHOWN_START, recognise_start

# Limits keep a hostile header below a second and within bounded memory.
MAX_HEADER_BYTES = 100_000_000  # the format's own
MAX_ENTRIES = 65_536  # tensors, and as many entries of metadata
MAX_ESCAPES = 1 << 20  # backslashes in all texts together
MAX_NAME_BYTES = 8 << 20  # of all names together; a character may take four bytes in Python
MAX_ENTRY_BYTES = 1 << 16  # of one tensor: a type, a shape, two offsets, and spaces
MAX_ELEMENTS = (1 << 63) - 1  # of one tensor: numpy counts with 63 bits
MAX_DIMENSIONS = 64  # numpy's

READ_BYTES = 1 << 16  # bytes of a header read and decoded at once
TILE_ELEMENTS = 1 << 18

# Bits of every type of the format, so that a type not read here is told from a damaged file.
# fmt: off
_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}
# fmt: on


# What weights of a type that is not read here usually are, by how its name begins.
_KINDS = {
    "F8": "FP8 weights",
    "F6": "weights of six bits",
    "F4": "FP4 weights",
    "U8": "quantised weights",
    "I8": "quantised weights",
    "U3": "quantised weights",
    "I3": "quantised weights",
    "I4": "weights of four bits",
}


class SafetensorsTensor(NamedTuple):
    """The name, type, shape and place of a tensor in its file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes from the beginning of the data, after the header
    end: int


class SafetensorsFile:
    """The header of a safetensors file, read and checked; no handle stays open.

    `tensors` keeps the order of the header.

    Raises:
        ModelFileError: the file is damaged, or no safetensors file at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_regular_file(path, "a safetensors file") as file:
            self._version = _version(file)
            length = _header_length(file, path)
            self.tensors = _read_header(_read_text(file, path, length), path)
            _check_layout(path, self.tensors.values(), self._version.size - 8 - length)

    def stored_tensor(self, name: str) -> StoredTensor:
        """Return a tensor to be read in tiles.

        Raises:
            UnsupportedModelError: its type is not read here.
        """
        tensor = self.tensors[name]
        if tensor.dtype not in FILE_DTYPES:
            kind = f" ({_KINDS[tensor.dtype[:2]]})" if tensor.dtype[:2] in _KINDS else ""
            raise UnsupportedModelError(
                f"{self.path}: tensor {short_repr(name)}: dtype is {tensor.dtype}{kind}, "
                f"expected one of {', '.join(FILE_DTYPES)}; "
                "take the model in one of these, or a GGUF file of it"
            )
        return StoredTensor(name, tensor.shape, tensor.dtype, partial(self._tiles, tensor))

    def _tiles(self, tensor: SafetensorsTensor) -> Iterator[HostArray]:
        with open_regular_file(self.path, "a safetensors file") as file:
            if _version(file) != self._version:
                raise ModelFileError(
                    f"{self.path}: tensor {short_repr(tensor.name)}: the file changed since "
                    "its header was read, expected no change while a model is loaded"
                )
        try:
            # Opened for each tensor and closed after it: mapped pages count as our memory.
            with safe_open(self.path, framework="numpy") as mapped:
                if not math.prod(tensor.shape) or not tensor.shape:  # empty, or a scalar
                    yield mapped.get_tensor(tensor.name).reshape(tensor.shape or (1,))
                    return
                part = mapped.get_slice(tensor.name)
                rows = max(1, TILE_ELEMENTS // math.prod(tensor.shape[1:]))
                for start in range(0, tensor.shape[0], rows):
                    yield part[start : min(start + rows, tensor.shape[0])]
        except (SafetensorError, OSError) as error:
            raise ModelFileError(
                f"{self.path}: tensor {short_repr(tensor.name)}: cannot be read: {error}"
            ) from None


class _Version(NamedTuple):
    inode: int
    size: int
    modified: int


def _version(file: BinaryIO) -> _Version:
    status = os.fstat(file.fileno())
    return _Version(status.st_ino, status.st_size, status.st_mtime_ns)


# The header's bytes


def _header_length(file: BinaryIO, path: Path) -> int:
    size = os.fstat(file.fileno()).st_size
    start = file.read(SHOWN_START)
    foreign = None if start[8:9] == b"{" else recognise_start(start)
    if foreign is not None:
        raise ModelFileError(
            f"{path}: header is that of {foreign.what}, expected safetensors; {foreign.remedy}"
        )
    if len(start) < 8:
        raise ModelFileError(f"{path}: header is {size} bytes, expected at least 8")
    length = int.from_bytes(start[:8], "little")
    if length > size - 8:
        rest = f"at most the {size - 8:,} left of the file"
        raise ModelFileError(f"{path}: header length is {length:,} bytes, expected {rest}")
    if length > MAX_HEADER_BYTES:
        raise ModelFileError(
            f"{path}: header length is {length:,} bytes, expected at most {MAX_HEADER_BYTES:,}"
        )
    return length


_SPACE = b" \t\n\r"
_CONTROL = bytes(code for code in range(32) if code not in _SPACE)


def _read_text(file: BinaryIO, path: Path, length: int) -> bytes:
    """Read the header and check that it is UTF-8, with no control characters but JSON's spaces.

    It stays bytes: decoded as a whole it might take four times its size.
    """
    file.seek(8)
    text = file.read(length)
    if len(text) < length:
        raise ModelFileError(f"{path}: header is cut short, expected {length:,} bytes: it shrank")
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, length, READ_BYTES):
            part = text[start : start + READ_BYTES]
            decoder.decode(part, final=start + READ_BYTES >= length)
            if len(part.translate(None, _CONTROL)) < len(part):
                raise ModelFileError(f"{path}: header holds control characters, expected JSON")
    except UnicodeDecodeError as error:
        raise ModelFileError(
            f"{path}: header is not UTF-8 ({error.reason}), expected UTF-8 text"
        ) from None
    return text


# The header's JSON

_SPACES = re.compile(b"[%s]*" % _SPACE)
# Half of a surrogate pair is no character, so halves are matched in pairs only.
_ESCAPE = re.compile(
    rb'\\["\\/bfnrt]'
    rb"|\\u(?:[0-9A-CEFa-cef][0-9A-Fa-f]|[Dd][0-7])[0-9A-Fa-f]{2}"
    rb"|\\u[Dd][89ABab][0-9A-Fa-f]{2}\\u[Dd][C-Fc-f][0-9A-Fa-f]{2}"
)

_NUMBER = rb"(?:0|[1-9][0-9]{0,18})"
# Entries as every known writer writes them; with this, 65,536 take half a second.
_ENTRY = re.compile(
    rb'\s*\{\s*"dtype"\s*:\s*"(\w+)"\s*'
    rb',\s*"shape"\s*:\s*\[\s*((?:N(?:\s*,\s*N){0,63})?)\s*\]\s*'
    rb',\s*"data_offsets"\s*:\s*\[\s*(N)\s*,\s*(N)\s*\]\s*\}'.replace(b"N", _NUMBER)
)


class _SafetensorsHeader:
    """Parses the JSON of a header from front to back; `where` and `name` are for messages."""

    def __init__(self, text: bytes, path: Path) -> None:
        self.text, self.path = text, path
        self.position = 0
        self.where, self.name = "header", ""
        self.name_bytes_left = MAX_NAME_BYTES

    def error(self, field: str, found: object, expected: str) -> ModelFileError:
        where = f"{self.where} {short_repr(self.name)}" if self.where != "header" else self.where
        return ModelFileError(f"{self.path}: {where}: {field} is {found}, expected {expected}")

    def members(self, where: str) -> Iterator[str]:
        """Yield the keys of an object; the caller reads each value before asking for the next."""
        keys = set[str]()
        self._expect("beginning", b"{")
        if self._next() == b"}":
            self.position += 1
            return
        while True:
            written = self.string(f"{where} name")
            self.name_bytes_left -= len(written)
            if self.name_bytes_left < 0:
                expected = f"at most {MAX_NAME_BYTES:,} bytes"
                raise self.error("length of all names", "too great", expected)
            key = str(json.loads(b'"%s"' % written)) if b"\\" in written else written.decode()
            self.where, self.name = where, key
            self._expect("character after the name", b":")
            if key in keys:
                raise self.error("name", "given twice", "each name once")
            keys.add(key)
            if len(keys) > MAX_ENTRIES + ("__metadata__" in keys):
                raise self.error("number", f"{len(keys):,} or more", f"at most {MAX_ENTRIES:,}")
            yield key
            self.where, self.name = where, key
            if self._expect("character after the entry", b",}") == b"}":
                return

    def string(self, field: str) -> bytes:
        """Read the next JSON string, without its quotes and with its escapes."""
        self._expect(field, b'"')
        start = at = self.position
        end = self.text.find(b'"', at)
        while (escape := self.text.find(b"\\", at, end)) >= 0:
            match = _ESCAPE.match(self.text, escape)
            if not match:
                raise self.error(field, f"broken by {self.shown_from(escape)}", "a JSON escape")
            at = match.end()
            if at > end:  # that quote was escaped
                end = self.text.find(b'"', at)
        written = self.text[start:end]
        if end < 0 or b"\n" in written or b"\r" in written or b"\t" in written:
            raise self.error(field, f"{short_repr(written[:40])} …", "a string on one line")
        self.position = end + 1
        return written

    def value(self) -> Any:
        """Read the next JSON value, of at most MAX_ENTRY_BYTES."""
        self._next()
        # A valid entry ends with its first brace. Any other value is read as well, so that the
        # caller can name what it found.
        limit = self.position + MAX_ENTRY_BYTES
        try:
            return self._decoded(self.text.find(b"}", self.position, limit) + 1)
        except (ValueError, RecursionError):
            pass
        try:
            return self._decoded(limit)
        except RecursionError:
            raise self.error("entry", "nested without end", "an object of lists") from None
        except ValueError as error:
            expected = f"an object with {', '.join(_MEMBERS)}"
            raise self.error("entry", f"not JSON ({error})", expected) from None

    def _decoded(self, end: int) -> Any:
        text = self.text[self.position : end].decode(errors="replace")  # may end within a character
        found, length = _decoder.raw_decode(text)
        self.position += length if text.isascii() else len(text[:length].encode())
        return found

    def end(self) -> None:
        self.where = "header"
        if self._next():
            raise self.error("end", self.shown_from(self.position), "nothing but spaces")

    def _expect(self, field: str, allowed: bytes) -> bytes:
        """Read the next byte that is not a space, which must be one of `allowed`."""
        byte = self._next()
        if not byte or byte not in allowed:
            found = self.shown_from(self.position)
            raise self.error(field, found, " or ".join(allowed.decode()))
        self.position += 1
        return byte

    def _next(self) -> bytes:
        """Skip spaces and return the next byte without reading it; empty at the end."""
        byte = self.text[self.position : self.position + 1]
        if byte > b" ":
            return byte
        spaces = _SPACES.match(self.text, self.position)
        assert spaces is not None  # it matches the empty string, too
        self.position = spaces.end()
        return self.text[self.position : self.position + 1]

    def shown_from(self, position: int) -> str:
        found = self.text[position : position + 20].decode(errors="replace")
        return f"{short_repr(found)} at byte {position:,}" if found else "cut short"


class _Repeated(str):
    """A key given twice in an object; stands in place of the object."""


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Repeated:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            return _Repeated(key)
        members[key] = value
    return members


def _parse_integer(digits: str) -> int | float:
    """Parse an integer; those above any size, and −0, become floats, which are refused."""
    return int(digits) if len(digits) < 20 and digits != "-0" else float(digits)


_decoder = json.JSONDecoder(object_pairs_hook=_unique_members, parse_int=_parse_integer)
_MEMBERS = ("dtype", "shape", "data_offsets")


def _read_header(text: bytes, path: Path) -> dict[str, SafetensorsTensor]:
    header = _SafetensorsHeader(text, path)
    if not text.startswith(b"{"):
        raise header.error("beginning", header.shown_from(0), "{")
    escapes = text.count(b"\\")
    if escapes > MAX_ESCAPES:
        raise header.error("number of escapes", f"{escapes:,}", f"at most {MAX_ESCAPES:,}")
    tensors: dict[str, SafetensorsTensor] = {}
    for name in header.members("tensor"):
        if name == "__metadata__":  # strings that describe the file; none is used
            for _ in header.members("metadata"):
                header.string("value")
        else:
            tensors[name] = _read_tensor(header, name)
    header.end()
    return tensors


def _read_tensor(header: _SafetensorsHeader, name: str) -> SafetensorsTensor:
    usual = _ENTRY.match(header.text, header.position, header.position + MAX_ENTRY_BYTES)
    if usual:
        header.position = usual.end()
        dtype, shape = usual[1].decode(), [int(it) for it in usual[2].split(b",") if it]
        begin, end = int(usual[3]), int(usual[4])
    else:
        dtype, shape, begin, end = _reordered_entry(header)
    if dtype not in _BITS:
        raise header.error("dtype", short_repr(dtype), f"one of {', '.join(_BITS)}")
    if len(shape) > MAX_DIMENSIONS:
        expected = f"at most {MAX_DIMENSIONS}"
        raise header.error("shape", f"{len(shape):,} dimensions", expected)
    if math.prod(size or 1 for size in shape) > MAX_ELEMENTS:
        raise header.error("shape", short_repr(shape), f"at most {MAX_ELEMENTS:,} elements")
    bits = math.prod(shape) * _BITS[dtype]
    if bits % 8:
        raise header.error("shape", short_repr(shape), f"a whole number of bytes of {dtype}")
    size = bits // 8
    if end - begin != size:
        expected = f"{size:,} for shape {short_repr(shape)} of {dtype}"
        raise header.error("data_offsets", f"[{begin}, {end}], {end - begin:,} bytes", expected)
    return SafetensorsTensor(name, dtype, tuple(shape), begin, end)


def _reordered_entry(header: _SafetensorsHeader) -> tuple[str, list[int], int, int]:
    """Parse an entry whose members are in another order, or refuse what stands in its place."""
    entry = header.value()
    if isinstance(entry, _Repeated):
        raise header.error(short_repr(entry), "given twice", "each key once")
    if not isinstance(entry, dict):
        raise header.error("entry", short_repr(entry), f"an object with {', '.join(_MEMBERS)}")
    for key in entry.keys() - _MEMBERS:
        raise header.error("key", short_repr(key), f"one of {', '.join(_MEMBERS)}")
    dtype = entry.get("dtype", "missing")
    if not isinstance(dtype, str):
        raise header.error("dtype", short_repr(dtype), f"one of {', '.join(_BITS)}")
    shape = _sizes(header, entry, "shape", "a list of whole numbers")
    offsets = _sizes(header, entry, "data_offsets", "a beginning and an end")
    if len(offsets) != 2:
        raise header.error("data_offsets", short_repr(offsets), "a beginning and an end")
    return dtype, shape, offsets[0], offsets[1]


def _sizes(
    header: _SafetensorsHeader, entry: dict[str, Any], field: str, expected: str
) -> list[int]:
    sizes = entry.get(field, "missing")
    is_list = isinstance(sizes, list) and {*map(type, sizes)} <= {int}
    if not is_list or min(sizes, default=0) < 0:
        raise header.error(field, short_repr(sizes), expected)
    return sizes


def _check_layout(path: Path, tensors: Iterable[SafetensorsTensor], size: int) -> None:
    """Check that tensors lie end to end, up to the end of the file."""
    end, before = 0, "where the data begins"
    for tensor in sorted(tensors, key=lambda it: (it.begin, it.end)):
        if tensor.begin != end:
            found = f"{tensor.begin:,}" + (", an overlap" if tensor.begin < end else "")
            raise ModelFileError(
                f"{path}: tensor {short_repr(tensor.name)}: beginning in data_offsets is {found}, "
                f"expected {end:,}, {before}"
            )
        end, before = tensor.end, f"where {short_repr(tensor.name)} ends"
    if end != size:
        remedy = "; the file is cut short: fetch it again" if size < end else ""
        raise ModelFileError(
            f"{path}: data: end of the file is byte {size:,} of it, expected {end:,}, "
            f"{before}{remedy}"
        )
