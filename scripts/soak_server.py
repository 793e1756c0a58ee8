"""Attacks `cullama serve`, and prints the figures of F8 to F20 in docs/server-survival.md.

    python scripts/soak_server.py [--attack NAME …] [--scale 1.0] [--seed N]

One row for each goal: the goal, and what was reached. The attacks are modules of the tests, with a
tiny model, over loopback alone. The exit status is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import resource
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ATTACKS = {  # module in tests/server/soak, and its function
    "access": "figures",
    "floods": "figures",
    "disconnects": "figures",
    "overload": "figures",
    "endings": "figures",
    "nan": "nan_figures",
    "device": "figures",
}
CONTEXT = 4096  # tokens
DESCRIPTORS = 4096  # of the attackers, and of the server that they start


def main() -> None:
    parser = argparse.ArgumentParser(description="Attack a server.")
    parser.add_argument("--attack", action="append", choices=[*ATTACKS], help="all, if none")
    parser.add_argument("--scale", type=float, default=1.0, help="share of each attack")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / folder) for folder in ("src", "tests", "tests/server")]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))
    print(f"seed {options.seed}, scale {options.scale:g}")
    is_met = True
    with tempfile.TemporaryDirectory() as folder:
        model = _model(Path(folder))
        for name in options.attack or ATTACKS:
            print(f"{name} …", file=sys.stderr, end=" ", flush=True)
            started = time.perf_counter()
            module = importlib.import_module(f"soak.{'endings' if name == 'nan' else name}")
            figures = getattr(module, ATTACKS[name])(model, options.scale, options.seed)
            print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
            for figure in figures:
                _print(figure)
                is_met = is_met and figure.is_met
    sys.exit(0 if is_met else 1)


def _model(folder: Path) -> Path:
    """Write the tests' tiny model with a chat template, and return its folder."""
    spec = importlib.util.spec_from_file_location("root_conftest", ROOT / "tests/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    tiny: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    tokenizer = folder / "tokenizer.json"
    tiny.trained_tokenizer().save(str(tokenizer))
    model: Path = tiny.write_chat_folder(folder / "tiny-chat", tokenizer, CONTEXT)
    return model


def _print(figure: Any) -> None:
    verdict = "ok   " if figure.is_met else "SHORT"
    lines = textwrap.wrap(figure.name, 84)
    for line in lines[:-1]:
        print(f"      {line}")
    print(f"{verdict} {lines[-1]}: {figure.reached}, goal {figure.goal}", flush=True)


if __name__ == "__main__":
    main()
