"""Machine code: compiled once, kept whole, never run where it is not what was written."""

from __future__ import annotations

import ctypes
import runpy
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from compiled_cpu import NAMES, in_each_instruction_set

from cullama.cpu.jit import compiler as compiling
from cullama.cpu.jit.compiler import JIT, Kernel, address_of
from cullama.cpu.jit.instruction_sets import choose_instruction_set
from cullama.cpu.jit.kernel_builder import F32, I64, POINTER, KernelBuilder, Value

BEST = NAMES[0]


def _doubled(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
    builder.store(builder.load(I64, a.x + chunk * 8) * 2, a.x + chunk * 8)


DOUBLED = Kernel("doubled", {"x": POINTER}, _doubled)
SAME = Kernel("same", {"x": POINTER}, lambda builder, a, chunk: None)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of kernels as they are compiled."""
    names: list[str] = []
    generate = JIT._generate_code

    def noted(jit: JIT, kernel: Kernel) -> bytes:
        names.append(kernel.name)
        return generate(jit, kernel)

    monkeypatch.setattr(JIT, "_generate_code", noted)
    return names


def works(folder: Path | None, name: str = BEST, kernel: Kernel = DOUBLED) -> bool:
    """Whether a new JIT compiles a kernel that does what it should."""
    jit = JIT(choose_instruction_set(name), folder)
    compiled = jit.compile(kernel)
    x = np.array([5, 6, 7], np.int64)
    run = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64)(compiled.address)
    run(compiled.record({"x": x}), 1)
    return x.tolist() == [5, 12, 7]


def kept(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


# --- compiled once -------------------------------------------------------------------------------


def test_a_jit_compiles_a_kernel_once(written: list[str]) -> None:
    jit = JIT(choose_instruction_set(BEST), None)
    first = jit.compile(DOUBLED)
    assert jit.compile(DOUBLED) is first
    assert jit.compile(SAME) is not first
    assert written == ["doubled", "same"]


def test_compiling_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cullama")
    jit = JIT(choose_instruction_set(BEST), tmp_path)
    jit.compile(DOUBLED)
    jit.compile(SAME)
    told = [f"compiling kernels for this processor, to be kept in {tmp_path}"]
    assert caplog.messages == told
    JIT(choose_instruction_set(BEST), tmp_path).compile(DOUBLED)
    assert caplog.messages == told, "a second start compiles nothing"


@in_each_instruction_set
def test_a_second_start_compiles_nothing(tmp_path: Path, written: list[str], name: str) -> None:
    folder = tmp_path / "not" / "there yet"
    assert works(folder, name)
    assert works(folder, name)
    assert written == ["doubled"]
    assert len(kept(folder)) == 1


def test_without_a_folder_nothing_is_kept(
    tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert works(None)
    assert works(None)
    assert written == ["doubled"] * 2
    assert kept(tmp_path) == []


def test_each_kernel_and_each_instruction_set_has_a_file_of_its_own(tmp_path: Path) -> None:
    for name in NAMES:
        jit = JIT(choose_instruction_set(name), tmp_path)
        for kernel in (DOUBLED, SAME):
            jit.compile(kernel)
    assert len(kept(tmp_path)) == 2 * len(NAMES)


def test_other_sources_or_another_compiler_compile_again(
    tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert works(tmp_path)
    JIT(replace(choose_instruction_set(BEST), max_accumulators=1), tmp_path).compile(DOUBLED)
    assert len(written) == 2
    monkeypatch.setattr(compiling, "_sources", lambda: "edited")
    assert works(tmp_path)
    monkeypatch.setattr("llvmlite.__version__", "99.0")
    assert works(tmp_path)
    assert len(written) == len(kept(tmp_path)) == 4


SOMEBODY_S = """
from cullama.cpu.jit.kernel_builder import POINTER
from cullama.cpu.jit.compiler import Kernel

def body(builder, a, chunk):
    builder.store(builder.i64(NUMBER), a.x + chunk * 8)

KERNEL = Kernel("user_kernel", {"x": POINTER}, body)
"""


def given(kernel: Kernel, folder: Path) -> int:
    x = np.zeros(3, np.int64)
    jit = JIT(choose_instruction_set(BEST), folder)  # its code goes when it does
    compiled = jit.compile(kernel)
    run = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64)(compiled.address)
    run(compiled.record({"x": x}), 1)
    return int(x[1])


def test_a_user_s_kernel_is_compiled_again_when_its_file_changes(
    tmp_path: Path, written: list[str]
) -> None:
    for number in (1, 1, 2, 2):
        source = tmp_path / "mine.py"
        source.write_text(SOMEBODY_S.replace("NUMBER", str(number)) + "# größer\n", "utf-8")
        names = runpy.run_path(str(source))
        assert given(names["KERNEL"], tmp_path / "kernels") == number
    assert len(written) == 2


def test_a_kernel_typed_into_a_notebook_is_not_kept(tmp_path: Path, written: list[str]) -> None:
    for number in (1, 2):
        names: dict[str, Any] = {}
        exec(compile(SOMEBODY_S.replace("NUMBER", str(number)), "<cell 1>", "exec"), names)
        assert given(names["KERNEL"], tmp_path / "kernels") == number
    assert not (tmp_path / "kernels").exists()
    assert len(written) == 2


# --- kept whole ----------------------------------------------------------------------------------


def flipped(place: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "a mark and nothing else": lambda data: data[:32],
    "half": lambda data: data[: len(data) // 2],
    "all but the last byte": lambda data: data[:-1],
    "more than all": lambda data: data + b"\0",
    "a bit in the middle": lambda data: flipped(len(data) // 2)(data),
    "a bit in the first byte": flipped(0),
    "a bit in the first byte of code": flipped(32),
    "zeros, as after a power cut": lambda data: bytes(len(data)),
    "something else": lambda data: b"\x7fELF" * 1000,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_code_is_never_run(
    tmp_path: Path, written: list[str], damage: Callable[[bytes], bytes]
) -> None:
    assert works(tmp_path)
    (path,) = kept(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert works(tmp_path)
    assert len(written) == 2
    assert path.read_bytes() == whole  # and mended
    assert kept(tmp_path) == [path]


def test_a_folder_that_cannot_be_written_costs_time_and_a_warning(
    tmp_path: Path, written: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / "kernels"
    jit = JIT(choose_instruction_set(BEST), folder)
    jit.compile(DOUBLED)
    jit.compile(SAME)
    assert caplog.messages == [
        f"cannot keep compiled kernels in {folder} (Not a directory); "
        "they are compiled again at each start"
    ]
    assert works(folder)
    assert len(written) == 3


def test_a_disk_that_is_full_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert works(tmp_path)
    assert kept(tmp_path) == []
    assert works(tmp_path)


def test_a_file_in_its_place_that_is_a_folder_is_left_alone(tmp_path: Path) -> None:
    assert works(tmp_path)
    (path,) = kept(tmp_path)
    path.unlink()
    path.mkdir()
    assert works(tmp_path)
    assert path.is_dir()


# --- several at once -----------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from cullama.cpu.compiled.rows import COPY_ROWS, RMS_NORM, SILU_MUL
from cullama.cpu.jit.compiler import JIT, address_of
from cullama.cpu.jit.instruction_sets import choose_instruction_set
from cullama.cpu.jit.program import step
from cullama.cpu.jit.thread_pool import KernelThreadPool

jit = JIT(choose_instruction_set(""), Path(sys.argv[1]))
thread_pool = KernelThreadPool(jit, 2)
x, ones, out = (np.full((8, 16), value, np.float32) for value in (3, 1, np.nan))
for kernel in (RMS_NORM, SILU_MUL, COPY_ROWS):
    jit.compile(kernel)
arguments = dict(x=x, weight=ones, out=out, rows=8, columns=16, eps=0)
record = step(jit.compile(RMS_NORM), 2, arguments)
thread_pool.execute(np.array([address_of(record)], np.int64))
assert (out == 1).all(), out
"""


def test_processes_that_start_at_once_share_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "kernels")]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    names = [path.name.split("-")[0] for path in kept(tmp_path / "kernels")]
    assert sorted(names) == ["copy_rows", "execute", "rms_norm", "silu_mul", "worker_loop"]


