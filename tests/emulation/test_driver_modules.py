"""Modules and launches of the emulated driver: which PTX, arguments and sizes it accepts."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import pytest

from cullama.emulation import device
from emulation.driver_calls import (
    allocated,
    code,
    contents,
    cu,
    launch,
    ok,
    pinned,
    ptx,
    scale_function,
)


def load_with_log(image: bytes) -> tuple[int, str]:
    """Load an image; return the status and the driver's error log."""
    log = bytes(512)  # the driver writes into it; the bindings accept only bytes
    options = [
        cu.CUjit_option.CU_JIT_ERROR_LOG_BUFFER,
        cu.CUjit_option.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ]
    result = code(cu.cuModuleLoadDataEx(image, len(options), options, [log, len(log)]))
    return result, log.partition(b"\0")[0].decode()


@pytest.mark.parametrize(
    ("driver", "version", "expected"),
    [
        (11080, "7.8", 0),
        (11080, "8.0", 222),
        (12000, "8.0", 0),
        (12060, "8.5", 0),
        (12060, "8.6", 222),
        (12090, "8.8", 0),
        (12090, "9.0", 222),
        (13000, "9.0", 0),
        (13000, "9.1", 222),
    ],
)
def test_ptx_that_is_newer_than_the_driver_is_refused(
    gpu: device.EmulatedGpu, driver: int, version: str, expected: int
) -> None:
    gpu.set("driver_version", driver)
    result, log = load_with_log(ptx(version=version))
    assert result == expected
    assert (f"Unsupported .version {version}; current version is" in log) == (expected == 222)
    assert ok(cu.cuDriverGetVersion()) == driver


@pytest.mark.parametrize(
    ("capability", "target", "complaint"),
    [
        (80, "sm_80", ""),
        (120, "sm_80", ""),
        (80, "sm_90", "higher than default SM version"),
        (90, "sm_90a", ""),
        (100, "sm_90a", "cannot be compiled to future architecture"),
        (103, "sm_100f", ""),
        (120, "sm_100f", "cannot be compiled to future architecture"),
    ],
)
def test_ptx_for_another_device_is_refused(
    gpu: device.EmulatedGpu, capability: int, target: str, complaint: str
) -> None:
    gpu.set("compute_capabilities", capability)
    result, log = load_with_log(ptx(target=target))
    assert result == (218 if complaint else 0)
    assert complaint in log
    assert complaint in gpu.report()


@pytest.mark.parametrize(
    ("image", "expected", "complaint"),
    [
        (b"\0", 218, "Missing .version"),
        (b"// .version 8.0\n.target sm_80\n\0", 218, "Missing .version"),
        (b".version 8.0\n\0", 218, "Missing .target"),
        (b".version 8.0\n.target sm_80\n\0", 218, "no .entry"),
        (ptx()[:-4] + b"\0", 218, "syntax error"),
        (ptx()[:-1] + b"garbage\0", 218, "Parsing error near 'garbage'"),
        (b"\x7fELF" + bytes(60), 209, "only PTX"),
    ],
)
def test_images_that_are_not_ptx_are_refused(
    gpu: device.EmulatedGpu, image: bytes, expected: int, complaint: str
) -> None:
    result, log = load_with_log(image)
    assert result == expected
    assert complaint in log


def test_an_image_without_a_nul_is_refused_not_read_past_its_memory(
    gpu: device.EmulatedGpu,
) -> None:
    text = ptx()[:-1]
    pages = mmap.mmap(-1, 3 * mmap.PAGESIZE)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    end = begin + 2 * mmap.PAGESIZE
    ctypes.memmove(end - len(text), text, len(text))
    libc = ctypes.CDLL(None)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert libc.mprotect(end, mmap.PAGESIZE, 0) == 0
    assert code(cu.cuModuleLoadData(end - len(text))) == 218
    assert "does not end with a NUL" in gpu.report()


def test_an_unknown_instruction_is_named(gpu: device.EmulatedGpu) -> None:
    strange = ptx().replace(b"mul.f32", b"mul.f31")
    module = ok(cu.cuModuleLoadData(strange))
    assert code(cu.cuModuleGetFunction(module, b"scale")) == 218
    assert "mul.f31" in gpu.report()


def test_functions_are_found_by_name_until_the_module_is_unloaded(gpu: device.EmulatedGpu) -> None:
    module = ok(cu.cuModuleLoadData(ptx()))
    for missing in (b"scal", b"scale2", b"in_a_comment"):
        assert code(cu.cuModuleGetFunction(module, missing)) == 500
    function = ok(cu.cuModuleGetFunction(module, b"scale"))
    assert int(ok(cu.cuModuleGetFunction(module, b"scale"))) == int(function)
    ok(cu.cuModuleUnload(module))
    assert code(cu.cuModuleUnload(module)) == 400
    assert code(cu.cuModuleGetFunction(module, b"scale")) == 400
    assert launch(function, allocated([1]), 2, 1) == 400


