"""What each PTX instruction is in C++: one small function for each family, in one table.

It knows the instructions of plain CUDA C++ kernels as nvcc and NVRTC write them for compute 8.0 and
9.0a. The meaning of an operation that C++ has no operator for is in machine.h, under a plain name.
An instruction that is not in the table, or has a modifier that its function does not know, is
`UnsupportedError`: nothing is translated by guessing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from emulation.operands import Context, UnsupportedError, c_type, identifier
from emulation.ptx import size_of

Translate: TypeAlias = Callable[[Context], str]

TABLE: dict[str, Translate] = {}

_ROUNDINGS = {"rn": "NEAREST", "rz": "ZERO", "rm": "DOWN", "rp": "UP"}
_ROUNDINGS_TO_INTEGER = {f"{name}i": value for name, value in _ROUNDINGS.items()}
_HALF_TYPES = {"f16": "F16", "bf16": "BF16", "f16x2": "F16", "bf16x2": "BF16"}
_FLOAT_TYPES = ("f32", "f64")


def instruction(*names: str) -> Callable[[Translate], Translate]:
    def enter(translate: Translate) -> Translate:
        for name in names:
            assert name not in TABLE, name
            TABLE[name] = translate
        return translate

    return enter


def translate(context: Context) -> str:
    """The longest known beginning of the opcode decides: bar.warp.sync before bar."""
    parts = context.parts
    for length in range(len(parts), 0, -1):
        if found := TABLE.get(".".join(parts[:length]).replace("@", "::")):
            return found(context)
    raise UnsupportedError("instruction")


def _only(context: Context, *known: str) -> None:
    """Refuse modifiers that would change the meaning unseen."""
    for part in context.parts[1:-1]:
        if part not in known:
            raise UnsupportedError(f"modifier .{part}")


# --- shapes that many instructions share ---------------------------------------------------------


def _rounding(context: Context) -> str:
    return next((_ROUNDINGS[part] for part in context.parts if part in _ROUNDINGS), "NEAREST")


def _inputs(context: Context, first: int = 1, type: str = "") -> list[str]:
    type = type or context.type
    flush = context.has("ftz") and type == "f32"
    values = [context.read(operand, type) for operand in context.operands[first:]]
    return [f"flushed({value})" for value in values] if flush else values


def _float_result(context: Context, value: str) -> str:
    """.ftz and .sat work on what comes out."""
    if context.has("ftz") and context.type == "f32":
        value = f"flushed({value})"
    if context.has("sat"):
        value = f"saturated({value})"
    return context.write(0, context.type, value)


def _half(context: Context, operation: str) -> str:
    """`operation` of halves, or of both halves of registers."""
    type = context.type
    half = _HALF_TYPES[type]
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


def _integer(context: Context, template: str) -> str:
    """`template` names the operands {0} {1} {2}; narrow results are cut to their type."""
    return context.write(
        0, context.type, f"({c_type(context.type)})({template.format(*_inputs(context))})"
    )


# --- arithmetic ---------------------------------------------------------------------------------

_OPERATORS = {"add": "+", "sub": "-", "mul": "*"}
_ROUNDED = {"add": "add_rounded({}, {}, {})", "sub": "add_rounded({}, -{}, {})"}
_ROUNDED |= {"mul": "mul_rounded({}, {}, {})"}
_FLOAT_MODIFIERS = ("rn", "rz", "rm", "rp", "ftz", "sat", "approx", "full", "relu", "noftz")


def _float_operation(context: Context) -> str:
    name = context.parts[0]
    _only(context, *_FLOAT_MODIFIERS)
    if context.type in _HALF_TYPES:
        return _half(context, name)
    a, b = _inputs(context)
    if _rounding(context) == "NEAREST":
        return _float_result(context, f"{a} {_OPERATORS[name]} {b}")
    return _float_result(context, _ROUNDED[name].format(a, b, _rounding(context)))


@instruction("add", "sub")
def _sum(context: Context) -> str:
    if context.type in _FLOAT_TYPES or context.type in _HALF_TYPES:
        return _float_operation(context)
    if context.has("cc"):
        return _carrying(context, is_first=True)
    _only(context, "sat")
    if context.has("sat"):
        name = {"add": "saturated_sum", "sub": "saturated_difference"}[context.parts[0]]
        return _integer(context, name + "({}, {})")
    return _integer(context, "{} " + _OPERATORS[context.parts[0]] + " {}")


def _carrying(context: Context, is_first: bool) -> str:
    name = "add_carry" if context.parts[0].startswith("add") else "sub_borrow"
    unsigned = "u" + context.type[1:]
    a, b = (context.read(operand, unsigned) for operand in (1, 2))
    carry_in = "false" if is_first else "carry"
    carry_out = "carry" if context.has("cc") else "ignored_carry"
    return context.write(0, unsigned, f"{name}({a}, {b}, {carry_in}, {carry_out})")


@instruction("addc", "subc")
def _sum_with_carry(context: Context) -> str:
    return _carrying(context, is_first=False)


def _wide_type(type: str) -> str:
    return f"{type[0]}{2 * int(type[1:])}"


def _product(context: Context) -> str:
    """The product of operands 1 and 2, in the type that .lo, .hi or .wide asks for."""
    a, b = context.read(1, context.type), context.read(2, context.type)
    if context.has("wide"):
        wide = c_type(_wide_type(context.type))
        return f"({wide})(({wide}){a} * ({wide}){b})"
    if context.has("hi"):
        return f"high_product({a}, {b})"
    if context.has("lo"):  # narrow types would be multiplied as int, and overflow
        unsigned = c_type("u" + str(max(32, int(context.type[1:]))))
        return f"({c_type(context.type)})(({unsigned}){a} * ({unsigned}){b})"
    raise UnsupportedError("neither .lo, .hi nor .wide")


def _product_type(context: Context) -> str:
    return _wide_type(context.type) if context.has("wide") else context.type


@instruction("mul")
def _multiply(context: Context) -> str:
    if context.type in _FLOAT_TYPES or context.type in _HALF_TYPES:
        return _float_operation(context)
    return context.write(0, _product_type(context), _product(context))


@instruction("mad")
def _multiply_add(context: Context) -> str:
    if context.type in _FLOAT_TYPES:
        return _fused(context)
    type = _product_type(context)
    if context.has("sat"):
        value = f"saturated_sum({_product(context)}, {context.read(3, type)})"
        return context.write(0, type, value)
    if context.has("cc"):
        return _carrying_product(context, "false")
    value = f"{_product(context)} + {context.read(3, type)}"
    return context.write(0, type, f"({c_type(type)})({value})")


def _carrying_product(context: Context, carry_in: str) -> str:
    unsigned = "u" + context.type[1:]
    out = "carry" if context.has("cc") else "ignored_carry"
    product = f"({c_type(unsigned)}){_product(context)}"
    value = f"add_carry({product}, {context.read(3, unsigned)}, {carry_in}, {out})"
    return context.write(0, unsigned, value)


@instruction("madc")
def _multiply_add_with_carry(context: Context) -> str:
    return _carrying_product(context, "carry")


@instruction("mul24", "mad24")
def _product_of_24_bits(context: Context) -> str:
    shift = "(({})({} << 8) >> 8)"
    type = c_type(context.type)
    a, b = (shift.format(type, context.read(operand, context.type)) for operand in (1, 2))
    if not context.has("lo"):
        raise UnsupportedError("modifier .hi")
    rest = f" + {context.read(3, context.type)}" if context.parts[0] == "mad24" else ""
    return context.write(0, context.type, f"{a} * {b}{rest}")


@instruction("fma")
def _fused(context: Context) -> str:
    _only(context, *_FLOAT_MODIFIERS)
    if context.type in _HALF_TYPES:
        return _half(context, "fma")
    a, b, c = _inputs(context)
    if context.type == "f64":
        if _rounding(context) != "NEAREST":
            raise UnsupportedError("directed rounding of fma.f64")
        return _float_result(context, f"__builtin_fma({a}, {b}, {c})")
    if _rounding(context) == "NEAREST":
        return _float_result(context, f"__builtin_fmaf({a}, {b}, {c})")
    return _float_result(context, f"fma_rounded({a}, {b}, {c}, {_rounding(context)})")


@instruction("div")
def _divide(context: Context) -> str:
    if context.type not in _FLOAT_TYPES:
        return _integer(context, "quotient({}, {})")
    _only(context, *_FLOAT_MODIFIERS)
    a, b = _inputs(context)
    if _rounding(context) == "NEAREST":
        return _float_result(context, f"{a} / {b}")
    if context.type == "f64":
        raise UnsupportedError("directed rounding of div.f64")
    return _float_result(context, f"div_rounded({a}, {b}, {_rounding(context)})")


@instruction("rem")
def _remainder(context: Context) -> str:
    return _integer(context, "remainder_of({}, {})")


@instruction("min", "max")
def _extreme(context: Context) -> str:
    name, type = context.parts[0], context.type
    if type not in _FLOAT_TYPES and type not in _HALF_TYPES:
        _only(context)
        return _integer(context, {"min": "smaller", "max": "larger"}[name] + "({}, {})")
    _only(context, "ftz", "NaN")
    function = {"min": "minimum", "max": "maximum"}[name] + ("_nan" if context.has("NaN") else "")
    if type in _FLOAT_TYPES:
        return _float_result(context, f"{function}({', '.join(_inputs(context))})")
    half = _HALF_TYPES[type]
    operation = (
        f"[](uint16_t a, uint16_t b) "
        f"{{ return {half}::to({function}({half}::from(a), {half}::from(b))); }}"
    )
    a, b = _inputs(context)
    call = f"pairwise({operation}, {a}, {b})" if type.endswith("x2") else f"({operation})({a}, {b})"
    return context.write(0, type, call)


@instruction("abs", "neg")
def _sign(context: Context) -> str:
    name, type = context.parts[0], context.type
    if type in _HALF_TYPES:
        return _half(context, name)
    if type in _FLOAT_TYPES:
        function = {"f32": "__builtin_fabsf({})", "f64": "__builtin_fabs({})"}[type]
        value = _inputs(context)[0]
        return _float_result(context, function.format(value) if name == "abs" else f"-{value}")
    return _integer(context, "absolute({})" if name == "abs" else "0 - {}")


@instruction("sad")
def _sum_of_absolute_differences(context: Context) -> str:
    return _integer(context, "distance({}, {}) + {}")


@instruction("dp4a", "dp2a")
def _dot_product(context: Context) -> str:
    """dp4a.atype.btype: the accumulator is signed if either is."""
    name, a_type, b_type = context.parts[0], context.parts[-2], context.parts[-1]
    a, b, c = (context.read(operand, "u32") for operand in (1, 2, 3))
    width = {"dp4a": "8", "dp2a": "16"}[name]
    types = f"{c_type(a_type[0] + width)}, {c_type(b_type[0] + '8')}"
    if name == "dp4a":
        return context.write(0, "u32", f"dot4<{types}>({a}, {b}, {c})")
    return context.write(0, "u32", f"dot2<{types}>({a}, {b}, {c}, {2 * context.has('hi')})")


# --- functions of one float ----------------------------------------------------------------------

_FLOAT_FUNCTIONS = {
    "rcp": "1 / {}",
    "sqrt": "__builtin_sqrt{f}({})",
    "rsqrt": "1 / __builtin_sqrt{f}({})",
    "ex2": "__builtin_exp2{f}({})",
    "lg2": "__builtin_log2{f}({})",
    "sin": "__builtin_sin{f}({})",
    "cos": "__builtin_cos{f}({})",
    "tanh": "__builtin_tanh{f}({})",
}


@instruction(*_FLOAT_FUNCTIONS)
def _float_function(context: Context) -> str:
    name, type = context.parts[0], context.type
    _only(context, "approx", "ftz", "rn", "rz", "rm", "rp")
    if type in _HALF_TYPES:
        return _half_function(context)
    value = _inputs(context)[0]
    if _rounding(context) == "NEAREST":
        suffix = "f" if type == "f32" else ""
        return _float_result(context, _FLOAT_FUNCTIONS[name].format(value, f=suffix))
    if type == "f64" or name not in ("rcp", "sqrt"):
        raise UnsupportedError("directed rounding")
    argument = f"1.f, {value}" if name == "rcp" else value
    function = {"rcp": "div_rounded", "sqrt": "sqrt_rounded"}[name]
    return _float_result(context, f"{function}({argument}, {_rounding(context)})")


def _half_function(context: Context) -> str:
    half = _HALF_TYPES[context.type]
    value = _FLOAT_FUNCTIONS[context.parts[0]].format(f"{half}::from(x)", f="f")
    operation = f"[](uint16_t x) {{ return {half}::to(float({value})); }}"
    argument = context.read(1, context.type)
    if context.type.endswith("x2"):
        return context.write(0, context.type, f"pairwise({operation}, {argument})")
    return context.write(0, context.type, f"({operation})({argument})")


@instruction("copysign")
def _copy_sign(context: Context) -> str:
    """copysign.f32 d, a, b: the sign of a, the size of b."""
    suffix = "f" if context.type == "f32" else ""
    a, b = (context.read(operand, context.type) for operand in (1, 2))
    return context.write(0, context.type, f"__builtin_copysign{suffix}({b}, {a})")


@instruction("testp")
def _test_property(context: Context) -> str:
    value = context.read(1, context.type)
    smallest = "1.17549435e-38f" if context.type == "f32" else "2.2250738585072014e-308"
    size = f"__builtin_fabs({value})"
    tests = {
        "finite": f"{size} < infinity",
        "infinite": f"{size} == infinity",
        "number": f"!is_nan({value})",
        "notanumber": f"is_nan({value})",
        "normal": f"{size} >= {smallest} && {size} < infinity",
        "subnormal": f"{size} < {smallest} && {value} != 0",
    }
    return context.write(0, "pred", tests[context.parts[1]])


# --- comparison -----------------------------------------------------------------------------------

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
    if type in _HALF_TYPES:
        a, b = (f"{_HALF_TYPES[type]}::from({value})" for value in (a, b))
    if context.has("ftz") and type == "f32":
        a, b = f"flushed({a})", f"flushed({b})"
    return _comparison(name, a, b, type in _HALF_TYPES or type in _FLOAT_TYPES)


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
    half = _HALF_TYPES[context.type]
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


# --- bits -----------------------------------------------------------------------------------------


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


# --- moves and conversions ------------------------------------------------------------------------


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
    known = (*_ROUNDINGS, *_ROUNDINGS_TO_INTEGER, "ftz", "sat", "relu", "rna", to)
    _only(context, *known)
    if to.endswith("x2"):
        return _convert_pair(context, to)
    is_from_float = source in _FLOAT_TYPES or source in _HALF_TYPES
    is_to_float = to in _FLOAT_TYPES or to in _HALF_TYPES
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
    if source in _HALF_TYPES:
        return f"{_HALF_TYPES[source]}::from({value})"
    return f"flushed({value})" if context.has("ftz") and source == "f32" else value


def _rounding_to_integer(context: Context) -> str:
    found = [_ROUNDINGS_TO_INTEGER[p] for p in context.parts if p in _ROUNDINGS_TO_INTEGER]
    return found[0] if found else ""


def _float_to_integer(context: Context, to: str, source: str) -> str:
    rounding = _rounding_to_integer(context) or "ZERO"
    return context.write(
        0, to, f"to_integer<{c_type(to)}>({_as_float(context, source)}, {rounding})"
    )


def _to_half(context: Context, half: str, value: str) -> str:
    if context.has("relu"):
        value = f"maximum_nan({value}, 0.f)"
    if _rounding(context) == "NEAREST":
        return f"{half}::to({value})"
    return f"{half}::to(double({value}), {_rounding(context)})"


def _float_to_float(context: Context, to: str, source: str) -> str:
    value = _as_float(context, source)
    if rounding := _rounding_to_integer(context):
        value = f"rounded({value}, {rounding})"
    if context.has("sat"):
        value = f"saturated({value})"
    if to in _HALF_TYPES:
        if source == "f64":
            value = f"double({value})"
            return context.write(0, to, f"{_HALF_TYPES[to]}::to({value}, {_rounding(context)})")
        return context.write(0, to, _to_half(context, _HALF_TYPES[to], value))
    if to == "f32" and source == "f64":
        value = f"to_float({value}, {_rounding(context)})"
        value = f"flushed({value})" if context.has("ftz") else value
    return context.write(0, to, f"({c_type(to)}){value}")


def _integer_to_float(context: Context, to: str, source: str) -> str:
    value, rounding = context.read(1, source), _rounding(context)
    if to in _HALF_TYPES:  # a double holds 53 bits; more do not matter to a half's 11
        value = f"{_HALF_TYPES[to]}::to(from_integer<double>({value}, ZERO), {rounding})"
        return context.write(0, to, value)
    return context.write(0, to, f"from_integer<{c_type(to)}>({value}, {rounding})")


def _convert_pair(context: Context, to: str) -> str:
    """cvt.rn.f16x2.f32 d, a, b: a is the upper half."""
    half = _HALF_TYPES[to]
    if context.type != "f32":
        raise UnsupportedError(f"conversion from .{context.type}")
    values = _inputs(context)
    high, low = (_to_half(context, half, value) for value in values)
    return context.write(0, to, f"(uint32_t){low} | (uint32_t){high} << 16")


# --- loads and stores -----------------------------------------------------------------------------


_VECTORS = {"v2": 2, "v4": 4, "v8": 8}


def _vector(context: Context, operand: int) -> tuple[list[str], int]:
    """The registers of a load or store, and the bytes that they take together."""
    type, registers = context.type, context.vector(operand)
    if type == "b128":
        raise UnsupportedError("type .b128")
    c_type(type)
    if len(registers) != next((_VECTORS[part] for part in context.parts if part in _VECTORS), 1):
        raise UnsupportedError("vector")
    return registers, len(registers) * size_of(type)


@instruction("ld", "ldu")
def _load(context: Context) -> str:
    type, (targets, size) = context.type, _vector(context, 0)
    pointer = context.pointer(1, size)
    writes = [
        context.write(target, type, f"load<{c_type(type)}>(from + {number * size_of(type)})")
        for number, target in enumerate(targets)
    ]
    return f"{{ const unsigned char* from = {pointer}; {' '.join(writes)} }}"


@instruction("st")
def _store(context: Context) -> str:
    type, (values, size) = context.type, _vector(context, 1)
    pointer = context.pointer(0, size)
    writes = [
        f"store<{c_type(type)}>(to + {number * size_of(type)}, {context.read(value, type)});"
        for number, value in enumerate(values)
    ]
    return f"{{ unsigned char* to = {pointer}; {' '.join(writes)} }}"


@instruction("prefetch", "prefetchu", "applypriority", "discard")
def _hint(context: Context) -> str:
    return ";"


@instruction("createpolicy")
def _cache_policy(context: Context) -> str:
    return context.write(0, "b64", "(uint64_t)0")


_ATOMIC_INTEGERS = {
    "add": "old + {0}",
    "min": "smaller(old, {0})",
    "max": "larger(old, {0})",
    "and": "old & {0}",
    "or": "old | {0}",
    "xor": "old ^ {0}",
    "exch": "{0}",
    "cas": "old == {0} ? {1} : old",
    "inc": "old >= {0} ? 0 : old + 1",
    "dec": "old == 0 || old > {0} ? {0} : old - 1",
}
_ATOMIC_OPERATIONS = tuple(_ATOMIC_INTEGERS)


def _atomic_change(operation: str, type: str, values: list[str]) -> str:
    if type not in _HALF_TYPES:
        floats = {"min": "minimum(old, {0})", "max": "maximum(old, {0})"}
        changes = _ATOMIC_INTEGERS | (floats if type in _FLOAT_TYPES else {})
        return changes[operation].format(*values)
    half = _HALF_TYPES[type]
    if operation != "add":
        raise UnsupportedError(f".{operation}.{type}")
    if type.endswith("x2"):
        return f"pairwise(half_add<{half}>, old, {values[0]})"
    return f"half_add<{half}>(old, {values[0]})"


def _atomic_part(context: Context, first: int) -> str:
    """The read, change, write; operand `first` is the address."""
    type = context.type
    operation = next(part for part in context.parts if part in _ATOMIC_OPERATIONS)
    if context.has(*_VECTORS):
        raise UnsupportedError("vector")
    count = 2 if operation == "cas" else 1
    values = [context.read(first + 1 + number, type) for number in range(count)]
    change = _atomic_change(operation, type, values)
    pointer, c = context.pointer(first, size_of(type)), c_type(type)
    return f"atomically<{c}>({pointer}, [&]({c} old) {{ return ({c})({change}); }})"


@instruction("atom")
def _atomic(context: Context) -> str:
    return context.write(0, context.type, _atomic_part(context, 1))


@instruction("red")
def _atomic_without_result(context: Context) -> str:
    return _atomic_part(context, 0) + ";"


@instruction("fence", "membar", "griddepcontrol", "nanosleep", "setmaxnreg", "pmevent")
def _nothing(context: Context) -> str:
    """Threads of an emulated grid see each other's writes at once, and nothing runs ahead."""
    return ";"