def test_two_threads_may_ask_for_one_kernel_at_once() -> None:
    jit = JIT(choose_instruction_set(BEST), None)
    start, found = threading.Barrier(4), []

    def ask() -> None:
        start.wait()
        found.append(jit.compile(DOUBLED).address)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


# --- arguments -----------------------------------------------------------------------------------

FIELDS = {"first": I64, "array": POINTER, "nothing": POINTER, "number": F32, "last": I64}


def test_a_record_has_eight_bytes_for_each_argument() -> None:
    compiled = compiling.CompiledKernel("any", 0, FIELDS)
    array = np.zeros((3, 4), np.float32)[1:]
    record = compiled.record(
        {"last": 2**40, "number": 0.5, "nothing": None, "array": array, "first": -1}
    )
    expected = struct.pack("<qqqf4xq", -1, array.ctypes.data, 0, 0.5, 2**40)
    assert record == expected
    assert address_of(array) == array.ctypes.data


@pytest.mark.parametrize("change", [{"typo": 1}, {"first": ...}], ids=str)
def test_arguments_that_are_not_a_kernel_s_are_found_out(change: dict[str, object]) -> None:
    compiled = compiling.CompiledKernel("any", 0, FIELDS)
    arguments = {**dict.fromkeys(FIELDS, 0), **change}
    arguments = {name: value for name, value in arguments.items() if value is not ...}
    with pytest.raises(AssertionError, match=next(iter(change))):
        compiled.record(arguments)
