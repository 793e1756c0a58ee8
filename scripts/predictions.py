"""Compares predicted times with measurements that others published, for docs/gpu/predictions.md.

    python scripts/predictions.py            print the tables
    python scripts/predictions.py --write    and write them into the page
    python scripts/predictions.py --steps    decode steps with today's kernels, too: minutes

A test runs the first of these, and fails where the page says something else.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import numpy as np

from cullama.benchmark.shapes import SHAPES
from cullama.emulation.counting.counts import CountedKernel, Latencies
from cullama.emulation.timing.cards import CARDS, Card
from cullama.emulation.timing.prediction import predict, soft_sum

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "gpu" / "predictions.md"
STREAM = ROOT / "tests" / "emulation" / "kernels" / "stream.cu"

# --- streams: GB/s of te42kyfo/gpu-benches, gpu-stream/*.txt -------------------------------------

NUMBERS = 1 << 27
BYTES = {"fill": 8, "read": 8, "scale": 16, "triad": 24}  # that each thread reads and writes
RESIDENT = 2  # blocks of an SM, in these tables


@dataclass(frozen=True)
class StreamTable:
    """GB/s by threads of a block; `fitted`: which constants were fitted to it."""

    card: Card
    file: str
    fitted: str
    rates: dict[int, tuple[int, int, int, int]]  # fill, read, scale, triad


_A100, _4090 = CARDS["a100"], CARDS["4090"]
# Not to be chosen. What they read at best is the top of their own table; the L40's latencies are
# from the same project (gpu-latency), the A40's assumed, from other Ampere cards.
A100_40 = replace(_A100, name="a100-40", datasheet=1.555, read=1.5)
L40 = replace(
    *(_4090,),
    name="l40",
    sms=142,
    clock=2.49,
    datasheet=0.864,
    read=0.846,
    latencies=Latencies(30, 36, 276, 680),
)
A40 = replace(
    *(_4090,),
    name="a40",
    sms=84,
    clock=1.74,
    datasheet=0.696,
    read=0.68,
    l2_rate=3.0,
    latencies=Latencies(29, 33, 230, 540),
)
STREAMS = (
    StreamTable(
        *(CARDS["h200"], "h200.txt", "softness 1.6, turn"),
        {
            32: (297, 123, 240, 334),
            64: (590, 244, 463, 638),
            128: (1163, 485, 852, 1129),
            256: (2196, 935, 1395, 1905),
            512: (3670, 1707, 2263, 2919),
            768: (3891, 2297, 2844, 3333),
            1024: (3884, 2756, 3165, 3534),
        },
    ),
    StreamTable(
        *(A100_40, "a100_40.txt", "nothing: softness 2.6 is of the 80 GB card's table"),
        {
            32: (159, 81, 151, 210),
            64: (407, 158, 291, 403),
            128: (788, 304, 548, 743),
            256: (1473, 579, 954, 1231),
            512: (1503, 1042, 1338, 1359),
            768: (1502, 1341, 1364, 1367),
            1024: (1503, 1490, 1381, 1360),
        },
    ),
    StreamTable(
        *(L40, "l40.txt", "softness 3.5"),
        {
            32: (322, 163, 298, 425),
            64: (643, 320, 549, 702),
            128: (845, 615, 772, 769),
            256: (846, 844, 792, 795),
            512: (846, 844, 778, 798),
            768: (846, 844, 770, 768),
        },
    ),
    StreamTable(
        *(A40, "a40.txt", "nothing"),
        {
            32: (201, 82, 154, 219),
            64: (397, 160, 290, 400),
            128: (679, 304, 514, 625),
            256: (679, 552, 643, 660),
            512: (679, 679, 655, 655),
            768: (679, 679, 652, 653),
        },
    ),
)


def stream_rows() -> Iterator[tuple[StreamTable, str, list[tuple[int, int, float]]]]:
    """Yield each table's kernels, with (threads, GB/s measured, predicted)."""
    with TemporaryDirectory() as folder:
        ptx = Path(folder) / "compute_80" / "stream.ptx"
        build = [sys.executable, str(ROOT / "scripts" / "build_ptx.py"), str(STREAM), str(ptx)]
        done = subprocess.run(build, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr.strip())
        kernels = {name: CountedKernel(ptx, name, is_alone=False) for name in BYTES}
    for table in STREAMS:
        for column, (name, size) in enumerate(BYTES.items()):
            points = []
            for threads, rates in table.rates.items():
                rate = stream_rate(kernels[name], table.card, threads, size)
                points.append((threads, rates[column], rate))
            yield table, name, points