def attribute_of(function: Any, name: str) -> int:
    attribute = getattr(cu.CUfunction_attribute, f"CU_FUNC_ATTRIBUTE_{name}")
    return int(ok(cu.cuFuncGetAttribute(attribute, function)))


def test_functions_have_attributes(gpu: device.EmulatedGpu) -> None:
    module = ok(cu.cuModuleLoadData(ptx()))
    scale = ok(cu.cuModuleGetFunction(module, b"scale"))
    shared = ok(cu.cuModuleGetFunction(module, b"uses_shared"))
    assert attribute_of(scale, "MAX_THREADS_PER_BLOCK") == 256
    assert attribute_of(shared, "MAX_THREADS_PER_BLOCK") == 1024
    assert attribute_of(shared, "SHARED_SIZE_BYTES") == 1024
    assert attribute_of(shared, "MAX_DYNAMIC_SHARED_SIZE_BYTES") == 47 * 1024
    assert attribute_of(scale, "LOCAL_SIZE_BYTES") == 0
    assert attribute_of(scale, "PTX_VERSION") == 80
    assert attribute_of(scale, "BINARY_VERSION") == 90


def test_more_than_48_kib_of_shared_memory_needs_an_attribute(gpu: device.EmulatedGpu) -> None:
    gpu.set("compute_capabilities", 80)
    name = cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    function, pointer = scale_function(), allocated([1])
    assert launch(function, pointer, 2, 1, shared=48 * 1024 + 1) == 1
    assert "dynamic shared memory" in gpu.report()
    assert code(cu.cuFuncSetAttribute(function, name, 163 * 1024 + 1)) == 1
    ok(cu.cuFuncSetAttribute(function, name, 163 * 1024))
    assert launch(function, pointer, 2, 1, shared=163 * 1024) == 0
    assert contents(pointer, 1) == [2]


@pytest.mark.parametrize(
    ("grid", "block"),
    [
        ((0, 1, 1), (32, 1, 1)),
        ((1, 65536, 1), (32, 1, 1)),
        ((1, 1, 65536), (32, 1, 1)),
        ((1, 1, 1), (0, 1, 1)),
        ((1, 1, 1), (257, 1, 1)),
        ((1, 1, 1), (1, 1, 65)),
        ((1, 1, 1), (1, 1025, 1)),
    ],
)
def test_launches_of_impossible_sizes_are_refused(
    gpu: device.EmulatedGpu, grid: tuple[int, int, int], block: tuple[int, int, int]
) -> None:
    assert launch(scale_function(), allocated([1]), 2, 1, grid=grid, block=block) == 1


def test_arguments_are_required_and_copied_at_the_call(gpu: device.EmulatedGpu) -> None:
    function, pointer = scale_function(), allocated([1])
    assert code(cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, 0, 0, 0)) == 1
    where, factor, count = ctypes.c_uint64(int(pointer)), ctypes.c_float(3), ctypes.c_uint32(1)
    values = (where, factor, count)
    addresses = (ctypes.c_void_p * 3)(*[ctypes.addressof(value) for value in values])
    ok(cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, 0, ctypes.addressof(addresses), 0))
    factor.value = 100
    assert contents(pointer, 1) == [3]
    addresses[1] = None
    result = cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, 0, ctypes.addressof(addresses), 0)
    assert code(result) == 1
    assert "argument 1 of 3 is missing" in gpu.report()


def test_kernels_reach_pinned_memory_but_no_other_host_memory(gpu: device.EmulatedGpu) -> None:
    function, host = scale_function(), pinned(1)
    host[:] = 3
    assert launch(function, host.ctypes.data, 2, 1) == 0
    ok(cu.cuCtxSynchronize())
    assert host.tolist() == [6]
    pageable = np.ones(1, np.float32)
    assert launch(function, pageable.ctypes.data, 2, 1) == 0
    assert code(cu.cuCtxSynchronize()) == 700


@pytest.mark.parametrize("order", device.BLOCK_ORDERS)
def test_kernels_run_in_any_order_of_blocks(gpu: device.EmulatedGpu, order: str) -> None:
    gpu.schedule(order, seed=3)
    pointer = allocated(range(1000))
    assert launch(scale_function(), pointer, 2, 1000, grid=(8, 1, 1), block=(128, 1, 1)) == 0
    assert contents(pointer, 1000) == [2 * i for i in range(1000)]
