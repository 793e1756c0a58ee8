"""Where weights lie: aligned, shared between runs, and never in a file that is half written."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import cullama
from cullama.backends import operators_for
from cullama.checkpoint.opening import open_checkpoint
from cullama.cpu import storage
from cullama.cpu.matrix import Matrix
from cullama.cpu.storage import (
    ALIGNMENT,
    HEADER,
    MARK,
    Memory,
    WeightFile,
    is_as_written,
    weight_file,
)
from cullama.errors import HostMemoryError, NumericalError
from cullama.files.tensor import StoredTensor

Array: TypeAlias = NDArray[Any]

KEY = "/models/llama.gguf|1000|1"
ROOM = 1 << 20  # bytes, enough for everything here


def stored(values: Array) -> StoredTensor:
    return StoredTensor("a weight", values.shape, "F32", lambda: iter([values]))


def unreadable(values: Array) -> StoredTensor:
    """The same tensor in a file that must not be read again."""

    def tiles() -> Iterator[Array]:
        raise AssertionError("read again, although it is converted")

    return StoredTensor("a weight", values.shape, "F32", tiles)


def matrices(count: int = 3) -> list[Array]:
    draw = np.random.default_rng(0)
    shapes = [(5 + index, 7 - index) if index % 2 else (128, 16) for index in range(count)]
    return [draw.standard_normal(shape).astype(np.float32) for shape in shapes]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def convert(folder: Path, key: str = KEY, layout: str = "float32", value: float = 1.0) -> Path:
    """A complete file with one array of ones."""
    file = weight_file(folder, key, layout, ROOM)
    assert not file.is_filled
    file.take((10, 3), np.float32)[:] = value
    file.finish()
    return file.path


def load(folder: Path | None, tensors: list[StoredTensor], dtype: str = "float32") -> list[Matrix]:
    """The weights as the backend has them, in whatever layout this machine is fastest at."""
    operators = operators_for("cpu:numpy", dtype, 1, folder)
    with operators.loading(KEY, tensors):
        return [operators.weight([tensor]) for tensor in tensors]


def rows_of(weight: Matrix, count: int) -> Array:
    return operators_for("cpu:numpy", "float32", 1, None).embed(weight, np.arange(count))


# --- fresh memory


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 40), min_size=1, max_size=3),
            st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16, np.uint8]),
        ),
        max_size=20,
    )
)
def test_arrays_in_memory_are_aligned_and_do_not_overlap(requests: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "SLAB", 4096)  # so that some do not fit into what is left
        memory = Memory()
        assert not memory.is_filled
        pieces = [memory.take(tuple(shape), dtype) for shape, dtype in requests]
    for number, (piece, (shape, dtype)) in enumerate(zip(pieces, requests, strict=True)):
        assert piece.shape == tuple(shape)
        assert piece.dtype == dtype
        assert piece.size == 0 or piece.ctypes.data % ALIGNMENT == 0
        piece[...] = number
    for number, piece in enumerate(pieces):
        assert (piece == np.asarray(number, piece.dtype)).all()


def test_memory_has_nothing_to_finish_or_abandon() -> None:
    memory = Memory()
    piece = memory.take((2, 2), np.float32)
    piece[:] = 3
    memory.finish()
    memory.abandon()
    assert (piece == 3).all()


# --- a file


def test_arrays_of_a_file_are_aligned_when_written_and_when_read(tmp_path: Path) -> None:
    shapes = [(1, 1), (3, 5), (7,), (100, 3)]
    file = WeightFile(tmp_path / "a.weights", ROOM)
    written = [file.take(shape, np.float16) for shape in shapes]
    for number, array in enumerate(written):
        array[:] = number
    file.finish()
    again = WeightFile(tmp_path / "a.weights", ROOM)
    read = [again.take(shape, np.float16) for shape in shapes]
    again.finish()
    for number, array in enumerate(written + read):
        assert array.ctypes.data % ALIGNMENT == 0
        assert (array == number % len(shapes)).all()


def test_a_second_run_finds_the_file_filled_and_may_not_change_it(tmp_path: Path) -> None:
    path = convert(tmp_path, value=2.5)
    again = weight_file(tmp_path, KEY, "float32", ROOM)
    assert again.path == path
    assert again.is_filled
    array = again.take((10, 3), np.float32)
    assert (array == 2.5).all()
    with pytest.raises(ValueError, match="read-only"):
        array[:] = 0
    again.finish()
    again.abandon()
    assert files_in(tmp_path) == [path.name]


def test_a_file_appears_only_when_it_is_finished(tmp_path: Path) -> None:
    file = weight_file(tmp_path / "cache", KEY, "float32", ROOM)
    file.take((10, 3), np.float32)[:] = 1
    assert not file.path.exists()
    file.finish()
    assert files_in(tmp_path / "cache") == [file.path.name]


def test_an_abandoned_file_leaves_nothing(tmp_path: Path) -> None:
    file = weight_file(tmp_path, KEY, "float32", ROOM)
    file.take((10, 3), np.float32)[:] = 1
    file.abandon()
    assert files_in(tmp_path) == []
    file.abandon()


def test_abandoning_after_the_end_keeps_the_file(tmp_path: Path) -> None:
    file = weight_file(tmp_path, KEY, "float32", ROOM)
    file.take((1,), np.float32)[:] = 1
    file.finish()
    file.abandon()
    assert files_in(tmp_path) == [file.path.name]


def test_what_was_written_stays_readable_after_the_end(tmp_path: Path) -> None:
    file = weight_file(tmp_path, KEY, "float32", ROOM)
    array = file.take((10, 3), np.float32)
    array[:] = 4
    file.finish()
    file.path.unlink()
    assert (array == 4).all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:10],
        lambda content: content[:HEADER],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: b"\0" * len(content),
        lambda content: b"GGUF" + content[4:],
        lambda content: content.replace(MARK, b"cullama weights 0\n"),
        lambda content: content.replace(MARK, MARK + b"1"),
        lambda content: content[: HEADER // 2].rstrip(b"\0")[:-5] + content[HEADER // 2 :],
        lambda content: b"\0" * HEADER + content[HEADER:],
    ],
    ids=[
        *("empty", "ten bytes", "header only", "cut", "longer", "zeros", "foreign", "old mark"),
        *("wrong size", "cut checksum", "unmarked"),
    ],
)
def test_a_file_that_is_not_whole_is_written_again(tmp_path: Path, damage: Any) -> None:
    path = convert(tmp_path, value=1)
    path.write_bytes(damage(path.read_bytes()))
    assert convert(tmp_path, value=2) == path
    again = weight_file(tmp_path, KEY, "float32", ROOM)
    assert again.is_filled
    assert (again.take((10, 3), np.float32) == 2).all()


@pytest.mark.parametrize("place", [HEADER, HEADER + 60, -1])
def test_a_flipped_bit_is_found_by_the_checksum_and_not_at_a_start(
    tmp_path: Path, place: int
) -> None:
    path = convert(tmp_path)
    assert is_as_written(path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert not is_as_written(path)
    assert weight_file(tmp_path, KEY, "float32", ROOM).is_filled  # sizes alone are compared


def test_a_file_that_would_be_written_again_is_not_called_damaged(tmp_path: Path) -> None:
    path = convert(tmp_path)
    path.write_bytes(path.read_bytes().replace(MARK, b"cullama weights 1\n"))
    assert is_as_written(path)
    assert not weight_file(tmp_path, KEY, "float32", ROOM).is_filled


def test_versions_of_a_model_replace_each_other(tmp_path: Path) -> None:
    old = convert(tmp_path, "/models/llama.gguf|1000|1")
    other_layout = convert(tmp_path, "/models/llama.gguf|1000|1", layout="bfloat16")
    other_model = convert(tmp_path, "/models/qwen.gguf|1000|1")
    new = convert(tmp_path, "/models/llama.gguf|1000|2")
    assert not old.exists()
    assert len({new, other_layout, other_model}) == 3
    assert all(path.exists() for path in (new, other_layout, other_model))


def test_a_run_with_the_old_version_keeps_its_pages(tmp_path: Path) -> None:
    convert(tmp_path, "/models/llama.gguf|1000|1", value=1)
    running = weight_file(tmp_path, "/models/llama.gguf|1000|1", "float32", ROOM)
    array = running.take((10, 3), np.float32)
    convert(tmp_path, "/models/llama.gguf|1000|2", value=2)
    assert (array == 1).all()


def test_what_a_killed_process_left_is_removed_in_the_end(tmp_path: Path) -> None:
    """Or every interrupted start would cost gigabytes for ever; a young one may be in use."""
    code = (
        "import os, sys, numpy; from pathlib import Path; from cullama.cpu.storage import *;"
        "f = weight_file(Path(sys.argv[1]), sys.argv[2], 'float32', 1 << 20);"
        "f.take((10, 3), numpy.float32)[:] = 1; os._exit(9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, tmp_path, KEY], check=False, timeout=30)
    assert killed.returncode == 9
    [part] = tmp_path.iterdir()
    assert part.suffix != ".weights"
    convert(tmp_path, "/models/another.gguf|1000|1")
    assert part.exists()
    days_ago = time.time() - 2 * storage.ABANDONED_AFTER
    os.utime(part, (days_ago, days_ago))
    convert(tmp_path)
    assert not part.exists()


CONVERT = """
import sys, numpy
from pathlib import Path
from cullama.cpu.storage import weight_file

