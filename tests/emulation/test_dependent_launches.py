"""Launches that may begin before the launch before them has ended, and counters of several blocks.

Each rule with a kernel that breaks it, which is found, and one that keeps it, which runs.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import pytest

from cullama.emulation import device
from emulation.driver_calls import allocated, code, contents, cu, launch, ok, scale_function

HEADER = ".version 8.0\n.target sm_90\n.address_size 64\n"

# to[i] = from[i] + 1, from before or after griddepcontrol.wait; one lane waits for all, if asked.
ADD = """
.visible .entry {name}(.param .u64 to, .param .u64 from) {{
  .reg .b64 %to, %from, %offset; .reg .b32 %i; .reg .f32 %x; .reg .pred %first;
  ld.param.u64 %to, [to]; ld.param.u64 %from, [from];
  mov.u32 %i, %tid.x; mul.wide.u32 %offset, %i, 4;
  add.s64 %to, %to, %offset; add.s64 %from, %from, %offset;
  setp.eq.u32 %first, %i, 0;
  {before}
  ld.global.f32 %x, [%from];
  {after}
  add.f32 %x, %x, 0f3F800000; st.global.f32 [%to], %x; ret;
}}
"""
WAIT = "griddepcontrol.wait;"
KERNELS = HEADER + "".join(
    ADD.format(name=name, before=before, after=after)
    for name, before, after in (
        ("right", WAIT, ""),
        ("early", "", WAIT),
        ("never", "", ""),
        ("one_waits", f"@%first {WAIT} bar.sync 0;", ""),
    )
)

# The last block to add 1 to the counter puts it back, unless it forgets.
COUNT = """
.visible .entry {name}(.param .u64 counter) {{
  .reg .b64 %at; .reg .b32 %old, %last; .reg .pred %is_last;
  ld.param.u64 %at, [counter];
  atom.global.add.u32 %old, [%at + 8], 1;
  mov.u32 %last, %nctaid.x; sub.u32 %last, %last, 1;
  setp.eq.u32 %is_last, %old, %last;
  {end}
  ret;
}}
"""
COUNTS = (
    HEADER
    + COUNT.format(name="resets", end="@%is_last st.global.u32 [%at + 8], 0;")
    + COUNT.format(name="forgets", end="")
)


def run(
    name: str,
    *pointers: Any,
    image: str,
    is_dependent: bool = False,
    grid: int = 1,
    stream: Any = 0,
) -> None:
    module = ok(cu.cuModuleLoadData(image.encode() + b"\0"))
    function = ok(cu.cuModuleGetFunction(module, name.encode()))
    values = [ctypes.c_uint64(int(pointer)) for pointer in pointers]
    where = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    config = cu.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = grid, 1, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = 32, 1, 1
    config.hStream = stream
    if is_dependent:
        attribute = cu.CUlaunchAttribute()
        kind = cu.CUlaunchAttributeID
        attribute.id = kind.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        config.attrs, config.numAttrs = [attribute], 1
    ok(cu.cuLaunchKernelEx(config, function, ctypes.addressof(where), 0))


@pytest.mark.parametrize("is_captured", [False, True], ids=["stream", "graph"])
@pytest.mark.parametrize("name", ["right", "one_waits", "early", "never"])
def test_what_is_read_before_the_wait_is_poisoned(
    gpu: device.EmulatedGpu, name: str, is_captured: bool
) -> None:
    start, end = allocated(range(32)), allocated([0] * 32)
    if is_captured:
        mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        stream = ok(cu.cuStreamCreate(1))
        ok(cu.cuStreamBeginCapture(stream, mode))
        function = scale_function()
        assert launch(function, start, 2, 32, stream) == 0
        run(name, end, start, image=KERNELS, is_dependent=True, stream=stream)
        graph = ok(cu.cuStreamEndCapture(stream))
        ok(cu.cuGraphLaunch(ok(cu.cuGraphInstantiate(graph, 0)), stream))
        ok(cu.cuStreamSynchronize(stream))
    else:
        assert launch(scale_function(), start, 2, 32) == 0
        run(name, end, start, image=KERNELS, is_dependent=True)
    expected = [2.0 * i + 1 for i in range(32)]
    found = contents(end, 32)
    if name in ("right", "one_waits"):
        assert found == expected
    else:
        # 0 * 2 is what it was before, so its word was not written, as far as can be seen.
        assert [math.isnan(value) for value in found] == [False] + [True] * 31
    assert contents(start, 32) == [2.0 * i for i in range(32)]


def test_an_ordinary_launch_comes_after_the_one_before(gpu: device.EmulatedGpu) -> None:
    start, end = allocated(range(32)), allocated([0] * 32)
    assert launch(scale_function(), start, 2, 32) == 0
    run("never", end, start, image=KERNELS)
    assert contents(end, 32) == [2.0 * i + 1 for i in range(32)]


def test_a_counter_of_several_blocks_has_to_end_at_zero(gpu: device.EmulatedGpu) -> None:
    buffer = allocated([0] * 6)
    run("resets", buffer, image=COUNTS.replace("%nctaid.x", "96"), grid=3)
    assert contents(buffer, 6) == [0] * 6
    run("forgets", buffer, image=COUNTS, grid=3)
    assert code(cu.cuCtxSynchronize()) == 719
    assert "(byte 8 of a buffer of " in gpu.report()
    assert "is 96 at the end of the launch" in gpu.report()


@pytest.mark.parametrize(("knob", "grid"), [(0, 3), (1, 1)])
def test_other_words_may_be_counted_up(gpu: device.EmulatedGpu, knob: int, grid: int) -> None:
    gpu.set("counters", knob)
    run("forgets", allocated([0] * 6), image=COUNTS, grid=grid)
    assert code(cu.cuCtxSynchronize()) == 0


def test_graphs_take_memory_of_the_device(gpu: device.EmulatedGpu) -> None:
    pointer, stream = allocated([1]), ok(cu.cuStreamCreate(1))
    function = scale_function()
    ok(cu.cuStreamBeginCapture(stream, cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
    for _ in range(10):
        assert launch(function, pointer, 2, 1, stream) == 0
    graph = ok(cu.cuStreamEndCapture(stream))
    free, total = ok(cu.cuMemGetInfo())
    execution = ok(cu.cuGraphInstantiate(graph, 0))
    taken = free - ok(cu.cuMemGetInfo())[0]
    assert taken >= 10 * 4096
    ok(cu.cuGraphExecDestroy(execution))
    assert ok(cu.cuMemGetInfo())[0] == free
    gpu.set("memory_bytes", total - free + taken - 1)
    assert code(cu.cuGraphInstantiate(graph, 0)) == 2
