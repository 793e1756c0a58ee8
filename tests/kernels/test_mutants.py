"""Plants bugs in our own kernels, each of which the checks in `checks.py` must find."""

from __future__ import annotations

import gpu
import pytest
from checks import CHECKS, in_all_orders
from mutants import Mutant, operators_with

from cullama.errors import DeviceError

MUTANTS = [
    Mutant(
        "a sum is read before all warps have written theirs",
        "rms_norm",
        "if (lane_index() == 0) warp_results[warp_index()] = v;\n  __syncthreads();",
        "if (lane_index() == 0) warp_results[warp_index()] = v;",
        "common.cuh",
    ),
    Mutant(
        "a sum's slots are written again while others still read them",
        "sample",
        "v = warp_reduce<Op>(v);\n  __syncthreads();  // from here",
        "v = warp_reduce<Op>(v);  // from here",
        "common.cuh",
    ),
    Mutant("eps within the mean", "rms_norm", "/ width + eps)", "/ (width + eps))"),
    Mutant("one thread too many", "silu_mul", "if (i >= width) return;", "if (i > width) return;"),
    Mutant(
        "gate and up exchanged",
        "silu_mul",
        "gate = float(row[i]), up = float(row[width + i])",
        "gate = float(row[width + i]), up = float(row[i])",
    ),
    Mutant(
        "rows are not looked up",
        "gather",
        "size_t(rows[blockIdx.x]) * width",
        "size_t(blockIdx.x) * width",
    ),
    Mutant(
        "rotated the other way",
        "rope_and_store",
        "+ high * cos_sin[width + i]",
        "- high * cos_sin[width + i]",
    ),
    Mutant("slot -1 is written", "rope_and_store", "if (slot < 0) return;", ""),
    Mutant(
        "keys written for the wrong head",
        "rope_and_store",
        "slot, head - heads.q, heads",
        "slot, 0, heads",
    ),
    Mutant("a token does not attend to itself", "attention", "key <= position;", "key < position;"),
    Mutant("a window too wide", "attention", "position + 1 - window", "position - window"),
    Mutant(
        "keys outside the range are read",
        "attention",
        "position >= range.begin && position < range.end",
        "true",
    ),
    Mutant("the sums are not rescaled", "attention", "state.values[i][c] *= rescale;", ";"),
    Mutant(
        "a tile of keys is overwritten while it is read",
        "attention",
        "first, range, shape);\n    __syncthreads();\n  }",
        "first, range, shape);\n  }",
    ),
    Mutant(
        "the last split is left out",
        "attention",
        "end = position / shape.split + 1;",
        "end = position / shape.split;",
    ),
    Mutant(
        "rows past the last are read",
        "linear",
        "load_pack(x + size_t(min(row, rows - 1)) * inner + i)",
        "load_pack(x + size_t(row) * inner + i)",
    ),
    Mutant("the bias of another output", "linear", "float(bias[column])", "float(bias[row])"),
    Mutant(
        "depth is not bounded",
        "linear",
        "first + i < count && depth + k < inner",
        "first + i < count",
        "gemm.cuh",
    ),
    Mutant(
        "a tile is refilled too early",
        "linear",
        "sums[i][j] += left.at[i] * right.at[j];\n    }\n    __syncthreads();",
        "sums[i][j] += left.at[i] * right.at[j];\n    }",
        "gemm.cuh",
    ),
    Mutant(
        "strides of one operand for both",
        "broadcast",
        "at.y += here * axes.y[axis];",
        "at.y += here * axes.x[axis];",
    ),
    Mutant("ties go to the higher id", "sample", "| u32(~token);\n}", "| u32(token);\n}"),
    Mutant(
        "one too many of the best k",
        "sample",
        "radix_select<Count>(row, params.top_k)",
        "radix_select<Count>(row, params.top_k + 1)",
    ),
    Mutant("a histogram is not cleared", "sample", "histogram[i] = 0;", "histogram[i] += 0;"),
    Mutant("NaN is the smallest score", "sample", "return 0xfffffffeu;", "return 0u;"),
    Mutant(
        "frequency counts once",
        "sample",
        "params->frequency_penalty * seen[i].count",
        "params->frequency_penalty",
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what.replace(" ", "-"))
def test_a_planted_bug_is_found(mutant: Mutant) -> None:
    if gpu.IS_REAL:
        pytest.skip("a real GPU could be lost to such a kernel")
    gpu.require()
    with operators_with(mutant) as ops, pytest.raises((AssertionError, DeviceError)):
        in_all_orders(CHECKS[mutant.kernel], ops)


@pytest.mark.parametrize("kernel", sorted({mutant.kernel for mutant in MUTANTS}))
def test_nothing_is_found_where_nothing_is_planted(kernel: str) -> None:
    if gpu.IS_REAL:
        pytest.skip("the operator tests say so there")
    gpu.require()
    with operators_with(Mutant("nothing", kernel, '#include "', '#include "')) as ops:
        in_all_orders(CHECKS[kernel], ops)