# --- asynchronous copies --------------------------------------------------------------------------


@instruction("cp.async.ca", "cp.async.cg")
def _copy_asynchronously(context: Context) -> str:
    """cp.async.ca.shared.global [to], [from], bytes {, source bytes or ignore-source}{, policy}."""
    size = int(context.operands[2])
    rest = context.operands[3 : -1 if context.has("L2@cache_hint") else None]
    source_bytes = str(size)
    if rest:
        is_predicate = context.function.registers.get(rest[0].lstrip("!")) == "pred"
        value = context.read(rest[0], "pred" if is_predicate else "u32")
        source_bytes = f"({value} ? 0 : {size})" if is_predicate else value
    to = context.pointer(0, size, "shared")
    context.sites.append(context.line)
    # Nothing is read where no source bytes are: the address may be anything.
    source = (
        f"source_bytes ? global(sites[{len(context.sites) - 1}], {context.address(1)}, {size}, "
        f"{context.line}) : nullptr"
    )
    return (
        f"{{ const uint32_t source_bytes = {source_bytes}; "
        f"copy_asynchronously(self, {to}, {source}, {size}, source_bytes); }}"
    )


@instruction("cp.async.commit_group")
def _commit(context: Context) -> str:
    return "commit_copies(self);"


@instruction("cp.async.wait_group")
def _wait_group(context: Context) -> str:
    return f"wait_for_copies(self, {context.read(0, 'u32')});"


