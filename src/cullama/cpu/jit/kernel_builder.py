"""The language kernels are written in: Python that runs once and leaves LLVM instructions behind.

A `Value` stands for a number, a vector or an address that will exist when the kernel runs;
arithmetic on it writes an instruction. A Python `for` writes its body out as often as it goes
round, so a list of sums becomes a block of registers; `with code.loop(n) as i` writes a loop that
runs at run time. Vectors may be wider than a register: LLVM splits them.

It knows LLVM's instructions and no processor, no weight and no model. Sums are never reordered:
what is written is what is computed, in every instruction set, but for fused multiply-adds.

Reference: https://llvm.org/docs/LangRef.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TypeAlias, cast

from llvmlite import ir

from .instruction_sets import InstructionSet

Type: TypeAlias = ir.Type

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
POINTER = ir.PointerType()


def vector(element: Type, lanes: int) -> Type:
    return ir.VectorType(element, lanes)


class Value:
    """What will be a number, a vector or an address. Addresses count in bytes."""

    __slots__ = ("builder", "ir")

    def __init__(self, builder: KernelBuilder, value: ir.Value) -> None:
        self.builder, self.ir = builder, value

    @property
    def type(self) -> Type:
        return self.ir.type

    @property
    def lanes(self) -> int:
        return int(self.type.count) if isinstance(self.type, ir.VectorType) else 1

    @property
    def element(self) -> Type:
        return self.type.element if isinstance(self.type, ir.VectorType) else self.type

    # --- arithmetic: plain numbers on the right take the left side's type -----------------------

    def __add__(self, other: Value | float) -> Value:
        if self.type == POINTER:
            return Value(
                self.builder, self._llvm.gep(self.ir, [self.builder.i64(other).ir], True, "", I8)
            )
        return self._combined("fadd" if self._is_float else "add", other)

    def __sub__(self, other: Value | float) -> Value:
        return self._combined("fsub" if self._is_float else "sub", other)

    def __mul__(self, other: Value | float) -> Value:
        return self._combined("fmul" if self._is_float else "mul", other)

    def __truediv__(self, other: Value | float) -> Value:
        return self._combined("fdiv", other)

    def __floordiv__(self, other: Value | int) -> Value:
        return self._combined("udiv", other)

    def __mod__(self, other: Value | int) -> Value:
        return self._combined("urem", other)

    def __and__(self, other: Value | int) -> Value:
        return self._combined("and_", other)

    def __or__(self, other: Value | int) -> Value:
        return self._combined("or_", other)

    def __xor__(self, other: Value | int) -> Value:
        return self._combined("xor", other)

    def __lshift__(self, other: Value | int) -> Value:
        return self._combined("shl", other)

    def __rshift__(self, other: Value | int) -> Value:
        """Zeros come in from the left."""
        return self._combined("lshr", other)

    def shifted_right(self, other: Value | int) -> Value:
        """The sign comes in from the left."""
        return self._combined("ashr", other)

    # --- comparisons (integers signed) -----------------------------------------------------------

    def __lt__(self, other: Value | float) -> Value:
        return self._compared("<", other)

    def __le__(self, other: Value | float) -> Value:
        return self._compared("<=", other)

    def __gt__(self, other: Value | float) -> Value:
        return self._compared(">", other)

    def __ge__(self, other: Value | float) -> Value:
        return self._compared(">=", other)

    def equals(self, other: Value | float) -> Value:
        return self._compared("==", other)

    def choose(self, yes: Value, no: Value | float) -> Value:
        """Of a comparison: `yes` where it holds, `no` elsewhere."""
        return Value(self.builder, self._llvm.select(self.ir, yes.ir, yes.alike(no).ir))

    def minimum(self, other: Value | int) -> Value:
        """Of integers."""
        other = self.alike(other)
        return (self < other).choose(self, other)

    def maximum(self, other: Value | float) -> Value:
        """Of floats, the greater; of integers too."""
        other = self.alike(other)
        return (self > other).choose(self, other)

    # --- other types, other lanes ----------------------------------------------------------------

    def to(self, element: Type, signed: bool = True) -> Value:
        """The same numbers in another type."""
        if self.element == element:
            return self
        type_ = vector(element, self.lanes) if self.lanes > 1 else element
        convert = getattr(self._llvm, _conversion(self.element, element, signed))
        return Value(self.builder, convert(self.ir, type_))

    def bits(self, type_: Type) -> Value:
        """The same bits read as another type."""
        return Value(self.builder, self._llvm.bitcast(self.ir, type_))

    def to_half(self) -> Value:
        """float32 as the bits of float16, by the processor's own instruction."""
        lanes = self.lanes
        return self.to(F16).bits(vector(I16, lanes) if lanes > 1 else I16)

    def spread(self, lanes: int) -> Value:
        """A number in every lane of a vector."""
        if lanes == 1:
            return self
        empty = ir.Constant(vector(self.type, lanes), ir.Undefined)
        one = self._llvm.insert_element(empty, self.ir, ir.Constant(I32, 0))
        return Value(self.builder, self._llvm.shuffle_vector(one, empty, _indices([0] * lanes)))

    def lanes_at(self, places: Sequence[int]) -> Value:
        """A vector of those lanes."""
        empty = ir.Constant(self.type, ir.Undefined)
        return Value(self.builder, self._llvm.shuffle_vector(self.ir, empty, _indices(places)))

    def lane(self, place: int) -> Value:
        return Value(self.builder, self._llvm.extract_element(self.ir, ir.Constant(I32, place)))

    def folded(self) -> list[Value]:
        """The lower and the upper half of a vector."""
        if self.lanes == 2:
            return [self.lane(0), self.lane(1)]
        half = self.lanes // 2
        return [self.lanes_at(range(half)), self.lanes_at(range(half, self.lanes))]

    def total(self) -> Value:
        """The sum of all lanes, by halves: always in the same order."""
        part = self
        while part.lanes > 1:
            low, high = part.folded()
            part = low + high
        return part

    def highest(self) -> Value:
        """The greatest of all lanes."""
        part = self
        while part.lanes > 1:
            low, high = part.folded()
            part = low.maximum(high)
        return part

    def alike(self, other: Value | float) -> Value:
        """A plain number, or a single value, in this value's type."""
        if isinstance(other, Value):
            return other.spread(self.lanes) if other.lanes < self.lanes else other
        return self.builder.constant(self.type, other)

    @property
    def _llvm(self) -> ir.IRBuilder:
        return self.builder.llvm

    @property
    def _is_float(self) -> bool:
        return isinstance(self.element, (ir.FloatType, ir.HalfType))

    def _combined(self, instruction: str, other: Value | float) -> Value:
        write = getattr(self._llvm, instruction)
        return Value(self.builder, write(self.ir, self.alike(other).ir))

    def _compared(self, sign: str, other: Value | float) -> Value:
        compare = self._llvm.fcmp_ordered if self._is_float else self._llvm.icmp_signed
        return Value(self.builder, compare(sign, self.ir, self.alike(other).ir))


