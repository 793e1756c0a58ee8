"""Builds kernels: Python that runs once and emits LLVM instructions.

A `Value` stands for a number, a vector or an address that will exist when the kernel runs;
arithmetic on it emits an instruction. A Python `for` unrolls its body, so a list of sums becomes a
block of registers; `with builder.loop(n) as i` emits a loop that runs at run time. Vectors may be
wider than a register: LLVM splits them.

It emits LLVM's instructions; processors, weights and models do not occur in it. Sums are never
reordered: what is written is what is computed, in every instruction set, but for fused
multiply-adds.

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
    """Return the type of so many elements side by side; of one, the element's own."""
    return ir.VectorType(element, lanes) if lanes > 1 else element


class Value:
    """A number, a vector or an address at run time. Addresses count in bytes."""

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
        return self._arithmetic("fadd" if self._is_float else "add", other)

    def __sub__(self, other: Value | float) -> Value:
        return self._arithmetic("fsub" if self._is_float else "sub", other)

    def __mul__(self, other: Value | float) -> Value:
        return self._arithmetic("fmul" if self._is_float else "mul", other)

    def __truediv__(self, other: Value | float) -> Value:
        return self._arithmetic("fdiv", other)

    def __floordiv__(self, other: Value | int) -> Value:
        return self._arithmetic("udiv", other)

    def __mod__(self, other: Value | int) -> Value:
        return self._arithmetic("urem", other)

    def __and__(self, other: Value | int) -> Value:
        return self._arithmetic("and_", other)

    def __or__(self, other: Value | int) -> Value:
        return self._arithmetic("or_", other)

    def __xor__(self, other: Value | int) -> Value:
        return self._arithmetic("xor", other)

    def __lshift__(self, other: Value | int) -> Value:
        return self._arithmetic("shl", other)

    def __rshift__(self, other: Value | int) -> Value:
        """Shift zeros in from the left."""
        return self._arithmetic("lshr", other)

    def arithmetic_shift_right(self, other: Value | int) -> Value:
        """Shift copies of the sign in from the left."""
        return self._arithmetic("ashr", other)

    # --- comparisons (integers signed) -----------------------------------------------------------

    def __lt__(self, other: Value | float) -> Value:
        return self._compare("<", other)

    def __le__(self, other: Value | float) -> Value:
        return self._compare("<=", other)

    def __gt__(self, other: Value | float) -> Value:
        return self._compare(">", other)

    def __ge__(self, other: Value | float) -> Value:
        return self._compare(">=", other)

    def equals(self, other: Value | float) -> Value:
        return self._compare("==", other)

    def select(self, yes: Value, no: Value | float) -> Value:
        """Return `yes` where this comparison holds and `no` elsewhere, lane by lane."""
        return Value(self.builder, self._llvm.select(self.ir, yes.ir, yes.broadcast(no).ir))

    def minimum(self, other: Value | int) -> Value:
        """Return the smaller of two integers, signed."""
        other = self.broadcast(other)
        return (self < other).select(self, other)

    def maximum(self, other: Value | float) -> Value:
        """Return the greater of two numbers; of floats, `other` where one is NaN."""
        other = self.broadcast(other)
        return (self > other).select(self, other)

    # --- other types, other lanes ----------------------------------------------------------------

    def to(self, element: Type, signed: bool = True) -> Value:
        """Convert to another type. `signed` says whether integers are."""
        if self.element == element:
            return self
        convert = getattr(self._llvm, _conversion(self.element, element, signed))
        return Value(self.builder, convert(self.ir, vector(element, self.lanes)))

    def bitcast(self, type_: Type) -> Value:
        """Reinterpret the same bits as another type."""
        return Value(self.builder, self._llvm.bitcast(self.ir, type_))

    def to_half(self) -> Value:
        """Convert float32 to the bits of float16, by the processor's own instruction."""
        return self.to(F16).bitcast(vector(I16, self.lanes))

    def splat(self, lanes: int) -> Value:
        """Return a vector with this number in every lane."""
        if lanes == 1:
            return self
        empty = ir.Constant(ir.VectorType(self.type, lanes), ir.Undefined)
        one = self._llvm.insert_element(empty, self.ir, ir.Constant(I32, 0))
        return Value(self.builder, self._llvm.shuffle_vector(one, empty, _indices([0] * lanes)))

    def shuffle(self, lanes: Sequence[int], other: Value | None = None) -> Value:
        """Return a vector of those lanes. Lanes of `other`, if any, are numbered on after ours."""
        second = ir.Constant(self.type, ir.Undefined) if other is None else other.ir
        return Value(self.builder, self._llvm.shuffle_vector(self.ir, second, _indices(lanes)))

    def extract(self, lane: int) -> Value:
        return Value(self.builder, self._llvm.extract_element(self.ir, ir.Constant(I32, lane)))

    def halves(self) -> list[Value]:
        """Return the lower and the upper half of a vector."""
        if self.lanes == 2:
            return [self.extract(0), self.extract(1)]
        half = self.lanes // 2
        return [self.shuffle(range(half)), self.shuffle(range(half, self.lanes))]

    def reduce_add(self) -> Value:
        """Return the sum of all lanes, added by halves: always in the same order."""
        part = self
        while part.lanes > 1:
            low, high = part.halves()
            part = low + high
        return part

    def reduce_max(self) -> Value:
        """Return the greatest of all lanes."""
        part = self
        while part.lanes > 1:
            low, high = part.halves()
            part = low.maximum(high)
        return part

    def broadcast(self, other: Value | float) -> Value:
        """Return a Python number, or a single value, in this value's type."""
        if isinstance(other, Value):
            return other.splat(self.lanes) if other.lanes < self.lanes else other
        return self.builder.constant(self.type, other)

    @property
    def _llvm(self) -> ir.IRBuilder:
        return self.builder.llvm

    @property
    def _is_float(self) -> bool:
        return isinstance(self.element, (ir.FloatType, ir.HalfType))

    def _arithmetic(self, instruction: str, other: Value | float) -> Value:
        write = getattr(self._llvm, instruction)
        return Value(self.builder, write(self.ir, self.broadcast(other).ir))

    def _compare(self, sign: str, other: Value | float) -> Value:
        compare = self._llvm.fcmp_ordered if self._is_float else self._llvm.icmp_signed
        return Value(self.builder, compare(sign, self.ir, self.broadcast(other).ir))


