"""`cullama serve`: an HTTP server with OpenAI's API."""

from __future__ import annotations

import os
import re
import stat
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from .browser import open_browser
from .log import show_log
from .options import model_options
from .progress import ProgressBar


@click.command("serve", short_help="Serve a model over HTTP, as OpenAI's API does.")
@click.argument("served", required=False, metavar="[MODEL]")
@model_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Ask for a key: one of the file's lines, as `Authorization: Bearer KEY`. "
    "CULLAMA_API_KEY in the environment does the same.",
)
@click.option(
    "--insecure", is_flag=True, help="Listen beyond this machine without asking for a key."
)
@click.option("--api-prefix", default="", metavar="/PATH", help="Comes before every path.")
@click.option(
    "--cors-origin",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="Pages from there may use the server: https://chat.example.org. Can be repeated.",
)
@click.option(
    "--max-waiting",
    type=click.IntRange(0, 100_000),
    default=256,
    show_default=True,
    help="Requests that may wait beyond those that run; more are refused with 429.",
)
@click.option(
    "--step-timeout",
    type=click.FloatRange(1, 86_400),
    metavar="SECONDS",
    help="Replace an engine process that has requests and gives nothing for so long. Not given: "
    "120, or ten times what its longest pass should take on this machine, if that is more.",
)
@click.option(
    "--template",
    metavar="FILE",
    help="A jinja2 chat template in place of the model's own, or 'none': continue as text.",
)
@click.option("--open", "opens", is_flag=True, help="Open the page in a browser.")
def command(
    served: str | None,
    model: str | None,
    quiet: bool,
    host: str,
    port: int,
    api_key_file: Path | None,
    insecure: bool,
    api_prefix: str,
    origins: tuple[str, ...],
    max_waiting: int,
    step_timeout: float | None,
    template: str | None,
    opens: bool,
    **options: Any,
) -> None:
    """Serve MODEL until Ctrl-C: /v1/chat/completions, /v1/completions, /v1/models and more.

    The model runs in a process of its own, which is replaced when it fails.
    """
    if served is not None and model is not None:
        raise UsageError(f"MODEL is {served!r} and --model {model!r}: give one of them")
    run = _import_server()
    rules = run.AccessRules(
        api_keys=_api_keys(api_key_file),
        hosts=(*dict.fromkeys((*run.LOOPBACK, host)),) if run.is_loopback(host) else None,
        origins=[_checked_origin(origin) for origin in origins],
    )
    if not (run.is_loopback(host) or rules.api_keys or insecure):
        raise UsageError(
            f"--host {host} is reachable from other machines, and no API key is asked for; give "
            "--api-key-file FILE, or --insecure to let everyone in"
        )
    prefix = _checked_prefix(api_prefix)
    listener = run.listen(host, port, prefix)
    show_log(quiet)
    with listener.socket:
        title = f"fetching {served or model or 'the default model'}"
        with ProgressBar(title, in_bytes=True) as progress:
            service = run.open_service(
                served or model,
                options,
                max_waiting=max_waiting,
                step_timeout=step_timeout,
                chat_template=template,
                measures=True,
                progress=progress,
            )
        click.echo(f"cullama serves {service.model}: {listener.doors} · Ctrl-C ends it")
        here = re.sub(r"//(0\.0\.0\.0|\[::\])(?=:)", "//127.0.0.1", listener.url)
        on_start = partial(open_browser, f"{here}/") if opens else (lambda: None)
        run.serve(service, listener, rules, prefix, on_start)


def _import_server() -> Any:
    try:
        from ..server import run
    except ImportError as error:
        raise UsageError(
            f"{error.name} is not installed, which `cullama serve` needs; "
            "install it with: pip install 'cullama[server]'"
        ) from None
    return run


def _api_keys(path: Path | None) -> list[str]:
    """Return the keys that are taken, from the file and the environment.

    Raises:
        UsageError: a file that cannot be read, holds no key, or that others may read.
    """
    keys = [key] if (key := os.environ.get("CULLAMA_API_KEY", "").strip()) else []
    if path is None:
        return keys
    try:
        mode, lines = path.stat().st_mode, path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--api-key-file {path}: {error}") from None
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        raise UsageError(
            f"--api-key-file {path} can be read by other users; change that: chmod 600 {path}"
        )
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise UsageError(f"--api-key-file {path} holds no key, expected one a line")
    return keys + found


def _checked_origin(origin: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]+", origin):
        raise UsageError(
            f"--cors-origin is {origin!r}, expected a scheme and a host: https://chat.example.org"
        )
    return origin


def _checked_prefix(prefix: str) -> str:
    if not re.fullmatch(r"(/[\w.-]+)*/?", prefix):
        raise UsageError(f"--api-prefix is {prefix!r}, expected a path such as /llama")
    return prefix.rstrip("/")