@instruction("cp.async.wait_all")
def _wait_all(context: Context) -> str:
    return "commit_copies(self); wait_for_copies(self, 0);"


# --- barriers and warps ---------------------------------------------------------------------------


def _barrier_operands(context: Context, first: int) -> str:
    operands = [context.read(operand, "u32") for operand in context.operands[first : first + 2]]
    return ", ".join([*operands, "0"][:2])


@instruction("bar.sync", "barrier.sync", "bar.cta.sync", "barrier.cta.sync")
def _barrier(context: Context) -> str:
    return f"barrier(self, {_barrier_operands(context, 0)}, {context.line});"


@instruction("bar.arrive", "barrier.arrive", "bar.cta.arrive", "barrier.cta.arrive")
def _barrier_arrive(context: Context) -> str:
    return f"barrier_arrive(self, {_barrier_operands(context, 0)}, {context.line});"


@instruction("bar.red", "barrier.red", "bar.cta.red", "barrier.cta.red")
def _barrier_vote(context: Context) -> str:
    """bar.red.popc.u32 d, barrier {, threads}, predicate."""
    vote = context.read(-1, "pred")
    operation = next(part for part in context.parts if part in ("popc", "and", "or"))
    operands = [context.read(operand, "u32") for operand in context.operands[1:-1]]
    where = ", ".join([*operands, "0"][:2])
    results = {"popc": "votes.count", "and": "votes.count == votes.all", "or": "votes.count != 0"}
    write = context.write(0, "u32" if operation == "popc" else "pred", results[operation])
    return f"{{ const Votes votes = barrier_vote(self, {where}, {vote}, {context.line}); {write} }}"


