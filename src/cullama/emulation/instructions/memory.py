"""Loads and stores, atomics, and asynchronous copies."""

from __future__ import annotations

from ..operands import Context, UnsupportedError, c_type
from ..ptx import size_of
from .table import FLOAT_TYPES, HALF_TYPES, instruction

_VECTORS = {"v2": 2, "v4": 4, "v8": 8}


def _vector(context: Context, operand: int) -> tuple[list[str], int]:
    """Return the registers of a load or store, and their size in bytes."""
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
    if type not in HALF_TYPES:
        floats = {"min": "minimum(old, {0})", "max": "maximum(old, {0})"}
        changes = _ATOMIC_INTEGERS | (floats if type in FLOAT_TYPES else {})
        return changes[operation].format(*values)
    half = HALF_TYPES[type]
    if operation != "add":
        raise UnsupportedError(f".{operation}.{type}")
    if type.endswith("x2"):
        return f"pairwise(half_add<{half}>, old, {values[0]})"
    return f"half_add<{half}>(old, {values[0]})"


def _atomic_part(context: Context, first: int, where: str = "") -> str:
    """Return the read-modify-write; operand `first` is the address."""
    type = context.type
    operation = next(part for part in context.parts if part in _ATOMIC_OPERATIONS)
    if context.has(*_VECTORS):
        raise UnsupportedError("vector")
    count = 2 if operation == "cas" else 1
    values = [context.read(first + 1 + number, type) for number in range(count)]
    change = _atomic_change(operation, type, values)
    pointer, c = context.pointer(first, size_of(type)), c_type(type)
    return f"atomically<{c}>({pointer}{where}, [&]({c} old) {{ return ({c})({change}); }})"


@instruction("atom")
def _atomic(context: Context) -> str:
    return context.write(0, context.type, _atomic_part(context, 1, f", {context.line}"))


@instruction("red")
def _atomic_without_result(context: Context) -> str:
    return _atomic_part(context, 0) + ";"


@instruction("griddepcontrol.wait")
def _wait_for_grid(context: Context) -> str:
    return f"wait_for_grid(self, {context.line});"


@instruction(
    "fence", "membar", "griddepcontrol.launch_dependents", "nanosleep", "setmaxnreg", "pmevent"
)
def _nothing(context: Context) -> str:
    """A fence does nothing: emulated threads see each other's writes at once."""
    return ";"


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
    to = context.recorded(
        f"shared({context.address(0)}, {size}, {context.line})", size, "copy store"
    )
    context.sites.append(context.line)
    site = f"sites[{len(context.sites) - 1}]"
    source = context.recorded(
        f"global({site}, {context.address(1)}, {size}, {context.line})", size, "copy"
    )
    # With 0 source bytes nothing is read, and the address may be invalid.
    return (
        f"{{ const uint32_t source_bytes = {source_bytes}; unsigned char* const to = {to}; "
        f"const unsigned char* const from = source_bytes ? {source} : nullptr; "
        f"copy_asynchronously(self, to, from, {size}, source_bytes); }}"
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
