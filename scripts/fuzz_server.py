"""Sends requests that fit /openapi.json, and requests that do not, to every route of the server.

    python scripts/fuzz_server.py [--examples 500] [--seed N] [--url http://127.0.0.1:8000]

It runs schemathesis (`make clients`) against a server of its own, with a tiny model, or against the
one at --url. What must hold: no 5xx but 501 and 503, documented statuses, types and forms of
answers, and whatever does not fit the document is refused. The exit status is 1 otherwise.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "tests", "tests/cli", "tests/server", "tests/server/clients")


def main() -> None:
    parser = argparse.ArgumentParser(description="Try every route of the server.")
    parser.add_argument("--examples", type=int, default=500, help="of each route")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--url", help="of a server that runs; otherwise one is started")
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / name) for name in FOLDERS]
    from fuzzing import CONTEXT, SCHEMATHESIS, command

    if not SCHEMATHESIS.exists():
        sys.exit("schemathesis is not there; `make clients` installs it")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = options.url
        if url is None:
            from conftest import trained_tokenizer, write_chat_folder
            from live_server import live_server

            trained_tokenizer().save(str(folder / "tokenizer.json"))
            model = write_chat_folder(folder / "tiny-chat", folder / "tokenizer.json", CONTEXT)
            url = stack.enter_context(live_server(model)).url
        tried = command(url, folder, options.examples, options.seed)
        sys.exit(subprocess.run(tried, check=False, cwd=folder).returncode)


if __name__ == "__main__":
    main()