@instruction("bar.warp.sync")
def _warp_barrier(context: Context) -> str:
    mask = context.read(0, "u32")
    return f'collective(self, "bar.warp.sync", {mask}, {context.line}, nullptr, nullptr);'


@instruction("barrier.cluster")
def _cluster_barrier(context: Context) -> str:
    raise UnsupportedError("clusters")


@instruction("shfl.sync")
def _shuffle(context: Context) -> str:
    """shfl.sync.bfly.b32 d|p, a, b, c, mask."""
    target, _, predicate = (part.strip() for part in context.operands[0].partition("|"))
    value, control, segments, mask = (context.read(operand, "u32") for operand in (1, 2, 3, 4))
    inside = ", &is_inside" if predicate else ""
    call = (
        f"shuffle(self, SHUFFLE_{context.parts[2].upper()}, {value}, {control}, {segments}, "
        f"{mask}, {context.line}{inside})"
    )
    if not predicate:
        return context.write(target, "b32", call)
    writes = context.write(target, "b32", call) + context.write(predicate, "pred", "is_inside")
    return f"{{ bool is_inside; {writes} }}"


@instruction("vote.sync")
def _vote(context: Context) -> str:
    vote, mask = context.read(1, "pred"), context.read(2, "u32")
    results = {
        "ballot": "votes.yes",
        "any": "votes.yes != 0",
        "all": "votes.yes == votes.lanes",
        "uni": "votes.yes == 0 || votes.yes == votes.lanes",
    }
    mode = context.parts[2]
    write = context.write(0, "b32" if mode == "ballot" else "pred", results[mode])
    return f"{{ const Gathered votes = ballot(self, {vote}, {mask}, {context.line}); {write} }}"


