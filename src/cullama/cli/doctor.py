"""`cullama doctor`: what this machine has, whether all of it works, and what to do where not."""

from __future__ import annotations

import json
from typing import Any

import click

from .log import show_log


@click.command("doctor", short_help="Look for what is wrong with this machine.")
@click.option(
    "-m", "--model", metavar="NAME", help="Take this model's sizes.  [default: SmolLM2-135M's]"
)
@click.option(
    "--backend",
    metavar="[auto|cpu|cpu:KERNELS|cuda|cuda:N]",
    default="auto",
    show_default=True,
    help="What to examine; auto: the CPU, and every GPU there is.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Storage type to test; auto: float32 on the CPU, all on a GPU.",
)
@click.option("--threads", type=int, metavar="N", help="CPU threads.  [default: physical cores]")
@click.option(
    "--deterministic", "is_deterministic", is_flag=True, help="Test what --deterministic runs."
)
@click.option(
    "--quick", "is_quick", is_flag=True, help="Small sizes: whether it works, not how fast."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(as_json: bool, **options: Any) -> int:
    """Say what is here, then run every operator against numpy: its error, and its speed.

    "of a copy's" is the share of the rate at which this device copies memory; numbers that stay
    in a cache exceed it.

    Exits with 0 where nothing is wrong, 1 where something is, with what to do about it, 2 after
    misuse. A machine without a GPU is not wrong, unless --backend asks for one.
    """
    from ..doctor.examination import examine
    from ..doctor.plan import DoctorPlan
    from ..doctor.report import DoctorReport, as_text, verdict

    show_log(quiet=as_json)
    findings = []
    for finding in examine(DoctorPlan(**options)):
        findings.append(finding)
        if not as_json:
            click.echo(as_text(finding))
    report = DoctorReport.of(findings)
    click.echo(json.dumps(report.as_json()) if as_json else verdict(report))
    return 0 if report.is_healthy else 1