class Variable:
    """A value that loop iterations change; LLVM keeps it in a register."""

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
    """Emits the body of one kernel."""

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

    def constants(self, element: Type, values: Sequence[float]) -> Value:
        """Return a vector of those constants."""
        constants = [ir.Constant(element, value) for value in values]
        return Value(self, ir.Constant(ir.VectorType(element, len(constants)), constants))

    def variable(self, first: Value) -> Variable:
        return Variable(self, first)

    def load(self, type_: Type, address: Value) -> Value:
        """Load from any address: it need not be aligned to the vector."""
        return Value(self, self.llvm.load(address.ir, align=_alignment(type_), typ=type_))

    def store(self, value: Value, address: Value) -> None:
        self.llvm.store(value.ir, address.ir, align=_alignment(value.type))

    def alloca(self, size: int) -> Value:
        """Reserve so many bytes on the stack for as long as the kernel runs."""
        with self.llvm.goto_entry_block():
            place = self.llvm.alloca(ir.ArrayType(I8, size))
            place.align, place.type = 64, POINTER
        return Value(self, place)

    def is_not_null(self, address: Value) -> Value:
        return Value(self, self.llvm.icmp_unsigned("!=", address.ir, ir.Constant(POINTER, None)))

    def arguments(self, record: Value, fields: Mapping[str, Type]) -> SimpleNamespace:
        """Load the arguments of a kernel from its record: eight bytes each."""
        names = SimpleNamespace()
        for index, (name, type_) in enumerate(fields.items()):
            setattr(names, name, self.load(type_, record + 8 * index))
        return names

    # --- functions -------------------------------------------------------------------------------

    def fma(self, x: Value, y: Value, z: Value) -> Value:
        """x · y + z, rounded once where the instruction set can.

        LLVM's own fmuladd has one rounding or two, as suits the loop it stands in.
        """
        if not self.instruction_set.has_fma:
            return x * y + z
        return self.intrinsic("llvm.fma", x.type, x, x.broadcast(y), x.broadcast(z))

    def sqrt(self, x: Value) -> Value:
        return self.intrinsic("llvm.sqrt", x.type, x)

    def abs(self, x: Value) -> Value:
        return self.intrinsic("llvm.fabs", x.type, x)

    def rint(self, x: Value) -> Value:
        """Round to an integer, halves to even."""
        return self.intrinsic("llvm.rint", x.type, x)

    def intrinsic(self, name: str, type_: Type, *values: Value) -> Value:
        """Call one of LLVM's intrinsics that is overloaded on one type, such as llvm.fma.v16f32."""
        element = type_.element if isinstance(type_, ir.VectorType) else type_
        suffix = {F32: "f32", F16: "f16"}.get(element) or f"i{element.width}"
        if isinstance(type_, ir.VectorType):
            suffix = f"v{type_.count}{suffix}"
        return self.call(f"{name}.{suffix}", type_, *values)

    def call(self, name: str, result: Type, *values: Value) -> Value:
        """Call a function by its name: one of this module, of LLVM or of the C library."""
        module = self.function.module
        known = module.globals.get(name)
        if known is None:
            known = ir.Function(module, ir.FunctionType(result, [v.type for v in values]), name)
        return Value(self, self.llvm.call(known, [value.ir for value in values]))

    def call_address(self, function: Value, *values: Value) -> None:
        """Call the function at an address; it returns nothing."""
        type_ = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        pointer = self.llvm.inttoptr(function.ir, type_.as_pointer())
        self.llvm.call(pointer, [value.ir for value in values])

    # --- atomic operations on 64-bit integers ----------------------------------------------------

    def load_atomic(self, address: Value) -> Value:
        """Load a number, and see all that was written before it."""
        return Value(self, self.llvm.load_atomic(address.ir, "seq_cst", 8, typ=I64))

    def fetch_add(self, address: Value, value: int) -> Value:
        """Add, and return what was there before."""
        return self._read_modify_write("add", address, value)

    def exchange(self, address: Value, value: Value | int) -> Value:
        """Store, so that a thread that loads it sees all that was written before; return what was
        there."""
        return self._read_modify_write("xchg", address, value)

    def _read_modify_write(self, how: str, address: Value, value: Value | int) -> Value:
        written = self.i64(value).ir
        return Value(self, self.llvm.atomic_rmw(how, address.ir, written, "seq_cst"))

    def prefetch(self, address: Value) -> None:
        """Have a cache line fetched that will be read soon."""
        kind = [self.constant(I32, number) for number in (0, 3, 1)]  # read, near, data
        self.call("llvm.prefetch.p0", ir.VoidType(), address, *kind)

    def pause(self) -> None:
        """Tell the processor that this loop waits for another core."""
        triple = self.function.module.triple
        if triple.startswith(("x86_64", "i686")):
            self.call("llvm.x86.sse2.pause", ir.VoidType())
        elif triple.startswith(("aarch64", "arm64")):
            self.call("llvm.aarch64.hint", ir.VoidType(), self.constant(I32, 1))

    # --- control flow ----------------------------------------------------------------------------

    @contextmanager
    def loop(self, end: Value | int, start: Value | int = 0, step: int = 1) -> Iterator[Value]:
        """Emit `for i in range(start, end, step)`."""
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
    def loop_forever(self) -> Iterator[Callable[[Value], None]]:
        """Emit a loop; what it yields emits `if condition: break`."""
        body, after = self.llvm.append_basic_block(), self.llvm.append_basic_block()
        self.llvm.branch(body)
        self.llvm.position_at_end(body)

        def break_if(condition: Value) -> None:
            onward = self.llvm.append_basic_block()
            self.llvm.cbranch(condition.ir, after, onward)
            self.llvm.position_at_end(onward)

        yield break_if
        self.llvm.branch(body)
        self.llvm.position_at_end(after)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """Emit `if condition:`."""
        with self.llvm.if_then(condition.ir):
            yield

    def finish(self) -> None:
        self.llvm.ret_void()


def _conversion(source: Type, target: Type, signed: bool) -> str:
    """Return LLVM's instruction that converts one type's numbers to another's."""
    from_integer, to_integer = isinstance(source, ir.IntType), isinstance(target, ir.IntType)
    if from_integer and to_integer:
        return "trunc" if target.width < source.width else "sext" if signed else "zext"
    if from_integer:
        return "sitofp" if signed else "uitofp"
    if to_integer:
        return "fptosi"
    return "fpext" if isinstance(source, ir.HalfType) else "fptrunc"


def _indices(lanes: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, len(lanes)), [ir.Constant(I32, lane) for lane in lanes])


def _alignment(type_: Type) -> int:
    """Return that of one element: vectors are read and written at any address."""
    element = type_.element if isinstance(type_, ir.VectorType) else type_
    if element == POINTER:
        return 8
    return 4 if element == F32 else 2 if element == F16 else cast(int, element.width) // 8