@instruction("match.any.sync", "match.all.sync")
def _match(context: Context) -> str:
    """match.all.sync.b32 d|p, a, mask: d is all lanes or none, p says which."""
    target, _, predicate = (part.strip() for part in context.operands[0].partition("|"))
    value, mask = context.read(1, context.type), context.read(2, "u32")
    gathered = f'const Gathered all = gather(self, "match.sync", {value}, {mask}, {context.line});'
    if context.parts[1] == "any":
        return f"{{ {gathered} {context.write(target, 'b32', 'all.yes')} }}"
    writes = context.write(target, "b32", "all.yes == all.lanes ? all.lanes : 0u")
    if predicate:
        writes += context.write(predicate, "pred", "all.yes == all.lanes")
    return f"{{ {gathered} {writes} }}"


@instruction("redux.sync")
def _reduce(context: Context) -> str:
    operation = context.parts[2].capitalize()
    value, mask = context.read(1, context.type), context.read(2, "u32")
    call = f"reduce<{c_type(context.type)}, {operation}>(self, {value}, {mask}, {context.line})"
    if operation not in ("Add", "Min", "Max", "And", "Or", "Xor"):
        raise UnsupportedError(f"modifier .{context.parts[2]}")
    return context.write(0, context.type, call)


@instruction("activemask")
def _active_lanes(context: Context) -> str:
    """Fibers do not run in step: we say that the whole warp is there, as far as it lives."""
    return context.write(0, "b32", "living_lanes(self)")


