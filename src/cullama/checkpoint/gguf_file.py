"""Reads GGUF files: the header with every count checked, tensors in tiles of rows.

It handles the container, versions 2 and 3, little-endian. It does not know which keys and tensors a
model has, what their names mean, or that rows of q and k are interleaved. A header comes from
strangers, so each count and length is checked against the bytes left before anything of that size
is allocated. Files are read, never mapped: mapped pages count as our memory, and a mapped file that
shrinks kills the process.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import logging
import math
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError, UnsupportedModelError
from ..files.quantized_blocks import BLOCK_SIZES
from ..files.regular_file import open_regular_file, read_bytes, short_repr
from ..files.tensor import FILE_DTYPES, HostArray, StoredTensor
from .foreign import SHOWN_START, recognise_start

LOG = logging.getLogger("cullama")

# Limits keep a hostile header below a second and within bounded memory. The largest vocabulary
# known, Gemma 3's, has 262 K tokens and 515 K merges.
MAX_HEADER_BYTES = 100_000_000
MAX_METADATA_ENTRIES = 65_536
MAX_TENSORS = 65_536
MAX_ARRAY_STRINGS = 1 << 20  # in all arrays together
MAX_STRING_BYTES = 1 << 20  # bytes of one string
# Bytes that Python's strings may take beyond twice their size in the file: a character may take
# four, and each string has a header.
MAX_STRING_OVERHEAD = 50 << 20
MAX_ELEMENTS = (1 << 63) - 1  # of one tensor: ggml and numpy count with 63 bits

READ_BYTES = 1 << 20  # of a header, at once
TILE_ELEMENTS = 1 << 18  # 1 MB of float32: a tile stays in the second-level cache while converted


# Types of tensors by their tags in `enum ggml_type`.
_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    30: "BF16",
}
SUPPORTED_TYPES = tuple(_TYPES.values())

# Types that valid files may have and cullama does not read, so that a refusal can name them.
# fmt: off
_OTHER_TYPES = {
    9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16",
    26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}
# fmt: on

# Types of metadata values by their tags in `enum gguf_type`.
_STRING, _ARRAY = 8, 9
_NUMBERS: dict[int, np.dtype[Any]] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """The name, shape, type and place of a tensor in its file."""

    name: str
    shape: tuple[int, ...]  # outermost first, as in numpy; reversed in the file
    dtype: str  # one of SUPPORTED_TYPES
    offset: int  # bytes from the beginning of the file
    byte_size: int


class GgufFile:
    """The header of a GGUF file, read and checked; no handle stays open.

    In `metadata` numbers, bools and strings are Python's own, arrays of strings are lists, and
    arrays of numbers are numpy arrays. `tensors` keeps the file's order.

    Raises:
        ModelFileError: the file is damaged, or no GGUF file at all.
        UnsupportedModelError: its version, byte order or a tensor's type is not read here.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with open_regular_file(self.path, "a GGUF file") as file:
            _refuse_other_content(file, self.path)
            self.metadata, self.tensors = _read(_GgufHeader(file, self.path))

    def stored_tensor(self, name: str, row_multiple: int = 1) -> StoredTensor:
        """Return a tensor to be read in tiles, each a multiple of `row_multiple` rows.

        The last tile holds the rest, so it may have fewer rows.
        """
        tensor = self.tensors[name]

        def tiles() -> Iterator[HostArray]:
            for raw, rows in _raw_rows(self.path, tensor, row_multiple):
                yield _dequantized(raw, tensor.dtype, (rows, *tensor.shape[1:]))

        def blocks() -> Iterator[HostArray]:
            for raw, rows in _raw_rows(self.path, tensor, row_multiple):
                yield raw.reshape(rows, -1)

        is_quantised = tensor.dtype not in FILE_DTYPES
        return StoredTensor(
            name, tensor.shape, tensor.dtype, tiles, blocks if is_quantised else None
        )


# The header


def _refuse_other_content(file: BinaryIO, path: Path) -> None:
    """Refuse a file whose first bytes are those of something else, by its name."""
    start = file.read(SHOWN_START)
    file.seek(0)
    foreign = None if start.startswith(b"GGUF") else recognise_start(start)
    if foreign is not None:
        raise ModelFileError(
            f"{path}: header is that of {foreign.what}, expected a GGUF file; {foreign.remedy}"
        )


