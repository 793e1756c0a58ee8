"""The files in examples/deployment/ name options, routes, extras and bounds that there are.

They are not run here: nginx, Caddy, systemd and docker are no part of the tests.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from cullama.server.http.bodies import MAX_BODY_BYTES
from cullama.server.http.events import KEEP_ALIVE_SECONDS
from cullama.server.run import GRACE_SECONDS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples" / "deployment"
FILES = {path.name: path.read_text() for path in FOLDER.iterdir()}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def serve_options() -> set[str]:
    command: Any = import_module("cullama.cli.serve").command
    return {name for it in command.params for name in it.opts}


@pytest.mark.parametrize("name", FILES)
def test_commands_of_cullama_have_options_that_there_are(name: str) -> None:
    lines = re.findall(r"cullama serve( .*)", FILES[name].replace("`", " "))
    for line in lines:
        assert set(OPTION.findall(line)) <= serve_options()


def test_the_image_starts_the_server_with_extras_that_there_are() -> None:
    dockerfile = FILES["Dockerfile"]
    entry = re.search(r"^ENTRYPOINT (.*)$", dockerfile, re.MULTILINE)
    assert entry
    program, command, *options = yaml.safe_load(entry[1])
    assert (program, command) == ("cullama", "serve")
    assert {it for it in options if it.startswith("--")} <= serve_options()
    extras = re.findall(r"^([a-z0-9-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    compose = yaml.safe_load(FILES["compose.yaml"])
    named = re.findall(r"EXTRAS=([\w,]+)", dockerfile)
    named.append(compose["services"]["cuda"]["build"]["args"]["EXTRAS"])
    assert len(named) == 3
    assert {extra for each in named for extra in each.split(",")} <= set(extras)


def test_containers_and_services_have_time_for_answers_to_end() -> None:
    compose = yaml.safe_load(FILES["compose.yaml"])
    for service in compose["services"].values():
        assert int(service["stop_grace_period"].removesuffix("s")) > GRACE_SECONDS
        assert service["ports"] == ["127.0.0.1:8000:8000"]
        assert "CULLAMA_API_KEY" in service["environment"]
    unit = FILES["cullama.service"]
    stop = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert stop
    assert int(stop[1]) > GRACE_SECONDS
    assert "\nKillMode=mixed\n" in unit  # else the engine process gets the signal, too


def test_health_is_asked_for_where_the_server_listens() -> None:
    probe = "http://127.0.0.1:8000/health"
    compose = yaml.safe_load(FILES["compose.yaml"])
    for service in compose["services"].values():
        [kind, *command] = service["healthcheck"]["test"]
        assert kind == "CMD"
        compile(command[-1], "healthcheck", "exec")
        assert probe in command[-1]
    assert probe in FILES["Dockerfile"]
    assert '"--port", "8000"' in FILES["Dockerfile"]


def test_the_proxy_takes_bodies_and_silence_as_the_server_has_them() -> None:
    nginx = FILES["nginx.conf"]
    assert set(re.findall(r"client_max_body_size (\w+);", nginx)) == {f"{MAX_BODY_BYTES >> 20}m"}
    silences = [int(it) for it in re.findall(r"proxy_read_timeout (\d+)s;", nginx)]
    assert silences
    assert min(silences) > 2 * KEEP_ALIVE_SECONDS
    assert nginx.count("proxy_buffering off;") == nginx.count("proxy_pass ")
    [prefix] = set(re.findall(r"--api-prefix (\S+)", nginx))
    assert f"location {prefix}/ {{" in nginx
    assert f"handle {prefix}/*" in FILES["Caddyfile"]


def test_a_context_without_anything_but_the_wheel_is_enough() -> None:
    ignored = [it for it in FILES["Dockerfile.dockerignore"].splitlines() if it[0] != "#"]
    assert ignored == ["*", "!cullama-*.whl"]
    assert not re.search(r"^(COPY|ADD) ", FILES["Dockerfile"], re.MULTILINE)
    build = yaml.safe_load(FILES["compose.yaml"])["services"]["cpu"]["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).resolve() == FOLDER / "Dockerfile"