class Variable:
    """A value that changes from one turn of a loop to the next; LLVM keeps it in a register."""

    def __init__(self, builder: KernelBuilder, first: Value) -> None:
        self._builder = builder
        with builder.llvm.goto_entry_block():
            self._place = builder.llvm.alloca(first.type)
        self._type = first.type
        self.set(first)

    def get(self) -> Value:
        return Value(self._builder, self._builder.llvm.load(self._place, typ=self._type))

    def set(self, value: Value) -> None:
        self._builder.llvm.store(value.ir, self._place)

    def add(self, value: Value | float) -> None:
        self.set(self.get() + value)


class KernelBuilder:
    """The body of one kernel being written."""

    def __init__(self, function: ir.Function, instruction_set: InstructionSet) -> None:
        self.function, self.instruction_set = function, instruction_set
        self.llvm = ir.IRBuilder(function.append_basic_block())

    # --- constants and memory --------------------------------------------------------------------

    def constant(self, type_: Type, number: float) -> Value:
        if isinstance(type_, ir.VectorType):
            return Value(
                self, ir.Constant(type_, [ir.Constant(type_.element, number)] * type_.count)
            )
        return Value(self, ir.Constant(type_, number))

    def i64(self, number: Value | float) -> Value:
        return number.to(I64) if isinstance(number, Value) else self.constant(I64, int(number))

    def numbers(self, element: Type, values: Sequence[float]) -> Value:
        """A vector of those constants."""
        constants = [ir.Constant(element, value) for value in values]
        return Value(self, ir.Constant(vector(element, len(constants)), constants))

    def variable(self, first: Value) -> Variable:
        return Variable(self, first)

    def load(self, type_: Type, address: Value) -> Value:
        """From any address: nothing need be aligned."""
        return Value(self, self.llvm.load(address.ir, align=_alignment(type_), typ=type_))

    def store(self, value: Value, address: Value) -> None:
        self.llvm.store(value.ir, address.ir, align=_alignment(value.type))

    def scratch(self, size: int) -> Value:
        """So many bytes that last as long as the kernel runs."""
        with self.llvm.goto_entry_block():
            place = self.llvm.alloca(ir.ArrayType(I8, size))
            place.align, place.type = 64, POINTER
        return Value(self, place)

    def is_there(self, address: Value) -> Value:
        return Value(self, self.llvm.icmp_unsigned("!=", address.ir, ir.Constant(POINTER, None)))

    def arguments(self, record: Value, fields: Mapping[str, Type]) -> SimpleNamespace:
        """What a kernel was called with: one field each eight bytes."""
        names = SimpleNamespace()
        for place, (name, type_) in enumerate(fields.items()):
            setattr(names, name, self.load(type_, record + 8 * place))
        return names

    def joined(self, first: Value, second: Value, places: Sequence[int]) -> Value:
        """Lanes of two vectors, those of the second counted on after those of the first."""
        return Value(self, self.llvm.shuffle_vector(first.ir, second.ir, _indices(list(places))))

    # --- what has no sign of its own -------------------------------------------------------------

    def fma(self, x: Value, y: Value, z: Value) -> Value:
        """x · y + z, in one rounding where the instruction set has that.

        LLVM's own fmuladd has one rounding or two, as suits the loop it stands in.
        """
        if not self.instruction_set.has_fma:
            return x * y + z
        return self.intrinsic("llvm.fma", x.type, x, x.alike(y), x.alike(z))

    def root(self, x: Value) -> Value:
        return self.intrinsic("llvm.sqrt", x.type, x)

    def magnitude(self, x: Value) -> Value:
        return self.intrinsic("llvm.fabs", x.type, x)

    def nearest(self, x: Value) -> Value:
        """Rounded to a whole number, halves to even."""
        return self.intrinsic("llvm.rint", x.type, x)

    def intrinsic(self, name: str, type_: Type, *values: Value) -> Value:
        """One of LLVM's, overloaded on one type."""
        return self.call(f"{name}.{_suffix(type_)}", type_, *values)

    def call(self, name: str, result: Type, *values: Value) -> Value:
        """A function by its name: one of this module's, of LLVM's or of the C library's."""
        module = self.function.module
        known = module.globals.get(name)
        if known is None:
            known = ir.Function(module, ir.FunctionType(result, [v.type for v in values]), name)
        return Value(self, self.llvm.call(known, [value.ir for value in values]))

    def jump(self, function: Value, *values: Value) -> None:
        """Call the function at an address; it returns nothing."""
        type_ = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        pointer = self.llvm.inttoptr(function.ir, type_.as_pointer())
        self.llvm.call(pointer, [value.ir for value in values])

    # --- memory that several threads write to: 64-bit integers -----------------------------------

    def seen(self, address: Value) -> Value:
        """What is there now, and with it all that was written before it."""
        return Value(self, self.llvm.load_atomic(address.ir, "seq_cst", 8, typ=I64))

    def fetch_add(self, address: Value, value: int) -> Value:
        """Adds, and returns what was there before."""
        return self._read_and_written("add", address, value)

    def exchange(self, address: Value, value: Value | int) -> Value:
        """Writes, so that whoever sees it sees all that was written before; what was there."""
        return self._read_and_written("xchg", address, value)

    def _read_and_written(self, how: str, address: Value, value: Value | int) -> Value:
        written = self.i64(value).ir
        return Value(self, self.llvm.atomic_rmw(how, address.ir, written, "seq_cst"))

    def prefetch(self, address: Value) -> None:
        """Have a cache line brought from memory, to be read soon."""
        kind = [self.constant(I32, number) for number in (0, 3, 1)]  # read, near, data
        self.call("llvm.prefetch.p0", ir.VoidType(), address, *kind)

    def pause(self) -> None:
        """A breath in a loop that waits for another core."""
        triple = self.function.module.triple
        if triple.startswith(("x86_64", "i686")):
            self.call("llvm.x86.sse2.pause", ir.VoidType())
        elif triple.startswith(("aarch64", "arm64")):
            self.call("llvm.aarch64.hint", ir.VoidType(), self.constant(I32, 1))

    # --- the course of things --------------------------------------------------------------------

    @contextmanager
    def loop(self, end: Value | int, start: Value | int = 0, step: int = 1) -> Iterator[Value]:
        """for i in range(start, end, step), when the kernel runs."""
        first, last = self.i64(start), self.i64(end)
        before = self.llvm.block
        head, body, after = (self.llvm.append_basic_block() for _ in range(3))
        self.llvm.branch(head)
        self.llvm.position_at_end(head)
        index = self.llvm.phi(I64)
        index.add_incoming(first.ir, before)
        self.llvm.cbranch((Value(self, index) < last).ir, body, after)
        self.llvm.position_at_end(body)
        yield Value(self, index)
        index.add_incoming((Value(self, index) + step).ir, self.llvm.block)
        self.llvm.branch(head)
        self.llvm.position_at_end(after)

    @contextmanager
    def forever(self) -> Iterator[Callable[[Value], None]]:
        """A loop that ends where what it yields is called with a condition that holds."""
        body, after = self.llvm.append_basic_block(), self.llvm.append_basic_block()
        self.llvm.branch(body)
        self.llvm.position_at_end(body)

        def leave_if(condition: Value) -> None:
            onward = self.llvm.append_basic_block()
            self.llvm.cbranch(condition.ir, after, onward)
            self.llvm.position_at_end(onward)

        yield leave_if
        self.llvm.branch(body)
        self.llvm.position_at_end(after)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        with self.llvm.if_then(condition.ir):
            yield

    def finish(self) -> None:
        self.llvm.ret_void()


