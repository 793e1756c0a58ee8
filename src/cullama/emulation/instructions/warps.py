"""Operations of several threads: barriers, shuffles, votes, and small matrix products."""

from __future__ import annotations

from ..operands import Context, UnsupportedError, c_type
from .table import HALF_TYPES, instruction


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
    return f"{{ const LaneMasks votes = ballot(self, {vote}, {mask}, {context.line}); {write} }}"


@instruction("match.any.sync", "match.all.sync")
def _match(context: Context) -> str:
    """match.all.sync.b32 d|p, a, mask: d is all lanes or none, p says which."""
    target, _, predicate = (part.strip() for part in context.operands[0].partition("|"))
    value, mask = context.read(1, context.type), context.read(2, "u32")
    gathered = f'const LaneMasks all = gather(self, "match.sync", {value}, {mask}, {context.line});'
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
    """Return all live lanes of the warp, as fibers do not run in lockstep."""
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


@instruction("ldmatrix.sync.aligned.m8n8")
def _load_matrices(context: Context) -> str:
    targets = context.vector(0)
    if context.type != "b16" or len(targets) != int(context.parts[4][1:]):
        raise UnsupportedError("shape")
    is_transposed = "true" if context.has("trans") else "false"
    row = context.address(1)
    if context.record:
        pointer = context.recorded(f"machine.shared + ({row})", 16, "matrix load")
        lanes = 8 * len(targets)  # the addresses of others are not read
        row = f"(self.lane < {lanes} ? uint64_t({pointer} - machine.shared) : 0)"
    payload = f"MatrixLoad load = {{{row}, {len(targets)}, {context.line}, {is_transposed}, {{}}}};"
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
    call = f"multiply_matrices<{HALF_TYPES[a_type]}, {depth}>(self, product);"
    return (
        f"{{ MatrixProduct product = {{}}; product.line = {context.line}; "
        f"{' '.join(fields)} {call} {' '.join(writes)} }}"
    )
