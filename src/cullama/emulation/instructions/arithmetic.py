"""Arithmetic: sums, products, quotients, and functions of one float."""

from __future__ import annotations

from ..operands import Context, UnsupportedError, c_type
from .table import (
    FLOAT_TYPES,
    HALF_TYPES,
    float_result,
    half,
    inputs,
    instruction,
    integer,
    only,
    rounding_of,
)

_OPERATORS = {"add": "+", "sub": "-", "mul": "*"}
_ROUNDED = {"add": "add_rounded({}, {}, {})", "sub": "add_rounded({}, -{}, {})"}
_ROUNDED |= {"mul": "mul_rounded({}, {}, {})"}
_FLOAT_MODIFIERS = ("rn", "rz", "rm", "rp", "ftz", "sat", "approx", "full", "relu", "noftz")


def _float_operation(context: Context) -> str:
    name = context.parts[0]
    only(context, *_FLOAT_MODIFIERS)
    if context.type in HALF_TYPES:
        return half(context, name)
    a, b = inputs(context)
    if rounding_of(context) == "NEAREST":
        return float_result(context, f"{a} {_OPERATORS[name]} {b}")
    return float_result(context, _ROUNDED[name].format(a, b, rounding_of(context)))


@instruction("add", "sub")
def _sum(context: Context) -> str:
    if context.type in FLOAT_TYPES or context.type in HALF_TYPES:
        return _float_operation(context)
    if context.has("cc"):
        return _carrying(context, is_first=True)
    only(context, "sat")
    if context.has("sat"):
        name = {"add": "saturated_sum", "sub": "saturated_difference"}[context.parts[0]]
        return integer(context, name + "({}, {})")
    return integer(context, "{} " + _OPERATORS[context.parts[0]] + " {}")


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
    if context.type in FLOAT_TYPES or context.type in HALF_TYPES:
        return _float_operation(context)
    return context.write(0, _product_type(context), _product(context))


@instruction("mad")
def _multiply_add(context: Context) -> str:
    if context.type in FLOAT_TYPES:
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
    only(context, *_FLOAT_MODIFIERS)
    if context.type in HALF_TYPES:
        return half(context, "fma")
    a, b, c = inputs(context)
    if context.type == "f64":
        if rounding_of(context) != "NEAREST":
            raise UnsupportedError("directed rounding of fma.f64")
        return float_result(context, f"__builtin_fma({a}, {b}, {c})")
    if rounding_of(context) == "NEAREST":
        return float_result(context, f"__builtin_fmaf({a}, {b}, {c})")
    return float_result(context, f"fma_rounded({a}, {b}, {c}, {rounding_of(context)})")


@instruction("div")
def _divide(context: Context) -> str:
    if context.type not in FLOAT_TYPES:
        return integer(context, "quotient({}, {})")
    only(context, *_FLOAT_MODIFIERS)
    a, b = inputs(context)
    if rounding_of(context) == "NEAREST":
        return float_result(context, f"{a} / {b}")
    if context.type == "f64":
        raise UnsupportedError("directed rounding of div.f64")
    return float_result(context, f"div_rounded({a}, {b}, {rounding_of(context)})")


@instruction("rem")
def _remainder(context: Context) -> str:
    return integer(context, "remainder_of({}, {})")


@instruction("min", "max")
def _extreme(context: Context) -> str:
    name, type = context.parts[0], context.type
    if type not in FLOAT_TYPES and type not in HALF_TYPES:
        only(context)
        return integer(context, {"min": "smaller", "max": "larger"}[name] + "({}, {})")
    only(context, "ftz", "NaN")
    function = {"min": "minimum", "max": "maximum"}[name] + ("_nan" if context.has("NaN") else "")
    if type in FLOAT_TYPES:
        return float_result(context, f"{function}({', '.join(inputs(context))})")
    half = HALF_TYPES[type]
    operation = (
        f"[](uint16_t a, uint16_t b) "
        f"{{ return {half}::to({function}({half}::from(a), {half}::from(b))); }}"
    )
    a, b = inputs(context)
    call = f"pairwise({operation}, {a}, {b})" if type.endswith("x2") else f"({operation})({a}, {b})"
    return context.write(0, type, call)


@instruction("abs", "neg")
def _sign(context: Context) -> str:
    name, type = context.parts[0], context.type
    if type in HALF_TYPES:
        return half(context, name)
    if type in FLOAT_TYPES:
        function = {"f32": "__builtin_fabsf({})", "f64": "__builtin_fabs({})"}[type]
        value = inputs(context)[0]
        return float_result(context, function.format(value) if name == "abs" else f"-{value}")
    return integer(context, "absolute({})" if name == "abs" else "0 - {}")


@instruction("sad")
def _sum_of_absolute_differences(context: Context) -> str:
    return integer(context, "distance({}, {}) + {}")


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
    only(context, "approx", "ftz", "rn", "rz", "rm", "rp")
    if type in HALF_TYPES:
        return _half_function(context)
    value = inputs(context)[0]
    if rounding_of(context) == "NEAREST":
        suffix = "f" if type == "f32" else ""
        return float_result(context, _FLOAT_FUNCTIONS[name].format(value, f=suffix))
    if type == "f64" or name not in ("rcp", "sqrt"):
        raise UnsupportedError("directed rounding")
    argument = f"1.f, {value}" if name == "rcp" else value
    function = {"rcp": "div_rounded", "sqrt": "sqrt_rounded"}[name]
    return float_result(context, f"{function}({argument}, {rounding_of(context)})")


def _half_function(context: Context) -> str:
    half = HALF_TYPES[context.type]
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
