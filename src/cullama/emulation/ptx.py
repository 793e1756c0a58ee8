"""Parses PTX into plain data: variables, functions, registers, instructions with their lines.

It handles PTX's grammar: directives, scopes, labels, declarations. What instructions mean is in
instructions/, C++ in translate.py. Names declared in an inner scope are made unique here, so that
the result has no scopes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import CullamaError


class PtxError(CullamaError):
    """The text is not PTX, or not supported; `source` is the line that it was compiled from."""

    def __init__(self, line: int, message: str, source: Source | None = None) -> None:
        super().__init__(f"line {line}: {message}")
        self.line, self.message, self.source = line, message, source


class Source(NamedTuple):
    """A place in the .cu file that a `.loc` named."""

    file: str
    line: int


@dataclass(frozen=True)
class PtxVariable:
    """An array or scalar that has an address; `count` 0 is `.extern .shared name[]`."""

    space: str  # "global" | "const" | "shared" | "local" | "param"
    name: str
    type: str
    count: int
    align: int
    initial: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return self.count * size_of(self.type)


@dataclass(frozen=True)
class Instruction:
    opcode: str
    operands: tuple[str, ...]
    line: int
    guard: str = ""  # a predicate register
    is_negated: bool = False
    source: Source | None = None

    @property
    def parts(self) -> list[str]:
        return self.opcode.replace("::", "@").split(".")

    def __str__(self) -> str:
        return f"{self.opcode} {', '.join(self.operands)}".strip()


class Label(NamedTuple):
    name: str


@dataclass
class PtxFunction:
    name: str
    is_entry: bool
    parameters: list[PtxVariable]
    results: list[PtxVariable]
    max_threads: int = 0  # 0: no .maxntid
    registers: dict[str, str] = field(default_factory=dict)  # name to type
    variables: list[PtxVariable] = field(default_factory=list)
    branch_targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    body: list[Instruction | Label] = field(default_factory=list)

    def instructions(self) -> Iterator[Instruction]:
        return (item for item in self.body if isinstance(item, Instruction))


@dataclass
class PtxModule:
    version: tuple[int, int] = (0, 0)
    target: str = ""
    variables: list[PtxVariable] = field(default_factory=list)
    functions: list[PtxFunction] = field(default_factory=list)

    @property
    def entries(self) -> list[PtxFunction]:
        return [function for function in self.functions if function.is_entry]


def size_of(type: str) -> int:
    """Bytes of one element; a predicate has no size in memory."""
    if type in ("f16x2", "bf16x2"):
        return 4
    if bits := re.search(r"\d+$", type):
        return int(bits[0]) // 8
    raise KeyError(type)


# --- statements and scopes --------------------------------------------------------------------


class _Statement(NamedTuple):
    text: str
    line: int


@dataclass
class _Scope:
    header: _Statement
    items: list[_Statement | _Scope] = field(default_factory=list)


_LINE_DIRECTIVE = re.compile(r"\s*\.(version|target|address_size|loc|file)\b")
_LABEL = re.compile(r"\s*([A-Za-z_$%][\w$]*):(?!:)")
_OPENS_FUNCTION = re.compile(r"\.(entry|func)\b")


class _Reader:
    """Splits the text into statements; braces of vectors and initialisers stay inside them."""

    def __init__(self) -> None:
        self.root = _Scope(_Statement("", 0))
        self.open = [self.root]
        self.line, self.text, self.start, self.braces = 1, "", 1, 0

    def read(self, text: str) -> _Scope:
        for token in re.findall(r'"[^"\n]*"|[{};\n]|[^{};\n"]+', text):
            self._take(token)
        if self.text.strip():
            raise PtxError(self.start, f"{self.text.strip()[:60]!r} has no end")
        if len(self.open) > 1:
            raise PtxError(self.open[-1].header.line, "the '{' here is not closed")
        return self.root

    def _take(self, token: str) -> None:
        if token == "\n":
            self._end_line()
        elif token == ";":
            self._end_statement()
        elif token == "{":
            self._open()
        elif token == "}":
            self._close()
        else:
            self._add(token)

    def _add(self, token: str) -> None:
        if not self.text.strip():
            self.text, self.start = "", self.line
        self.text += token
        while not self.braces and (label := _LABEL.match(self.text)):
            self.open[-1].items.append(_Statement(label[1] + ":", self.line))
            self.text, self.start = self.text[label.end() :], self.line

    def _end_line(self) -> None:
        if _LINE_DIRECTIVE.match(self.text):
            self._end_statement()
        self._add(" ")
        self.line += 1

    def _end_statement(self) -> None:
        if statement := self.text.strip():
            self.open[-1].items.append(_Statement(" ".join(statement.split()), self.start))
        self.text = ""

    def _open(self) -> None:
        header = self.text.strip()
        if header and not _OPENS_FUNCTION.search(header) and not header.startswith(".section"):
            self.braces += 1
            self._add("{")
            return
        scope = _Scope(_Statement(" ".join(header.split()), self.start))
        self.open[-1].items.append(scope)
        self.open.append(scope)
        self.text = ""

    def _close(self) -> None:
        if self.braces:
            self.braces -= 1
            self._add("}")
            return
        if len(self.open) == 1:
            raise PtxError(self.line, "'}' without '{'")
        scope = self.open.pop()
        if self.text.strip() and not scope.header.text.startswith(".section"):
            raise PtxError(self.start, f"no ';' behind {self.text.strip()!r}")
        self.text = ""


def _without_comments(text: str) -> str:
    """Remove comments, but keep line ends."""
    text = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
    return re.sub(r"//[^\n]*", "", text)


# --- declarations ---------------------------------------------------------------------------

_VARIABLE = re.compile(
    r"(?:\.(?:visible|extern|weak|common)\s+)*\.(global|const|shared|local|param)\s*"
    r"(?:\.align\s+(\d+)\s*)?(?:\.ptr\s*(?:\.\w+\s*)?(?:\.align\s+\d+\s*)?)?"
    r"\.(\w+)\s*(?:\.ptr\s*(?:\.\w+\s*)?(?:\.align\s+\d+\s*)?)?"
    r"([%\w$]+)\s*((?:\[\d*\])*)\s*(?:=\s*(.*))?$"
)


def _variable(statement: _Statement) -> PtxVariable:
    if not (found := _VARIABLE.match(statement.text)):
        raise PtxError(statement.line, f"unknown declaration {statement.text!r}")
    space, align, type, name, extents, initial = found.groups()
    count = 1
    for extent in re.findall(r"\[(\d*)\]", extents):
        count *= int(extent or 0)
    values = tuple(re.findall(r"[^\s{},]+", initial or ""))
    return PtxVariable(space, name, type, count, int(align or size_of(type)), values)


def _parameters(text: str, line: int) -> list[PtxVariable]:
    return [_variable(_Statement(part.strip(), line)) for part in text.split(",") if part.strip()]


def _registers(text: str) -> dict[str, str]:
    """`.reg .b32 %r<3>, x` declares %r0 %r1 %r2 x."""
    _, type, names = text.split(None, 2)
    registers: dict[str, str] = {}
    for name in names.replace(" ", "").split(","):
        family, _, count = name.rstrip(">").partition("<")
        members = [f"{family}{number}" for number in range(int(count))] if count else [family]
        registers |= dict.fromkeys(members, type.lstrip("."))
    return registers


_HEADER = re.compile(
    r"(?:\.(?:visible|extern|weak)\s+)*\.(entry|func)\s*(?:\.noreturn\s*)?"
    r"(?:\((?P<results>[^)]*)\)\s*)?(?P<name>[\w$]+)\s*(?:\((?P<parameters>[^)]*)\))?(?P<rest>.*)$"
)


def _function(header: _Statement) -> PtxFunction:
    if not (found := _HEADER.match(header.text)):
        raise PtxError(header.line, f"unknown function header {header.text!r}")
    function = PtxFunction(
        found["name"],
        found[1] == "entry",
        _parameters(found["parameters"] or "", header.line),
        _parameters(found["results"] or "", header.line),
    )
    if limit := re.search(r"\.(?:maxntid|reqntid)\s+([\d, ]+)", found["rest"]):
        function.max_threads = 1
        for extent in limit[1].split(","):
            function.max_threads *= int(extent)
    return function


# --- bodies -----------------------------------------------------------------------------------

_NAME = re.compile(r"[%$A-Za-z_][\w$]*")
_INSTRUCTION = re.compile(r"(?:@(!?)\s*([%\w$]+)\s+)?([a-z][\w.:]*)\s*(.*)$")


def _operands(text: str) -> tuple[str, ...]:
    """Split at commas outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return tuple(part.strip() for part in parts if part.strip())


