"""Translates a PTX module to one C++ file: variables, functions, and a table that describes them.

It lays out arrays and writes the frame of functions. Instructions are translated in instructions/,
and build.py compiles the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from . import instructions
from .operands import Context, UnsupportedError, c_type, identifier, register_type
from .ptx import Instruction, Label, PtxError, PtxFunction, PtxModule, PtxVariable, size_of

SHARED_BASE = 1024  # as in scheduler.h
RED_ZONE = 256  # unused bytes between shared arrays, so that overruns are found


@dataclass(frozen=True)
class _Shared:
    """Addresses of the shared arrays of one kernel."""

    first: dict[str, int]
    end: int

    def with_arrays(self, arrays: list[PtxVariable]) -> _Shared:
        first, end = dict(self.first), self.end
        for array in arrays:
            first[array.name] = -(-end // array.align) * array.align
            end = first[array.name] + array.size + RED_ZONE
        return _Shared(first, end)


def _shared_arrays(variables: list[PtxVariable]) -> list[PtxVariable]:
    return [variable for variable in variables if variable.space == "shared" and variable.count]


def _is_dynamic(variable: PtxVariable) -> bool:
    return variable.space == "shared" and not variable.count


class Translator:
    """Writes a module as C++; counting/translator.py extends it."""

    header = "machine.h"

    def __init__(self, module: PtxModule) -> None:
        self.module = module
        self.sites: list[int] = []
        everywhere = _shared_arrays(module.variables)
        for function in module.functions:
            if not function.is_entry:
                everywhere += _shared_arrays(function.variables)
        self.common_arrays = everywhere
        self.common = _Shared({}, SHARED_BASE).with_arrays(everywhere)
        self.callable = frozenset(f.name for f in module.functions if not f.is_entry)

    def whole(self) -> str:
        """Return the module as C++; raises PtxError for an unsupported instruction."""
        return "\n".join(self._parts())

    def _parts(self) -> Iterator[str]:
        bodies = ["\n".join(self._function(function)) for function in self.module.functions]
        yield f'#include "{self.header}"\n\nusing namespace emulated;\n'
        yield f"static Site sites[{len(self.sites) or 1}];\n"
        yield from map(_definition, self._data())
        yield from (f"{_signature(function)};" for function in self.module.functions)
        yield from bodies
        yield from self.tables()

    def _data(self) -> list[PtxVariable]:
        """Return arrays in global and constant memory, including those that functions declare."""
        functions = [v for function in self.module.functions for v in function.variables]
        everything = self.module.variables + functions
        return [variable for variable in everything if variable.space in ("global", "const")]

    # --- shared memory

    def _layout(self, function: PtxFunction) -> _Shared:
        if not function.is_entry:
            return self.common
        return self.common.with_arrays(_shared_arrays(function.variables))

    def _dynamic_first(self, function: PtxFunction) -> int:
        variables = self.module.variables + function.variables
        align = max([16, *(v.align for v in variables if _is_dynamic(v))])
        return -(-self._layout(function).end // align) * align

    def _used_arrays(self, entry: PtxFunction) -> list[PtxVariable]:
        """Return the entry's own shared arrays, and those that it or a called function names."""
        own = _shared_arrays(entry.variables)
        words = {
            word
            for reader in self._with_callees(entry)
            for instruction in reader.instructions()
            for operand in instruction.operands
            for word in re.findall(r"[\w$.]+", operand)
        }
        return [array for array in self.common_arrays if array.name in words] + own

    def _with_callees(self, entry: PtxFunction) -> list[PtxFunction]:
        """Return the entry, and all functions of the module if it calls any."""
        return [entry, *(f for f in self.module.functions if _calls(entry) and not f.is_entry)]

    # --- functions

    def _function(self, function: PtxFunction) -> Iterator[str]:
        yield f"{_signature(function)} {{"
        yield from _declarations(function)
        symbols, spaces = self._symbols(function)
        blank = Instruction("", (), 0)
        context = Context(function, symbols, blank, spaces, self.sites, set(), self.callable)
        yield from self.body(function, context)
        yield "}\n"

    def body(self, function: PtxFunction, context: Context) -> Iterator[str]:
        for item in function.body:
            if isinstance(item, Label):
                yield label(item, context)
            else:
                yield "  " + statement(replace(context, instruction=item))

    def _symbols(self, function: PtxFunction) -> tuple[dict[str, str], dict[str, str]]:
        """Return C++ for the address of every named variable, and its state space."""
        shared, symbols = self._layout(function).first, {}
        variables = self.module.variables + function.variables
        for variable in variables:
            symbols[variable.name] = f"(uint64_t){identifier(variable.name)}"
            if variable.name in shared:
                symbols[variable.name] = f"uint64_t({shared[variable.name]})"
            elif _is_dynamic(variable):
                symbols[variable.name] = "uint64_t(machine.dynamic_first)"
        for parameter in function.parameters + function.results:
            symbols[parameter.name] = identifier(parameter.name)
        spaces = {v.name: v.space for v in variables + function.parameters + function.results}
        return symbols, spaces

    # --- tables

    def tables(self) -> Iterator[str]:
        entries = self.module.entries
        for entry in entries:
            sizes = ", ".join(str(parameter.size) for parameter in entry.parameters)
            yield f"static const size_t {identifier(entry.name)}sizes[] = {{{sizes or 0}}};"
            yield f"static const SharedArray {identifier(entry.name)}shared[] = {{"
            yield from self._shared_rows(entry)
            yield "};"
        kernels = [self._kernel_row(entry) for entry in entries]
        ranges = [f"{{(uint64_t){identifier(v.name)}, {v.size}}}" for v in self._data()]
        lines = list(_source_lines(self.module))
        yield table("Kernel", "kernels", kernels)
        yield table("Range", "variables", ranges)
        yield table("SourceLine", "source_lines", lines)
        counts = f"kernels, {len(kernels)}, sites, {len(self.sites)}"
        rest = f'variables, {len(ranges)}, source_lines, {len(lines)}, "PTX line", {{0, 0}}'
        yield f"static const Module module = {{{counts}, {rest}}};"
        yield "EMULATED_INTERFACE(module)"

    def _shared_rows(self, entry: PtxFunction) -> Iterator[str]:
        first = self._layout(entry).first
        arrays = self._used_arrays(entry)
        yield from (f"  {{{first[array.name]}, {array.size}}}," for array in arrays)
        yield "  {0, 0}"

    def _kernel_row(self, entry: PtxFunction) -> str:
        name = identifier(entry.name)
        variables = [v for function in self._with_callees(entry) for v in function.variables]
        local = sum(variable.size for variable in variables if variable.space == "local")
        return (
            f'{{"{entry.name}", {name}, {len(entry.parameters)}, {name}sizes, '
            f"{entry.max_threads}, {local}, {name}shared, {len(self._used_arrays(entry))}, "
            f"{self._dynamic_first(entry)}}}"
        )


