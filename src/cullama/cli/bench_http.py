"""`cullama bench http`: a server's throughput and latency beside the engine's own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ..errors import ContextLengthError
from .loading import load
from .options import model_options, pop
from .progress import ProgressBar

if TYPE_CHECKING:
    from ..benchmark.http.bench import HttpReport, Pairs, Throughput
    from ..llm import LLM

PLAN = ("streams", "prompt", "tokens", "rounds", "first", "first_prompt", "seed")


@click.command("http", short_help="Measure the server beside the engine alone.")
@model_options
@click.option(
    "--streams",
    type=click.IntRange(1, 256),
    default=32,
    show_default=True,
    help="Answers that are streamed together.",
)
@click.option(
    "--prompt",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Tokens of each of their prompts.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Tokens of each of their answers.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Times that engine and server take turns.",
)
@click.option(
    "--first",
    type=click.IntRange(min=1),
    default=25,
    show_default=True,
    help="Pairs of single requests, for the time to the first token.",
)
@click.option(
    "--first-prompt",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Tokens of their prompts.",
)
@click.option(
    "--requests",
    type=click.IntRange(min=0),
    default=256,
    show_default=True,
    help="Of the workload; 0 leaves it out.",
)
@click.option(
    "--shortest",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Tokens of its shortest prompt and answer.",
)
@click.option(
    "--longest",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="Tokens of its longest prompt and answer; lengths are drawn uniformly.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of prompts and lengths.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
def command(as_json: bool, requests: int, shortest: int, longest: int, **options: Any) -> None:
    """Measure the model served over HTTP, and in this process, in turns.

    Many streams at once; the time to the first token of a single one; and the workload of
    nano-vllm's benchmark, 256 requests at once with prompts and answers of 100 to 1024 tokens.
    Server and client are processes of their own.
    """
    from ..benchmark.http.bench import HttpPlan, benchmark
    from ..benchmark.serve import Workload

    workload = Workload(requests, shortest, longest, seed=options["seed"]) if requests else None
    plan = HttpPlan(**pop(options, PLAN), workload=workload)
    is_quiet = options["quiet"]
    llm = load(**options)
    _check_context(llm, plan.prompt + plan.tokens, "lower --prompt or --tokens")
    _check_context(llm, 2 * longest if requests else 0, "lower --longest or give --requests 0")
    with ProgressBar("measuring") as progress:
        shown = (lambda done, total: None) if is_quiet else progress
        report = benchmark(llm, _serve_arguments(options), plan, shown)
    click.echo(json.dumps(report.as_json()) if as_json else _table(report))


def _check_context(llm: LLM, tokens: int, advice: str) -> None:
    if tokens > llm.engine.capacity.context_length:
        raise ContextLengthError(
            f"a request takes up to {tokens} tokens, expected at most the context of "
            f"{llm.engine.capacity.context_length}; {advice}"
        )


def _serve_arguments(options: dict[str, Any]) -> list[str]:
    """Return the arguments of `cullama serve` for the same model, device and memory."""
    keep = "--keep-converted" if options["keep_converted"] else "--no-keep-converted"
    arguments = ["--backend", options["backend"], "--dtype", options["dtype"], keep]
    if options["deterministic"]:
        arguments.append("--deterministic")
    valued = {
        "--model": options["model"],
        "--threads": options["threads"],
        "--context": options["context_length"],
        "--cache-tokens": options["cache_tokens"],
    }
    for name, value in valued.items():
        if value is not None:
            arguments += [name, str(value)]
    return arguments


def _table(report: HttpReport) -> str:
    from rich.console import Console
    from rich.table import Table

    plan, workload = report.plan, report.plan.workload
    table = Table("", "", "tok/s (low - high)", "ratio", "CPU µs a token", title=report.model)
    _add_rows(table, f"{plan.streams} × {plan.tokens} tokens", report.streams)
    if report.workload is not None and workload is not None:
        _add_rows(table, f"{workload.requests} requests", report.workload)
    first = Table("time to the first token", "p50", "p90")
    for name, seconds in (("engine", report.first_engine), ("HTTP", report.first_http)):
        ordered = sorted(seconds)
        p50, p90 = (ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.9))
        first.add_row(name, f"{p50 * 1e3:.1f} ms", f"{p90 * 1e3:.1f} ms")
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table, first)
        console.print(f"HTTP adds {report.first_added * 1e3:.1f} ms (p50) to the first token")
        if workload is not None:
            console.print(f"the workload: {workload.description}")
    return capture.get().rstrip("\n")


def _add_rows(table: Any, what: str, pairs: Pairs) -> None:
    table.add_row(what, "engine", _rates(pairs.engine), "", _cpu(pairs.engine))
    table.add_row("", "HTTP", _rates(pairs.http), f"{pairs.ratio:.2f}", _cpu(pairs.http))


def _rates(runs: tuple[Throughput, ...]) -> str:
    from statistics import median

    rates = [run.tokens_per_second for run in runs]
    return f"{median(rates):.0f} ({min(rates):.0f} - {max(rates):.0f})"


def _cpu(runs: tuple[Throughput, ...]) -> str:
    """Return the CPU time of each process, over all runs."""
    tokens = sum(run.tokens for run in runs)
    names = [*runs[0].cpu]
    cost = {name: sum(run.cpu[name] for run in runs) / tokens * 1e6 for name in names}
    return " + ".join(f"{name} {value:.0f}" for name, value in cost.items())
