"""GGUF files: valid ones are read as gguf-py reads them, damaged ones are refused by name.

The damaged ones are put together byte by byte here, one for each way readers of this format are
known to have failed (CVE-2024-21802 and its siblings, CVE-2025-49847, CVE-2025-53630).
"""

from __future__ import annotations

import math
import os
import random
import struct
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

from cullama.checkpoint import gguf_file
from cullama.checkpoint.gguf_file import SUPPORTED_TYPES, GgufFile
from cullama.errors import ModelFileError, UnsupportedModelError
from cullama.files.quantized_blocks import BLOCK_SIZES

SEED = 20240607
PLAIN = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
# Where a block keeps its float16 scales; random bytes there would be NaN now and then.
SCALES_AT = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
U8, STRING, ARRAY, BOOL, U32, F32 = 0, 8, 9, 7, 4, 6


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


# Sound files


def stored_bytes(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random content as it lies in a file: uint8, the last axis in bytes."""
    floats = rng.standard_normal(shape, dtype=np.float32)
    if dtype in PLAIN:
        return floats.astype(PLAIN[dtype]).view(np.uint8)
    if dtype not in SCALES_AT:
        return quantize(floats, GGMLQuantizationType[dtype])
    elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[dtype]]
    blocks = rng.integers(0, 256, (floats.size // elements, size), dtype=np.uint8)
    for at in SCALES_AT[dtype]:
        scales = rng.uniform(-0.1, 0.1, (len(blocks), 1)).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8)
    return blocks.reshape(*shape[:-1], shape[-1] // elements * size)


def write(
    path: Path,
    tensors: dict[str, tuple[str, np.ndarray]],
    alignment: int | None = None,
    **metadata: Any,
) -> Path:
    """A file as gguf-py writes it; `tensors` holds (type, bytes) by name."""
    writer = gguf.GGUFWriter(path, "llama")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for key, value in metadata.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
        add |= {str: writer.add_string, list: writer.add_array}
        add[type(value)](key, value)
    for name, (dtype, raw) in tensors.items():
        writer.add_tensor(name, raw, raw_dtype=GGMLQuantizationType[dtype])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", SUPPORTED_TYPES)
@pytest.mark.parametrize("shape", [(256,), (3, 256), (17, 768), (2, 3, 512), (2, 1, 3, 256)])
def test_a_tensor_of_every_type_reads_as_gguf_py_reads_it(
    dtype: str, shape: tuple[int, ...], tmp_path: Path, rng: np.random.Generator
) -> None:
    raw = stored_bytes(rng, dtype, shape)
    file = GgufFile(write(tmp_path / "m.gguf", {"a.weight": (dtype, raw)}))
    (reference,) = gguf.GGUFReader(file.path).tensors
    assert file.tensors["a.weight"].shape == shape == tuple(reference.shape[::-1])
    assert file.tensors["a.weight"].dtype == dtype == reference.tensor_type.name
    assert file.tensors["a.weight"].offset == reference.data_offset
    assert file.tensors["a.weight"].byte_size == reference.n_bytes
    if dtype in PLAIN:
        expected = np.array(reference.data).view(PLAIN[dtype])
    else:
        expected = dequantize(reference.data, reference.tensor_type)
    assert_same(file.stored_tensor("a.weight").read(), expected.reshape(shape))


def test_plain_types_keep_their_type_and_odd_shapes(tmp_path: Path) -> None:
    for dtype, plain in PLAIN.items():
        numbers = np.arange(7 * 13, dtype=np.float32).reshape(7, 13).astype(plain)
        path = write(tmp_path / f"{dtype}.gguf", {"a": (dtype, numbers.view(np.uint8))})
        assert_same(GgufFile(path).stored_tensor("a").read(), numbers)


def test_several_tensors_lie_where_the_header_says(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    tensors = {
        f"blk.{index}.weight": (dtype, stored_bytes(rng, dtype, (index + 1, 256)))
        for index, dtype in enumerate(SUPPORTED_TYPES)
    }
    file = GgufFile(write(tmp_path / "m.gguf", tensors, alignment=128))
    assert list(file.tensors) == list(tensors)
    content = file.path.read_bytes()
    for name, (_, raw) in tensors.items():
        tensor = file.tensors[name]
        assert tensor.offset % 128 == 0
        assert content[tensor.offset : tensor.offset + tensor.byte_size] == raw.tobytes()


def q4_0_by_hand(block: bytes) -> list[np.float32]:
    """Element i < 16 is the low nibble of byte i, element i + 16 the high one; less 8, scaled."""
    (scale,) = np.frombuffer(block[:2], np.float16).astype(np.float32)
    nibbles = [byte & 15 for byte in block[2:]] + [byte >> 4 for byte in block[2:]]
    return [scale * np.float32(nibble - 8) for nibble in nibbles]


def q6_k_by_hand(block: bytes) -> list[np.float32]:
    """Two halves of 128: four runs of 32, their low 4 bits in `ql`, their high 2 bits in `qh`."""
    ql, qh, scales = block[:128], block[128:192], np.frombuffer(block[192:208], np.int8)
    (scale,) = np.frombuffer(block[208:], np.float16).astype(np.float32)
    values = []
    for element in range(256):
        half, run, lane = element // 128, element % 128 // 32, element % 32
        low = ql[64 * half + 32 * (run % 2) + lane] >> (4 if run >= 2 else 0) & 15
        high = qh[32 * half + lane] >> (2 * run) & 3
        steps = np.float32((low | high << 4) - 32)
        values.append(scale * np.float32(scales[element // 16]) * steps)
    return values


@pytest.mark.parametrize(
    ("dtype", "by_hand", "size"), [("Q4_0", q4_0_by_hand, 18), ("Q6_K", q6_k_by_hand, 210)]
)
def test_blocks_are_dequantised_as_the_format_says(
    dtype: str, by_hand: Any, size: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    raw = stored_bytes(rng, dtype, (5, 512))
    found = GgufFile(write(tmp_path / "m.gguf", {"a": (dtype, raw)})).stored_tensor("a").read()
    content = raw.tobytes()
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    expected = np.array([value for block in blocks for value in by_hand(block)], np.float32)
    assert_same(found, expected.reshape(5, 512))


@pytest.mark.parametrize("row_multiple", [1, 3, 8, 64, 1000])
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("Q4_K", (150, 256)), ("F32", (64, 5)), ("F16", (4096, 3)), ("Q8_0", (48, 8, 32))],
)
def test_tiles_are_multiples_of_the_rows_asked_for(
    dtype: str,
    shape: tuple[int, ...],
    row_multiple: int,
    tmp_path: Path,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gguf_file, "TILE_ELEMENTS", 2048)
    raw = stored_bytes(rng, dtype, shape)
    file = GgufFile(write(tmp_path / "m.gguf", {"a": (dtype, raw)}))
    stored = file.stored_tensor("a", row_multiple)
    tiles = list(stored.tiles())
    columns = math.prod(shape[1:])
    assert all(len(tile) % row_multiple == 0 for tile in tiles[:-1])
    assert all(tile.size <= max(2048, row_multiple * columns) for tile in tiles)
    monkeypatch.undo()
    assert_same(np.concatenate(tiles), file.stored_tensor("a").read())
    assert_same(stored.read(), np.concatenate(tiles))  # and they can be asked for again


@pytest.mark.parametrize("row_multiple", [1, 3, 100])
def test_a_quantised_vector_is_never_cut_inside_a_block(
    row_multiple: int, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = stored_bytes(rng, "Q5_1", (32 * 50,))
    file = GgufFile(write(tmp_path / "m.gguf", {"a": ("Q5_1", raw)}))
    expected = dequantize(raw, GGMLQuantizationType.Q5_1)
    monkeypatch.setattr(gguf_file, "TILE_ELEMENTS", 100)
    tiles = list(file.stored_tensor("a", row_multiple).tiles())
    assert len(tiles) > 1 or row_multiple == 100
    assert_same(np.concatenate(tiles), expected)


def test_a_tile_is_about_a_megabyte_of_floats(tmp_path: Path) -> None:
    raw = np.zeros((2000, 512 // 32 * 20), np.uint8)
    file = GgufFile(write(tmp_path / "m.gguf", {"a": ("Q4_1", raw)}))
    assert [tile.nbytes for tile in file.stored_tensor("a", 64).tiles()][:3] == [1 << 20] * 3


def test_reading_holds_little_more_than_a_tile(tmp_path: Path) -> None:
    raw = np.zeros((20_000, 512 // 32 * 18), np.uint8)  # 41 MB as float32
    file = GgufFile(write(tmp_path / "m.gguf", {"a": ("Q4_0", raw)}))
    next(file.stored_tensor("a").tiles())  # imports gguf
    tracemalloc.start()
    for tile in file.stored_tensor("a").tiles():
        assert tile.dtype == np.float32
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 << 20


def test_scales_of_nan_or_infinity_are_read_without_a_warning(tmp_path: Path) -> None:
    raw = np.zeros((1, 18), np.uint8)
    raw[0, 0:2] = np.array([np.inf], np.float16).view(np.uint8)
    raw[0, 2] = 8  # zero times infinity
    found = GgufFile(write(tmp_path / "m.gguf", {"a": ("Q4_0", raw)})).stored_tensor("a").read()
    assert np.isnan(found[0, 0])


def test_bytes_after_the_last_tensor_cost_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.gguf"
    for more, warnings in ((0, 0), (64, 1)):
        path.write_bytes(build([], [tensor("a")], bytes(32 + more)))
        assert GgufFile(path).tensors.keys() == {"a"}
        assert len(caplog.records) == warnings
    assert f"{path}: 64 bytes behind the last tensor are passed over" in caplog.text


def test_metadata_of_every_kind_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("u8", 255)
    writer.add_int8("i8", -128)
    writer.add_uint16("u16", 65535)
    writer.add_int16("i16", -5)
    writer.add_uint32("u32", 1 << 31)
    writer.add_int32("i32", -(1 << 31))
    writer.add_uint64("u64", (1 << 64) - 1)
    writer.add_int64("i64", -(1 << 63))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "naïve 漢字 🙂\0")
    writer.add_array("texts", ["a", "", "▁the", "🙂" * 50])
    writer.add_array("numbers", [1, -2, 3])
    writer.add_array("floats", [0.5, -1.5])
    writer.add_array("bools", [True, False])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = GgufFile(path).metadata
    arrays = {key: metadata.pop(key).tolist() for key in ("numbers", "floats", "bools")}
    assert arrays == {"numbers": [1, -2, 3], "floats": [0.5, -1.5], "bools": [True, False]}
    assert metadata == {
        "general.architecture": "llama",
        "u8": 255,
        "i8": -128,
        "u16": 65535,
        "i16": -5,
        "u32": 1 << 31,
        "i32": -(1 << 31),
        "u64": (1 << 64) - 1,
        "i64": -(1 << 63),
        "f32": 0.5,
        "f64": 0.1,
        "yes": True,
        "text": "naïve 漢字 🙂\0",
        "texts": ["a", "", "▁the", "🙂" * 50],
    }
    assert metadata["yes"] is True
    assert type(metadata["u8"]) is int
    assert type(metadata["f32"]) is float


@pytest.mark.parametrize("piece", [1, 7, 64, 1000])
def test_a_header_of_many_pieces_reads_like_one_of_one(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"word {index} é" * (index % 5) for index in range(300)]
    raw = np.zeros((2, 32), np.uint8)
    path = write(tmp_path / "m.gguf", {"a": ("F32", raw)}, words=words, number=7, last="x" * 5000)
    expected = GgufFile(path)
    monkeypatch.setattr(gguf_file, "READ_BYTES", piece)
    found = GgufFile(path)
    assert found.metadata == expected.metadata
    assert found.metadata["words"] == words
    assert found.tensors == expected.tensors


def test_a_vocabulary_of_common_size_takes_a_fraction_of_a_second(tmp_path: Path) -> None:
    words = [f"word{index}" for index in range(50_000)]
    path = write(tmp_path / "m.gguf", {}, tokens=words, merges=words)
    start = time.perf_counter()
    GgufFile(path)
    assert time.perf_counter() - start < 1  # about 0.03 s


def test_the_model_named_by_the_environment_reads_as_gguf_py_reads_it() -> None:
    path = os.environ.get("CULLAMA_TEST_GGUF")
    if not path:
        pytest.skip("CULLAMA_TEST_GGUF names no model")
    file = GgufFile(path)
    for reference in gguf.GGUFReader(path).tensors:
        tensor = file.tensors[reference.name]
        assert (tensor.offset, tensor.byte_size) == (reference.data_offset, reference.n_bytes)
    last = file.stored_tensor(reference.name).read()
    expected = dequantize(reference.data, reference.tensor_type)
    assert np.array_equal(last.astype(np.float32), expected.reshape(last.shape))


# Files put together by hand


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str | bytes, tag: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", tag) + value


def array(tag: int, count: int, values: bytes) -> bytes:
    return struct.pack("<IQ", tag, count) + values


def tensor(
    name: str | bytes = "a", dims: Sequence[int] = (8,), tag: int = 0, offset: int = 0
) -> bytes:
    head = string(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return head + struct.pack("<IQ", tag, offset)


def build(
    metadata: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    magic: bytes = b"GGUF",
    version: int = 3,
    tensor_count: int | None = None,
    metadata_count: int | None = None,
) -> bytes:
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(metadata) if metadata_count is None else metadata_count,
    )
    header = head + b"".join(metadata) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + data


ALIGN_0 = entry("general.alignment", U32, struct.pack("<I", 0))
ALIGN_48 = entry("general.alignment", U32, struct.pack("<I", 48))
ALIGN_TEXT = entry("general.alignment", STRING, string("32"))
FOUR_OF_2_16 = tensor(dims=(1 << 16,) * 4)
BIG = (1 << 64) - 1

HOSTILE = {
    "empty file": (b"", r"header is that of an empty file, expected a GGUF file"),
    "another format": (build(magic=b"PK\3\4"), r"header is that of a zip archive, .* expected"),
    "no format": (build(magic=b"PK\3\5"), r"magic is b'PK.*expected b'GGUF'"),
    "cut in the magic": (b"GGU", "magic is 4 bytes"),
    "cut in the version": (b"GGUF\3\0", "version is 4 bytes"),
    "cut in the counts": (build()[:20], "metadata count is 8 bytes"),
    "unknown version": (build(version=4), "version is 4, expected 2 or 3"),
    "metadata count beyond the file": (build(metadata_count=10**6), "metadata count is 1,000,000"),
    "metadata count of 2^64": (build(metadata_count=BIG), "metadata count is 18,446,.*at most"),
    "metadata count beyond the limit": (
        build(metadata_count=65_537, data=bytes(1 << 20)),
        "metadata count is 65,537, expected at most 65,536",
    ),
    "tensor count beyond the file": (build(tensor_count=60_000), "tensor count is 60,000"),
    "tensor count beyond the limit": (
        build(tensor_count=65_537, data=bytes(1 << 22)),
        "tensor count is 65,537, expected at most 65,536",
    ),
    "key longer than the file": (
        build([struct.pack("<Q", 1 << 40) + bytes(16)]),
        "metadata entry 0: key is 1,099,511,627,776 bytes, expected at most the",
    ),
    "key of negative length": (
        build([struct.pack("<q", -1) + bytes(16)]),
        "metadata entry 0: key is 18,446,744,073,709,551,615 bytes",
    ),
    "key not UTF-8": (build([entry(b"\xff\xfe", U8, b"\0")]), "entry 0: key is not UTF-8"),
    "key twice": (
        build([entry("k", U8, b"\1"), entry("k", U8, b"\2")]),
        "metadata 'k': key is given twice, expected each key once",
    ),
    "value of unknown type": (
        build([entry("k", 13, bytes(8))]),
        "metadata 'k': type is tag 13, expected a tag from 0 to 12",
    ),
    "value cut short": (build([entry("k", 12, bytes(8))])[:40], "metadata 'k': value is 8 bytes"),
    "bool that is neither": (build([entry("k", BOOL, b"\2")]), "'k': value is a bool of 2"),
    "string longer than the file": (
        build([entry("k", STRING, struct.pack("<Q", BIG))]),
        "metadata 'k': value is 18,446,",
    ),
    "string not UTF-8": (
        build([entry("k", STRING, string(b"ab\x80"))]),
        r"metadata 'k': value is not UTF-8 \(invalid start byte\), expected UTF-8 text",
    ),
    "array of numbers longer than the file": (
        build([entry("k", ARRAY, array(F32, 1 << 62, b""))]),
        "metadata 'k': value is 18,446,744,073,709,551,616 bytes",
    ),
    "array of strings longer than the file": (
        build([entry("k", ARRAY, array(STRING, 1 << 19, b""))]),
        "metadata 'k': array of strings is 4,194,304 bytes",
    ),
    "array of too many strings": (
        build([entry("k", ARRAY, array(STRING, (1 << 20) + 1, b""))]),
        "element count is 1,048,577 strings, expected at most 1,048,576",
    ),
    "array with one string too long": (
        build([entry("k", ARRAY, array(STRING, 2, string("a") + struct.pack("<Q", 999)))]),
        "metadata 'k': string 1 is 999 bytes",
    ),
    "array with one string not UTF-8": (
        build([entry("k", ARRAY, array(STRING, 2, string("a") + string(b"\xc3")))]),
        "metadata 'k': string 1 is not UTF-8",
    ),
    "array in an array": (
        build([entry("k", ARRAY, array(ARRAY, 1, array(ARRAY, 1, array(U8, 0, b""))))]),
        "metadata 'k': element type is array, expected numbers, bools or strings",
    ),
    "array of an unknown type": (
        build([entry("k", ARRAY, array(77, 1, bytes(8)))]),
        "metadata 'k': element type is tag 77",
    ),
    "array of bools that are neither": (
        build([entry("k", ARRAY, array(BOOL, 3, b"\0\1\xff"))]),
        "metadata 'k': value is a bool of 255",
    ),
    "tensor name not UTF-8": (build([], [tensor(b"\xff")]), "tensor entry 0: name is not UTF-8"),
    "tensor name longer than the file": (
        build([], [struct.pack("<Q", 1 << 33) + bytes(32)]),
        "tensor entry 0: name is 8,589,934,592 bytes",
    ),
    "tensor name twice": (
        build([], [tensor("a"), tensor("a", offset=32)], bytes(64)),
        "tensor 'a': name is given twice, expected each name once",
    ),
    "tensor without dimensions": (
        build([], [tensor(dims=())], bytes(64)),
        "tensor 'a': number of dimensions is 0, expected 1 to 4",
    ),
    "tensor of five dimensions": (
        build([], [tensor(dims=(1,) * 5)], bytes(64)),
        "tensor 'a': number of dimensions is 5, expected 1 to 4",
    ),
    "tensor with a dimension of zero": (
        build([], [tensor(dims=(8, 0))], bytes(64)),
        r"tensor 'a': shape is \[0, 8\], expected no dimension of 0",
    ),
    "product of dimensions overflows": (
        build([], [FOUR_OF_2_16], bytes(64)),
        r"tensor 'a': shape is \[65536, 65536, 65536, 65536\], expected at most 9,223,",
    ),
    "sum of sizes overflows": (
        build([], [tensor("a", (1 << 61,)), tensor("b", (1 << 61,), offset=1 << 63)], bytes(64)),
        "tensor 'a': end of the data is byte 9,223,.* expected at most its size",
    ),
    "tensor of a type that never was": (
        build([], [tensor(tag=4)], bytes(64)),
        "tensor 'a': type is tag 4, expected one of F32, F16, Q4_0",
    ),
    "tensor of a type far off": (build([], [tensor(tag=1 << 31)], bytes(64)), "is tag 2147483648"),
    "row that is no whole number of blocks": (
        build([], [tensor(dims=(48, 2), tag=2)], bytes(64)),
        "tensor 'a': row length is 48, expected a multiple of 32, the block of Q4_0",
    ),
    "offset not aligned": (
        build([], [tensor("a", (4,)), tensor("b", (4,), offset=16)], bytes(64)),
        "tensor 'b': offset is 16, expected a multiple of 32",
    ),
    "offset past the file": (
        build([], [tensor(offset=1 << 62)], bytes(64)),
        "tensor 'a': end of the data is byte 4,611,.* of the file, expected at most its size",
    ),
    "end past the file": (
        build([], [tensor(dims=(17,))], bytes(64)),
        "tensor 'a': end of the data is byte 132 of the file, expected at most its size, 128",
    ),
    "tensors that overlap": (
        build([], [tensor("a", (16,)), tensor("b", (8,), offset=32)], bytes(64)),
        "tensor 'b': offset is 32, an overlap, expected 64, where 'a' ends",
    ),
    "tensors in the same place": (
        build([], [tensor("a"), tensor("b")], bytes(32)),
        "tensor 'b': offset is 0, an overlap",
    ),
    "bytes between tensors": (
        build([], [tensor("a"), tensor("b", offset=64)], bytes(96)),
        "tensor 'b': offset is 64, expected 32, where 'a' ends",
    ),
    "bytes before the first tensor": (
        build([], [tensor("a", offset=32)], bytes(64)),
        "tensor 'a': offset is 32, expected 0, as the first",
    ),
    "alignment of zero": (build([ALIGN_0]), "'general.alignment': value is 0, expected a power"),
    "alignment no power of two": (build([ALIGN_48]), "value is 48, expected a power of two"),
    "alignment of another kind": (build([ALIGN_TEXT]), "value is '32', expected a power of two"),
}


@pytest.fixture
def bounded() -> Iterator[None]:
    """A refusal is quick, and small files stay small in memory."""
    tracemalloc.start()
    start = time.perf_counter()
    yield
    elapsed = time.perf_counter() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert elapsed < 1
    assert peak < 24 << 20


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.usefixtures("bounded")
def test_a_damaged_file_is_refused_by_name_and_field(name: str, tmp_path: Path) -> None:
    content, message = HOSTILE[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message) as caught:
        GgufFile(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert ", expected " in str(caught.value)


def test_the_files_put_together_by_hand_would_be_valid_without_their_faults(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    texts = entry("k", ARRAY, array(STRING, 2, string("a") + string("é")))
    tensors = [tensor("a"), tensor("b", (32, 2), tag=2, offset=32)]
    path.write_bytes(build([texts], tensors, bytes(32 + 36)))
    file = GgufFile(path)
    assert file.metadata == {"k": ["a", "é"]}
    assert {name: it.shape for name, it in file.tensors.items()} == {"a": (8,), "b": (2, 32)}
    path.write_bytes(build([texts], tensors, bytes(32 + 64)))  # the last one padded, as is usual
    assert GgufFile(path).tensors == file.tensors
    path.write_bytes(build())
    assert GgufFile(path).tensors == {}


UNSUPPORTED = {
    "version 1": (build(version=1), "version is 1, expected 2 or 3"),
    "big-endian": (build(version=3 << 24), "byte order is big-endian, expected little-endian"),
    **{
        f"type {kind.name}": (
            build([], [tensor("blk.0", (256,), tag=kind)], bytes(512)),
            f"tensor 'blk.0': type is {kind.name}, expected one of {', '.join(SUPPORTED_TYPES)}",
        )
        for kind in GGMLQuantizationType
        if kind.name not in SUPPORTED_TYPES
    },
}


@pytest.mark.parametrize("name", UNSUPPORTED)
@pytest.mark.usefixtures("bounded")
def test_a_valid_file_of_another_kind_is_refused_as_unsupported(name: str, tmp_path: Path) -> None:
    content, message = UNSUPPORTED[name]
    path = tmp_path / "other.gguf"
    path.write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        GgufFile(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_block_sizes_are_those_of_gguf_py() -> None:
    for dtype in SUPPORTED_TYPES:
        kind = GGMLQuantizationType[dtype]
        assert gguf_file._TYPES[kind] == dtype
        assert BLOCK_SIZES[dtype] == GGML_QUANT_SIZES[kind]


@pytest.mark.usefixtures("bounded")
def test_a_header_of_more_than_a_hundred_megabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "long.gguf"
    path.write_bytes(build([entry("k", STRING, struct.pack("<Q", 150_000_000))]))
    os.truncate(path, 200_000_000)  # sparse: takes no room on the disk
    with pytest.raises(ModelFileError, match="left of the 100,000,000 a header may have"):
        GgufFile(path)


def test_strings_are_counted_over_all_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.gguf"
    three = array(STRING, 3, string("") * 3)
    path.write_bytes(build([entry("a", ARRAY, three), entry("b", ARRAY, three)]))
    monkeypatch.setattr(gguf_file, "MAX_ARRAY_STRINGS", 6)
    assert GgufFile(path).metadata == {"a": ["", "", ""], "b": ["", "", ""]}
    monkeypatch.setattr(gguf_file, "MAX_ARRAY_STRINGS", 5)
    with pytest.raises(ModelFileError, match="'b': element count is 3 strings, expected at most 2"):
        GgufFile(path)


@pytest.mark.usefixtures("bounded")
def test_a_message_does_not_repeat_a_page_of_someone_elses_text(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(build([entry("\x1b[31m" + "k" * 100_000, 99, b"")]))
    with pytest.raises(ModelFileError, match="type is tag 99") as caught:
        GgufFile(path)
    assert len(str(caught.value)) < 250 + len(str(path))
    assert "\x1b" not in str(caught.value)


@pytest.mark.usefixtures("bounded")
def test_a_path_that_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="not a regular file"):
        GgufFile(tmp_path)
    with pytest.raises(ModelFileError, match=r"missing\.gguf: cannot be read: No such file"):
        GgufFile(tmp_path / "missing.gguf")
    os.mkfifo(tmp_path / "pipe.gguf")  # without a writer, opening it would wait for ever
    with pytest.raises(ModelFileError, match=r"pipe\.gguf: not a regular file"):
        GgufFile(tmp_path / "pipe.gguf")


def test_a_file_that_shrinks_after_its_header_was_read_is_named(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    raw = stored_bytes(rng, "F32", (64, 64))
    file = GgufFile(write(tmp_path / "m.gguf", {"a": ("F32", raw)}))
    stored = file.stored_tensor("a")
    os.truncate(file.path, file.path.stat().st_size - 64)
    with pytest.raises(ModelFileError, match=r"m\.gguf: tensor 'a': data is cut short"):
        stored.read()
    file.path.unlink()
    with pytest.raises(ModelFileError, match=r"m\.gguf: cannot be read"):
        stored.read()


# Mutants


def mutants(content: bytes, count: int) -> Iterator[bytes]:
    """Flipped bytes, cuts, extreme numbers in place of others, and entries given twice."""
    random_source = random.Random(SEED)
    extremes = [0, 1, 255, 1 << 31, (1 << 32) - 1, 1 << 62, 1 << 63, BIG]
    for index in range(count):
        mutant = bytearray(content)
        at = random_source.randrange(len(mutant))
        if index % 4 == 0:
            for _ in range(random_source.randint(1, 4)):
                mutant[random_source.randrange(len(mutant))] ^= 1 << random_source.randrange(8)
        elif index % 4 == 1:
            del mutant[at:]
        elif index % 4 == 2:
            mutant[at : at + 8] = struct.pack("<Q", random_source.choice(extremes))
        else:
            mutant[at:at] = mutant[at : at + random_source.randint(1, 40)]
        yield bytes(mutant)


def read_everything(path: Path) -> dict[str, bytes]:
    file = GgufFile(path)
    return {name: file.stored_tensor(name).read().tobytes() for name in file.tensors}


def test_no_mutant_escapes_and_what_is_accepted_gguf_py_reads_alike(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    tensors = {
        f"blk.{index}.weight": (dtype, stored_bytes(rng, dtype, (1, 256)))
        for index, dtype in enumerate(["F32", "Q4_0", "Q6_K"])
    }
    words = ["<unk>", "▁the", "é"]
    path = write(tmp_path / "m.gguf", tensors, words=words, types=[1, 2, 3], yes=True, eps=0.5)
    content = path.read_bytes()
    refusals = []
    for mutant in mutants(content, 500):
        path.write_bytes(mutant)
        try:
            found = read_everything(path)
        except (ModelFileError, UnsupportedModelError) as error:
            refusals.append(str(error))
            continue
        references = {it.name: it for it in gguf.GGUFReader(path).tensors}
        assert found.keys() == references.keys()
        for name, reference in references.items():
            with np.errstate(all="ignore"):
                expected = dequantize(reference.data, reference.tensor_type)
            assert expected.tobytes() == found[name]
    assert 200 < len(refusals) < 450  # some of each, or the mutants are no good
    assert all(refusal.startswith(f"{path}: ") for refusal in refusals)
