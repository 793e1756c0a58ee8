"""Calls to the emulated driver, shared by its tests: allocate, copy, launch a kernel of one line.

Importing this skips the importing test module where the machine cannot run the emulated driver.
It makes no assertion but that its own calls succeed.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cullama.emulation import device

if reason := device.missing():
    pytest.skip(reason, allow_module_level=True)

from cuda.bindings import driver

cu: Any = driver
TESTS = Path(__file__).resolve().parents[1]
PYTHONPATH = f"{TESTS}:{TESTS.parent / 'src'}"

SCALE = """
.version {version}
.target {target}
.address_size 64

// data[i] *= factor for i < count; .entry in_a_comment(
.visible .entry scale(.param .u64 data, .param .f32 factor, .param .u32 count)
.maxntid 256, 1, 1
{{
    .reg .pred %p<2>;
    .reg .f32 %f<4>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [data];
    ld.param.f32 %f1, [factor];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.f32 %f2, [%rd4];
    mul.f32 %f3, %f2, %f1;
    st.global.f32 [%rd4], %f3;
DONE:
    ret;
}}

.visible .entry uses_shared()
{{
    .shared .align 4 .b8 room[1024];
    .reg .b32 %r<2>;
    mov.u32 %r1, 1;
    st.shared.u32 [room], %r1;
    ret;
}}
"""


def ptx(version: str = "8.0", target: str = "sm_80") -> bytes:
    return SCALE.format(version=version, target=target).encode() + b"\0"


def code(result: Any) -> int:
    return int(result[0])


def ok(result: Any) -> Any:
    assert code(result) == 0, cu.CUresult(result[0]).name
    return result[1] if len(result) == 2 else result[1:]


def allocated(values: Any) -> Any:
    """Device memory with these values in it."""
    array = np.asarray(values, np.float32)
    pointer = ok(cu.cuMemAlloc(array.nbytes))
    ok(cu.cuMemcpyHtoD(pointer, array.ctypes.data, array.nbytes))
    return pointer


def pinned(size: int) -> NDArray[np.float32]:
    """Pinned host memory for `size` floats."""
    pointer = ok(cu.cuMemHostAlloc(size * 4, 0))
    return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (size,))


def contents(pointer: Any, size: int) -> list[float]:
    host = np.zeros(size, np.float32)
    ok(cu.cuMemcpyDtoH(host.ctypes.data, pointer, host.nbytes))
    return [float(value) for value in host]


def scale_function(image: bytes | None = None) -> Any:
    module = ok(cu.cuModuleLoadData(image or ptx()))
    return ok(cu.cuModuleGetFunction(module, b"scale"))


def launch(
    function: Any,
    pointer: Any,
    factor: float,
    count: int,
    stream: Any = 0,
    *,
    grid: tuple[int, int, int] = (1, 1, 1),
    block: tuple[int, int, int] = (32, 1, 1),
    shared: int = 0,
) -> int:
    values = (ctypes.c_uint64(int(pointer)), ctypes.c_float(factor), ctypes.c_uint32(count))
    addresses = (ctypes.c_void_p * 3)(*[ctypes.addressof(value) for value in values])
    where = ctypes.addressof(addresses)
    return code(cu.cuLaunchKernel(function, *grid, *block, shared, stream, where, 0))


def fill(pointer: Any, value: float, count: int, stream: Any) -> int:
    bits = int(np.float32(value).view(np.uint32))
    return code(cu.cuMemsetD32Async(pointer, bits, count, stream))


def in_process(script: str, **environment: Any) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process that finds the emulated GPU as any program would."""
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **device.environment(**environment), "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
