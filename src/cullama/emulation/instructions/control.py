"""Control flow: branches, calls, returns."""

from __future__ import annotations

from ..operands import Context, UnsupportedError, identifier
from .table import instruction


def _jump(context: Context, label: str) -> str:
    """Jump to a label; backward jumps are counted, so that the watchdog can end the block."""
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