file = weight_file(Path(sys.argv[1]), sys.argv[2], "float32", 1 << 20)
print(file.is_filled, flush=True)
array = file.take((1000, 30), numpy.float32)
array[:500] = 7
sys.stdin.readline()
array[500:] = 7
file.finish()
file.abandon()
"""


def test_two_processes_may_convert_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CONVERT, str(tmp_path), KEY]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    first, second = (subprocess.Popen(command, **pipes) for _ in range(2))
    assert [process.stdout and process.stdout.readline() for process in (first, second)] == [
        "False\n"
    ] * 2
    for process in (first, second):
        process.communicate("go\n", timeout=30)
        assert process.returncode == 0
    again = weight_file(tmp_path, KEY, "float32", ROOM)
    assert again.is_filled
    assert (again.take((1000, 30), np.float32) == 7).all()
    assert files_in(tmp_path) == [again.path.name]


TWICE = """
import sys, numpy
from pathlib import Path
from cullama.cpu.storage import weight_file

files = [weight_file(Path(sys.argv[1]), sys.argv[2], "float32", 1 << 20) for _ in range(2)]
first = files[0].take((1000, 30), numpy.float32)
second = files[1].take((10, 3), numpy.float32)
first[:], second[:] = 1, 2
assert (first == 1).all()
for file in files:
    file.finish()
