"""No loop of a kernel's machine code may get slower than the bounds in sass.txt say."""

from __future__ import annotations

from pathlib import Path

import pytest
import sass
from kernel_files import KERNELS, ROOT
from sass import COLUMNS, Loop

ALLOWANCE = 1.02  # of instructions: a compiler moves a few

LOOP = """
.text.counted:
.L_x_1:
        /*0010*/                   LDG.E.128 R4, [R2.64] ;
        /*0020*/                   LDG.E.128 R8, [R2.64+0x10] ;
        /*0030*/                   LDG.E.U16 R12, [R2.64+0x20] ;
        /*0040*/                   FADD R16, R4, R8 ;
        /*0050*/                   I2F.U32.RP R13, R14 ;
        /*0060*/                   STL [R1], R16 ;
        /*0070*/              @!P0 BRA `(.L_x_1) ;
        /*0080*/                   EXIT ;
.L_x_2:
        /*0090*/                   BRA `(.L_x_2) ;
"""


@pytest.fixture
def _tools() -> None:
    if not sass.is_available():
        pytest.skip(sass.MISSING)


def worse_than(bound: dict[str, int], loop: Loop) -> list[str]:
    """Return what of a loop is worse than its bound."""
    found = []
    for name, direction in COLUMNS.items():
        now, limit = getattr(loop, name), bound[name]
        allowed = limit * ALLOWANCE if name == "instructions" else limit
        if direction * (now - allowed) > 0:
            found.append(f"{loop.kernel}, loop {loop.number}: {name} is {now}, the bound {limit}")
    return found


@pytest.mark.usefixtures("_tools")
@pytest.mark.parametrize("kernel", KERNELS)
def test_no_loop_is_slower_than_its_bound(kernel: str) -> None:
    loops, bounds = sass.loops_of(ROOT / "kernels" / f"{kernel}.cu"), sass.bounds()
    new = [(loop.kernel, loop.number) for loop in loops]
    renew = "if that is meant: python tests/kernels/sass.py --write"
    assert set(new) <= set(bounds), f"loops without a bound: {set(new) - set(bounds)}; {renew}"
    worse = [line for loop in loops for line in worse_than(bounds[loop.kernel, loop.number], loop)]
    assert not worse, "\n".join([*worse, renew])


@pytest.mark.usefixtures("_tools")
def test_no_loop_uses_local_memory() -> None:
    assert not [name for name, bound in sass.bounds().items() if bound["local"]]


def test_every_bound_is_of_a_kernel() -> None:
    text = "".join(path.read_text() for path in (ROOT / "kernels").glob("*.cu"))
    operators = {name.rpartition("_bf16")[0] or name for name, _ in sass.bounds()}
    assert all(name.split("_")[0] in text for name in operators)


def test_a_loop_is_read_right() -> None:
    ((name, code),) = sass._kernels(LOOP)
    (loop,) = sass._loops(name, code)
    assert loop == Loop(
        *("counted", 1, 7, 3, 16 + 16 + 2, 3, 16 + 16 + 2),
        narrow=1,
        divisions=1,
        cas=0,
        local=1,
        barriers=0,
        mma=0,
    )
    assert loop.per_2_kilobytes == pytest.approx(7 * 2048 / (32 * 34))


@pytest.mark.parametrize("name", [name for name, direction in COLUMNS.items() if direction])
def test_a_loop_that_got_worse_is_named(name: str) -> None:
    loop = Loop("gemv_bf16", 1, *[100] * len(COLUMNS))
    bound = {column: getattr(loop, column) for column in COLUMNS}
    assert worse_than(bound, loop) == []
    worse = {**bound, name: 100 - 10 * COLUMNS[name]}
    assert worse_than(worse, loop) == [f"gemv_bf16, loop 1: {name} is 100, the bound {worse[name]}"]


def test_the_table_is_read_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop("gemv_bf16", 3, *range(len(COLUMNS)))
    monkeypatch.setattr(sass, "BOUNDS", tmp_path / "sass.txt")
    sass.BOUNDS.write_text(sass.table([loop]))
    assert sass.bounds() == {("gemv_bf16", 3): {c: getattr(loop, c) for c in COLUMNS}}
