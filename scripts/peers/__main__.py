"""An engine's process: `python -m peers ENGINE MODEL THREADS`, with requests on the standard input.

Requests and responses are lines of JSON: ["steps", prompts, tokens of each, steps] → seconds of
each step; ["use", variant]; ["first_token", text or null]; ["peak_memory"] → bytes. The first line
that it prints describes what it has loaded.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from .peer import Peer, load_peer, prompts

WITHOUT_A_TEXT = 4  # tokens of the prompt where there is no tokenizer


def main() -> None:
    name, model, threads = sys.argv[1:]
    # What a library prints must not be taken for a response.
    responses, sys.stdout = sys.stdout, sys.stderr
    peer = load_peer(name, model, int(threads))
    _print(responses, {"description": peer.description, "variants": peer.variants})
    for line in sys.stdin:
        _print(responses, _respond(peer, *json.loads(line)))


def _print(responses: Any, response: Any) -> None:
    print(json.dumps(response), file=responses, flush=True)


def _respond(peer: Peer, what: str, *details: Any) -> Any:
    if what == "steps":
        return _steps(peer, *details)
    if what == "use":
        return peer.use(*details)
    if what == "first_token":
        return _first_token(peer, *details)
    assert what == "peak_memory", what
    return _peak_memory()


def _steps(peer: Peer, count: int, tokens: int, steps: int) -> list[float]:
    peer.begin(prompts(count, tokens, peer.vocabulary), steps)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        peer.step()
        times.append(time.perf_counter() - start)
    return times


def _first_token(peer: Peer, text: str | None) -> None:
    plain = prompts(1, WITHOUT_A_TEXT, peer.vocabulary)
    peer.begin(plain if text is None else [peer.encode(text)], 1)
    peer.step()


def _peak_memory() -> int:
    """Return the peak, with mapped files; `getrusage` would include the parent's before exec."""
    with open("/proc/self/status") as status:
        kilobytes = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    return 1024 * int(kilobytes)


if __name__ == "__main__":
    main()