@instruction("elect.sync")
def _elect(context: Context) -> str:
    """elect.sync d|p, mask: the lowest lane is the leader."""
    target, _, predicate = (part.strip() for part in context.operands[0].partition("|"))
    mask = context.read(1, "u32")
    leader = f"const uint32_t leader = __builtin_ctz({mask});"
    sync = f'collective(self, "elect.sync", {mask}, {context.line}, nullptr, nullptr);'
    writes = context.write(target, "b32", "leader")
    writes += context.write(predicate, "pred", "leader == self.lane")
    return f"{{ {leader} {sync} {writes} }}"


# --- matrices -------------------------------------------------------------------------------------


@instruction("ldmatrix.sync.aligned.m8n8")
def _load_matrices(context: Context) -> str:
    targets = context.vector(0)
    if context.type != "b16" or len(targets) != int(context.parts[4][1:]):
        raise UnsupportedError("shape")
    is_transposed = "true" if context.has("trans") else "false"
    payload = (
        f"MatrixLoad load = {{{context.address(1)}, {len(targets)}, {context.line}, "
        f"{is_transposed}, {{}}}};"
    )
    writes = [context.write(t, "b32", f"load.result[{n}]") for n, t in enumerate(targets)]
    return f"{{ {payload} load_matrices(self, load); {' '.join(writes)} }}"


