"""The emulated cuBLAS against numpy, and what the real one refuses.

The library is called as the backend calls it: through ctypes, in a stream of the emulated driver.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from cullama.emulation import device
from emulation.driver_calls import cu, ok

Array = NDArray[Any]

FLOAT32, FLOAT16, BFLOAT16 = 0, 2, 14
DTYPES = {
    FLOAT32: np.dtype(np.float32),
    FLOAT16: np.dtype(np.float16),
    BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
TOLERANCES = {FLOAT32: 1e-5, FLOAT16: 1e-3, BFLOAT16: 8e-3}
COMPUTE_FLOAT32, COMPUTE_FLOAT16 = 68, 64
KEEP, TRANSPOSE, CONJUGATE = 0, 1, 2
FLOAT32_SUMS = 16  # CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION
SUPPORTED = [
    (FLOAT32, FLOAT32),
    (FLOAT16, FLOAT16),
    (FLOAT16, FLOAT32),
    (BFLOAT16, BFLOAT16),
    (BFLOAT16, FLOAT32),
]
NOT_INITIALIZED, INVALID_VALUE, EXECUTION_FAILED, NOT_SUPPORTED = 1, 7, 13, 15


class Cublas:
    """A handle with its own stream and workspace."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcublas.so.13")
        self.handle = ctypes.c_void_p()
        assert self.library.cublasCreate_v2(ctypes.byref(self.handle)) == 0
        self.stream = ok(cu.cuStreamCreate(1))
        self.workspace = ok(cu.cuMemAlloc(1 << 16))
        assert self.set_stream() == 0
        assert self.set_workspace() == 0
        assert self.set_math_mode(FLOAT32_SUMS) == 0

    def set_math_mode(self, mode: int) -> int:
        return int(self.library.cublasSetMathMode(self.handle, mode))

    def set_stream(self) -> int:
        stream = ctypes.c_void_p(int(self.stream))
        return int(self.library.cublasSetStream_v2(self.handle, stream))

    def set_workspace(self, offset: int = 0, size: int = 1 << 16) -> int:
        workspace = ctypes.c_void_p(int(self.workspace) + offset)
        return int(
            self.library.cublasSetWorkspace_v2(self.handle, workspace, ctypes.c_size_t(size))
        )

    def gemm(
        self,
        sizes: tuple[int, int, int],
        matrices: tuple[Any, Any, Any],
        leading: tuple[int, int, int],
        *,
        operations: tuple[int, int] = (KEEP, KEEP),
        types: tuple[int, int, int] = (FLOAT32, FLOAT32, FLOAT32),
        scales: tuple[float, float] = (1.0, 0.0),
        compute: int = COMPUTE_FLOAT32,
        strides: tuple[int, int, int] | None = None,
        batch: int = 1,
    ) -> int:
        """cublasGemmEx, or with strides cublasGemmStridedBatchedEx, in the library's own order."""
        alpha, beta = map(ctypes.c_float, scales)
        operands: list[list[Any]] = []
        for i in range(3):
            operands.append([ctypes.c_void_p(int(matrices[i])), types[i], leading[i]])
            if strides:
                operands[-1].append(ctypes.c_longlong(strides[i]))
        a, b, c = operands
        call = self.library.cublasGemmStridedBatchedEx if strides else self.library.cublasGemmEx
        batches = [batch] if strides else []
        before = [self.handle, *operations, *sizes, ctypes.byref(alpha), *a, *b]
        return int(call(*before, ctypes.byref(beta), *c, *batches, compute, -1))


@pytest.fixture
def cublas(gpu: device.EmulatedGpu) -> Cublas:
    return Cublas()


def upload(array: Array) -> Any:
    contiguous = np.ascontiguousarray(array)
    pointer = ok(cu.cuMemAlloc(contiguous.nbytes))
    ok(cu.cuMemcpyHtoD(pointer, contiguous.ctypes.data, contiguous.nbytes))
    return pointer


def download(pointer: Any, like: Array) -> Array:
    host = np.empty_like(like)
    ok(cu.cuCtxSynchronize())
    ok(cu.cuMemcpyDtoH(host.ctypes.data, pointer, host.nbytes))
    return host