assert (second == 2).all()
"""


def test_two_threads_of_a_process_may_convert_at_once(tmp_path: Path) -> None:
    """In a process of its own: touching a mapping of a file that was cut kills the process."""
    for name, program in (("equal", TWICE.replace("1000, 30", "10, 3")), ("longer", TWICE)):
        command = [sys.executable, "-c", program, str(tmp_path / name), KEY]
        assert subprocess.run(command, check=False, timeout=30).returncode == 0


# --- as the operators use it


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_converted_once_and_then_mapped(tmp_path: Path, dtype: str) -> None:
    values = matrices()
    first = load(tmp_path, [stored(value) for value in values], dtype)
    [name] = files_in(tmp_path)
    assert name.endswith(".weights")
    second = load(tmp_path, [unreadable(value) for value in values], dtype)
    for value, converted, mapped in zip(values, first, second, strict=True):
        assert type(mapped) is type(converted)
        assert converted.data.dtype == mapped.data.dtype == dtype
        np.testing.assert_array_equal(converted.data, mapped.data)
        np.testing.assert_array_equal(rows_of(mapped, len(value)), value.astype(dtype))
        assert mapped.data.shape == converted.data.shape
        assert mapped.data.strides == converted.data.strides


def test_two_loads_share_the_pages_of_one_file(tmp_path: Path) -> None:
    load(tmp_path, [stored(value) for value in matrices()])
    [path] = tmp_path.iterdir()
    mapped = [load(tmp_path, [unreadable(value) for value in matrices()]) for _ in range(2)]
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux tells what is mapped")
    assert maps.read_text().count(str(path)) >= 2 * len(mapped[0])


def test_each_type_has_a_file_of_its_own(tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        load(tmp_path, [stored(value) for value in matrices()], dtype)
    assert len(files_in(tmp_path)) == 2


def test_a_load_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    values = matrices()
    with pytest.raises(AssertionError, match="read again"):
        load(tmp_path, [stored(values[0]), unreadable(values[1])])
    assert files_in(tmp_path) == []
    load(tmp_path, [stored(value) for value in values])
    assert len(files_in(tmp_path)) == 1


def test_nothing_is_kept_without_a_folder_or_a_key(tmp_path: Path) -> None:
    [value] = matrices(1)
    load(None, [stored(value)])
    operators = operators_for("cpu:numpy", "float32", 1, tmp_path)
    with operators.loading(None, [stored(value)]):
        operators.weight([stored(value)])
    assert files_in(tmp_path) == []


# --- where it cannot be kept


def assert_loads_with_one_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    """The load goes on in fresh memory; one line says that it will be slow again, and why."""
    values = matrices()
    with caplog.at_level(logging.DEBUG, "cullama"):
        weights = load(folder, [stored(value) for value in values])
    for value, weight in zip(values, weights, strict=True):
        np.testing.assert_array_equal(rows_of(weight, len(value)), value)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("cullama", logging.WARNING)
    message = record.getMessage()
    assert len(message.splitlines()) == 1
    assert str(folder) in message
    assert reason in message


def test_a_folder_that_cannot_be_made_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert_loads_with_one_warning(tmp_path / "file" / "converted", caplog, "Not a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o500)
    assert_loads_with_one_warning(tmp_path, caplog, "Permission denied")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def allocate(descriptor: int, start: int, size: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", allocate, raising=False)
    assert_loads_with_one_warning(tmp_path, caplog, os.strerror(code))
    assert files_in(tmp_path) == []


def test_all_the_room_is_taken_before_anything_is_written(tmp_path: Path) -> None:
    """Writing to a mapping for which the disk has no room kills the process."""
    file = weight_file(tmp_path, KEY, "float32", ROOM)
    [part] = tmp_path.iterdir()
    assert part.stat().st_blocks * 512 >= ROOM
    file.take((10, 3), np.float32)[:] = 1
    file.finish()
    assert file.path.stat().st_size < ROOM


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_end_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, step, fail)
    assert_loads_with_one_warning(tmp_path, caplog, os.strerror(errno.EIO))
    assert files_in(tmp_path) == []


# --- where there is too little memory


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cullama.cpu.backend.available_memory", lambda **options: 100)


@pytest.mark.usefixtures("little_memory")
def test_weights_that_do_not_fit_are_refused_before_any_is_read() -> None:
    with pytest.raises(HostMemoryError, match=r"need 0\.\d MB, and 0\.0 MB of memory are free"):
        load(None, [unreadable(value) for value in matrices()])


@pytest.mark.usefixtures("little_memory")
def test_weights_that_are_mapped_need_not_fit_and_a_warning_says_what_that_costs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = matrices()
    weights = load(tmp_path, [stored(value) for value in values])
    assert len(weights) == len(values)
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "read from the disk again and again" in warning.getMessage()


def test_memory_that_is_gone_while_weights_are_read_is_named() -> None:
    def tiles() -> Iterator[Array]:
        raise MemoryError

    tensor = StoredTensor("a weight", (4, 4), "F32", tiles)
    with pytest.raises(HostMemoryError, match="the system gives no more; raise the limit"):
        load(None, [tensor])


LIMITED = """
import resource, sys
import cullama
from cullama.checkpoint.opening import open_checkpoint
from dataclasses import replace
from pathlib import Path