@instruction("mma.sync.aligned.m16n8k16", "mma.sync.aligned.m16n8k8")
def _multiply_matrices(context: Context) -> str:
    """mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 d, a, b, c."""
    rows, columns, d_type, a_type, b_type, c_kind = context.parts[4:10]
    is_known = (rows, columns, d_type, c_kind) == ("row", "col", "f32", "f32")
    if not is_known or a_type not in ("f16", "bf16") or b_type != a_type:
        raise UnsupportedError("shape or types")
    depth = int(context.parts[3].rpartition("k")[2])
    fields = [
        f"product.{name}[{number}] = {context.read(register, type)};"
        for name, operand, type in (("a", 1, "b32"), ("b", 2, "b32"), ("c", 3, "f32"))
        for number, register in enumerate(context.vector(operand))
    ]
    writes = [
        context.write(register, "f32", f"product.d[{number}]")
        for number, register in enumerate(context.vector(0))
    ]
    call = f"multiply_matrices<{_HALF_TYPES[a_type]}, {depth}>(self, product);"
    return (
        f"{{ MatrixProduct product = {{}}; product.line = {context.line}; "
        f"{' '.join(fields)} {call} {' '.join(writes)} }}"
    )


# --- the end ------------------------------------------------------------------------------------


@instruction("ret", "exit")
def _return(context: Context) -> str:
    if context.parts[0] == "exit" and not context.function.is_entry:
        raise UnsupportedError("exit from a function")
    return "return;"


