"""The table of instructions, its lookup, and templates that several families share.

An instruction that is not in the table, or has a modifier that its function does not know, is
`UnsupportedError`: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ..operands import Context, UnsupportedError, c_type

Translate: TypeAlias = Callable[[Context], str]

TABLE: dict[str, Translate] = {}

ROUNDINGS = {"rn": "NEAREST", "rz": "ZERO", "rm": "DOWN", "rp": "UP"}
ROUNDINGS_TO_INTEGER = {f"{name}i": value for name, value in ROUNDINGS.items()}
HALF_TYPES = {"f16": "F16", "bf16": "BF16", "f16x2": "F16", "bf16x2": "BF16"}
FLOAT_TYPES = ("f32", "f64")


def instruction(*names: str) -> Callable[[Translate], Translate]:
    def enter(translate: Translate) -> Translate:
        for name in names:
            assert name not in TABLE, name
            TABLE[name] = translate
        return translate

    return enter


def translate(context: Context) -> str:
    """Translate by the longest known prefix of the opcode: bar.warp.sync before bar."""
    parts = context.parts
    for length in range(len(parts), 0, -1):
        if found := TABLE.get(".".join(parts[:length]).replace("@", "::")):
            return found(context)
    raise UnsupportedError("instruction")


def only(context: Context, *known: str) -> None:
    """Raise UnsupportedError for modifiers other than these."""
    for part in context.parts[1:-1]:
        if part not in known:
            raise UnsupportedError(f"modifier .{part}")


# --- templates that many instructions share -------------------------------------------------------


def rounding_of(context: Context) -> str:
    return next((ROUNDINGS[part] for part in context.parts if part in ROUNDINGS), "NEAREST")


def inputs(context: Context, first: int = 1, type: str = "") -> list[str]:
    type = type or context.type
    flush = context.has("ftz") and type == "f32"
    values = [context.read(operand, type) for operand in context.operands[first:]]
    return [f"flushed({value})" for value in values] if flush else values


def float_result(context: Context, value: str) -> str:
    """Write a float result, with .ftz and .sat applied."""
    if context.has("ftz") and context.type == "f32":
        value = f"flushed({value})"
    if context.has("sat"):
        value = f"saturated({value})"
    return context.write(0, context.type, value)


def half(context: Context, operation: str) -> str:
    """`operation` of halves, or of both halves of registers."""
    type = context.type
    half = HALF_TYPES[type]
    if context.has("ftz"):
        raise UnsupportedError("modifier .ftz for halves")
    values = [context.read(operand, type) for operand in context.operands[1:]]
    names = [f"x{number}" for number in range(len(values))]
    value = f"half_{operation}<{half}>({', '.join(names)})"
    if context.has("sat"):
        value = f"half_saturated<{half}>({value})"
    if context.has("relu"):
        value = f"half_relu<{half}>({value})"
    formals = ", ".join(f"uint16_t {name}" for name in names)
    function = f"[]({formals}) {{ return {value}; }}"
    call = f"pairwise({function}, {', '.join(values)})"
    if not type.endswith("x2"):
        call = f"({function})({', '.join(values)})"
    return context.write(0, type, call)


def integer(context: Context, template: str) -> str:
    """Write an integer result; `template` has the operands {}, and is cast to the type."""
    return context.write(
        0, context.type, f"({c_type(context.type)})({template.format(*inputs(context))})"
    )