checkpoint = open_checkpoint(Path(sys.argv[1]))
from cullama.backends import operators_for

def unreadable():
    raise AssertionError("read, although there is no room")

big = replace(checkpoint.tensors["lm_head.weight"], shape=(1 << 20, 1 << 10), tiles=unreadable)
operators = operators_for("cpu:numpy", "float32", 1, None)
used = int(next(line for line in open("/proc/self/status") if line[:7] == "VmSize:").split()[1])
resource.setrlimit(resource.RLIMIT_AS, ((used << 10) + (1 << 30),) * 2)
try:
    with operators.loading(None, [big]):
        operators.weight([big])
except cullama.errors.HostMemoryError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
def test_a_limit_of_the_process_is_met_before_weights_are_read(tiny_model: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(tiny_model)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.startswith("the weights need 4.3 GB, and 1.")


# --- as the library uses it


def test_a_model_with_a_key_is_kept_in_the_cache_and_writes_the_same(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CULLAMA_CACHE", str(tmp_path))
    checkpoint = replace(open_checkpoint(tiny_model), conversion_key=KEY)
    converted = tmp_path / "converted"
    params = cullama.SamplingParams(max_tokens=8, seed=1)
    texts = []
    for keep in (False, True, True):
        with cullama.LLM(checkpoint, backend="cpu:numpy", keep_converted=keep) as llm:
            texts.append(llm.generate("Once", params).text)
        assert len(files_in(converted)) == (1 if keep else 0)
    assert texts == texts[:1] * 3


def test_damaged_converted_weights_are_named_with_their_remedy_where_logits_are_nan(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CULLAMA_CACHE", str(tmp_path))
    checkpoint = replace(open_checkpoint(tiny_model), conversion_key=KEY)
    with cullama.LLM(checkpoint, backend="cpu:numpy"):
        pass
    [path] = (tmp_path / "converted").iterdir()
    content = bytearray(path.read_bytes())
    content[HEADER:] = b"\xff" * (len(content) - HEADER)
    path.write_bytes(content)
    llm = cullama.LLM(checkpoint, backend="cpu:numpy")
    with llm, pytest.raises(NumericalError, match=r"logits hold nan.*models --remove converted"):
        llm.generate("Once")


def test_damaged_weights_of_a_model_that_is_not_converted_are_not_called_converted(
    tmp_path: Path, write_model: Any, tiny_tensors: Any
) -> None:
    tiny_tensors["model.norm.weight"][:] = np.nan
    folder = write_model(tmp_path, tiny_tensors)
    llm = cullama.LLM(folder, backend="cpu:numpy")
    with llm, pytest.raises(NumericalError, match=r"logits hold nan.*files damaged") as caught:
        llm.generate([1, 2])
    assert "converted" not in str(caught.value)
