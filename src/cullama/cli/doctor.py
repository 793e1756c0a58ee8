"""`cullama doctor`: describe this machine, test and time every operator, and say what to mend."""

from __future__ import annotations

import json
from typing import Any

import click

from .log import show_log


@click.command("doctor", short_help="Examine this machine: what it has, what works, how fast.")
@click.option(
    "-m", "--model", metavar="NAME", help="Take this model's sizes.  [default: SmolLM2-135M's]"
)
@click.option(
    "--backend",
    metavar="[auto|cpu|cpu:KERNELS|cuda|cuda:N|emulated]",
    default="auto",
    show_default=True,
    help="What to examine; auto: the CPU and every GPU.",
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
    "--quick", "is_quick", is_flag=True, help="Small sizes: test, but do not measure speed."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(as_json: bool, **options: Any) -> int:
    """Describe this machine, then run every operator: its error against numpy, and its speed.

    "of a copy's" is the share of the rate at which this device copies memory; numbers that stay
    in a cache exceed it.

    The exit status is 0 if there is no problem, 1 if there is one (with a remedy), 2 after misuse.
    A missing GPU is a problem only if --backend asks for one.
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
