"""`cullama bench`: prefill and decode speed, as shares of this machine's limits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..errors import UsageError
from .bench_chat import command as chat
from .bench_http import command as http
from .bench_serve import command as serve
from .loading import load_or_invent
from .options import model_options, shape_option

if TYPE_CHECKING:
    from ..benchmark.report import BenchReport


def _numbers(context: click.Context, option: click.Parameter, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise click.BadParameter(f"{text!r}, expected whole numbers like 64,2048")
    return numbers


@click.group(
    "bench",
    short_help="Measure speed against the machine's limits.",
    invoke_without_command=True,
    commands={"serve": serve, "chat": chat, "http": http},
)
@model_options
@shape_option
@click.option(
    "--contexts",
    default="64,512,2048",
    show_default=True,
    callback=_numbers,
    help="Context lengths to decode after.",
)
@click.option(
    "--prefill",
    "prompts",
    default="512",
    show_default=True,
    callback=_numbers,
    help="Lengths of prompts to prefill.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=3),
    default=48,
    show_default=True,
    help="Tokens to decode after each context.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Runs of which a figure is the median.",
)
@click.option(
    "--thread-counts",
    callback=_numbers,
    metavar="N,M",
    help="Measure with each of these.  [default: 1, and every core]",
)
@click.option(
    "--speculation",
    type=click.IntRange(0, 64),
    default=0,
    metavar="K",
    help="Measure speculation with up to K draft tokens a step, too.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@click.pass_context
def command(context: click.Context, /, shape: str | None, as_json: bool, **options: Any) -> None:
    """Measure the limits of this machine, then prefill and decode as shares of them.

    `cullama bench serve` measures many requests at once, `cullama bench chat` the second turn of a
    conversation, `cullama bench http` the server.
    """
    from ..benchmark.bench import BenchPlan, benchmark

    if context.invoked_subcommand is not None:
        # Options before the subcommand's name would be ignored.
        for option in context.command.params:
            if context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE:
                name, subcommand = option.opts[0], context.invoked_subcommand
                raise UsageError(f"{name} stands before {subcommand!r}, expected after it")
        return
    threads, thread_counts = options["threads"], options.pop("thread_counts")
    if threads is not None and thread_counts is not None:
        raise UsageError("--threads is one of --thread-counts: give one of the two options")
    plan = BenchPlan(
        contexts=tuple(options.pop("contexts")),
        prompts=tuple(options.pop("prompts")),
        tokens=options.pop("tokens"),
        repeats=options.pop("repeats"),
        speculation=options.pop("speculation"),
        thread_counts=tuple(thread_counts or ([] if threads is None else [threads])),
    )
    llm = load_or_invent(shape, **options)
    report = benchmark(llm, plan)
    click.echo(json.dumps(report.as_json()) if as_json else _table(report))


def _count(threads: int | None) -> str:
    return "" if threads is None else str(threads)


def _limits(report: BenchReport) -> Any:
    from rich.table import Table

    from ..benchmark.yardsticks import CpuYardsticks

    limits: Any = report.yardsticks
    if isinstance(limits[0], CpuYardsticks):
        table = Table("threads", "read, huge pages", "read, 4 KiB pages", "sgemm", title="limits")
        for limit in limits:
            table.add_row(
                str(limit.threads),
                f"{limit.read_huge / 1e9:.1f} GB/s",
                f"{limit.read_small / 1e9:.1f} GB/s",
                f"{limit.sgemm / 1e9:.0f} GFLOP/s",
            )
        return table
    table = Table("copy", "read", "matrix product", "from kernel to kernel", title="limits")
    for limit in limits:
        table.add_row(
            f"{limit.copy / 1e9:.0f} GB/s",
            f"{limit.read / 1e9:.0f} GB/s",
            f"{limit.products / 1e12:.1f} TFLOP/s",
            f"{limit.gap * 1e6:.2f} µs",
        )
    return table


def _table(report: BenchReport) -> str:
    from rich.console import Console
    from rich.table import Table

    limits = _limits(report)
    rows = Table("", "threads", "tok/s", "ms", "share of limit", "engine", title=report.model)
    for row in report.rows:
        engine = "" if row.engine_microseconds is None else f"{row.engine_microseconds:.0f} µs"
        rows.add_row(
            row.what,
            _count(row.threads),
            f"{row.tokens_per_second:.1f}",
            f"{row.milliseconds:.3f}",
            f"{row.share:.0%} of {row.limit}",
            engine,
        )
    speculation = Table(
        *("text", "threads", "tok/s", "speed-up", "accepted", "tokens a step"), title="speculation"
    )
    for run in report.speculation:
        speculation.add_row(
            run.text,
            _count(run.threads),
            f"{run.tokens_per_second:.1f}",
            f"{run.speed_up:.2f} ×",
            f"{run.acceptance:.0%}",
            f"{run.tokens_per_step:.2f}",
        )
    console = Console(width=100)
    with console.capture() as capture:
        console.print(f"{report.machine} · {report.weight_bytes / 1e6:.1f} MB of weights a token")
        console.print(limits, rows)
        if report.speculation:
            console.print(speculation)
    return capture.get().rstrip("\n")
