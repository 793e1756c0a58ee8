"""The shapes that operators are profiled at: those of a model, or numbers given by name.

    parse_shape("rows=1,inputs=2048,outputs=16384") → {"rows": 1, "inputs": 2048, "outputs": 16384}

A number that is not given is the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import UsageError
from ...model.config import ModelConfig

Numbers = dict[str, int]

ROWS = 512  # tokens of a prompt
CONTEXT = 1024  # of each of a few sequences
LONG_CONTEXT = 8192  # of one
FEW = 4  # rows and sequences that one pass over the weights serves
MAX_NUMBER = 1 << 24
MAX_BYTES = 1 << 40  # of an operand: rows × columns × 4, far beyond any card
MAY_BE_ZERO = ("window", "drawn")
WIDEST_HEAD = 256


@dataclass(frozen=True)
class ProfiledCase:
    """An operator at one shape."""

    operator: str
    variant: str  # "one row"; "" where there is one only
    numbers: Numbers

    @property
    def name(self) -> str:
        return f"{self.operator}, {self.variant}" if self.variant else self.operator

    @property
    def shape(self) -> str:
        return ", ".join(f"{name}={number}" for name, number in self.numbers.items())

    @property
    def largest_bytes(self) -> int:
        """Return the bytes of the largest operand, or more."""
        get = self.numbers.get
        width = max(get("inputs", 1), get("columns", 1))
        tall = max(get("rows", 1) * get("products", 1), get("outputs", 1), get("vocabulary", 1))
        head = (get("heads", 1) + 2 * get("kv_heads", 1)) * get("head_dim", 1)
        tokens = get("sequences", 1) * max(get("tokens", 1), get("context", 1))
        return 4 * max(width * tall, head * tokens, get("rows", 1) * get("vocabulary", 1))


def _heads(config: ModelConfig) -> Numbers:
    return {"heads": config.heads, "kv_heads": config.kv_heads, "head_dim": config.head_dim}


def _attention(config: ModelConfig, sequences: int, tokens: int, context: int) -> Numbers:
    context = min(context, config.context_length)
    numbers = {"sequences": sequences, "tokens": min(tokens, context), "context": context}
    return {**numbers, "window": config.windows[0], **_heads(config)}


def _linear(config: ModelConfig, rows: int) -> Numbers:
    return {"rows": rows, "inputs": config.hidden_size, "outputs": 2 * config.intermediate_size}


def _rows(config: ModelConfig) -> Numbers:
    return {"rows": min(ROWS, config.context_length), "columns": config.hidden_size}


def _vocabulary(config: ModelConfig, rows: int) -> Numbers:
    return {"rows": rows, "columns": config.hidden_size, "vocabulary": config.vocab_size}


# Each operator's variants, with the numbers that a model gives them.
_MODELS: dict[str, dict[str, Callable[[ModelConfig], Numbers]]] = {
    "embed": {"": lambda c: _vocabulary(c, _rows(c)["rows"])},
    "linear": {"one row": lambda c: _linear(c, 1), "few rows": lambda c: _linear(c, FEW)},
    "rms_norm": {"": _rows},
    "silu_mul": {"": lambda c: {**_rows(c), "columns": c.intermediate_size}},
    "rope_and_store": {"": lambda c: {"tokens": _rows(c)["rows"], **_heads(c)}},
    "attention": {
        "decode": lambda c: _attention(c, FEW, 1, CONTEXT),
        "prefill": lambda c: _attention(c, 1, ROWS, ROWS),
        "long": lambda c: _attention(c, 1, 1, LONG_CONTEXT),
    },
    "add": {"": _rows},
    "mul": {"": _rows},
    "matmul": {
        "": lambda c: {
            "products": c.heads,
            "rows": _rows(c)["rows"],
            "inputs": c.head_dim,
            "columns": _rows(c)["rows"],
        }
    },
    "logits": {"": lambda c: _vocabulary(c, 1)},
    "sample": {
        "greedy": lambda c: {"rows": FEW, "vocabulary": c.vocab_size, "drawn": 0},
        "drawn": lambda c: {"rows": FEW, "vocabulary": c.vocab_size, "drawn": 1},
    },
}
STEP = "decode step"
_STEP: Numbers = {"sequences": 1, "context": 512}


def parse_shape(text: str) -> Numbers:
    """Return the numbers of one `--shape`.

    Raises:
        UsageError: it is not NAME=NUMBER, … with whole numbers that make sense.
    """
    numbers: Numbers = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not (value.isascii() and value.isdigit()):
            wanted = "expected NAME=NUMBER, … such as rows=1,inputs=2048,outputs=16384"
            raise UsageError(f"--shape is {text!r}, {wanted}")
        if name in numbers:
            raise UsageError(f"--shape {text!r} gives {name} twice")
        numbers[name] = int(value)
        low = int(name not in MAY_BE_ZERO)
        if not low <= numbers[name] <= MAX_NUMBER:
            raise UsageError(f"--shape: {name} is {value}, expected {low} to {MAX_NUMBER:,}")
    return numbers


def chosen_cases(
    names: Sequence[str], config: ModelConfig, shapes: Sequence[Mapping[str, int]] = ()
) -> list[ProfiledCase]:
    """Return the cases of the operators named, `attention` or `attention, decode`: all without a
    name. With `shapes`, each operator is taken at each of them.

    Raises:
        UsageError: there is no such operator, or a shape does not fit it.
    """
    known = {**_MODELS, STEP: {"": lambda c: {**_STEP, "context": min(512, c.context_length)}}}
    if not names and shapes:
        raise UsageError(
            f"--shape needs an operator beside it, expected some of {', '.join(known)}"
        )
    found = []
    for name in names or _MODELS:
        operator, _, variant = (part.strip() for part in name.partition(","))
        variants = known.get(operator, {})
        if not variants or (variant and variant not in variants):
            raise UsageError(f"there is no operator {name!r}, expected some of {', '.join(known)}")
        for each in [variant] if variant else variants:
            found.append(ProfiledCase(operator, each, variants[each](config)))
    if shapes:
        found = _at(found, shapes)
    for case in found:
        _check(case)
    return found


def _at(cases: list[ProfiledCase], shapes: Sequence[Mapping[str, int]]) -> list[ProfiledCase]:
    """Return each operator at each shape: one case for those that differ in numbers alone."""
    found: dict[str, ProfiledCase] = {}
    for case in cases:
        for shape in shapes:
            if unknown := [name for name in shape if name not in case.numbers]:
                wanted = ", ".join(case.numbers)
                raise UsageError(f"{case.operator} has no {unknown[0]}, expected some of {wanted}")
            made = ProfiledCase(case.operator, "", {**case.numbers, **shape})
            found.setdefault(f"{made.operator}: {made.shape}", made)
    return list(found.values())


def _check(case: ProfiledCase) -> None:
    """Check that an operator can have these numbers."""
    get = case.numbers.get
    heads, kv_heads = get("heads", 1), get("kv_heads", 1)
    problem = ""
    if heads % kv_heads:
        problem = f"heads is {heads}, expected a multiple of kv_heads, {kv_heads}"
    elif get("head_dim", 2) % 2 or get("head_dim", 2) > WIDEST_HEAD:
        problem = f"head_dim is {get('head_dim')}, expected an even number up to {WIDEST_HEAD}"
    elif get("tokens", 1) > get("context", MAX_NUMBER):
        problem = f"tokens is {get('tokens')}, expected at most context, {get('context')}"
    elif get("drawn", 0) > 1:
        problem = f"drawn is {get('drawn')}, expected 0 (the likeliest token) or 1"
    elif (size := case.largest_bytes) > MAX_BYTES:
        problem = f"{case.shape}: an array of {size / 1e12:,.1f} TB, expected at most 1.1 TB"
    if problem:
        raise UsageError(f"{case.operator}: {problem}")