class _Body:
    """Flattens a function's scopes; a name from scope 3 becomes name.3, and is unique."""

    def __init__(self, function: PtxFunction, files: dict[str, str]) -> None:
        self.function, self.files = function, files
        self.scopes, self.source = 0, None  # type: tuple[int, Source | None]

    def read(self, scope: _Scope, names: dict[str, str]) -> None:
        number, self.scopes = self.scopes, self.scopes + 1
        suffix = f".{number}" if number else ""
        names = names | {name: name + suffix for name in _declared(scope)}
        for item in scope.items:
            if isinstance(item, _Scope):
                self.read(item, names)
            else:
                self._statement(item, names)

    def _statement(self, statement: _Statement, names: dict[str, str]) -> None:
        text = statement.text
        if text.endswith(":"):
            self.function.body.append(Label(names[text[:-1]]))
        elif text.startswith(".reg"):
            self.function.registers |= {names[n]: t for n, t in _registers(text).items()}
        elif text.startswith(".loc "):
            self._location(text)
        elif text.startswith(".branchtargets"):
            self._branch_targets(text, names)
        elif text.startswith((".local", ".shared", ".param", ".global", ".const")):
            variable = _variable(statement)
            renamed = names[variable.name]
            self.function.variables.append(PtxVariable(**{**vars(variable), "name": renamed}))
        elif not text.startswith((".pragma", ".file", ".callprototype")):
            self._instruction(statement, names)

    def _location(self, text: str) -> None:
        """Use the innermost line of the kernel's own file: `inlined_at` names the calls."""
        places = re.findall(r"(?:^\.loc|inlined_at) (\d+) (\d+)", text)
        named = [Source(self.files.get(file, "?"), int(line)) for file, line in places]
        own = [place for place in named if place.file.endswith(".cu")]
        self.source = own[0] if own else named[-1]

    def _branch_targets(self, text: str, names: dict[str, str]) -> None:
        label = self.function.body.pop()
        assert isinstance(label, Label), text
        targets = _operands(text.split(None, 1)[1])
        self.function.branch_targets[label.name] = tuple(names.get(t, t) for t in targets)

    def _instruction(self, statement: _Statement, names: dict[str, str]) -> None:
        found = _INSTRUCTION.match(statement.text)
        if not found:
            raise PtxError(statement.line, f"unknown statement {statement.text!r}")
        negation, guard, opcode, rest = found.groups()
        operands = _NAME.sub(lambda name: names.get(name[0], name[0]), rest)
        self.function.body.append(
            Instruction(
                opcode,
                _operands(operands),
                statement.line,
                names.get(guard, guard) if guard else "",
                negation == "!",
                self.source,
            )
        )