class _GgufHeader:
    """Reads the header from front to back, keeping only the part being parsed in memory.

    `where` names the entry being read, for messages; `position` counts bytes of the file.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self.limit = min(self.size, MAX_HEADER_BYTES)
        self.position = 0
        self.where = "header"
        self.bytes = bytearray()  # what is in memory: the file from `_dropped` on
        self.strings_left = MAX_ARRAY_STRINGS
        self._dropped = 0
        self._text_overhead = 0
        self._file = file

    def error(self, field: str, found: object, expected: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {self.where}: {field} is {found}, expected {expected}")

    def require(self, count: int, field: str) -> None:
        """Check that `count` more bytes exist, before anything of that size is allocated."""
        left = self.limit - self.position
        if count > left:
            whose = "file" if self.limit == self.size else f"{MAX_HEADER_BYTES:,} a header may have"
            raise self.error(field, f"{count:,} bytes", f"at most the {left:,} left of the {whose}")

    def take(self, count: int, field: str) -> int:
        """Advance by `count` bytes and return where in `self.bytes` they begin."""
        if self.position + count > self._dropped + len(self.bytes):
            self.require(count, field)
            self._read_ahead(count)
        start = self.position - self._dropped
        self.position += count
        return start

    def _read_ahead(self, count: int) -> None:
        """Drop what was parsed from memory, and have the next `count` bytes there."""
        del self.bytes[: self.position - self._dropped]
        self._dropped = self.position
        # In small reads, because one large one would be in memory twice while it is appended.
        while len(self.bytes) < count:
            piece = self._file.read(min(READ_BYTES, self.limit - self._dropped - len(self.bytes)))
            if not piece:
                read = self._dropped + len(self.bytes)
                raise self.error("file", f"{read:,} bytes", f"{self.size:,}: it shrank")
            self.bytes += piece

    def u32(self, field: str) -> int:
        start = self.take(4, field)
        return int(_U32.unpack_from(self.bytes, start)[0])

    def u64(self, field: str) -> int:
        start = self.take(8, field)
        return int(_U64.unpack_from(self.bytes, start)[0])

    def text(self, field: str) -> str:
        length = self.u64(f"length of the {field}")
        self.require(length, field)
        if length > MAX_STRING_BYTES:
            raise self.error(
                field, f"{length:,} bytes", f"at most {MAX_STRING_BYTES:,} in a string"
            )
        start = self.take(length, field)
        try:
            text = self.bytes[start : start + length].decode()
        except UnicodeDecodeError as error:
            raise self.error(field, f"not UTF-8 ({error.reason})", "UTF-8 text") from None
        self._text_overhead += sys.getsizeof(text) - 2 * length
        if self._text_overhead > MAX_STRING_OVERHEAD:
            expected = f"no more than {MAX_STRING_OVERHEAD:,} bytes of overhead for all strings"
            raise self.error(field, "one string too many", expected)
        return text

    def texts(self, count: int) -> list[str]:
        """Read `count` strings."""
        self.require(8 * count, "array of strings")
        texts: list[str] = []
        while len(texts) < count:
            self._append_texts_in_memory(texts, count)
            if len(texts) < count:  # the next is not in memory yet, or not valid
                texts.append(self.text(f"string {len(texts)}"))
        return texts

    def _append_texts_in_memory(self, texts: list[str], count: int) -> None:
        """Append strings that lie in memory whole, and stop before one that `text` would refuse.

        The same as `text` in a loop at a quarter of its cost: reading a vocabulary is the one loop
        of a header that takes time.
        """
        data, at, length_at = self.bytes, self.position - self._dropped, _U64.unpack_from
        size_of, overhead = sys.getsizeof, self._text_overhead
        with suppress(struct.error, UnicodeDecodeError):
            while len(texts) < count and overhead < MAX_STRING_OVERHEAD:
                length = length_at(data, at)[0]
                end = at + 8 + length
                if end > len(data) or length > MAX_STRING_BYTES:
                    break
                texts.append(text := data[at + 8 : end].decode())
                overhead += size_of(text) - 2 * length
                at = end
        self.position, self._text_overhead = at + self._dropped, overhead


def _read(header: _GgufHeader) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    _check_version(header)
    tensor_count, metadata_count = header.u64("tensor count"), header.u64("metadata count")
    # The smallest entries possible: an empty name, then one dimension or one byte.
    _check_count(header, "tensor count", tensor_count, MAX_TENSORS, entry=32)
    _check_count(header, "metadata count", metadata_count, MAX_METADATA_ENTRIES, entry=13)
    metadata = _read_metadata(header, metadata_count)
    tensors: dict[str, GgufTensor] = {}
    for index in range(tensor_count):
        header.where = f"tensor entry {index}"
        tensor = _read_tensor(header)
        if tensor.name in tensors:
            raise header.error("name", "given twice", "each name once")
        tensors[tensor.name] = tensor

    header.where = "metadata 'general.alignment'"
    alignment = metadata.get("general.alignment", 32)
    is_integer = isinstance(alignment, int) and not isinstance(alignment, bool)
    if not is_integer or alignment < 1 or alignment & (alignment - 1):
        raise header.error("value", short_repr(alignment), "a power of two")
    begin = _aligned(header.position, alignment)
    _check_layout(header, list(tensors.values()), begin, alignment)
    placed = {name: replace(it, offset=begin + it.offset) for name, it in tensors.items()}
    return metadata, placed


def _check_version(header: _GgufHeader) -> None:
    start = header.take(4, "magic")
    magic = bytes(header.bytes[start : start + 4])
    if magic != b"GGUF":
        raise header.error("magic", magic, "b'GGUF'")
    version = header.u32("version")
    if version in (2 << 24, 3 << 24):
        raise UnsupportedModelError(
            f"{header.path}: header: byte order is big-endian, expected little-endian; "
            "convert the file on a little-endian machine"
        )
    if version == 1:
        raise UnsupportedModelError(
            f"{header.path}: header: version is 1, expected 2 or 3; convert the model again"
        )
    if version not in (2, 3):
        raise header.error("version", version, "2 or 3")


def _check_count(header: _GgufHeader, field: str, count: int, limit: int, entry: int) -> None:
    """Check a number of entries against its limit and against the room left in the header."""
    room = min(limit, (header.limit - header.position) // entry)
    if count > room:
        raise header.error(field, f"{count:,}", f"at most {room:,}")


def _read_metadata(header: _GgufHeader, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(count):
        header.where = f"metadata entry {index}"
        key = header.text("key")
        header.where = f"metadata {short_repr(key)}"
        if key in metadata:
            raise header.error("key", "given twice", "each key once")
        metadata[key] = _read_value(header)
    return metadata


def _read_value(header: _GgufHeader) -> Any:
    tag = header.u32("type")
    if tag == _STRING:
        return header.text("value")
    if tag != _ARRAY:
        return _read_numbers(header, "type", tag, 1)[0].item()

    tag, count = header.u32("element type"), header.u64("element count")
    if tag == _ARRAY:  # valid but unused; other readers recurse here until their stack is full
        raise header.error("element type", "array", "numbers, bools or strings")
    if tag != _STRING:
        return _read_numbers(header, "element type", tag, count)
    if count > header.strings_left:
        raise header.error(
            "element count", f"{count:,} strings", f"at most {header.strings_left:,}"
        )
    header.strings_left -= count
    return header.texts(count)


def _read_numbers(header: _GgufHeader, field: str, tag: int, count: int) -> HostArray:
    dtype = _NUMBERS.get(tag)
    if dtype is None:
        raise header.error(field, f"tag {tag}", "a tag from 0 to 12")
    size = count * dtype.itemsize
    start = header.take(size, "value")
    raw = np.frombuffer(header.bytes[start : start + size], np.uint8)
    if dtype == np.bool_ and raw.size and raw.max() > 1:
        raise header.error("value", f"a bool of {raw.max()}", "0 or 1")
    return raw.view(dtype)


def _read_tensor(header: _GgufHeader) -> GgufTensor:
    """Read one entry of the list; its offset is relative to the beginning of the data."""
    name = header.text("name")
    header.where = f"tensor {short_repr(name)}"
    dimensions = header.u32("number of dimensions")
    if not 1 <= dimensions <= 4:
        raise header.error("number of dimensions", dimensions, "1 to 4")
    shape = tuple(reversed([header.u64("shape") for _ in range(dimensions)]))
    tag, expected = header.u32("type"), f"one of {', '.join(SUPPORTED_TYPES)}"
    if tag in _OTHER_TYPES:
        raise UnsupportedModelError(
            f"{header.path}: {header.where}: type is {_OTHER_TYPES[tag]}, expected {expected}; "
            "take a file of the model in one of these"
        )
    if tag not in _TYPES:
        raise header.error("type", f"tag {tag}", expected)
    dtype, offset = _TYPES[tag], header.u64("offset")

    if 0 in shape:
        raise header.error("shape", list(shape), "no dimension of 0")
    elements = math.prod(shape)
    if elements > MAX_ELEMENTS:
        raise header.error("shape", list(shape), f"at most {MAX_ELEMENTS:,} elements")
    columns, size = BLOCK_SIZES[dtype]
    if shape[-1] % columns:
        expected = f"a multiple of {columns}, the block of {dtype}"
        raise header.error("row length", f"{shape[-1]:,}", expected)
    return GgufTensor(name, shape, dtype, offset, elements // columns * size)


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _check_layout(
    header: _GgufHeader, tensors: Sequence[GgufTensor], begin: int, alignment: int
) -> None:
    """Check that tensors lie end to end, each padded to the alignment, within the file.

    llama.cpp requires the same. Bytes behind the last tensor harm nothing; they are warned of.
    """
    for tensor in tensors:
        header.where = f"tensor {short_repr(tensor.name)}"
        if tensor.offset % alignment:
            raise header.error("offset", f"{tensor.offset:,}", f"a multiple of {alignment:,}")
        end = begin + tensor.offset + tensor.byte_size
        if end > header.size:
            found = f"byte {end:,} of the file"
            most = f"at most its size, {header.size:,}; it is cut short: fetch it again"
            raise header.error("end of the data", found, most)

    by_offset = sorted(tensors, key=lambda it: it.offset)
    if by_offset and by_offset[0].offset:
        header.where = f"tensor {short_repr(by_offset[0].name)}"
        raise header.error("offset", f"{by_offset[0].offset:,}", "0, as the first")
    for before, tensor in pairwise(by_offset):
        expected = _aligned(before.offset + before.byte_size, alignment)
        if tensor.offset != expected:
            header.where = f"tensor {short_repr(tensor.name)}"
            found = f"{tensor.offset:,}" + (", an overlap" if tensor.offset < expected else "")
            where = f"{expected:,}, where {short_repr(before.name)} ends"
            raise header.error("offset", found, where)

    ends = [begin + tensor.offset + tensor.byte_size for tensor in tensors]
    end = max(ends, default=header.position)
    more = header.size - _aligned(end, alignment)
    if more > 0:
        LOG.warning("%s: %s bytes behind the last tensor are passed over", header.path, f"{more:,}")


# The data


def _raw_rows(
    path: Path, tensor: GgufTensor, row_multiple: int
) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Yield the bytes of some rows, and how many rows they are.

    They are about TILE_ELEMENTS, in multiples of `row_multiple` rows and of whole blocks.
    """
    block, columns = BLOCK_SIZES[tensor.dtype], math.prod(tensor.shape[1:])
    # Only a one-dimensional tensor has rows (of one element) shorter than a block.
    unit = math.lcm(row_multiple, block.columns // math.gcd(block.columns, columns))
    max_rows = max(1, TILE_ELEMENTS // columns // unit) * unit
    with open_regular_file(path, "a GGUF file") as file:
        file.seek(tensor.offset)
        for first in range(0, tensor.shape[0], max_rows):
            rows = min(max_rows, tensor.shape[0] - first)
            size = rows * columns // block.columns * block.size
            yield read_bytes(file, path, tensor.name, size), rows


def _dequantized(raw: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> HostArray:
    if dtype in FILE_DTYPES:
        return raw.view(FILE_DTYPES[dtype]).reshape(shape)
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    # A damaged file may hold scales of infinity or NaN; the results are checked by their users.
    # As one long row, because gguf-py converts 16 rows at a time: half as fast on narrow ones.
    with np.errstate(invalid="ignore", over="ignore"):
        floats: HostArray = dequantize(raw.reshape(1, -1), GGMLQuantizationType[dtype])
    return floats.reshape(shape)
