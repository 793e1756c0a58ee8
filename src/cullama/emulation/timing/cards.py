"""What the prediction knows of each GPU: one table, with where each number is from.

Sources:
    SMs, clock (boost), datasheet bandwidth, L2, lanes, resident warps and blocks, shared memory:
        NVIDIA's datasheets and architecture whitepapers; CUDA programming guide, "Compute
        capabilities".
    Latencies of L1, L2, DRAM: pointer chasing by te42kyfo/gpu-benches (A100, H100 PCIe, L40) and
        markdewing/AI_kernels (4090, 5090, GH200); Luo et al., arXiv 2402.13499 and 2501.12084.
    Bandwidth that a read-only stream reaches: BabelStream's dot product in Azure's
        AI-benchmarking-guide (H200, H100, A100); gpu-stream of gpu-benches (L40, H100 PCIe);
        calm's README (4090); 0.92 of the datasheet for 5090 and L4, until measured.
    L2's rate: chipsandcheese (H100); for others SMs · 64 bytes · clock · 0.65.
    Tensor rate through mma.sync, with float32 sums: the datasheets' dense peaks (H100 989, A100
        312, 4090 165, 5090 210, L4 121 TFLOP/s); 0.63 of that on Hopper, whose peak takes wgmma
        (Luo et al., arXiv 2402.13499).
    Gap between two nodes of a graph: public measurements on H100 and H200; guessed for the others.
    Softness: fitted to gpu-stream's table; by kind of memory for the others.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError
from ..counting.counts import Latencies


@dataclass(frozen=True)
class Processor:
    """A streaming multiprocessor (SM): rates a cycle, and what it holds at once."""

    float_lanes: int
    integer_lanes: int
    special_lanes: int
    tensor: float  # multiply-adds of bfloat16 with float32 sums
    warps: int
    blocks: int
    shared_kilobytes: int


@dataclass(frozen=True)
class Card:
    """A GPU; latencies are in cycles."""

    name: str
    architecture: str  # for ptxas
    capability: int  # 90 runs the PTX of compute_90a, others that of compute_80
    sms: int
    clock: float  # GHz
    datasheet: float  # TB/s
    read: float  # TB/s that a stream reaches
    l2_megabytes: int
    l2_rate: float  # TB/s
    latencies: Latencies
    sm: Processor
    softness: float  # of the sum of DRAM and the rest: how early latency grows as memory fills up
    gap: float  # µs from a graph's node to the next


MMA_SYNC_ON_HOPPER = 0.63  # of the dense peak

_HBM3 = Latencies(29, 36, 270, 660)
_HBM2E = Latencies(29, 36, 240, 490)
_RTX_40 = Latencies(30, 40, 296, 636)
_RTX_50 = Latencies(30, 44, 360, 936)
_L4 = Latencies(30, 40, 290, 600)
_HOPPER = Processor(128, 64, 16, 2048 * MMA_SYNC_ON_HOPPER, 64, 32, 228)
_AMPERE = Processor(64, 64, 16, 1024, 64, 32, 164)
_ADA = Processor(128, 64, 16, 512, 48, 24, 100)
_GEFORCE_40 = Processor(128, 64, 16, 256, 48, 24, 100)
_GEFORCE_50 = Processor(128, 128, 16, 256, 48, 24, 100)

_ALL = (
    Card("h200", "sm_90a", 90, 132, 1.98, 4.8, 4.48, 50, 6.5, _HBM3, _HOPPER, 1.6, 1.25),
    Card("h100", "sm_90a", 90, 132, 1.98, 3.35, 3.18, 50, 6.5, _HBM3, _HOPPER, 1.6, 1.25),
    Card("a100", "sm_80", 80, 108, 1.41, 2.039, 1.75, 40, 4.3, _HBM2E, _AMPERE, 2.6, 1.4),
    Card("4090", "sm_89", 89, 128, 2.6, 1.008, 0.955, 72, 5.0, _RTX_40, _GEFORCE_40, 3.5, 1.1),
    Card("5090", "sm_120", 120, 170, 2.5, 1.792, 1.65, 96, 7.0, _RTX_50, _GEFORCE_50, 3.5, 1.1),
    Card("l4", "sm_89", 89, 58, 2.04, 0.3, 0.276, 48, 1.9, _L4, _ADA, 3.5, 1.3),
)
CARDS = {card.name: card for card in _ALL}


def card_named(name: str) -> Card:
    """Return a card of the table.

    Raises:
        UsageError: it has none of that name.
    """
    if name not in CARDS:
        raise UsageError(f"card is {name!r}, expected one of {', '.join(CARDS)}")
    return CARDS[name]
