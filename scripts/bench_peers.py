"""Measure cullama, llama.cpp and transformers on this machine's CPU: same files, same threads.

    pip install llama-cpp-python        # compiled for this processor, which takes minutes
    pip install torch transformers      # only if transformers is to be measured, too
    python scripts/bench_peers.py [MODEL …] [--peers …] [--measure …] [--threads N] [--rounds N]

Each engine runs in a process of its own. They are measured in turn, round by round, and ratios are
taken within a round. A figure is the median of the rounds, with the lowest and the highest. A
measurement while other processes are busy is repeated, and reported if that does not help. Progress
is printed to the standard error.

  prefill   a prompt of 512 tokens, to the first token drawn
  decode    tokens one by one after a context of 64
  long      the same after 2,048, and the time of a token there over that after 64
  batch     8 sequences decoded together, tokens of all of them
  start     from a new process to the first token after a short prompt, files in the page cache
  memory    the peak of a new process that prefills 512 tokens and decodes 32

MODEL is a GGUF file, or a folder (not for llama.cpp); the default is the default model. Weights may
be random: `cullama quantize --config llama-3.2-1b --type q4_0 --no-check -o FILE` makes a file.
Ratios are those of the first peer to each other one. `cullama:numpy` is cullama with
`backend="cpu:numpy"`, and so on. llama.cpp runs with its defaults, with flash attention or without,
whichever is faster for a run; transformers runs in float32. Decode is also shown as a share of the
rate at which this machine can read the file's weights from memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import gguf
from peers.comparison import (
    MEASURES,
    TEXT,
    TOLERATED,
    Entrant,
    Figure,
    PeerComparison,
    Spread,
    compare,
)
from peers.peer import NAMES, is_peer
from peers.worker import Worker

from cullama.benchmark.yardsticks import CpuMeter, CpuYardsticks, between
from cullama.checkpoint.checkpoint import Checkpoint
from cullama.checkpoint.opening import open_checkpoint
from cullama.cpu.threads import choose_threads
from cullama.errors import CullamaError, NoTokenizerError
from cullama.hub import model_title, resolve_model


@dataclass(frozen=True)
class PeerReport:
    """All figures of one model."""

    model: str
    threads: int
    rounds: int
    weight_bytes: int  # in the file, read for each token
    limit: CpuYardsticks | None  # None if no measure reads all weights
    peers: dict[str, str]  # the description of each
    comparison: PeerComparison

    def share(self, figure: Figure) -> float | None:
        """Return a figure as a share of the rate at which memory can be read."""
        if self.limit is None or not figure.quantity.reads_all_weights:
            return None
        return self.weight_bytes * figure.spread.median / self.limit.read

    def by_quantity(self) -> list[list[Figure]]:
        figures = self.comparison.figures
        return [list(group) for _, group in groupby(figures, lambda figure: figure.quantity)]


def measure(path: Path, options: argparse.Namespace) -> PeerReport:
    checkpoint = open_checkpoint(path)
    before = _limit(options)
    with ExitStack() as stack:
        entrants = [_entrant(name, checkpoint, options, stack) for name in options.peers]
        progress = partial(print, f"{model_title(path)}:", file=sys.stderr)
        comparison = compare(entrants, options.measure, options.rounds, progress)
        peers = {entrant.name: _described(entrant.worker) for entrant in entrants}
    after = _limit(options)
    return PeerReport(
        model=f"{model_title(path)} · {checkpoint.format_name}",
        threads=options.threads,
        rounds=options.rounds,
        weight_bytes=weight_bytes(checkpoint),
        limit=between(before, after) if before and after else None,
        peers=peers,
        comparison=comparison,
    )


def _limit(options: argparse.Namespace) -> CpuYardsticks | None:
    quantities = [quantity for name in options.measure for quantity in MEASURES[name].quantities]
    if not any(quantity.reads_all_weights for quantity in quantities):
        return None
    return CpuMeter().measure(options.threads)


def _entrant(
    name: str, checkpoint: Checkpoint, options: argparse.Namespace, stack: ExitStack
) -> Entrant:
    is_ours = name.startswith("cullama")
    python = sys.executable if is_ours else options.peer_python
    begin = partial(Worker, python, name, checkpoint.path, options.threads)
    return Entrant(name, stack.enter_context(begin()), begin, _text(checkpoint))


def _text(checkpoint: Checkpoint) -> str | None:
    try:
        checkpoint.load_tokenizer()
    except NoTokenizerError:
        return None
    return TEXT


def _described(worker: Worker) -> str:
    """Describe a peer, with the variants that were faster and the runs that they were used for."""
    runs: dict[str, list[str]] = {}
    for run, variant in worker.chosen.items():
        runs.setdefault(variant, []).append(f"{run.prompts} × {run.tokens} tokens")
    chosen = (f"{variant} for {', '.join(where)}" for variant, where in runs.items())
    return " · ".join([worker.description, *chosen])


def weight_bytes(checkpoint: Checkpoint) -> int:
    """Return the bytes read for each token: all but an embedding that is not the head as well."""
    tied = checkpoint.config.tied
    return sum(
        tensor.size * size // elements
        for tensor in checkpoint.tensors.values()
        if tied or "embed_tokens" not in tensor.name
        for elements, size in [gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[tensor.dtype]]]
    )


# --- printing -------------------------------------------------------------------------------------

WIDTH = 120
SPREAD = "lowest … highest"


def as_json(report: PeerReport) -> dict[str, Any]:
    rows = []
    for group in report.by_quantity():
        rows += [
            {
                **asdict(figure.quantity),
                "peer": figure.peer,
                "rounds": figure.numbers,
                **asdict(figure.spread),
                "share_of_read": report.share(figure),
                "gain_of_first": asdict(group[0].gain_over(figure)),
            }
            for figure in group
        ]
    return {**asdict(report), "comparison": {**asdict(report.comparison), "figures": rows}}


def table(report: PeerReport) -> str:
    from rich.console import Console
    from rich.table import Table

    columns = ("median", SPREAD, "share of read", "ratio", SPREAD)
    rows = Table("", "", *columns[: 5 if len(report.peers) > 1 else 3], title=report.model)
    for group in report.by_quantity():
        for figure in group:
            rows.add_row(*_cells(report, group[0], figure))
        rows.add_section()
    console = Console(width=WIDTH)
    with console.capture() as capture:
        console.print(rows)
    return "\n".join([capture.get().rstrip(), *_notes(report)])


def _cells(report: PeerReport, first: Figure, figure: Figure) -> list[str]:
    share, quantity = report.share(figure), figure.quantity
    cells = [quantity.name if figure is first else "", figure.peer]
    cells += _format_spread(figure.spread, f" {quantity.unit}", _digits(figure.spread.median))
    cells.append("" if share is None else f"{share:.0%}")
    return cells if figure is first else [*cells, *_format_spread(first.gain_over(figure), " ×", 2)]


def _format_spread(spread: Spread, unit: str, digits: int) -> tuple[str, str]:
    """Return the median, and the lowest and highest."""
    numbers = (spread.median, spread.lowest, spread.highest)
    middle, lowest, highest = (f"{number:,.{digits}f}" for number in numbers)
    return middle + unit, f"{lowest} … {highest}"


def _digits(number: float) -> int:
    return 0 if number >= 1000 else 1 if number >= 10 else 2


def _notes(report: PeerReport) -> list[str]:
    threads = f"{report.threads} threads, medians of {report.rounds} rounds (lowest … highest)"
    notes = [threads, *(f"{peer}: {text}" for peer, text in report.peers.items())]
    if report.limit is not None:
        notes[0] += (
            f"; a token reads {report.weight_bytes / 1e6:.1f} MB of the file's weights, "
            f"and this machine {report.limit.read / 1e9:.1f} GB/s"
        )
    if len(report.peers) > 1:
        notes.append(f"A ratio above 1: {next(iter(report.peers))} is that many times better.")
    if report.comparison.disturbed:
        notes.append(
            f"Other processes took more than {TOLERATED:.0%} of the processors during "
            f"{report.comparison.disturbed} of {report.comparison.heats} measurements, even "
            "when these were repeated: stop them, and measure again."
        )
    return notes


# --- the command line -----------------------------------------------------------------------------


DEFAULT_PEERS = ["cullama", "llama.cpp"]


def _peers(text: str) -> list[str]:
    names = text.split(",")
    wrong = [name for name in names if not is_peer(name)]
    if wrong or len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(
            f"{text!r}, expected different ones of {', '.join(NAMES)}, cullama:numpy …"
        )
    return names


def _measures(text: str) -> list[str]:
    names = text.split(",")
    if not set(names) <= set(MEASURES) or len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(f"{text!r}, expected some of {', '.join(MEASURES)}")
    return names


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected 1 or more")
    return int(text)


def _options() -> argparse.Namespace:
    title, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=title,
        epilog=rest.strip("\n"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("models", nargs="*", metavar="MODEL", default=[None])
    add(
        "--peers",
        type=_peers,
        default=DEFAULT_PEERS,
        metavar="A,B",
        help=f"default: {','.join(DEFAULT_PEERS)}",
    )
    add("--measure", type=_measures, default=list(MEASURES), metavar="A,B", help="default: all")
    add("--threads", type=int, metavar="N", help="default: one for each physical core")
    add("--rounds", type=_rounds, default=5, metavar="N", help="default: 5")
    add("--json", action="store_true", dest="as_json", help="JSON, with each round's numbers")
    add(
        "--peer-python",
        default=sys.executable,
        metavar="PATH",
        help="the interpreter that has the other engines, if this one has not",
    )
    return parser.parse_args()


def main() -> None:
    options = _options()
    try:
        options.threads = choose_threads(options.threads)
        paths = [resolve_model(model) for model in options.models]
        reports = []
        for path in paths:
            reports.append(measure(path, options))
            if not options.as_json:
                print(table(reports[-1]), end="\n\n", flush=True)
    except CullamaError as error:
        raise SystemExit(str(error)) from None
    if options.as_json:
        print(json.dumps([as_json(report) for report in reports]))


if __name__ == "__main__":
    main()
