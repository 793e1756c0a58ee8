"""Moves between registers, and conversions."""

from __future__ import annotations

from ..operands import Context, UnsupportedError, c_type
from ..ptx import size_of
from .table import (
    FLOAT_TYPES,
    HALF_TYPES,
    ROUNDINGS,
    ROUNDINGS_TO_INTEGER,
    inputs,
    instruction,
    only,
    rounding_of,
)


def _unpack(context: Context) -> str:
    """mov.b64 {a, b}, c."""
    parts = context.vector(0)
    width = size_of(context.type) * 8 // len(parts)
    value = context.read(1, context.type)
    writes = [
        context.write(part, f"b{width}", f"({c_type(f'b{width}')})(whole >> {width * number})")
        for number, part in enumerate(parts)
    ]
    return f"{{ const {c_type(context.type)} whole = {value}; {' '.join(writes)} }}"


def _packed(context: Context) -> str:
    """{a, b} as one value."""
    parts = context.vector(1)
    width = size_of(context.type) * 8 // len(parts)
    whole = c_type(context.type)
    return " | ".join(
        f"({whole}){context.read(part, f'b{width}')} << {width * number}"
        for number, part in enumerate(parts)
    )


@instruction("mov")
def _move(context: Context) -> str:
    if context.operands[0].startswith("{"):
        return _unpack(context)
    if context.operands[1].startswith("{"):
        return context.write(0, "b" + context.type[1:], f"({_packed(context)})")
    return context.write(0, context.type, context.read(1, context.type))


@instruction("cvta")
def _convert_address(context: Context) -> str:
    """Shared addresses are offsets into the window; all others are addresses already."""
    space = next((p for p in context.parts if p.partition("@")[0] in ("shared", "global")), "")
    value = context.read(1, context.type)
    if not space.startswith("shared"):
        return context.write(0, context.type, value)
    sign = "-" if context.has("to") else "+"
    return context.write(0, context.type, f"{value} {sign} (uint64_t)machine.shared")


@instruction("isspacep")
def _is_in_space(context: Context) -> str:
    address, space = context.read(1, "u64"), context.parts[1].partition("@")[0]
    tests = {
        "shared": f"is_shared({address})",
        "local": f"is_local({address})",
        "global": f"!is_shared({address}) && !is_local({address})",
        "const": "false",
        "param": "false",
    }
    return context.write(0, "pred", tests[space])


@instruction("cvt")
def _convert(context: Context) -> str:
    to, source = context.parts[-2], context.parts[-1]
    known = (*ROUNDINGS, *ROUNDINGS_TO_INTEGER, "ftz", "sat", "relu", "rna", to)
    only(context, *known)
    if to.endswith("x2"):
        return _convert_pair(context, to)
    is_from_float = source in FLOAT_TYPES or source in HALF_TYPES
    is_to_float = to in FLOAT_TYPES or to in HALF_TYPES
    if is_to_float and is_from_float:
        return _float_to_float(context, to, source)
    if is_to_float:
        return _integer_to_float(context, to, source)
    if is_from_float:
        return _float_to_integer(context, to, source)
    value = context.read(1, source)
    if context.has("sat"):
        value = f"clamped<{c_type(to)}>({value})"
    return context.write(0, to, f"({c_type(to)}){value}")


def _as_float(context: Context, source: str) -> str:
    value = context.read(1, source)
    if source in HALF_TYPES:
        return f"{HALF_TYPES[source]}::from({value})"
    return f"flushed({value})" if context.has("ftz") and source == "f32" else value


def _rounding_to_integer(context: Context) -> str:
    found = [ROUNDINGS_TO_INTEGER[p] for p in context.parts if p in ROUNDINGS_TO_INTEGER]
    return found[0] if found else ""


def _float_to_integer(context: Context, to: str, source: str) -> str:
    rounding = _rounding_to_integer(context) or "ZERO"
    return context.write(
        0, to, f"to_integer<{c_type(to)}>({_as_float(context, source)}, {rounding})"
    )


def _to_half(context: Context, half: str, value: str) -> str:
    if context.has("relu"):
        value = f"maximum_nan({value}, 0.f)"
    if rounding_of(context) == "NEAREST":
        return f"{half}::to({value})"
    return f"{half}::to(double({value}), {rounding_of(context)})"


def _float_to_float(context: Context, to: str, source: str) -> str:
    value = _as_float(context, source)
    if rounding := _rounding_to_integer(context):
        value = f"rounded({value}, {rounding})"
    if context.has("sat"):
        value = f"saturated({value})"
    if to in HALF_TYPES:
        if source == "f64":
            value = f"double({value})"
            return context.write(0, to, f"{HALF_TYPES[to]}::to({value}, {rounding_of(context)})")
        return context.write(0, to, _to_half(context, HALF_TYPES[to], value))
    if to == "f32" and source == "f64":
        value = f"to_float({value}, {rounding_of(context)})"
        value = f"flushed({value})" if context.has("ftz") else value
    return context.write(0, to, f"({c_type(to)}){value}")


def _integer_to_float(context: Context, to: str, source: str) -> str:
    value, rounding = context.read(1, source), rounding_of(context)
    if to in HALF_TYPES:  # a double holds 53 bits; more do not matter to a half's 11
        value = f"{HALF_TYPES[to]}::to(from_integer<double>({value}, ZERO), {rounding})"
        return context.write(0, to, value)
    return context.write(0, to, f"from_integer<{c_type(to)}>({value}, {rounding})")


def _convert_pair(context: Context, to: str) -> str:
    """cvt.rn.f16x2.f32 d, a, b: a is the upper half."""
    half = HALF_TYPES[to]
    if context.type != "f32":
        raise UnsupportedError(f"conversion from .{context.type}")
    values = inputs(context)
    high, low = (_to_half(context, half, value) for value in values)
    return context.write(0, to, f"(uint32_t){low} | (uint32_t){high} << 16")