def stream_rate(kernel: CountedKernel, card: Card, threads: int, size: int) -> float:
    """Return the predicted GB/s of one number a thread; a few blocks stand for all."""
    arrays = [np.zeros(4 * threads) for _ in range(3)]
    kernel.empty_l2(card.l2_megabytes << 20)
    counts = kernel.count(4, threads, arrays, latencies=card.latencies)
    whole = replace(counts, grid=(NUMBERS // threads,))
    return NUMBERS * size / predict(whole, card, RESIDENT).microseconds / 1e3


# --- decode steps of others: the time of their structure -----------------------------------------

MATRIX_CHAIN = 0.4  # latency over DRAM time of a good matrix kernel: our gate and up at 1B
GRID_BARRIER = 1.1  # µs, published for H100
PROGRAMMATIC_GAP = (
    0.65  # µs from node to node with programmatic dependent launch, as measured there
)
PHASES = 5  # of a layer: q k v, attention, output, gate and up, down
ATTENTION_CYCLES, SMALL_CYCLES = 5000, 1200  # of a short context, and of a norm or a sum


@dataclass(frozen=True)
class Step:
    """A decode step that others measured: µs or tokens a second."""

    what: str
    card: Card
    megabytes: float
    kind: str  # "graph", "one kernel", "cooperative"
    layers: int
    measured: float
    unit: str
    source: str

    @property
    def predicted(self) -> float:
        """Return the figure in the unit of the measurement."""
        microseconds = self.streaming + self.waiting
        return microseconds if self.unit == "µs" else 1e6 / microseconds

    @property
    def streaming(self) -> float:
        """Return the µs of reading all weights."""
        dram = self.megabytes / self.card.read
        return soft_sum([dram, MATRIX_CHAIN * dram], self.card.softness)

    @property
    def waiting(self) -> float:
        """Return the µs between and beside the reading."""
        cycle = 1 / self.card.clock / 1e3
        if self.kind == "graph":  # 4 matrices a layer and the head wait; attention and small ones
            matrices = 4 * self.layers + 1
            small = self.layers + 3  # a reduction each, and the ends
            gaps = (matrices + self.layers + small) * PROGRAMMATIC_GAP
            first_loads = matrices * self.card.latencies.dram * cycle
            own = self.layers * ATTENTION_CYCLES + small * SMALL_CYCLES
            return gaps + first_loads + own * cycle
        barriers = PHASES * self.layers + 1
        attention = self.layers * 1.5
        if self.kind == "one kernel":  # weights are fetched across barriers
            return barriers * GRID_BARRIER + attention
        return barriers * (GRID_BARRIER + self.card.latencies.dram * cycle) + 2 * attention


_MEGA = "msaroufim/megakernels-vs-cuda-graphs"
_CALM = "zeux/calm, README"
STEPS = (
    Step("1B, 100 kernels", CARDS["h200"], 2471, "graph", 16, 794.74, "µs", _MEGA),
    Step("1B, 100 kernels", CARDS["h100"], 2471, "graph", 16, 979.51, "µs", _MEGA),
    Step("1B, one kernel", CARDS["h200"], 2471, "one kernel", 16, 759.83, "µs", _MEGA),
    Step("1B, one kernel", CARDS["h100"], 2471, "one kernel", 16, 972.78, "µs", _MEGA),
    Step("Llama 3.1 8B", _4090, 15010, "cooperative", 32, 61, "tok/s", _CALM),
    Step("Mistral 7B", _4090, 14330, "cooperative", 32, 63, "tok/s", _CALM),
    Step("Llama 2 7B", _4090, 13310, "cooperative", 32, 67, "tok/s", _CALM),
    Step("Llama 2 7B, 8 bits", _4090, 6610, "cooperative", 32, 128, "tok/s", _CALM),
    Step("Llama 2 7B, 4 bits", _4090, 3316, "cooperative", 32, 225, "tok/s", _CALM),
    Step("Phi 2.7B", _4090, 5317, "cooperative", 32, 167, "tok/s", _CALM),
)

# --- today's kernels, beside what was worked out by hand from their machine code -----------------

HOST = 75  # µs of the host's work that a step waits for, as estimated by hand
BY_HAND = {
    ("smollm2-135m", 88): 620,
    ("smollm2-135m", 600): 330,
    ("llama-3.2-1b", 88): 620,
    ("llama-3.2-1b", 600): 425,
    ("llama-3.1-8b", 88): 153,
    ("llama-3.1-8b", 600): 110,
}


def our_steps() -> Iterator[str]:
    """Yield rows of decode steps with today's kernels on an H200."""
    from cullama.doctor.kernels.profile import profile

    card = CARDS["h200"]
    yield "| model | context | launches | kernels | gaps | tok/s with 75 µs of host | by hand | |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for (name, context), estimate in BY_HAND.items():
        shapes = [{"context": context}]
        rows = list(profile(["decode step"], card, "bfloat16", SHAPES[name], shapes=shapes))
        count = sum(row.times for row in rows)
        kernels, gaps = sum(row.times * row.microseconds for row in rows), count * card.gap
        rate = 1e6 / (kernels + gaps + HOST)
        yield (
            f"| {name} | {context} | {count} | {kernels:,.0f} µs | {gaps:,.0f} µs | {rate:.0f} | "
            f"{estimate} | {rate / estimate - 1:+.0%} |"
        )


# --- the page ------------------------------------------------------------------------------------


def stream_tables() -> Iterator[str]:
    yield "| card | fitted to it | kernel | GB/s measured → predicted, by threads | mean | worst |"
    yield "|---|---|---|---|--:|--:|"
    every = []
    for table, name, points in stream_rows():
        errors = [told / found - 1 for _, found, told in points]
        every += [(table, error) for error in errors]
        cells = ", ".join(f"{threads}: {found} → {told:.0f}" for threads, found, told in points)
        card = f"{table.card.name} | {table.fitted}" if name == "fill" else " | "
        worst = max(errors, key=abs)
        yield f"| {card} | {name} | {cells} | {mean(map(abs, errors)):.0%} | {worst:+.0%} |"
    tested = [abs(error) for table, error in every if table.fitted.startswith("nothing")]
    fitted = [abs(error) for table, error in every if not table.fitted.startswith("nothing")]
    yield ""
    yield (
        f"Mean error {mean(fitted):.1%} over {len(fitted)} points of cards that a constant was "
        f"fitted to, {mean(tested):.1%} over {len(tested)} of those that none was."
    )


def step_table() -> Iterator[str]:
    yield "| step | card | measured | predicted | error | source |"
    yield "|---|---|--:|--:|--:|---|"
    for step in STEPS:
        told = step.predicted
        yield (
            f"| {step.what} | {step.card.name} | {step.measured:g} {step.unit} | {told:.0f} | "
            f"{told / step.measured - 1:+.1%} | {step.source} |"
        )
    errors = [abs(step.predicted / step.measured - 1) for step in STEPS]
    yield ""
    yield f"Mean error {mean(errors):.1%}, worst {max(errors):.1%}."


def replaced(page: str, heading: str, lines: Iterator[str]) -> str:
    """Return the page with a table, and what follows it, in place of a section's."""
    text = "\n".join(lines) + "\n"
    found = re.compile(rf"(## {heading}\n.*?\n\n)\|.*?(?=\n## |\Z)", re.DOTALL)
    return found.sub(lambda section: section[1] + text, page)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the tables into the page")
    parser.add_argument("--steps", action="store_true", help="decode steps with today's kernels")
    arguments = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    tables = {"Streams": list(stream_tables()), "Decode steps of others": list(step_table())}
    if arguments.steps:
        tables["Our own kernels, unmeasured"] = list(our_steps())
    for heading, lines in tables.items():
        page = replaced(page, heading, iter(lines))
        print("\n".join([*lines, ""]))
    if arguments.write:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