def drawn(seed: int, shape: tuple[int, ...], kind: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(DTYPES[kind])


def columns_of(stored: Array, rows: int) -> Array:
    """The column-major matrix stored in `stored` [..., columns, leading]."""
    return np.swapaxes(stored[..., :rows], -1, -2).astype(np.float32)


def assert_close(found: Array, expected: Array, kind: int) -> None:
    scale = float(np.sqrt(np.mean(expected**2))) if expected.size else 0.0
    tolerance = TOLERANCES[kind]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("kinds", SUPPORTED)
@pytest.mark.parametrize("operations", [(0, 0), (1, 0), (0, 1), (1, 1), (2, 2)])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (17, 5, 33), (64, 3, 200), (5, 70, 401), (16, 4, 0)])
def test_products_equal_numpys(
    cublas: Cublas, sizes: tuple[int, int, int], operations: tuple[int, int], kinds: tuple[int, int]
) -> None:
    m, n, k = sizes
    kind, result = kinds
    rows_a, columns_a = (k, m) if operations[0] else (m, k)
    rows_b, columns_b = (n, k) if operations[1] else (k, n)
    a = drawn(1, (max(columns_a, 1), rows_a + 3), kind)
    b = drawn(2, (max(columns_b, 1), rows_b + 1), kind)
    c = drawn(3, (n, m + 2), result)
    pointers = upload(a), upload(b), upload(c)
    status = cublas.gemm(
        sizes,
        pointers,
        (rows_a + 3, rows_b + 1, m + 2),
        operations=operations,
        types=(kind, kind, result),
        scales=(0.5, -2.0),
    )
    assert status == 0
    left, right = columns_of(a[:columns_a], rows_a), columns_of(b[:columns_b], rows_b)
    left = left.T if operations[0] else left
    right = right.T if operations[1] else right
    expected = 0.5 * (left @ right) - 2.0 * columns_of(c, m)
    found = download(pointers[2], c)
    assert_close(columns_of(found, m), expected, result)
    assert (found[:, m:] == c[:, m:]).all()  # between the columns nothing is written


@pytest.mark.parametrize("kinds", SUPPORTED)
def test_a_batch_equals_single_products(cublas: Cublas, kinds: tuple[int, int]) -> None:
    kind, result = kinds
    a, b, c = drawn(1, (5, 9, 20), kind), drawn(2, (5, 7, 9), kind), drawn(3, (5, 7, 20), result)
    pointers = upload(a), upload(b), upload(c)
    strides = (180, 63, 140)
    types = (kind, kind, result)
    status = cublas.gemm((20, 7, 9), pointers, (20, 9, 20), types=types, strides=strides, batch=5)
    assert status == 0
    expected = columns_of(a, 20) @ columns_of(b, 9)
    assert_close(columns_of(download(pointers[2], c), 20), expected, result)


def test_stride_0_repeats_one_matrix(cublas: Cublas) -> None:
    a, b, c = drawn(1, (4, 6), 0), drawn(2, (3, 5, 4), 0), drawn(3, (3, 5, 6), 0)
    pointers = upload(a), upload(b), upload(c)
    assert cublas.gemm((6, 5, 4), pointers, (6, 4, 6), strides=(0, 20, 30), batch=3) == 0
    expected = columns_of(a, 6) @ columns_of(b, 4)
    assert_close(columns_of(download(pointers[2], c), 6), expected, FLOAT32)


def test_a_row_major_linear_layer_is_a_transposed_product(cublas: Cublas) -> None:
    """How the backend calls it: x [T, I] @ weight [O, I].T, everything row-major."""
    tokens, inner, outer = 3, 40, 50
    x, weight = drawn(1, (tokens, inner), BFLOAT16), drawn(2, (outer, inner), BFLOAT16)
    out = np.zeros((tokens, outer), DTYPES[BFLOAT16])
    pointers = upload(weight), upload(x), upload(out)
    status = cublas.gemm(
        (outer, tokens, inner),
        pointers,
        (inner, inner, outer),
        operations=(TRANSPOSE, KEEP),
        types=(BFLOAT16, BFLOAT16, BFLOAT16),
    )
    assert status == 0
    expected = x.astype(np.float32) @ weight.astype(np.float32).T
    assert_close(download(pointers[2], out).astype(np.float32), expected, BFLOAT16)


