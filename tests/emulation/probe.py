"""Runs single PTX instructions on arrays, with one thread for each element.

It writes the smallest kernel around an instruction: load the operands, execute, store the result.
The tests of instructions are written with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from cullama.emulation.kernel import EmulatedModule, Schedule

Array: TypeAlias = NDArray[Any]

HEADER = ".version 8.0\n.target sm_90a\n.address_size 64\n"

# Type of memory and name of register for each type of numpy.
_KINDS = {
    "float32": ("f32", "%f"),
    "float64": ("f64", "%g"),
    "bool": ("u8", "%p"),
    **{f"{sign}int8": (f"{letter}8", "%h") for sign, letter in (("", "s"), ("u", "u"))},
    **{f"{sign}int16": (f"{letter}16", "%h") for sign, letter in (("", "s"), ("u", "u"))},
    **{f"{sign}int32": (f"{letter}32", "%r") for sign, letter in (("", "s"), ("u", "u"))},
    **{f"{sign}int64": (f"{letter}64", "%l") for sign, letter in (("", "s"), ("u", "u"))},
    "float16": ("b16", "%h"),
    "bfloat16": ("b16", "%h"),
}
_REGISTERS = """\
 .reg .pred %p<10>, %q;
 .reg .b16 %h<10>;
 .reg .b32 %r<20>, %i, %t<10>;
 .reg .b64 %l<10>, %at;
 .reg .f32 %f<20>;
 .reg .f64 %g<10>;
 mov.u32 %i, %tid.x;
"""


def _load(number: int, dtype: np.dtype[Any]) -> str:
    kind, register = _KINDS[dtype.name]
    text = f" ld.param.u64 %at, [p{number}];\n"
    text += f" mad.wide.u32 %at, %i, {dtype.itemsize}, %at;\n"
    if dtype == np.bool_:
        return text + f" ld.global.u8 %t0, [%at];\n setp.ne.u32 %p{number}, %t0, 0;\n"
    return text + f" ld.global.{kind} {register}{number}, [%at];\n"


def _store(dtype: np.dtype[Any]) -> str:
    kind, register = _KINDS[dtype.name]
    text = f" ld.param.u64 %at, [p0];\n mad.wide.u32 %at, %i, {dtype.itemsize}, %at;\n"
    if dtype == np.bool_:
        return text + " selp.u32 %t0, 1, 0, %p0;\n st.global.u8 [%at], %t0;\n ret;\n"
    return text + f" st.global.{kind} [%at], {register}0;\n ret;\n"


def _kernel(name: str, code: str, types: tuple[np.dtype[Any], ...]) -> str:
    """Operand 0 is the result; {0} {1} … in the code are the registers."""
    parameters = ", ".join(f".param .u64 p{number}" for number in range(len(types)))
    registers = [f"{_KINDS[dtype.name][1]}{number}" for number, dtype in enumerate(types)]
    loads = "".join(_load(number, dtype) for number, dtype in enumerate(types))
    for number, register in enumerate(registers):
        code = code.replace(f"{{{number}}}", register)
    body = f"{_REGISTERS}{loads} {code}\n{_store(types[0])}"
    return f".visible .entry {name}({parameters})\n{{\n{body}}}\n"


@cache
def module_of(text: str) -> EmulatedModule:
    return EmulatedModule(HEADER + text)


def results(
    codes: Iterable[str],
    result: DTypeLike,
    *operands: Array,
    schedule: Schedule | None = None,
    declarations: str = "",
) -> list[Array]:
    """Return the result of each code on the operands; the result's register starts as 1."""
    types = (np.dtype(result), *(operand.dtype for operand in operands))
    codes = list(codes)
    kernels = [_kernel(f"probe{n}", code, types) for n, code in enumerate(codes)]
    module = module_of(declarations + "".join(kernels))
    found = []
    for number in range(len(codes)):
        target = np.ones(operands[0].shape, types[0])
        arguments = [target, *operands]
        module.launch(f"probe{number}", 1, operands[0].size, arguments, schedule=schedule)
        found.append(target)
    return found


def result(code: str, type: DTypeLike, *operands: Array, **options: Any) -> Array:
    return results([code], type, *operands, **options)[0]


def by_name(codes: Mapping[str, str], type: DTypeLike, *operands: Array) -> dict[str, Array]:
    return dict(zip(codes, results(codes.values(), type, *operands), strict=True))


# --- operands with edge cases ---------------------------------------------------------------------

BF16 = np.dtype(ml_dtypes.bfloat16)
F16, F32, F64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)

_EDGES = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1.5,
    2.5,
    -2.5,
    3e38,
    -3e38,
    1e-40,
    -1e-45,
    np.inf,
    -np.inf,
    np.nan,
)


def floats(dtype: DTypeLike, seed: int = 0, count: int = 500) -> Array:
    """Return random floats of all magnitudes, and special values."""
    draw = np.random.default_rng(seed)
    spread = draw.standard_normal(count) * 10.0 ** draw.integers(-6, 6, count)
    with np.errstate(all="ignore"):
        values = np.concatenate([draw.permutation(_EDGES), spread]).astype(dtype)
    return draw.permutation(values)


def integers(dtype: DTypeLike, seed: int = 0, count: int = 500) -> Array:
    draw, limits = np.random.default_rng(seed), np.iinfo(dtype)
    edges = [0, 1, 2, 3, 7, 31, 32, 33, 63, limits.max, limits.max - 1, limits.min, limits.min + 1]
    wide = draw.integers(limits.min, limits.max, count, np.dtype(dtype), endpoint=True)
    narrow = draw.integers(0, 70, count // 2).astype(dtype)
    return draw.permutation(np.concatenate([np.array(edges, dtype), wide, narrow]))
