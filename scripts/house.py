"""Measures the structure of the source and holds it to the project's bounds.

    python scripts/house.py           the table; fails where a bound is broken (`make check`)
    python scripts/house.py --path    what runs from `LLM(…)` to three tokens
    python scripts/house.py --list    private functions called in one place; the longest functions

It reads the code as text; only `--path` runs it.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
import tokenize
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median, quantiles
from types import CodeType, FrameType
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "cullama"
FIXTURE = ROOT / "tests" / "fixtures" / "text"

Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"
Graph: TypeAlias = "Mapping[str, Collection[str]]"


@dataclass(frozen=True)
class Module:
    """One Python file of the package."""

    path: Path

    @cached_property
    def name(self) -> str:
        """Dotted, as it is imported."""
        return ".".join(self.path.relative_to(SOURCE).with_suffix("").parts).removesuffix(
            ".__init__"
        )

    @cached_property
    def room(self) -> str:
        """The file or folder at the top of the package that it lies in; "" for the package's own
        `__init__` and `__main__`."""
        parts = self.name.split(".")
        return "" if len(parts) == 1 or parts[1] == "__main__" else parts[1]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @cached_property
    def lines(self) -> int:
        """Lines that are not blank."""
        return sum(bool(line.strip()) for line in self.path.read_text("utf-8").splitlines())

    @cached_property
    def comments(self) -> int:
        with self.path.open("rb") as file:
            return sum(token.type == tokenize.COMMENT for token in tokenize.tokenize(file.readline))

    @cached_property
    def docstrings(self) -> int:
        """Lines of docstrings."""
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        texts = (ast.get_docstring(n) for n in ast.walk(self.tree) if isinstance(n, documented))
        return sum(len(text.splitlines()) for text in texts if text)

    @cached_property
    def functions(self) -> list[Function]:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        return [node for node in ast.walk(self.tree) if isinstance(node, kinds)]

    def imports(self, known: Collection[str]) -> set[str]:
        """Modules of the package that it imports anywhere, for types or inside functions too."""
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                home = ".".join(
                    [*above[: bool(node.level) * len(above)], *filter(None, [node.module])]
                )
                names = {f"{home}.{alias.name}" for alias in node.names}
                found |= {name if name in known else home for name in names}
        return (found & set(known)) - {self.name}


def modules() -> list[Module]:
    return [Module(path) for path in sorted(PACKAGE.rglob("*.py"))]


# --- imports --------------------------------------------------------------------------------------


def circles(graph: Graph) -> list[list[str]]:
    """Groups of nodes that reach each other: strongly connected components (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            found.extend([sorted(group)] if len(group) > 1 else [])

    for node in graph:
        if node not in index:
            visit(node)
    return found


def floors(graph: Graph) -> int:
    """Length of the longest chain of imports; the graph has no circles."""
    heights: dict[str, int] = {}

    def height(node: str) -> int:
        if node not in heights:
            heights[node] = 1 + max(map(height, graph[node]), default=0)
        return heights[node]

    return max(map(height, graph))


def room_graph(all_modules: Collection[Module], imports: Graph) -> dict[str, set[str]]:
    rooms = {module.name: module.room for module in all_modules}
    graph: dict[str, set[str]] = {room: set() for room in rooms.values() if room}
    for name, targets in imports.items():
        if rooms[name]:
            graph[rooms[name]] |= {rooms[target] for target in targets} - {"", rooms[name]}
    return graph


# --- functions ------------------------------------------------------------------------------------


def length(function: Function) -> int:
    """Lines from its `def` to its end, docstring included."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def is_private(function: Function) -> bool:
    return function.name.startswith("_") and not function.name.startswith("__")


def uses(module: Module) -> tuple[Counter[str], set[str]]:
    """How often each name is read in a file, by itself or behind a dot; and the names called."""

    def name_of(node: ast.AST) -> str | None:
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                return name
        return None

    nodes = list(ast.walk(module.tree))
    read = Counter(name for node in nodes if (name := name_of(node)) is not None)
    calls = (name_of(node.func) for node in nodes if isinstance(node, ast.Call))
    return read, {name for name in calls if name is not None}


def called_once(module: Module) -> list[Function]:
    """Its private functions that one place calls, and nothing else names.

    One that is held in a table or passed on is not among them: there it needs a name.
    """
    read, called = uses(module)
    private = [function for function in module.functions if is_private(function)]
    return [each for each in private if read[each.name] == 1 and each.name in called]


def typed_share(functions: Collection[Function]) -> float:
    """Share of parameters and results that have a type."""
    typed: list[bool] = []
    for function in functions:
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
        typed += [
            each.annotation is not None
            for each in every
            if each.arg.lstrip("_") not in ("self", "cls")
        ]
        typed.append(function.returns is not None)
    return sum(typed) / len(typed)


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    name: str
    value: float
    bound: float | None = None  # the value may be at most, or at least, this …
    is_floor: bool = False  # … at least
    unit: str = ""

    @property
    def is_broken(self) -> bool:
        if self.bound is None:
            return False
        return self.value < self.bound if self.is_floor else self.value > self.bound

    def __str__(self) -> str:
        sign = "≥" if self.is_floor else "≤"
        bound = "" if self.bound is None else f"{sign} {self.bound:g}{self.unit}"
        mark = "   BROKEN" if self.is_broken else ""
        return f"{self.name:<46}{self.value:>8.3g}{self.unit:<3}{bound}{mark}"


def measures(all_modules: list[Module]) -> list[Measure]:
    known = {module.name for module in all_modules}
    imports = {module.name: module.imports(known) for module in all_modules}
    rooms = room_graph(all_modules, imports)
    tied = [*circles(imports), *circles(rooms)]
    functions = [function for module in all_modules for function in module.functions]
    lengths = [length(function) for function in functions]
    lines = sum(module.lines for module in all_modules)
    tests = sum(Module(path).lines for path in (ROOT / "tests").rglob("*.py"))
    once = sum(len(called_once(module)) for module in all_modules)
    for group in tied:
        print("circle:", " ↔ ".join(group))
    return [
        Measure("rooms at the top of src/cullama", len(rooms), 24),
        Measure("floors", floors(rooms) if not tied else float("nan"), 12),
        Measure("circles (imports for types counted)", len(tied), 0),
        Measure("files", len(all_modules)),
        Measure("lines, blank ones left out", lines),
        Measure("functions", len(functions)),
        Measure("lines of a function: median", median(lengths), 9),
        Measure("lines of a function: nine in ten", quantiles(lengths, n=10)[-1], 25),
        Measure("lines of a function: longest", max(lengths), 60),
        Measure(
            "private functions called in one place", 100 * once / len(functions), 15, unit=" %"
        ),
        Measure("comments per 100 lines", 100 * sum(m.comments for m in all_modules) / lines),
        Measure(
            "docstring lines per 100 lines", 100 * sum(m.docstrings for m in all_modules) / lines
        ),
        Measure("parameters and results with types", 100 * typed_share(functions), 100, True, " %"),
        Measure("lines of tests to lines of source", tests / lines, 1, is_floor=True),
    ]


def print_details(all_modules: list[Module]) -> None:
    for module in all_modules:
        for function in called_once(module):
            place = f"{module.path.relative_to(ROOT)}:{function.lineno}"
            print(f"called once  {length(function):3} lines  {place}  {function.name}")
    every = [(length(f), module, f) for module in all_modules for f in module.functions]
    for count, module, function in sorted(every, key=lambda each: -each[0])[:20]:
        place = f"{module.path.relative_to(ROOT)}:{function.lineno}"
        print(f"longest      {count:3} lines  {place}  {function.name}")


# --- the evening path -----------------------------------------------------------------------------


class Trace:
    """Records which functions of the package run, and which of their lines."""

    def __init__(self) -> None:
        self.lines: dict[str, set[int]] = {}
        self.functions: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Trace | None:
        code = frame.f_code
        is_function = code.co_flags & inspect.CO_OPTIMIZED  # modules and class bodies are not
        if not is_function or not code.co_filename.startswith(f"{PACKAGE}/"):
            return None
        if event == "line":
            self.lines.setdefault(code.co_filename, set()).add(frame.f_lineno)
        elif event == "call":
            self.functions.add(code)
        return self


def trace_three_tokens() -> Trace:
    """From `LLM(…)` to three tokens of a two-layer model on numpy."""
    trace = Trace()
    sys.settrace(trace)
    try:
        from cullama import LLM, SamplingParams

        with LLM(FIXTURE, backend="cpu:numpy", threads=1) as llm:
            llm.generate("Once upon a time", SamplingParams(max_tokens=3, ignore_eos=True))
    finally:
        sys.settrace(None)
    return trace


def calls_of_a_step() -> int:
    """The package's Python calls in one decode step of one request, two layers, on numpy."""
    from cullama import LLM, SamplingParams
    from cullama.engine.client import GenerationRequest

    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(f"{PACKAGE}/")

    with LLM(FIXTURE, backend="cpu:numpy", threads=1) as llm:
        params = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)
        prompt = llm.tokenizer.encode("Once upon a time")
        llm.engine.submit(GenerationRequest(prompt, params))
        for _ in range(5):
            llm.engine.step()
        sys.setprofile(count)
        try:
            llm.engine.step()
        finally:
            sys.setprofile(None)
    return calls


def print_path() -> None:
    path, calls = trace_three_tokens(), calls_of_a_step()
    for file, lines in sorted(path.lines.items(), key=lambda each: -len(each[1])):
        print(f"{len(lines):6}  {Path(file).relative_to(ROOT)}")
    lines_run = sum(map(len, path.lines.values()))
    print(f"{lines_run:6}  lines run, {len(path.functions)} functions, {len(path.lines)} files")
    print(f"{calls:6}  Python calls in a decode step")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--path", action="store_true", help="trace LLM(…) and three tokens")
    choice.add_argument("--list", action="store_true", help="name what the table counts")
    arguments = parser.parse_args()
    if arguments.path:
        print_path()
    elif arguments.list:
        print_details(modules())
    else:
        table = measures(modules())
        print(*table, sep="\n")
        sys.exit(any(measure.is_broken for measure in table))


if __name__ == "__main__":
    main()