def test_beta_0_ignores_the_contents_of_c(cublas: Cublas) -> None:
    a, c = np.ones((1, 1), np.float32), np.full((1, 1), np.nan, np.float32)
    pointers = upload(a), upload(a), upload(c)
    assert cublas.gemm((1, 1, 1), pointers, (1, 1, 1)) == 0
    assert download(pointers[2], c).item() == 1.0
    assert cublas.gemm((1, 1, 0), pointers, (1, 1, 1)) == 0
    assert download(pointers[2], c).item() == 0.0


@pytest.mark.parametrize("kind", [FLOAT16, BFLOAT16])
def test_halves_are_rounded_once_to_the_nearest_even(cublas: Cublas, kind: int) -> None:
    """The points half-way between neighbours, where rounding decides: 0.5 low + 0.5 high."""
    every = np.arange(1 << 16, dtype=np.uint16).view(DTYPES[kind])
    exact = every[np.isfinite(every.astype(np.float32))].astype(np.float32)
    low, high = np.sort(exact)[:-1], np.sort(exact)[1:]
    a = np.stack([low, high], axis=-1).astype(DTYPES[kind])
    b = np.array([[0.5, 0.5]], DTYPES[kind])
    out = np.zeros((1, len(low)), DTYPES[kind])
    pointers = upload(a), upload(b), upload(out)
    sizes, types = (len(low), 1, 2), (kind, kind, kind)
    status = cublas.gemm(
        sizes, pointers, (2, 2, len(low)), operations=(TRANSPOSE, KEEP), types=types
    )
    assert status == 0
    found = download(pointers[2], out)[0]
    expected = (low * np.float32(0.5) + high * np.float32(0.5)).astype(DTYPES[kind])
    np.testing.assert_array_equal(found.astype(np.float32), expected.astype(np.float32))


@pytest.mark.parametrize("kinds", SUPPORTED)
@pytest.mark.parametrize("mode", [0, FLOAT32_SUMS])
def test_partial_sums_meet_in_the_type_of_c_unless_the_math_mode_forbids_it(
    cublas: Cublas, mode: int, kinds: tuple[int, int]
) -> None:
    kind, result = kinds
    a, b = np.zeros((400, 1), DTYPES[kind]), np.ones((1, 400), DTYPES[kind])
    a[0], a[1], a[300] = 2048, 0.5, -2048
    pointers = upload(a), upload(b), upload(np.zeros((1, 1), DTYPES[result]))
    assert cublas.set_math_mode(mode) == 0
    assert cublas.set_stream() == 0  # keeps the mode
    types = (kind, kind, result)
    assert cublas.gemm((1, 1, 400), pointers, (1, 400, 1), types=types) == 0
    is_exact = mode == FLOAT32_SUMS or result == FLOAT32
    assert download(pointers[2], np.zeros(1, DTYPES[result]))[0] == (0.5 if is_exact else 0)


def test_infinity_and_nan_propagate(cublas: Cublas) -> None:
    for kind in (FLOAT16, BFLOAT16):
        a = np.array([[np.inf, np.nan, -np.inf, 3e38 if kind == BFLOAT16 else 6e4]], DTYPES[kind])
        b, c = np.array([[2]], DTYPES[kind]), np.zeros((1, 4), DTYPES[kind])
        pointers = upload(a), upload(b), upload(c)
        assert cublas.gemm((4, 1, 1), pointers, (4, 1, 4), types=(kind, kind, kind)) == 0
        found = download(pointers[2], c)[0].astype(np.float32)
        np.testing.assert_array_equal(found, [np.inf, np.nan, -np.inf, np.inf])


def test_work_is_queued_in_the_stream(cublas: Cublas) -> None:
    pointers = [upload(np.full((1, 1), value, np.float32)) for value in (2, 3, 0)]
    assert cublas.gemm((1, 1, 1), tuple(pointers), (1, 1, 1)) == 0
    host = np.zeros(1, np.float32)
    ok(cu.cuMemcpyDtoH(host.ctypes.data, pointers[2], 4))
    assert host.item() == 0  # the stream is non-blocking, and was not synchronised
    assert download(pointers[2], host).item() == 6


