"""Predicts the time of a launch from its counters, by a stated model.

    time = max(L2, soft sum of DRAM and of chain, slots, pipes and banks)

    chain   blocks one after another × the cycles of a block: each register is ready when its
            operands and its latency allow. Little's law acts here: more bytes in flight, by more
            loads before a use or more resident blocks, make a shorter chain
    slots   machine instructions of the busiest SM, of which it issues 4 a cycle
    pipes   float, integer, special and tensor instructions over their rates
    banks   passes through shared memory, and rows of 128 bytes of L1, one a cycle
    L2      sectors that blocks ask L2 for, over its rate
    DRAM    sectors that L2 does not hold, over the rate that a stream reaches

A soft sum of power p is (aᵖ + bᵖ)^(1/p): two things that nearly take all of the time disturb each
other. Not modelled: the launch gap (a card's `gap`, told beside it), clocks that drop, the TLB,
time of atomics at one address, contention of warps but through slots and pipes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from ..counting.counts import SECTOR, WARP, Counts
from .cards import Card

SCHEDULERS = 4  # of an SM: instructions issued a cycle
SOFTNESS_ON_SM = 3.0
TURN = 400  # cycles from a block's end to its successor's first instruction (fitted to gpu-stream)
TENSOR_PRODUCTS = 2048  # multiply-adds of an mma m16n8k16
MAX_WHOLE_WAVES = 4  # beyond these, blocks begin as others end
DIVISION_PARTS = 3  # special-function instructions of a division


@dataclass(frozen=True)
class Prediction:
    """Microseconds of a launch, without the gap before it, and of each limit alone."""

    microseconds: float
    terms: dict[str, float]
    dram_bytes: float
    waves: float

    @property
    def limit(self) -> str:
        """Return what takes most of the time."""
        return max(self.terms, key=lambda name: self.terms[name])


def soft_sum(terms: list[float], power: float) -> float:
    return sum(term**power for term in terms) ** (1 / power)


def of_whole_grid(found: int, first: int, blocks: int, grid: int) -> float:
    """Return a launch's sectors from those of `blocks` that ran, and of the first of them.

    What blocks share comes from DRAM with the first one; each of the others adds its own.
    """
    own = (found - first) / (blocks - 1) if blocks > 1 else first
    return first + own * (grid - 1)


def predict(counts: Counts, card: Card, resident: int) -> Prediction:
    """Predict a launch on a card whose SMs hold `resident` of its blocks at once."""
    grid = prod(counts.grid)
    of_sm = ceil(grid / card.sms)  # blocks of the busiest SM
    together = min(resident, of_sm)
    waves = ceil(of_sm / together)
    turns = waves if waves <= MAX_WHOLE_WAVES else of_sm / together
    cycle = 1 / (card.clock * 1e3)  # µs
    share = of_sm / counts.blocks  # from the blocks that ran to those of an SM

    l2 = (counts.block_loads + counts.block_stores) / counts.blocks * grid
    dram = SECTOR * (
        of_whole_grid(counts.dram_loads, counts.first_loads, counts.blocks, grid)
        + of_whole_grid(counts.dram_stores, counts.first_stores, counts.blocks, grid)
    )
    rows = (counts.sectors(stored=False) + counts.sectors(stored=True)) * SECTOR / 128
    passes = sum(access.passes for access in counts.accesses)
    schedulers = min(SCHEDULERS, ceil(counts.threads / WARP) * together)

    def lanes(*kinds: str) -> float:
        return sum(counts.kinds.get(kind, 0) for kind in kinds) * WARP * share

    special = lanes("special") + DIVISION_PARTS * lanes("division")
    terms = {
        "latency": (turns * counts.cycles / counts.blocks + (turns - 1) * TURN) * cycle,
        "issue slots": counts.slots * share / schedulers * cycle,
        "float": lanes("float", "half") / card.sm.float_lanes * cycle,
        "integer": lanes("integer", "predicate") / card.sm.integer_lanes * cycle,
        "special": special / card.sm.special_lanes * cycle,
        "tensor": lanes("tensor") / WARP * TENSOR_PRODUCTS / card.sm.tensor * cycle,
        "banks": (passes + rows + counts.kinds.get("shuffle", 0)) * share * cycle,
        "L2": l2 * SECTOR / card.l2_rate / 1e6,
        "DRAM": dram / card.read / 1e6 + (card.latencies.dram * cycle if dram else 0),
    }
    on_sm = soft_sum([t for name, t in terms.items() if name not in ("L2", "DRAM")], SOFTNESS_ON_SM)
    whole = max(terms["L2"], soft_sum([on_sm, terms["DRAM"]], card.softness))
    return Prediction(whole, terms, dram, turns)
