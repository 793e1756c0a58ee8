"""Comparisons, selection, and bitwise operations."""

from __future__ import annotations

from ..operands import Context, UnsupportedError, c_type
from .table import FLOAT_TYPES, HALF_TYPES, instruction

_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_UNSIGNED = {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
_BOOLEANS = {"and": "&", "or": "|", "xor": "^"}


def _comparison(name: str, a: str, b: str, is_float: bool) -> str:
    """An unordered comparison (ltu …) is true for NaN, an ordered one false; C++'s != is not."""
    if name in ("num", "nan"):
        test = f"is_nan({a}) || is_nan({b})"
        return f"({test})" if name == "nan" else f"!({test})"
    if is_float and name.endswith("u"):
        opposite = {"equ": "ne", "neu": "eq", "ltu": "ge", "leu": "gt", "gtu": "le", "geu": "lt"}
        if name == "neu":
            return f"({a} != {b})"
        return f"!{_comparison(opposite[name], a, b, is_float)}"
    if is_float and name == "ne":
        return f"({a} < {b} || {a} > {b})"
    operator = _COMPARISONS.get(name) or _UNSIGNED.get(name)
    if not operator:
        raise UnsupportedError(f"comparison .{name}")
    return f"({a} {operator} {b})"


def _compare(context: Context, type: str) -> str:
    a, b = (context.read(operand, type) for operand in (1, 2))
    name = context.parts[1]
    if name in _UNSIGNED:
        a, b = (context.read(operand, "u" + type[1:]) for operand in (1, 2))
    if type in HALF_TYPES:
        a, b = (f"{HALF_TYPES[type]}::from({value})" for value in (a, b))
    if context.has("ftz") and type == "f32":
        a, b = f"flushed({a})", f"flushed({b})"
    return _comparison(name, a, b, type in HALF_TYPES or type in FLOAT_TYPES)


@instruction("setp")
def _set_predicate(context: Context) -> str:
    """setp.lt.and.f32 p|q, a, b, c: p = (a < b) and c, q = not (a < b) and c."""
    if context.type.endswith("x2"):
        return _set_predicates(context)
    test = _compare(context, context.type)
    yes, _, no = (part.strip() for part in context.operands[0].partition("|"))
    rest = ""
    if len(context.operands) == 4:
        rest = f" {_BOOLEANS[context.parts[2]]} {context.read(3, 'pred')}"
    if not no:
        return context.write(yes, "pred", f"{test}{rest}")
    names = f"const bool test = {test}, yes = test{rest}, no = !test{rest};"
    return f"{{ {names} {context.write(yes, 'pred', 'yes')} {context.write(no, 'pred', 'no')} }}"


def _set_predicates(context: Context) -> str:
    """setp.lt.f16x2 p|q, a, b: p for the low halves, q for the high."""
    half = HALF_TYPES[context.type]
    a, b = (context.read(operand, context.type) for operand in (1, 2))
    low, _, high = (part.strip() for part in context.operands[0].partition("|"))

    def test(shift: int) -> str:
        left, right = (f"{half}::from(uint16_t({value} >> {shift}))" for value in (a, b))
        return _comparison(context.parts[1], left, right, is_float=True)

    writes = context.write(low, "pred", "low") + context.write(high, "pred", "high")
    return f"{{ const bool low = {test(0)}, high = {test(16)}; {writes} }}"


@instruction("set")
def _set(context: Context) -> str:
    """set.lt.u32.f32 d, a, b: all ones or 1.0 where true."""
    to, source = context.parts[-2], context.parts[-1]
    test = _compare(context, source)
    if len(context.operands) == 4:
        test = f"({test} {_BOOLEANS[context.parts[2]]} {context.read(3, 'pred')})"
    if to in ("f32", "f64"):
        return context.write(0, to, f"({c_type(to)})({test} ? 1 : 0)")
    return context.write(0, to, f"({c_type(to)})({test} ? -1 : 0)")


@instruction("selp")
def _select(context: Context) -> str:
    a, b = (context.read(operand, context.type) for operand in (1, 2))
    return context.write(0, context.type, f"{context.read(3, 'pred')} ? {a} : {b}")


@instruction("slct")
def _select_by_sign(context: Context) -> str:
    type, sign = context.parts[-2], context.parts[-1]
    a, b = (context.read(operand, type) for operand in (1, 2))
    return context.write(0, type, f"{context.read(3, sign)} >= 0 ? {a} : {b}")


@instruction("and", "or", "xor")
def _bitwise(context: Context) -> str:
    a, b = (context.read(operand, context.type) for operand in (1, 2))
    value = f"({a} {_BOOLEANS[context.parts[0]]} {b})"
    return context.write(0, context.type, f"({c_type(context.type)}){value}")


@instruction("not")
def _complement(context: Context) -> str:
    value = context.read(1, context.type)
    return context.write(0, context.type, f"!{value}" if context.type == "pred" else f"~{value}")


@instruction("cnot")
def _is_zero(context: Context) -> str:
    return context.write(0, context.type, f"{context.read(1, context.type)} == 0")


@instruction("lop3")
def _logic(context: Context) -> str:
    """lop3.b32 d, a, b, c, table; lop3.or.b32 d|p, a, b, c, table, q."""
    a, b, c = (context.read(operand, "u32") for operand in (1, 2, 3))
    value = f"logic({a}, {b}, {c}, {int(context.operands[4], 0)})"
    target, _, predicate = (part.strip() for part in context.operands[0].partition("|"))
    if not predicate:
        return context.write(target, "u32", value)
    test = f"((result != 0) {_BOOLEANS[context.parts[1]]} {context.read(5, 'pred')})"
    writes = context.write(predicate, "pred", test) + context.write(target, "u32", "result")
    return f"{{ const uint32_t result = {value}; {writes} }}"


@instruction("shl", "shr")
def _shift(context: Context) -> str:
    name = {"shl": "shifted_left", "shr": "shifted_right"}[context.parts[0]]
    value, count = context.read(1, context.type), context.read(2, "u32")
    return context.write(0, context.type, f"{name}<{c_type(context.type)}>({value}, {count})")


@instruction("shf")
def _funnel_shift(context: Context) -> str:
    direction = {"l": "left", "r": "right"}[context.parts[1]]
    low, high, count = (context.read(operand, "u32") for operand in (1, 2, 3))
    count = f"({count} & 31)" if context.has("wrap") else f"smaller({count}, 32u)"
    return context.write(0, "u32", f"funnel_{direction}({low}, {high}, {count})")


@instruction("prmt")
def _permute(context: Context) -> str:
    a, b, c = (context.read(operand, "u32") for operand in (1, 2, 3))
    mode = f"prmt_{context.parts[2]}, " if len(context.parts) > 2 else ""
    return context.write(0, "u32", f"permuted({mode}{a}, {b}, {c})")


@instruction("bfe")
def _extract_field(context: Context) -> str:
    value = context.read(1, context.type)
    first, length = (context.read(operand, "u32") for operand in (2, 3))
    return context.write(0, context.type, f"field({value}, {first}, {length})")


@instruction("bfi")
def _insert_field(context: Context) -> str:
    value, into = (context.read(operand, context.type) for operand in (1, 2))
    first, length = (context.read(operand, "u32") for operand in (3, 4))
    return context.write(0, context.type, f"with_field({value}, {into}, {first}, {length})")


@instruction("bfind")
def _find_bit(context: Context) -> str:
    as_shift = "true" if context.has("shiftamt") else "false"
    return context.write(0, "u32", f"highest_bit({context.read(1, context.type)}, {as_shift})")


@instruction("clz", "popc")
def _count_bits(context: Context) -> str:
    name = {"clz": "leading_zeros", "popc": "ones"}[context.parts[0]]
    return context.write(0, "u32", f"{name}({context.read(1, context.type)})")


@instruction("brev")
def _reverse_bits(context: Context) -> str:
    return context.write(0, context.type, f"reversed({context.read(1, context.type)})")