BAD: dict[str, dict[str, Any]] = {
    "a negative size": {"sizes": (-1, 2, 3)},
    "A's columns overlap": {"leading": (1, 3, 2)},
    "B's columns overlap": {"leading": (2, 2, 2)},
    "C's columns overlap": {"leading": (2, 3, 1)},
    "A transposed needs k": {"operations": (TRANSPOSE, KEEP), "leading": (2, 3, 2)},
    "B transposed needs n": {"operations": (KEEP, TRANSPOSE), "leading": (2, 1, 2)},
    "an unknown operation": {"operations": (3, 0)},
    "a negative batch": {"strides": (0, 0, 0), "batch": -1},
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_arguments_are_refused(cublas: Cublas, case: str) -> None:
    pointer = ok(cu.cuMemAlloc(256))
    arguments = {"sizes": (2, 2, 3), "leading": (2, 3, 2), **BAD[case]}
    assert cublas.gemm(matrices=(pointer,) * 3, **arguments) == INVALID_VALUE


@pytest.mark.parametrize(
    "wrong",
    [
        {"types": (FLOAT32, FLOAT16, FLOAT32)},
        {"types": (FLOAT32, FLOAT32, FLOAT16)},
        {"types": (FLOAT16, FLOAT16, BFLOAT16)},
        {"types": (1, 1, 1)},
        {"compute": COMPUTE_FLOAT16},
    ],
)
def test_unsupported_types_are_refused(cublas: Cublas, wrong: dict[str, Any]) -> None:
    pointer = ok(cu.cuMemAlloc(256))
    assert cublas.gemm((2, 2, 2), (pointer,) * 3, (2, 2, 2), **wrong) == NOT_SUPPORTED


def test_an_empty_product_touches_nothing(cublas: Cublas) -> None:
    assert cublas.gemm((0, 2, 2), (256, 256, 256), (1, 2, 1)) == 0
    ok(cu.cuCtxSynchronize())


@pytest.mark.parametrize("operand", [0, 1, 2])
def test_operands_outside_live_memory_are_illegal(
    gpu: device.EmulatedGpu, cublas: Cublas, operand: int
) -> None:
    pointers = [ok(cu.cuMemAlloc(16)) for _ in range(3)]
    pointers[operand] = ok(cu.cuMemAlloc(12))
    assert cublas.gemm((2, 2, 2), tuple(pointers), (2, 2, 2)) == 0
    assert int(cu.cuStreamSynchronize(cublas.stream)[0]) == 700
    assert f"cublasGemmEx: {'ABC'[operand]} of batch 0, 16 bytes" in gpu.report()
    assert cublas.gemm((2, 2, 2), tuple(pointers), (2, 2, 2)) == EXECUTION_FAILED


def test_the_workspace_is_used(cublas: Cublas) -> None:
    """Its contents are overwritten."""
    pointers = [upload(np.ones((1, 1), np.float32)) for _ in range(3)]
    before = np.zeros(16, np.float32)
    ok(cu.cuMemcpyHtoD(cublas.workspace, before.ctypes.data, before.nbytes))
    assert cublas.gemm((1, 1, 1), tuple(pointers), (1, 1, 1)) == 0
    assert (download(cublas.workspace, before) != before).all()


def test_a_workspace_is_aligned_live_memory(gpu: device.EmulatedGpu, cublas: Cublas) -> None:
    assert cublas.set_workspace(offset=16, size=256) == INVALID_VALUE
    assert cublas.set_workspace(size=(1 << 16) + 1) == INVALID_VALUE
    ok(cu.cuMemFree(cublas.workspace))
    pointers = [ok(cu.cuMemAlloc(4)) for _ in range(3)]
    assert cublas.gemm((1, 1, 1), tuple(pointers), (1, 1, 1)) == 0
    assert int(cu.cuCtxSynchronize()[0]) == 700
    assert "the workspace is not live memory" in gpu.report()


def begin_capture(stream: Any) -> None:
    mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    ok(cu.cuStreamBeginCapture(stream, mode))


def test_a_captured_product_is_repeated(cublas: Cublas) -> None:
    pointers = [upload(np.full((1, 1), value, np.float32)) for value in (2, 3, 1)]
    begin_capture(cublas.stream)
    assert cublas.gemm((1, 1, 1), tuple(pointers), (1, 1, 1), scales=(1.0, 1.0)) == 0
    graph = ok(cu.cuStreamEndCapture(cublas.stream))
    execution = ok(cu.cuGraphInstantiate(graph, 0))
    for _ in range(2):
        ok(cu.cuGraphLaunch(execution, cublas.stream))
    assert download(pointers[2], np.zeros(1, np.float32)).item() == 1 + 2 * 6


def test_setting_the_stream_resets_the_workspace_that_capture_needs(
    gpu: device.EmulatedGpu, cublas: Cublas
) -> None:
    pointers = (ok(cu.cuMemAlloc(4)),) * 3
    begin_capture(cublas.stream)
    assert cublas.set_stream() == 0
    assert cublas.gemm((1, 1, 1), pointers, (1, 1, 1)) == NOT_SUPPORTED
    assert "cublasSetWorkspace" in gpu.report()
    assert cublas.set_workspace() == 0
    assert cublas.gemm((1, 1, 1), pointers, (1, 1, 1)) == 0


def test_faults_are_injected_into_cublas_too(gpu: device.EmulatedGpu, cublas: Cublas) -> None:
    gpu.fault("cublasGemmEx:2:14,cublasCreate:1:3")
    pointers = [ok(cu.cuMemAlloc(4)) for _ in range(3)]
    results = [cublas.gemm((1, 1, 1), tuple(pointers), (1, 1, 1)) for _ in range(3)]
    assert results == [0, 14, 0]
    assert gpu.calls("cublasGemmEx") == 3
    assert cublas.library.cublasCreate_v2(ctypes.byref(ctypes.c_void_p())) == 3


def test_handles_are_needed_and_live_once(gpu: device.EmulatedGpu, cublas: Cublas) -> None:
    assert cublas.library.cublasSetMathMode(cublas.handle, 0) == 0
    assert cublas.library.cublasDestroy_v2(cublas.handle) == 0
    assert cublas.library.cublasDestroy_v2(cublas.handle) == NOT_INITIALIZED
    assert cublas.gemm((0, 0, 0), (0, 0, 0), (1, 1, 1)) == NOT_INITIALIZED
    ok(cu.cuCtxSetCurrent(cu.CUcontext(0)))
    assert cublas.library.cublasCreate_v2(ctypes.byref(cublas.handle)) == NOT_INITIALIZED


def test_the_version_is_the_one_that_was_loaded(cublas: Cublas) -> None:
    version, major = ctypes.c_int(), ctypes.c_int()
    assert cublas.library.cublasGetVersion_v2(cublas.handle, ctypes.byref(version)) == 0
    assert cublas.library.cublasGetProperty(0, ctypes.byref(major)) == 0
    assert (version.value, major.value) == (130000, 13)
    assert cublas.library.cublasGetProperty(3, ctypes.byref(major)) == INVALID_VALUE
    cublas.library.cublasGetStatusString.restype = ctypes.c_char_p
    assert b"not supported" in cublas.library.cublasGetStatusString(NOT_SUPPORTED)


def test_512_cubed_takes_well_under_a_second(cublas: Cublas) -> None:
    """10 to 25 ms on an idle machine; the bound only excludes a naive loop."""
    pointers = [upload(drawn(seed, (512, 512), FLOAT16)) for seed in range(3)]
    assert cublas.gemm((512,) * 3, tuple(pointers), (512,) * 3, types=(FLOAT16,) * 3) == 0
    begin = time.perf_counter()
    ok(cu.cuCtxSynchronize())
    assert time.perf_counter() - begin < 0.3


@pytest.mark.parametrize("major", [12, 13])
def test_pathfinder_finds_it_in_a_process_of_its_own(major: int) -> None:
    script = "from cuda import pathfinder as p; print(p.load_nvidia_dynamic_lib('cublas').abs_path)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **device.environment(cublas=major)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip().endswith(f"libcublas.so.{major}"), done.stderr