def _conversion(source: Type, target: Type, signed: bool) -> str:
    """The instruction that turns one type's numbers into another's."""
    from_integer, to_integer = isinstance(source, ir.IntType), isinstance(target, ir.IntType)
    if from_integer and to_integer:
        return "trunc" if target.width < source.width else "sext" if signed else "zext"
    if from_integer:
        return "sitofp" if signed else "uitofp"
    if to_integer:
        return "fptosi"
    return "fpext" if isinstance(source, ir.HalfType) else "fptrunc"


def _indices(places: Sequence[int]) -> ir.Constant:
    return ir.Constant(vector(I32, len(places)), [ir.Constant(I32, place) for place in places])


def _alignment(type_: Type) -> int:
    """Of one element; vectors are read and written wherever they lie."""
    element = type_.element if isinstance(type_, ir.VectorType) else type_
    if element == POINTER:
        return 8
    return 4 if element == F32 else 2 if element == F16 else cast(int, element.width) // 8


def _suffix(type_: Type) -> str:
    """How LLVM spells a type in the names of its intrinsics: v16f32."""
    element = type_.element if isinstance(type_, ir.VectorType) else type_
    short = {F32: "f32", F16: "f16"}.get(element) or f"i{element.width}"
    return f"v{type_.count}{short}" if isinstance(type_, ir.VectorType) else short
