"""Bugs planted in our own kernels: the checks that the operator tests make must find every one."""

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
        "if (lane_index() == 0) of_warp[warp_index()] = v;\n    __syncthreads();",
        "if (lane_index() == 0) of_warp[warp_index()] = v;",
        "common.cuh",
    ),
    Mutant(
        "a sum's slots are written again while others still read them",
        "sample",
        "v = warp_reduce<Op>(v);\n    __syncthreads();  // `of_warp`",
        "v = warp_reduce<Op>(v);  // `of_warp`",
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
        "the table's own row",
        "gather",
        "size_t(rows[blockIdx.x]) * width",
        "size_t(blockIdx.x) * width",
    ),
    Mutant(
        "turned the other way",
        "rope_and_store",
        "+ high * cos_sin[width + i]",
        "- high * cos_sin[width + i]",
    ),
    Mutant("-1 is a slot like any other", "rope_and_store", "if (slot < 0) return;", ""),
    Mutant(
        "keys under the wrong head",
        "rope_and_store",
        "slot, head - heads.q, heads",
        "slot, 0, heads",
    ),
    Mutant("a token does not hear itself", "attention", "key <= position;", "key < position;"),
    Mutant("a window too wide", "attention", "position + 1 - window", "position - window"),
    Mutant(
        "what lies outside is read",
        "attention",
        "position >= range.begin && position < range.end",
        "true",
    ),
    Mutant(
        "what was gathered does not shrink", "attention", "gathered.values[i][c] *= shrink;", ";"
    ),
    Mutant(
        "a slice is overwritten while it is read",
        "attention",
        "first, range, shape);\n        __syncthreads();\n    }",
        "first, range, shape);\n    }",
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
        "depth is not cut off",
        "linear",
        "first + i < count && depth + k < inner",
        "first + i < count",
        "gemm.cuh",
    ),
    Mutant(
        "a slice is refilled too early",
        "linear",
        "sums[i][j] += left.at[i] * right.at[j];\n        }\n        __syncthreads();",
        "sums[i][j] += left.at[i] * right.at[j];\n        }",
        "gemm.cuh",
    ),
    Mutant(
        "strides of one operand for both",
        "broadcast",
        "at.y += here * axes.y[axis];",
        "at.y += here * axes.x[axis];",
    ),
    Mutant("equals go to the higher id", "sample", "| u32(~token);\n}", "| u32(token);\n}"),
    Mutant(
        "one too many of the best k",
        "sample",
        "cut<Count>(row, params.top_k)",
        "cut<Count>(row, params.top_k + 1)",
    ),
    Mutant("a histogram is not emptied", "sample", "histogram[i] = 0;", "histogram[i] += 0;"),
    Mutant("what is no number is small", "sample", "return 0xfffffffeu;", "return 0u;"),
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
