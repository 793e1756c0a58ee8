"""Compile and render templates in jinja2's sandbox, restricted further in reach, time and memory.

In the parsed template, each operation that could cost much or reach into Python is rewritten into a
call of a guarded filter, and each body (of a loop, a branch, a macro) begins with paying for its
statements. This file deals with the language; the values, filters, tests and functions, and what
they cost, are in the files beside it.

Templates are not probed in a child process first: each rendering is checked while it runs, whereas
a probe would show only that one conversation is harmless.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import reduce
from itertools import islice
from typing import Any

from jinja2 import Template, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Joiner
from jinja2.visitor import NodeTransformer

from .budget import CHARACTERS_A_STEP, Budget, describe, lack, refuse
from .context import RenderContext, with_budget
from .filters import SAFE_FILTERS
from .methods import Function
from .tests_and_globals import FUNCTIONS, SAFE_TESTS, dict_of
from .values import MAX_BITS, MISSING, attribute_of, calculate, compare, item_of, slice_of

MAX_SOURCE = 1 << 17  # characters; long templates have some ten thousand
MAX_TOKENS = 10_000  # of jinja2's lexer
MAX_BODY_DEPTH = 40  # nested loops, branches and macros


class GenerationBlock(Extension):
    """Parse {% generation %}, which marks text to train on, as a plain block."""

    tags = {"generation"}  # noqa: RUF012  (as jinja2 declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.With([], [], body, lineno=line)


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment whose attributes, items, operators and calls are ours."""

    context_class = RenderContext
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # no constant folding, which has no budget
            finalize=with_budget(Budget.text_of),
            extensions=[LoopControlExtension, GenerationBlock],
        )
        self.filters = {**SAFE_FILTERS, **_INTERNAL_FILTERS}
        self.tests = dict(SAFE_TESTS)
        self.globals = dict(FUNCTIONS)

    def getattr(self, obj: Any, attribute: str) -> Any:
        found = attribute_of(obj, attribute)
        found = item_of(obj, attribute) if found is MISSING else found
        return self.undefined(obj=obj, name=attribute) if found is MISSING else found

    def getitem(self, obj: Any, argument: Any) -> Any:
        found = item_of(obj, argument)
        if found is MISSING and isinstance(argument, str):
            found = attribute_of(obj, argument)
        return self.undefined(obj=obj, name=argument) if found is MISSING else found

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        return calculate(_budget(context), operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        if isinstance(__obj, Macro):
            return super().call(__context, __obj, *args, **kwargs)
        for private in (
            "_loop_vars",
            "_block_vars",
        ):  # jinja2 adds them for functions that take a context
            kwargs.pop(private, None)
        if isinstance(__obj, Function):
            return __obj.run(_budget(__context), *args, **kwargs)
        if isinstance(__obj, LoopContext):  # of a recursive loop
            return __obj(*map(_budget(__context).each, args), **kwargs)
        if isinstance(__obj, Joiner):
            return __obj(*args, **kwargs)
        if isinstance(__obj, Undefined):
            __obj._fail_with_undefined_error()
        return refuse(f"calls {describe(__obj)}")


def _budget(context: Context) -> Budget:
    assert isinstance(context, RenderContext)
    return context.budget


# --- rewriting

# The internal filters have names with spaces, which no template can spell.
_NAMES = ("cost", "parts", "comparison", "slice", "joined texts", "dict", "list", "lack")
_PAY, _EACH, _COMPARE, _SLICE, _JOIN, _DICT, _LIST, _LACK = (f"the {name}" for name in _NAMES)
_INTERNAL_FILTERS = {
    _PAY: with_budget(lambda budget, steps: budget.spend(steps)),
    _EACH: with_budget(Budget.each),
    _COMPARE: with_budget(compare),
    _SLICE: with_budget(slice_of),
    _JOIN: with_budget(lambda budget, values: "".join([budget.text_of(value) for value in values])),
    _DICT: with_budget(dict_of),
    _LIST: with_budget(Budget.listed),
    _LACK: lambda value, what: lack(what),
}

_KNOWN = (
    "Template Output For If Macro CallBlock FilterBlock With Assign AssignBlock Break Continue "
    "Name NSRef Const TemplateData Tuple List Dict Pair Keyword CondExpr Filter Test Call Getitem "
    "Getattr Slice Concat Compare Operand Add Sub Mul Div FloorDiv Mod Pow And Or Not Neg Pos"
)
KNOWN_NODES = frozenset(getattr(nodes, name) for name in _KNOWN.split())
BODIES = ("body", "else_")


def _guarded(name: str, value: nodes.Expr, *values: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(values), [], None, None, lineno=value.lineno)


class Guard(NodeTransformer):
    """Replaces the operations that could cost or reach something by internal filters."""

    depth = 0  # of bodies

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if type(node) not in KNOWN_NODES:
            lack(f"{type(node).__name__.lower()} in line {node.lineno}")
        bodies = [field for field in BODIES if field in node.fields]
        self.depth += bool(bodies)
        if self.depth > MAX_BODY_DEPTH:
            refuse(f"nests more than {MAX_BODY_DEPTH} loops and branches in line {node.lineno}")
        super().generic_visit(node)
        self.depth -= bool(bodies)
        for field in bodies:
            body = getattr(node, field)
            if body or field == "body":  # an absent else stays absent
                steps = _cost_of([*body, *getattr(node, "defaults", ())])
                setattr(node, field, [nodes.ExprStmt(_payment(steps), lineno=1), *body])
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        assert isinstance(node.iter, nodes.Expr)
        node.iter = _guarded(_EACH, node.iter)
        if node.test is not None:  # paid for in each round, as a body is
            node.test = nodes.And(nodes.Not(_payment(_cost_of([node.test]))), node.test)
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:  # noqa: N802
        if isinstance(node.value, int) and node.value.bit_length() > MAX_BITS:
            refuse(f"holds a number of {node.value.bit_length()} bits in line {node.lineno}")
        return node

    def visit_Call(self, node: Any) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if node.dyn_args is not None:
            node.dyn_args = _guarded(_LIST, node.dyn_args)
        if node.dyn_kwargs is not None:
            node.dyn_kwargs = _guarded(_DICT, node.dyn_kwargs)
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:  # noqa: N802
        self.visit_Call(node)
        if node.name in SAFE_FILTERS:
            return node
        # Refused where it is reached: a template may name filters for other engines in a branch.
        what = f"the filter {node.name!r:.80} in line {node.lineno}"
        return nodes.Filter(node.node, _LACK, [nodes.Const(what)], [], None, None)

    def visit_Test(self, node: nodes.Test) -> nodes.Node:  # noqa: N802
        self.visit_Call(node)
        what = f"the test {node.name!r:.80} in line {node.lineno}"
        return node if node.name in SAFE_TESTS else _guarded(_LACK, node.node, nodes.Const(what))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        compared: list[nodes.Expr] = [
            _guarded(_COMPARE, left, nodes.Const(operand.op), right)
            for left, operand, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        return reduce(nodes.And, compared)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _guarded(_SLICE, node.node, *(it or nodes.Const(None) for it in bounds))

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _guarded(_JOIN, nodes.List(node.nodes, lineno=node.lineno))

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        pairs: list[nodes.Expr] = [nodes.Tuple([it.key, it.value], "load") for it in node.items]
        return _guarded(_DICT, nodes.List(pairs, lineno=node.lineno))


def _payment(steps: int) -> nodes.Expr:
    return _guarded(_PAY, nodes.Const(steps, lineno=1))


def _cost_of(parts: Iterable[nodes.Node]) -> int:
    """Return the steps of executing `parts` once, without the bodies inside them."""
    steps = 1
    for part in parts:
        if isinstance(part, nodes.TemplateData):
            steps += 1 + len(part.data) // CHARACTERS_A_STEP
        else:
            steps += _cost_of(part.iter_child_nodes(exclude=BODIES))
    return steps


# --- compiling and rendering


class SafeTemplate:
    """A compiled template."""

    def __init__(self, source: str) -> None:
        """Compile the source.

        Raises:
            SecurityError: it is too large, or uses what is not allowed.
            TemplateSyntaxError: jinja2 cannot parse it; or any other error of jinja2.
        """
        sandbox = Sandbox()
        if len(source) > MAX_SOURCE:
            refuse(f"has {len(source):,} characters, expected at most {MAX_SOURCE:,}")
        kinds = (kind for _, kind, _ in sandbox.lexer.tokeniter(source, None))
        tokens = (kind for kind in kinds if kind != "whitespace")
        if sum(1 for _ in islice(tokens, MAX_TOKENS + 1)) > MAX_TOKENS:
            refuse(f"has more than {MAX_TOKENS:,} tokens")
        with warnings.catch_warnings():  # Python's compiler warns about the generated code
            warnings.simplefilter("ignore")
            parsed: nodes.Template = Guard().visit(sandbox.parse(source))
            parsed.set_environment(sandbox)
            code = sandbox.compile(parsed)
        self._template = Template.from_code(sandbox, code, dict(sandbox.globals))

    def render(self, variables: Mapping[str, Any], budget: Budget) -> str:
        """Render the template.

        Raises:
            SecurityError: the template does what is not allowed, or the budget is spent.
            ConversationRefusedError: the template called `raise_exception`.
            Exception: any error of jinja2 or Python that the template causes.
        """
        context = self._template.new_context(dict(variables))
        assert isinstance(context, RenderContext)
        context.budget = budget
        return "".join(self._template.root_render_func(context))
