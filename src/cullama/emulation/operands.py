"""Writes PTX operands as C++: registers, literals, addresses, and conversions of their bits.

A register is a local variable of the C++ type that its declaration names: `.b32` is uint32_t,
`.f32` float, `.pred` bool, halves are the uint16_t that holds them. An instruction's own type may
differ from its registers'; `read` and `write` convert as PTX does (ISA, "Operand Size Exceeding
Instruction-Type Size"): reading takes the low bits, writing extends by the instruction's type.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from .ptx import Instruction, PtxFunction

_INTEGERS = {"u": "uint", "s": "int", "b": "uint"}
_HALVES = {"f16": "uint16_t", "bf16": "uint16_t", "f16x2": "uint32_t", "bf16x2": "uint32_t"}
_FLOATS = {"f32": "float", "f64": "double"}
_ALIKE = {"pred": "bool", "b128": "unsigned __int128", **_HALVES, **_FLOATS}

_INDICES = {"tid": "self.index", "ctaid": "machine.block", "ntid": "machine.block_size"}
_INDICES |= {"nctaid": "machine.grid"}
_SPECIAL = {
    "%laneid": "self.lane",
    "%warpid": "self.warp",
    "%nwarpid": "(machine.block_size.x * machine.block_size.y * machine.block_size.z + 31) / 32",
    "%smid": "0u",
    "%nsmid": "1u",
    "%gridid": "0u",
    "%clusterid.x": "machine.block.x",
    "%cluster_ctarank": "0u",
    "%cluster_nctarank": "1u",
    "%lanemask_eq": "(1u << self.lane)",
    "%lanemask_lt": "((1u << self.lane) - 1)",
    "%lanemask_le": "((2u << self.lane) - 1)",
    "%lanemask_gt": "~((2u << self.lane) - 1)",
    "%lanemask_ge": "~((1u << self.lane) - 1)",
    "%clock": "uint32_t(clock_ticks())",
    "%clock64": "clock_ticks()",
    "%clock_hi": "uint32_t(clock_ticks() >> 32)",
    "%globaltimer": "clock_ticks()",
    "%globaltimer_lo": "uint32_t(clock_ticks())",
    "%dynamic_smem_size": "machine.dynamic_bytes",
    "%total_smem_size": "(machine.shared_bytes - SHARED_BASE)",
    "WARP_SZ": "32",
}


class UnsupportedError(Exception):
    """The emulator does not support this."""


def c_type(type: str) -> str:
    """Return the C++ type for values of a PTX type."""
    if type in _ALIKE:
        return _ALIKE[type]
    kind, width = type[:1], type[1:]
    if kind in _INTEGERS and width in ("8", "16", "32", "64"):
        return f"{_INTEGERS[kind]}{width}_t"
    raise UnsupportedError(f"type .{type}")


def register_type(type: str) -> str:
    """Return the C++ type of a register; integers are unsigned, as instructions say the sign."""
    if type in _ALIKE:
        return _ALIKE[type]
    return c_type("u" + type[1:])


def identifier(name: str) -> str:
    """Return a C++ name for a PTX name, distinct from names in machine.h; %p1 and p1 differ."""
    prefix = "" if name.startswith("%") else "at_"
    return prefix + re.sub(r"\W", "_", name.lstrip("%")) + "_"


def bit_type(type: str) -> str:
    """Return the integer type with the width of a float type."""
    return "uint64_t" if type in ("f64", "double") else "uint32_t"


def _number(text: str) -> tuple[str, str] | None:
    """Return a literal as C++, and the float type if it spells the bits of a float."""
    if found := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", text):
        return f"0x{found[1]}u", "f32"
    if found := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", text):
        return f"0x{found[1]}ull", "f64"
    if found := re.fullmatch(r"(-?)(0[xX][0-9a-fA-F]+|0[bB][01]+|0[0-7]*|[1-9]\d*)U?", text):
        return f"{found[1]}{found[2]}ull", ""
    return None


# Takes instruction, C++ for a pointer, bytes, and kind of access; returns C++ for the pointer.
Record: TypeAlias = Callable[[Instruction, str, int, str], str]


@dataclass
class Context:
    """The instruction that is being translated, and the declarations that it refers to."""

    function: PtxFunction
    symbols: dict[str, str]  # variables and parameters: C++ for their address
    instruction: Instruction
    spaces: dict[str, str] = field(default_factory=dict)  # variables and parameters: their space
    sites: list[int] = field(default_factory=list)  # PTX lines of accesses outside shared memory
    labels_behind: set[str] = field(default_factory=set)
    callable: frozenset[str] = frozenset()  # functions of this module
    record: Record | None = None  # of a counted kernel: wraps the pointer of each access

    @property
    def line(self) -> int:
        return self.instruction.line

    @property
    def parts(self) -> list[str]:
        return self.instruction.parts

    @property
    def operands(self) -> tuple[str, ...]:
        return self.instruction.operands

    @property
    def type(self) -> str:
        """Return the instruction's type, which most end with."""
        return self.parts[-1]

    def has(self, *modifiers: str) -> bool:
        return any(modifier in self.parts for modifier in modifiers)

    # --- values

    def read(self, operand: str | int, type: str) -> str:
        text = self.operands[operand] if isinstance(operand, int) else operand
        if text.startswith("!"):
            return f"!{self.read(text[1:], type)}"
        if text in self.function.registers:
            return _converted(identifier(text), register_type(self.function.registers[text]), type)
        if number := _number(text):
            return _literal(*number, type)
        return _converted(self._named(text), "uint64_t", type)

    def _named(self, text: str) -> str:
        if text in _SPECIAL:
            return _SPECIAL[text]
        name, _, axis = text.lstrip("%").partition(".")
        if text.startswith("%") and name in _INDICES and axis in ("x", "y", "z"):
            return f"{_INDICES[name]}.{axis}"
        base, _, offset = text.partition("+")
        if base.strip() in self.symbols:
            return f"({self.symbols[base.strip()]} + {offset or 0})"
        raise UnsupportedError(f"operand {text}")

    def write(self, operand: str | int, type: str, value: str) -> str:
        """Return a statement that writes a value of the instruction's type to a register."""
        text = self.operands[operand] if isinstance(operand, int) else operand
        if text == "_":
            return f"(void)({value});"
        if text not in self.function.registers:
            raise UnsupportedError(f"destination {text}")
        target = register_type(self.function.registers[text])
        return f"{identifier(text)} = {_extended(value, type, target)};"

    def vector(self, operand: int) -> list[str]:
        """Return the registers of {a, b, …}, or the one register."""
        text = self.operands[operand]
        return [part.strip() for part in text.strip("{}").split(",")]

    # --- memory

    def space(self, operand: int) -> str:
        """Return an access's state space, from the instruction or the name in its address."""
        for part in self.parts:
            if part.partition("@")[0] in ("global", "shared", "local", "const", "param"):
                return part.partition("@")[0]
        base = self._address_parts(operand)[0]
        return self.spaces.get(base, "generic")

    def _address_parts(self, operand: int) -> tuple[str, str]:
        text = self.operands[operand].strip("[] ")
        base, _, offset = text.partition("+")
        return base.strip(), offset.strip() or "0"

    def address(self, operand: int) -> str:
        base, offset = self._address_parts(operand)
        value = self.read(base, "u64")
        if self.function.registers.get(base, "b64")[1:] == "32":  # a 32-bit address wraps there
            return f"uint64_t(uint32_t({value} + {offset}))"
        return value if offset == "0" else f"{value} + {offset}"

    def pointer(self, operand: int, size: int, space: str = "") -> str:
        """Return C++ for the checked address of `size` bytes."""
        space = space or self.space(operand)
        address = self.address(operand)
        if space == "param":
            return f"(unsigned char*)({address})"
        if space in ("shared", "local"):
            return self.recorded(f"{space}({address}, {size}, {self.line})", size)
        self.sites.append(self.line)
        function = "generic" if space == "generic" else "global"
        pointer = f"{function}(sites[{len(self.sites) - 1}], {address}, {size}, {self.line})"
        return pointer if space == "const" else self.recorded(pointer, size)

    def recorded(self, pointer: str, size: int, kind: str = "") -> str:
        """Return the pointer, which a counted kernel writes down; `kind` if not the opcode's."""
        return self.record(self.instruction, pointer, size, kind) if self.record else pointer


def _literal(digits: str, spells: str, type: str) -> str:
    if type in _FLOATS:
        if spells and spells != type:
            return f"({c_type(type)})bits<{c_type(spells)}>({digits})"
        return f"bits<{c_type(type)}>(({bit_type(type)}){digits})"
    return f"({c_type(type)}){digits}" if type != "pred" else f"bool({digits})"


def _converted(name: str, declared: str, type: str) -> str:
    """Convert a register's low bits to the instruction's type, for reading."""
    wanted = c_type(type)
    if declared == wanted:
        return name
    if declared in ("float", "double"):
        name, declared = f"bits<{bit_type(declared)}>({name})", bit_type(declared)
    if wanted in ("float", "double"):
        return f"bits<{wanted}>(({bit_type(type)}){name})"
    return f"({wanted}){name}"


def _extended(value: str, type: str, target: str) -> str:
    """Extend a value of the instruction's type to the register's width, for writing."""
    source = c_type(type)
    if source == target:
        return value
    if source in ("float", "double"):
        value, source = f"bits<{bit_type(source)}>({source}({value}))", bit_type(source)
    if target in ("float", "double"):
        return f"bits<{target}>(({bit_type(target)})({source})({value}))"
    return f"({target})({source})({value})"
