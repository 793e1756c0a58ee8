"""`cullama serve` as a process: its address, signals, keys, and what it refuses to start with."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from command_line import CommandLine

from cullama.errors import UsageError
from cullama.server import run

SECONDS = 60


@contextmanager
def serving(
    model: Path, *options: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the command; yields the process and the address that it printed."""
    command = [sys.executable, "-m", "cullama", "serve", str(model), "--port", "0", *options]
    with subprocess.Popen(
        [*command, "--backend", "cpu:numpy"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+(?=/v1)", line)
        assert found, process.stderr.read() if process.stderr else line
        try:
            yield process, found[0]
        finally:
            process.kill()


def wait_until_ready(url: str) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(retries=5)) as client:
        while client.get(f"{url}/health").status_code != 200:
            pass


def test_the_page_is_opened_in_the_browser_once_the_address_answers(
    chat_model: Path, tmp_path: Path
) -> None:
    told, script = tmp_path / "told", tmp_path / "browser"
    ask = "import sys, urllib.request as r, urllib.error as e\n"
    ask += "try: status = r.urlopen(sys.argv[1] + 'health').status\n"
    ask += "except e.HTTPError as error: status = error.code\n"
    ask += f"open({str(told)!r}, 'w').write(f'{{sys.argv[1]}} {{status}}')\n"
    script.write_text(f"#!{sys.executable}\n{ask}")
    script.chmod(0o700)
    with serving(chat_model, "--open", BROWSER=f"{script} %s") as (process, url):
        deadline = time.monotonic() + SECONDS
        while not (told.exists() and told.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        address, status = told.read_text().split()
        assert address == f"{url}/"
        assert status in ("200", "503")  # loaded, or being loaded: it answers
        process.terminate()
        assert process.wait(SECONDS) == 0


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_the_server_and_its_engine_process(
    chat_model: Path, sent: signal.Signals
) -> None:
    with serving(chat_model) as (process, url):
        wait_until_ready(url)
        [child] = children(process.pid)
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": "a", "max_tokens": 2})
        assert answer.status_code == 200
        process.send_signal(sent)
        assert process.wait(SECONDS) == 0
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
        assert "Traceback" not in (process.stderr.read() if process.stderr else "")


def test_answers_that_are_being_written_end_after_a_signal_and_no_new_ones_begin(
    chat_model: Path,
) -> None:
    body = {"prompt": "Once", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with serving(chat_model) as (process, url):
        wait_until_ready(url)
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            device, note = process.stderr.readline(), process.stderr.readline()
            assert "· cpu ·" in device
            assert "may end, for up to 30 s; another Ctrl-C" in note
            rest = [line for line in lines if line]
            assert rest[-1] == "data: [DONE]"
            assert '"finish_reason":"length"' in rest[-2]
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
        assert process.wait(SECONDS) == 0


def test_a_view_of_the_engine_does_not_keep_the_server_from_ending(chat_model: Path) -> None:
    with serving(chat_model) as (process, url):
        wait_until_ready(url)
        with httpx.stream("GET", f"{url}/engine", timeout=60) as response:
            next(response.iter_lines())
            process.send_signal(signal.SIGTERM)
            assert process.wait(run.GRACE_SECONDS / 2) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="has no other loopback addresses")
def test_another_loopback_address_answers_to_its_own_name(chat_model: Path) -> None:
    with serving(chat_model, "--host", "127.0.0.2") as (_, url):
        assert url.startswith("http://127.0.0.2:")
        wait_until_ready(url)


def test_an_engine_that_failed_before_serving_began_ends_the_server(
    chat_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    service = run.open_service(str(chat_model), {"backend": "cpu:numpy", "cache_tokens": 0})
    with pytest.raises(UsageError, match="cache_tokens is 0"):
        service.engine.wait_until_ready(SECONDS)
    listener = run.listen("127.0.0.1", 0)
    with listener.socket, pytest.raises(UsageError, match="cache_tokens is 0"):
        run.serve(service, listener, run.AccessRules())


def test_a_second_signal_ends_it_at_once(chat_model: Path) -> None:
    body = {"prompt": "Once", "max_tokens": 4000, "ignore_eos": True, "stream": True, "n": 8}
    with serving(chat_model) as (process, url):
        wait_until_ready(url)
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
            next(response.iter_lines())
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)
            process.wait(10)


def test_a_key_from_a_file_or_the_environment_is_asked_for(
    chat_model: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# who may come in\nfrom-the-file\n")
    keys.chmod(0o600)
    options = ("--api-key-file", str(keys), "--api-prefix", "/llama")
    with serving(chat_model, *options, CULLAMA_API_KEY="from-the-environment") as (process, url):
        assert url.endswith("/llama")
        assert httpx.get(f"{url}/v1/models").status_code == 401
        for key in ("from-the-file", "from-the-environment"):
            headers = {"authorization": f"Bearer {key}"}
            assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 200
        shown = Path(f"/proc/{process.pid}/cmdline").read_text()
        assert "from-the" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "--api-key-file FILE, or --insecure"),
        (["--port", "99999"], "99999 is not in the range"),
        (["--host", "no.such.host.invalid"], "--insecure"),
        (["--api-key-file", "/no/such/file"], "No such file"),
        (["--cors-origin", "example.org"], "expected a scheme and a host"),
        (["--api-prefix", "llama"], "expected a path such as /llama"),
        (["--max-waiting", "-1"], "--max-waiting"),
        (["--context", "0"], "context_length is 0"),
        (["--template", "/no/such/file"], "/no/such/file"),
        (["-m", "another"], "give one of them"),
    ],
)
def test_what_it_cannot_start_with_is_one_line(
    cullama_command: CommandLine, chat_model: Path, arguments: list[str], words: str
) -> None:
    result = cullama_command("serve", str(chat_model), "--port", "0", *arguments)
    assert result.code != 0
    assert words in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_port_that_is_in_use_is_named(cullama_command: CommandLine, chat_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = cullama_command("serve", str(chat_model), "--port", port)
    assert result.code == 2
    assert f"port {port}: Address already in use" in result.err


def test_a_key_file_that_others_can_read_is_refused(
    cullama_command: CommandLine, chat_model: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    keys.chmod(0o644)
    result = cullama_command("serve", str(chat_model), "--api-key-file", str(keys))
    assert result.code == 2
    assert f"chmod 600 {keys}" in result.err


def test_a_model_that_the_engine_cannot_load_ends_the_server(
    chat_model: Path, tmp_path: Path
) -> None:
    """The front reads no weights: that they are damaged shows in the engine process."""
    damaged = tmp_path / "damaged"
    shutil.copytree(chat_model, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    command = [sys.executable, "-m", "cullama", "serve", str(damaged), "--port", "0"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert found.returncode == 1
    assert "model.safetensors" in found.stderr.splitlines()[-1]
    assert "Traceback" not in found.stderr