def label(item: Label, context: Context) -> str:
    context.labels_behind.add(item.name)
    return f"{identifier(item.name)}:;"


def statement(context: Context) -> str:
    instruction = context.instruction
    try:
        text = instructions.translate(context)
    except (UnsupportedError, KeyError, IndexError, ValueError) as error:
        reason = error if isinstance(error, UnsupportedError) else f"operands ({error!r})"
        message = f"`{instruction}`: unknown {reason}"
        raise PtxError(instruction.line, message, instruction.source) from error
    if not instruction.guard:
        return text
    negation = "!" if instruction.is_negated else ""
    return f"if ({negation}{identifier(instruction.guard)}) {{ {text} }}"


def _calls(function: PtxFunction) -> bool:
    return any(instruction.parts[0] == "call" for instruction in function.instructions())


def _signature(function: PtxFunction) -> str:
    name = identifier(function.name)
    if function.is_entry:
        return f"static void {name}(Thread& self)"
    parameters = [identifier(v.name) for v in function.results + function.parameters]
    formals = ["Thread& self", *(f"uint64_t {name}" for name in parameters)]
    return f"static void {name}({', '.join(formals)})"


def _declarations(function: PtxFunction) -> Iterator[str]:
    """Declare everything at the top, as a goto may not jump over a declaration."""
    yield "  bool carry = false, ignored_carry; (void)carry, (void)ignored_carry, (void)self;"
    if function.is_entry:
        for number, parameter in enumerate(function.parameters):
            name = identifier(parameter.name)
            yield f"  const uint64_t {name} = (uint64_t)machine.parameters[{number}];"
    for name, type in function.registers.items():
        yield f"  {register_type(type)} {identifier(name)};"
    for variable in function.variables:
        if variable.space in ("local", "param"):
            name, align = identifier(variable.name), max(variable.align, 8)
            yield f"  alignas({align}) unsigned char {name}[{variable.size}];"
            yield f"  memset({name}, 0xff, sizeof {name});"


def _definition(variable: PtxVariable) -> str:
    """Define a variable as an array of bits; zero without an initial value."""
    element = c_type(f"u{8 * size_of(variable.type)}")
    values = ", ".join(_initial(value, variable) for value in variable.initial)
    return (
        f"alignas({variable.align}) static {element} "
        f"{identifier(variable.name)}[{variable.count or 1}] = {{{values}}};"
    )


def _initial(value: str, variable: PtxVariable) -> str:
    if found := re.fullmatch(r"0[fFdD]([0-9a-fA-F]+)", value):
        return f"0x{found[1]}"
    if not re.fullmatch(r"-?\d\w*", value):
        raise PtxError(0, f"{variable.name} starts as {value!r}: addresses are not supported there")
    return f"({c_type(f'u{8 * size_of(variable.type)}')}){value.rstrip('U')}"


def table(type: str, name: str, rows: list[str]) -> str:
    filler = [] if rows else ["{}"]  # C++ has no empty arrays
    return f"static const {type} {name}[] = {{\n  " + ",\n  ".join(rows + filler) + "\n};"


def _source_lines(module: PtxModule) -> Iterator[str]:
    last = None
    for function in module.functions:
        for instruction in function.instructions():
            if instruction.source and instruction.source != last:
                last = instruction.source
                file = json.dumps(last.file.rpartition("/")[2])
                yield f"{{{instruction.line}, {file}, {last.line}}}"
