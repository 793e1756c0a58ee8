"""jinja2's sandbox, tightened until a template can neither reach anything nor use anything up.

Every operation that could is rewritten, in the parsed template, into a call of a guarded word, and
every body (of a loop, a branch, a macro) begins by paying for what stands in it. It knows the
language; what there is in it, and what it costs, stands in the files beside this one.

There is no trial in a child process: what a trial would find is refused here, in each rendering
and before it is done, and a trial would only show that one conversation does no harm.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import reduce
from itertools import islice
from typing import Any

from jinja2 import Template, nodes, pass_context
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from .budget import CHARACTERS_A_STEP, Budget, describe, refuse
from .filters import SAFE_FILTERS
from .methods import Callee
from .run import RenderContext, paid
from .values import MOST_BITS, NOTHING, attribute_of, calculate, compare, item_of, slice_of
from .words import FUNCTIONS, SAFE_TESTS, dict_of

LONGEST_SOURCE = 1 << 17  # characters; templates have thousands, long ones some ten thousand
MOST_TOKENS = 10_000  # words and signs
DEEPEST_BODY = 40  # loops, branches and macros in one another


class GenerationBlock(Extension):
    """{% generation %}: marks what to train on, which makes no difference to a prompt."""

    tags = {"generation"}  # noqa: RUF012  (jinja2's own way to say it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.With([], [], body, lineno=line)


class Sandbox(ImmutableSandboxedEnvironment):
    context_class = RenderContext
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing of a template is computed before it is rendered
            finalize=pass_context(_printed),
            extensions=[LoopControlExtension, GenerationBlock],
        )
        self.filters = {**SAFE_FILTERS, **_UNSPEAKABLE}
        self.tests = dict(SAFE_TESTS)
        self.globals = dict(FUNCTIONS)

    def getattr(self, obj: Any, attribute: str) -> Any:
        found = attribute_of(obj, attribute)
        found = item_of(obj, attribute) if found is NOTHING else found
        return self.undefined(obj=obj, name=attribute) if found is NOTHING else found

    def getitem(self, obj: Any, argument: Any) -> Any:
        found = item_of(obj, argument)
        if found is NOTHING and isinstance(argument, str):
            found = attribute_of(obj, argument)
        return self.undefined(obj=obj, name=argument) if found is NOTHING else found

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        return calculate(_budget(context), operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        if isinstance(__obj, Macro):
            return super().call(__context, __obj, *args, **kwargs)
        for private in ("_loop_vars", "_block_vars"):  # jinja2's, for functions that take a context
            kwargs.pop(private, None)
        if isinstance(__obj, Callee):
            return __obj.run(_budget(__context), *args, **kwargs)
        if isinstance(__obj, Undefined):
            __obj._fail_with_undefined_error()
        return refuse(f"calls {describe(__obj)}")


def _budget(context: Context) -> Budget:
    assert isinstance(context, RenderContext)
    return context.budget


def _printed(context: Context, value: Any) -> str:
    return _budget(context).text_of(value)


# --- the rewriting

# The guarded words have names with spaces, so that no template can speak them by mistake.
_PAY, _EACH, _COMPARE, _SLICE, _JOIN, _DICT = (
    f"the {word}" for word in ("cost", "parts", "comparison", "slice", "joined texts", "dict")
)
_UNSPEAKABLE = {
    _PAY: paid(lambda budget, steps: budget.spend(steps)),
    _EACH: paid(Budget.each),
    _COMPARE: paid(compare),
    _SLICE: paid(slice_of),
    _JOIN: paid(lambda budget, values: "".join([budget.text_of(value) for value in values])),
    _DICT: paid(dict_of),
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
    """Puts a guarded word in the place of whatever could cost or reach something."""

    depth = 0  # of bodies

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if type(node) not in KNOWN_NODES:
            refuse(f"uses {type(node).__name__.lower()} in line {node.lineno}")
        bodies = [field for field in BODIES if field in node.fields]
        self.depth += bool(bodies)
        if self.depth > DEEPEST_BODY:
            refuse(f"nests more than {DEEPEST_BODY} loops and branches in line {node.lineno}")
        super().generic_visit(node)
        self.depth -= bool(bodies)
        for field in bodies:
            self._let_pay(node, field)
        return node

    def _let_pay(self, node: nodes.Node, field: str) -> None:
        """Let a body begin by paying; where there is no else, there is none afterwards."""
        body = getattr(node, field)
        if body or field == "body":
            steps = _cost_of([*body, *getattr(node, "defaults", ())])
            setattr(node, field, [nodes.ExprStmt(_payment(steps), lineno=1), *body])

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        if node.recursive:
            refuse(f"uses a recursive loop in line {node.lineno}")
        self.generic_visit(node)
        assert isinstance(node.iter, nodes.Expr)
        node.iter = _guarded(_EACH, node.iter)
        if node.test is not None:  # paid for each time, as a body is
            node.test = nodes.And(nodes.Not(_payment(_cost_of([node.test]))), node.test)
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:  # noqa: N802
        if isinstance(node.value, int) and node.value.bit_length() > MOST_BITS:
            refuse(f"holds a number of {node.value.bit_length()} bits in line {node.lineno}")
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Node:  # noqa: N802
        return self._without_stars(node)

    visit_Filter = visit_Test = visit_Call  # noqa: N815

    def _without_stars(self, node: Any) -> nodes.Node:
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            refuse(f"calls something with * or ** in line {node.lineno}")
        return self.generic_visit(node)

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
    """Steps of going once through `parts`, without the bodies inside them."""
    return 1 + sum(map(_cost, parts))


def _cost(node: nodes.Node) -> int:
    if isinstance(node, nodes.TemplateData):
        return 1 + len(node.data) // CHARACTERS_A_STEP
    return _cost_of(node.iter_child_nodes(exclude=BODIES))


# --- all together


class SafeTemplate:
    """A template that was found to be one, ready to be rendered."""

    def __init__(self, source: str) -> None:
        """Raises whatever jinja2 raises, and SecurityError."""
        sandbox = Sandbox()
        _check_size(sandbox, source)
        with warnings.catch_warnings():  # of Python's compiler, about code that nobody wrote
            warnings.simplefilter("ignore")
            parsed: nodes.Template = Guard().visit(sandbox.parse(source))
            parsed.set_environment(sandbox)
            code = sandbox.compile(parsed)
        self._template = Template.from_code(sandbox, code, dict(sandbox.globals))

    def render(self, variables: Mapping[str, Any], budget: Budget) -> str:
        """Raises whatever jinja2 and Python raise, SecurityError, and ConversationRefusedError."""
        context = self._template.new_context(dict(variables))
        assert isinstance(context, RenderContext)
        context.budget = budget
        return "".join(self._template.root_render_func(context))


def _check_size(sandbox: Sandbox, source: str) -> None:
    if len(source) > LONGEST_SOURCE:
        refuse(f"has {len(source):,} characters, expected at most {LONGEST_SOURCE:,}")
    tokens = (kind for _, kind, _ in sandbox.lexer.tokeniter(source, None) if kind != "whitespace")
    if sum(1 for _ in islice(tokens, MOST_TOKENS + 1)) > MOST_TOKENS:
        refuse(f"has more than {MOST_TOKENS:,} words and signs")