@instruction("trap")
def _trap(context: Context) -> str:
    return f'fail(LAUNCH_FAILED, {context.line}, "trap");'


@instruction("brkpt")
def _breakpoint(context: Context) -> str:
    return ";"


# --- branches and calls ---------------------------------------------------------------------------


def _jump(context: Context, label: str) -> str:
    """Turns of loops are counted: the watchdog ends a block that never does."""
    step = ""
    if label in context.labels_behind:
        step = f"if (UNLIKELY(--machine.steps_left <= 0)) out_of_steps({context.line}); "
    return f"{step}goto {identifier(label)};"


@instruction("bra")
def _branch(context: Context) -> str:
    return _jump(context, context.operands[0])


@instruction("brx.idx")
def _branch_by_index(context: Context) -> str:
    targets = context.function.branch_targets[context.operands[1]]
    cases = [f"case {number}: {_jump(context, label)}" for number, label in enumerate(targets)]
    outside = f'default: fail(LAUNCH_FAILED, {context.line}, "no such branch target");'
    return f"switch ({context.read(0, 'u32')}) {{ {' '.join(cases)} {outside} }}"


@instruction("call")
def _call(context: Context) -> str:
    """call (results), function, (parameters); each is the name of a .param variable."""
    operands = list(context.operands)
    results = operands.pop(0) if operands[0].startswith("(") else "()"
    name, parameters = operands[0], operands[1] if len(operands) > 1 else "()"
    names = [part.strip() for part in f"{results[1:-1]},{parameters[1:-1]}".split(",")]
    addresses = [context.symbols[part] for part in names if part]
    if name == "__assertfail":
        values = [f"load<uint64_t>((unsigned char*){address})" for address in addresses[:2]]
        line = f"load<uint32_t>((unsigned char*){addresses[2]})"
        return f"assertion_failed({', '.join(values)}, {line}, {context.line});"
    if name not in context.callable:
        raise UnsupportedError(f"call of {name}")
    return f"{identifier(name)}({', '.join(['self', *addresses])});"
