"""GGUF files that have broken other readers: a named set for each root cause and each CVE.

The CVEs are those of llama.cpp and Ollama, the root causes what lay behind them; what each did is
taken from its advisory and built here byte by byte, with a part of the expected refusal.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

U8, U32, F32, STRING, ARRAY, U64 = 0, 4, 6, 8, 9, 10
MOST = (1 << 64) - 1

Case = tuple[bytes, str]  # a file, and what its refusal says


def text(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


def entry(key: str, tag: int, value: bytes) -> bytes:
    return text(key.encode()) + struct.pack("<I", tag) + value


def array(tag: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", tag, count) + values


def tensor(
    name: str, dims: Sequence[int] = (8,), offset: int = 0, tag: int = 0, ndims: int | None = None
) -> bytes:
    head = text(name.encode()) + struct.pack("<I", len(dims) if ndims is None else ndims)
    return head + struct.pack(f"<{len(dims)}QIQ", *dims, tag, offset)


def file(
    entries: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: int = 64,
    entry_count: int | None = None,
    tensor_count: int | None = None,
) -> bytes:
    counts = (
        len(tensors) if tensor_count is None else tensor_count,
        len(entries) if entry_count is None else entry_count,
    )
    header = b"GGUF" + struct.pack("<IQQ", 3, *counts) + b"".join(entries) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + bytes(data)


def model(scratch: Path, **changes: Any) -> bytes:
    """A whole Llama of one layer in a GGUF file; `changes` are settings, None leaves one out."""
    settings = {
        "embedding_length": 8,
        "feed_forward_length": 6,
        "block_count": 1,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
        "context_length": 64,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    writer = gguf.GGUFWriter(scratch, "llama")
    for name, value in {**settings, **changes}.items():
        if isinstance(value, float):
            writer.add_float32(f"llama.{name}", value)
        elif value is not None:
            add = writer.add_int32 if -1 << 31 <= value < 1 << 31 else writer.add_uint64
            add(f"llama.{name}", value)
    shapes = {"attn_norm": (8,), "ffn_norm": (8,), "attn_q": (8, 8), "attn_k": (4, 8),
              "attn_v": (4, 8), "attn_output": (8, 8), "ffn_gate": (6, 8), "ffn_up": (6, 8),
              "ffn_down": (8, 6)}  # fmt: skip
    outside = {"token_embd.weight": (20, 8), "output_norm.weight": (8,)}
    every = outside | {f"blk.0.{name}.weight": shape for name, shape in shapes.items()}
    for name, shape in every.items():
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return scratch.read_bytes()


PRODUCT = [
    (file([], [tensor("a", (1 << 32, 1 << 32))]), "tensor 'a': shape is"),
    (file([], [tensor("a", (1 << 16,) * 4)]), "tensor 'a': shape is"),
    (file([], [tensor("a", (1 << 62, 4, 1, 1))]), "tensor 'a': shape is"),
    (file([], [tensor("a", (MOST, MOST, MOST, MOST))]), "tensor 'a': shape is"),
    (file([], [tensor("a", (1 << 62,))]), "tensor 'a': end of the data is"),
    (file([], [tensor("a", (1 << 61,), tag=8)]), "tensor 'a': end of the data is"),
]
SUM = [
    (file([], [tensor("a", (1 << 61,)), tensor("b", (1 << 61,), 1 << 63)]), "tensor 'a': end of"),
    (file([], [tensor("a"), tensor("b", ((1 << 62) - 16,), 32)]), "tensor 'b': end of the data"),
    (
        file([], [tensor(f"t{i}", (1 << 58,), (i << 60) % (1 << 64)) for i in range(16)]),
        "tensor 't0': end of the data",
    ),
    (file([], [tensor("a", (8,), (1 << 64) - 32)]), "tensor 'a': end of the data"),
]
PAST = [
    (file([], [tensor("a", (17,))]), "tensor 'a': end of the data is"),
    (file([], [tensor("a", (8,), 1 << 40)]), "tensor 'a': end of the data is"),
    (file([], [tensor("a", (1 << 20, 64), 0, tag=2)]), "tensor 'a': end of the data is"),
    (file([], [tensor("a"), tensor("b", (1000,), 32)]), "tensor 'b': end of the data is"),
    (file([], [tensor("a", (8,), 33)]), "tensor 'a': offset is"),
]
COUNT = [
    (file(tensor_count=1 << 30), "tensor count is"),
    (file(tensor_count=MOST), "tensor count is"),
    (file(entry_count=1 << 30), "metadata count is"),
    (file(entry_count=MOST), "metadata count is"),
    (file([entry("k", ARRAY, array(U64, 1 << 60))]), "metadata 'k': value is"),
    (file([entry("k", ARRAY, array(STRING, 1 << 19))]), "metadata 'k': array of strings is"),
    (file([entry("k", ARRAY, array(STRING, MOST))]), "metadata 'k': element count is"),
    (file([text(b"k", 1 << 33)]), "metadata entry 0: key is"),
    (file([entry("k", STRING, text(b"", 1 << 40))]), "metadata 'k': value is"),
]
TAG = [
    (file([entry("k", 13, bytes(8))]), "metadata 'k': type is tag 13"),
    (file([entry("k", MOST >> 32, bytes(8))]), "metadata 'k': type is tag 4294967295"),
    (file([entry("k", ARRAY, array(99, 1, bytes(8)))]), "metadata 'k': element type is tag 99"),
    (file([], [tensor("a", tag=1 << 31)]), "tensor 'a': type is tag 2147483648"),
    (file([], [tensor("a", tag=MOST >> 32)]), "tensor 'a': type is tag 4294967295"),
    (file([entry("general.alignment", STRING, text(b"32"))]), "'general.alignment': value is '32'"),
    (file([entry("general.alignment", F32, bytes(4))]), "'general.alignment': value is 0.0"),
]
SIGN = [
    (file([text(b"k", MOST)]), "metadata entry 0: key is 18,446"),
    (file([text(b"k", 1 << 63)]), "metadata entry 0: key is 9,223"),
    (file([entry("k", STRING, text(b"v", MOST - 7))]), "metadata 'k': value is 18,446"),
    (file([entry("k", ARRAY, array(STRING, 1, text(b"v", MOST)))]), "string 0 is 18,446"),
    (file([], [text(b"a", MOST)], tensor_count=1), "tensor entry 0: name is 18,446"),
    (file([], [tensor("a", (MOST,))]), "tensor 'a': shape is"),
    (file([], [tensor("a", (8,), 1 << 63)]), "tensor 'a': end of the data is"),
    (file([], [tensor("a", (8,), ndims=MOST >> 32)]), "number of dimensions is 4294967295"),
]


def nested(depth: int) -> bytes:
    return entry("k", ARRAY, array(ARRAY, 1) * depth + array(U8, 1, b"\7"))


DEEP = [(file([nested(n)]), "metadata 'k': element type is array") for n in (1, 2, 1000, 100_000)]

ROOT_CAUSES: dict[str, list[Case]] = {
    "product of dims overflows": PRODUCT,
    "sum of sizes overflows": SUM,
    "offset + size past the file": PAST,
    "a count used for allocation": COUNT,
    "wrong type tag": TAG,
    "negative or signed length": SIGN,
    "recursion": DEEP,
    # A tensor of many dimensions was copied into an array of four.
    "CVE-2024-21802": [
        (file([], [tensor("a", (1,) * n)]), f"number of dimensions is {n}") for n in (5, 6, 64)
    ]
    + [(file([], [tensor("a", (1,), ndims=1 << 31)]), "number of dimensions is 2147483648")],
    # Element count times element size overflowed, for arrays of numbers and of strings.
    "CVE-2024-21825": [
        (file([entry("k", ARRAY, array(U64, (1 << 61) + 1, bytes(8)))]), "'k': value is"),
        (file([entry("k", ARRAY, array(STRING, (1 << 60) + 1, text(b"")))]), "element count is"),
    ],
    # The number of tensors times the size of an entry overflowed.
    "CVE-2024-21836": [
        (file([], [tensor("a")], tensor_count=n), "tensor count is")
        for n in ((1 << 64) // 88 + 1, (1 << 64) // 264 + 1, 1 << 59)
    ],
    # A string's length plus one, for its end, overflowed to 0.
    "CVE-2024-23496": [
        (file([entry("k", STRING, text(b"v", MOST))]), "metadata 'k': value is"),
        (file([text(b"k", MOST)]), "metadata entry 0: key is"),
    ],
    # The number of metadata entries times the size of an entry overflowed.
    "CVE-2024-23605": [
        (file([entry("k", U8, b"\1")], entry_count=n), "metadata count is")
        for n in ((1 << 64) // 48 + 1, (1 << 64) // 56 + 1, 1 << 60)
    ],
    # The length of a token of the vocabulary was cut to 32 signed bits before it was compared.
    "CVE-2025-49847": [
        (
            file([entry("tokenizer.ggml.tokens", ARRAY, array(STRING, 1, text(b"t", n)))]),
            "'tokenizer.ggml.tokens': string 0 is",
        )
        for n in (1 << 31, (1 << 31) + 4, (1 << 32) + 4, MOST)
    ],
    # Sizes that were valid one by one overflowed when summed with their padding.
    "CVE-2025-53630": [
        (
            file([], [tensor("a", (1 << 61,)), tensor("b", (1 << 61,), 1 << 63), tensor("c")]),
            "tensor 'a': end of the data",
        ),
        (file([], [tensor("a", ((1 << 62) - 1,)), tensor("b")]), "tensor 'a': end of the data"),
    ],
    # The sum was valid, and overflowed when the tensors' own bookkeeping was added.
    "CVE-2026-27940": [
        (
            file([], [tensor("a", ((MOST - 900) // 4 // 8, 8)), tensor("b", (8,), 32)]),
            "tensor 'a': end of the data",
        ),
        (file([], [tensor("a", ((1 << 62) - 64,))]), "tensor 'a': end of the data"),
    ],
    # Elements overflowed to few, and a small buffer stood for a tensor of exabytes.
    "CVE-2026-33298": [
        (file([], [tensor("a", (32, 1 << 57), tag=2)]), "tensor 'a': end of the data"),
        (file([], [tensor("a", (256, 1 << 56), tag=12)]), "tensor 'a': shape is"),
    ],
    # Offset and size were believed, and what lay behind the file was read.
    "CVE-2026-7482": [
        (file([], [tensor("a", (1 << 18,))]), "tensor 'a': end of the data"),
        (file([], [tensor("a"), tensor("b", (1 << 16,), 32, tag=1)]), "tensor 'b': end of the"),
        (file([], [tensor("a", (8,), 1 << 20)], 32), "tensor 'a': end of the data"),
    ],
}

# Hyper-parameter → values beyond its bound; held against a whole model.
BEYOND: dict[str, list[Any]] = {
    "block_count": [None, 0, -1, 10_001, 1 << 31, 1 << 40, 2.0],
    "embedding_length": [None, 0, -8, (1 << 31) + 1, 1 << 62, 8.0],
    "feed_forward_length": [None, 0, -1, 1 << 40],
    "attention.head_count": [None, 0, -2, 1 << 40],
    "attention.head_count_kv": [0, -1, 3, 1 << 40],
    "attention.key_length": [0, -4, 3, 1 << 40],
    "context_length": [None, 0, -1, 1 << 40],
    "attention.layer_norm_rms_epsilon": [0.0, -1.0, float("nan"), float("inf"), 1e10],
    "rope.freq_base": [0.0, -1.0, float("nan"), float("inf")],
    "rope.dimension_count": [0, 2, 1 << 40],
    "attention.sliding_window": [-1, 1 << 40],
}


def hyperparameters(scratch: Path) -> list[Case]:
    return [
        (model(scratch, **{name: value}), f"llama.{name} is")
        for name, values in BEYOND.items()
        for value in values
    ]
