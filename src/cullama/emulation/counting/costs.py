"""What a PTX instruction becomes on a GPU: its kind, its machine instructions, its latency.

PTX is not what runs: ptxas drops moves and widenings, and makes several instructions of a division
or of 64-bit arithmetic. `slots` is how many, `cycles` how long their result takes. Latencies of
memory are not here: they depend on where the data lies (counters.h).

Sources: CUDA programming guide, "Arithmetic instructions" (throughputs); Jia et al., "Dissecting
the NVIDIA Volta GPU architecture via microbenchmarking", 2018, and Luo et al., arXiv 2402.13499
(latencies on Ampere to Hopper); nvdisasm of our own kernels (the sequences behind divisions,
conversions and 64-bit operations).
"""

from __future__ import annotations

from typing import NamedTuple

from ..ptx import Instruction

KINDS = (
    *("load", "store", "atomic", "copy", "float", "half", "double", "integer", "predicate"),
    *("conversion", "special", "division", "move", "branch", "shuffle", "barrier", "tensor"),
)
SYNCHRONISING = ("bar", "barrier", "shfl", "vote", "match", "redux", "elect", "ldmatrix", "mma")
JUMPS = ("bra", "brx", "ret", "exit", "trap", "call")


CAS_LOOP = "compare-and-swap loop"


class Cost(NamedTuple):
    """Of one PTX instruction of a warp: a kind of KINDS, issue slots, cycles to its result."""

    kind: str
    slots: int
    cycles: int


_FREE = Cost("move", 0, 0)
_BY_NAME = {
    **dict.fromkeys(("ld", "ldu"), Cost("load", 1, 0)),
    "st": Cost("store", 1, 0),
    **dict.fromkeys(("atom", "red"), Cost("atomic", 1, 0)),
    "cp": Cost("copy", 1, 0),
    "shfl": Cost("shuffle", 1, 24),
    **dict.fromkeys(("vote", "match", "redux", "elect"), Cost("shuffle", 1, 12)),
    **dict.fromkeys(("bar", "barrier"), Cost("barrier", 1, 22)),
    **dict.fromkeys(("fence", "membar"), Cost("barrier", 1, 500)),
    "mma": Cost("tensor", 1, 33),
    "ldmatrix": Cost("load", 1, 33),
    **dict.fromkeys(JUMPS, Cost("branch", 1, 0)),
    **dict.fromkeys(("mov", "cvta", "isspacep"), _FREE),
    "ex2": Cost("special", 3, 26),
    "lg2": Cost("special", 3, 28),
    **dict.fromkeys(("rcp", "rsqrt", "tanh"), Cost("special", 1, 22)),
    "sqrt": Cost("special", 8, 50),
    **dict.fromkeys(("sin", "cos"), Cost("special", 2, 28)),
}
_WIDE = ("u64", "s64", "b64", "f64")
_HALVES = ("f16", "bf16", "f16x2", "bf16x2")
_FLOATS = ("f16", "bf16", "f32", "f64")
_BY_TYPE = {
    "f32": Cost("float", 1, 4),
    "f64": Cost("double", 1, 8),
    **dict.fromkeys(_HALVES, Cost("half", 1, 5)),
}


def cost_of(instruction: Instruction) -> Cost:
    name, parts = instruction.parts[0], instruction.parts
    if name in ("ld", "st") and "param" in parts:  # parameters are operands of constant memory
        return _FREE
    if name == "mov" and any(o.startswith(("%tid", "%cta")) for o in instruction.operands):
        return Cost("move", 1, 20)
    if "warp" in parts and name == "bar":
        return Cost("barrier", 1, 2)
    if found := _BY_NAME.get(name):
        return found._replace(slots=1) if found.kind == "special" and "ftz" in parts else found
    return _arithmetic(name, parts)


def is_cas_loop(instruction: Instruction) -> bool:
    """Return whether an atomic is a loop of compare-and-swap, in the PTX or once ptxas made it:
    shared memory adds no 64-bit integers and no floating-point numbers by itself."""
    name, parts = instruction.parts[0], instruction.parts
    if name not in ("atom", "red"):
        return False
    return "cas" in parts or ("shared" in parts and parts[-1] in (*_WIDE, *_FLOATS))


def _arithmetic(name: str, parts: list[str]) -> Cost:
    type = parts[-1]
    is_wide = type in _WIDE
    if name in ("setp", "set"):
        return Cost("predicate", 2, 17) if is_wide else Cost("predicate", 1, 13)
    if name in ("div", "rem"):
        return _division(type, "approx" in parts or "full" in parts)
    if name == "cvt":
        return _conversion(parts[-2], type)
    if found := _BY_TYPE.get(type):
        return found
    if is_wide and "wide" not in parts:
        return Cost("integer", 4, 12) if name in ("mul", "mad") else Cost("integer", 2, 8)
    return Cost("integer", 1, 4)


def _division(type: str, is_approximate: bool) -> Cost:
    if type == "f32":
        return Cost("division", 4, 34) if is_approximate else Cost("division", 10, 62)
    if type == "f64":
        return Cost("division", 30, 200)
    return Cost("division", 70, 420) if type in _WIDE else Cost("division", 20, 130)


def _conversion(to: str, source: str) -> Cost:
    count = sum(type in _FLOATS or type in _HALVES for type in (to, source))
    if count == 1:  # between integer and float: a quarter of the rate
        return Cost("special", 1, 16)
    if count == 2:
        return Cost("conversion", 1, 5)
    return Cost("conversion", int(to == "s64"), 4)  # widening is free, but for the sign
