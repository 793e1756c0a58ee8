"""An engine's own process: `python -m peers ENGINE MODEL THREADS`, questions in, answers out.

One line of JSON for each: ["steps", prompts, tokens of each, steps] → seconds of each step;
["use", variant]; ["first_token", text or null]; ["peak_memory"] → bytes. Before any question it
says what it has loaded.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from .peer import Peer, load_peer, prompts

WITHOUT_A_TEXT = 4  # tokens to begin with, where there is no tokenizer


def main() -> None:
    name, model, threads = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    peer = load_peer(name, model, int(threads))
    _say(answers, {"description": peer.description, "variants": peer.variants})
    for line in sys.stdin:
        _say(answers, _answer(peer, *json.loads(line)))


def _say(answers: Any, answer: Any) -> None:
    print(json.dumps(answer), file=answers, flush=True)


def _answer(peer: Peer, what: str, *details: Any) -> Any:
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
    """Pages of mapped files count. `getrusage` will not do: it counts the parent's before exec."""
    with open("/proc/self/status") as status:
        kilobytes = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    return 1024 * int(kilobytes)


if __name__ == "__main__":
    main()