def _declared(scope: _Scope) -> Iterator[str]:
    """Yield the names that a scope itself declares: registers, variables and labels."""
    for item in scope.items:
        if isinstance(item, _Scope):
            continue
        if item.text.endswith(":"):
            yield item.text[:-1]
        elif item.text.startswith(".reg"):
            yield from _registers(item.text)
        elif item.text.startswith((".local", ".shared", ".param", ".global", ".const")):
            yield _variable(item).name


# --- the whole ----------------------------------------------------------------------------------

_ENTRY = re.compile(r"^(?:\.(?:visible|weak)\s+)*\.entry\s+([\w$]+)", re.MULTILINE)
_VARIABLE_OF_ALL = re.compile(r"^(?:\.\w+\s+)*\.(?:global|const)\b", re.MULTILINE)
_BRACE = re.compile(r'//[^\n]*|/\*.*?\*/|"[^"]*"|[{}]', re.DOTALL)


def entries_of(text: str) -> list[str]:
    """Return the names of a module's kernels."""
    return _ENTRY.findall(text)


def has_shared_variables(text: str) -> bool:
    """Whether kernels share variables in global or constant memory, so they belong together."""
    return _VARIABLE_OF_ALL.search(text) is not None


def alone(text: str, kernel: str) -> str:
    """Leave out a module's other kernels; what stays keeps its lines."""
    parts, end = [], 0
    for entry in _ENTRY.finditer(text):
        if entry[1] == kernel or entry.start() < end:
            continue
        parts.append(text[end : entry.start()])
        end = _end_of_body(text, entry.end())
        parts.append("\n" * text.count("\n", entry.start(), end))
    return "".join([*parts, text[end:]])


def _end_of_body(text: str, start: int) -> int:
    depth = 0
    for found in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if found[0] == "}" and depth == 0:
            return found.end()
    return len(text)


def parse(text: str) -> PtxModule:
    module = PtxModule()
    root = _Reader().read(_without_comments(text))
    files = dict(_files(root))
    for item in root.items:
        if isinstance(item, _Statement):
            _directive(module, item)
        elif not item.header.text.startswith(".section"):
            function = _function(item.header)
            _Body(function, files).read(item, {})
            module.functions.append(function)
    if not module.target or module.version == (0, 0):
        raise PtxError(1, "no .version or no .target: this is not PTX")
    return module


def _files(root: _Scope) -> Iterator[tuple[str, str]]:
    for item in root.items:
        if isinstance(item, _Statement) and (
            found := re.match(r'\.file\s+(\d+)\s+"([^"]*)"', item.text)
        ):
            yield found[1], found[2]


def _directive(module: PtxModule, statement: _Statement) -> None:
    text = statement.text
    if text.startswith(".version"):
        major, minor = text.split()[1].split(".")
        module.version = int(major), int(minor)
    elif text.startswith(".target"):
        module.target = text.split()[1].rstrip(",")
    elif _OPENS_FUNCTION.search(text) or text.startswith((".address_size", ".file", ".loc ")):
        return  # a function defined elsewhere or further down
    elif not text.startswith((".pragma", ".alias", ".weak .alias")):
        module.variables.append(_variable(statement))
