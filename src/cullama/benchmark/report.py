"""Rows of the benchmark's report: rates, milliseconds, and shares of the machine's limits.

It computes from times that benchmark/runs.py measured; `cullama bench` prints the table.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..model.config import ModelConfig
from .runs import Decode, Prefill, Speculation
from .yardsticks import Yardsticks

# Keys of the JSON that are older than the fields' names.
JSON_KEYS = {"max_drafts": "most", "acceptance": "right"}


@dataclass(frozen=True)
class BenchRow:
    """One line of the table."""

    what: str
    threads: int | None  # of the CPU
    tokens_per_second: float
    milliseconds: float  # a token for decode, a prompt for prefill
    share: float  # of the limit
    limit: str
    engine_microseconds: float | None = None  # a token, on top of the model's step


@dataclass(frozen=True)
class BenchReport:
    """All figures of one benchmark; `as_json` is the output of `--json`."""

    model: str
    machine: str
    dtype: str
    weight_bytes: int  # read for every token
    yardsticks: tuple[Yardsticks, ...]
    rows: tuple[BenchRow, ...]
    speculation: tuple[Speculation, ...] = ()

    def as_json(self) -> dict[str, Any]:
        figures = asdict(self)
        runs = figures.pop("speculation")
        figures["guessing"] = [
            {JSON_KEYS.get(name, name): value for name, value in run.items()} for run in runs
        ]
        return figures


def prefill_operations(config: ModelConfig, tokens: int) -> float:
    """Return the floating-point operations of a prompt's prefill and the logits after it."""
    head = config.vocab_size * config.hidden_size
    layers = config.parameters - (head if config.tied else 2 * head)
    # Causal: each token attends to half of the others on average, in two products.
    attention = 2 * tokens**2 * config.heads * config.head_dim * config.layers
    return 2.0 * tokens * layers + 2.0 * head + attention


def prefill_row(run: Prefill, limit: Yardsticks, config: ModelConfig) -> BenchRow:
    """Return a prefill's row; its share is of the rate of matrix products."""
    rate = prefill_operations(config, run.tokens) / run.seconds
    return BenchRow(
        what=f"prefill {run.tokens}",
        threads=limit.threads,
        tokens_per_second=run.tokens / run.seconds,
        milliseconds=run.seconds * 1e3,
        share=rate / limit.products,
        limit=limit.products_name,
    )


def decode_row(run: Decode, limit: Yardsticks, weight_bytes: int) -> BenchRow:
    """Return a decode's row; its share is of the rate of reading memory."""
    return BenchRow(
        what=f"decode at {run.context}",
        threads=limit.threads,
        tokens_per_second=1 / run.seconds,
        milliseconds=run.seconds * 1e3,
        share=weight_bytes / run.seconds / limit.read,
        limit="read",
        engine_microseconds=(
            None if run.model_seconds is None else (run.seconds - run.model_seconds) * 1e6
        ),
    )
