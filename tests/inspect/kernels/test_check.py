"""Planted bugs are named with their lines, and what cannot be checked is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import gpu
import pytest
from command_line import CommandLine

from cullama.cuda.compiler import NoCudaCompilerError
from cullama.cuda.module import PTX_FOLDER
from cullama.emulation.ptx import alone
from cullama.errors import UsageError
from cullama.inspect.kernels.check import KernelCheck, check_kernels
from cullama.inspect.kernels.findings import Finding
from cullama.inspect.kernels.source import KernelSource, KernelSourceError, kernel_source

PLANTED = Path(__file__).with_name("planted.cu")
LINES = PLANTED.read_text(encoding="utf-8").splitlines()

BUGS = {
    "missing_barrier": "race between threads",
    "slots_reused_too_early": "race between threads",
    "missing_syncwarp": "race within a warp",
    "shuffle_instead_of_syncwarp": "race within a warp",
    "lost_update": "race between threads",
    "last_writer_wins": "race between threads",
    "row_of_another_block": "race between blocks",
    "missing_fence": "race between blocks",
    "copy_without_wait": "read before an asynchronous copy has ended",
    "copy_without_barrier": "race between threads",
    "uninitialised_shared": "read of uninitialised shared memory",
    "past_a_shared_array": "shared memory out of bounds",
    "dynamic_memory_that_no_launch_gives": "shared memory out of bounds",
    "past_the_last_column": "out of bounds",
    "before_the_first_column": "out of bounds",
    "weight_of_every_row": "out of bounds",
    "null_pointer": "access through a bad pointer",
    "misaligned": "misaligned access",
    "misaligned_in_shared_memory": "misaligned access",
    "barrier_in_a_branch": "divergent barrier",
    "return_before_a_barrier": "barrier that not all threads reach",
    "barrier_in_an_uneven_loop": "barrier that not all threads reach",
    "barrier_of_part_of_a_warp": "barrier of part of a warp",
    "barrier_of_two_sizes": "barrier of different sizes",
    "lanes_missing_in_a_shuffle": "lanes that meet at different places",
    "lane_not_in_its_mask": "lane that is not in its own mask",
    "masks_that_differ": "lanes that meet at different places",
    "endless_loop": "endless loop",
    "waits_for_a_later_block": "endless loop",
    "trap": "trap",
    "stack_overflow": "stack overflow",
    "too_much_shared_memory": "too much shared memory",
    "launch_bounds": "launch shape",
    "signature": "wrong signature",
    "eps_within_the_mean": "wrong result",
    "first_warp_alone": "wrong result",
    "tail_left_out": "wrong result",
    "nan": "wrong result",
    "uncoalesced": "uncoalesced access",
    "bank_conflicts": "bank conflicts",
    "local_memory": "local memory",
}


@pytest.fixture(scope="module", autouse=True)
def _emulation() -> Iterator[None]:
    with gpu.started_emulation():
        yield


def source_of(given: str | Path, target: str = "compute_80") -> KernelSource:
    try:
        return kernel_source(given, target)
    except KernelSourceError as error:
        if "there is no CUDA compiler" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="module")
def checked() -> KernelCheck:
    return check_kernels(source_of(PLANTED))


def of_kernel(checked: KernelCheck, name: str) -> list[Finding]:
    return [each for each in checked.findings if each.kernel == f"rms_norm_f32__{name}"]


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_named_with_its_line(checked: KernelCheck, bug: str) -> None:
    found = [each for each in of_kernel(checked, bug) if each.what == BUGS[bug]]
    assert found, of_kernel(checked, bug)
    marked = [line for each in found for line in (each.line, each.other_line) if line]
    assert any("BUG" in LINES[line - 1] for line in marked), found
    assert all(each.detail and each.remedy for each in found)


def test_every_planted_bug_is_expected(checked: KernelCheck) -> None:
    names = {kernel.removeprefix("rms_norm_f32__") for kernel in checked.tests}
    assert names == {*BUGS, "right"}
    assert not checked.is_right


def test_nothing_is_found_where_nothing_is_wrong(checked: KernelCheck) -> None:
    assert of_kernel(checked, "right") == []
    assert checked.tests["rms_norm_f32__right"] == ("rms_norm", "logits")
    error, allowed = checked.errors["rms_norm_f32__right"]
    assert 0 < error <= allowed


def test_slow_accesses_are_no_errors(checked: KernelCheck) -> None:
    slow = {"uncoalesced", "bank_conflicts", "local_memory"}
    for name in BUGS:
        assert any(each.is_error for each in of_kernel(checked, name)) == (name not in slow)


def test_a_read_of_what_nothing_wrote_is_a_warning_where_results_are_right() -> None:
    body = """  __shared__ float unused[2];
  const float* row = x + blockIdx.x * width;
  float sum = 0.f;
  for (int i = 0; i < width; i++) sum += row[i] * row[i];
  if (unused[threadIdx.x % 2] == 7.f) out[0] = 1.f;
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    out[blockIdx.x * width + i] = row[i] * rsqrtf(sum / width + eps) * weight[i];"""
    checked = check_kernels(source_of(kernel(body)))
    assert checked.is_right
    [read] = [each for each in checked.findings if "uninitialised" in each.what]
    assert (read.line, read.is_error) == (6, False)


def test_a_finding_shows_both_lines_and_what_to_do(checked: KernelCheck) -> None:
    [race] = of_kernel(checked, "missing_barrier")
    first, *lines, detail, remedy = race.as_text(checked.source).splitlines()
    assert first.startswith("planted.cu:")
    assert "error: race between threads in rms_norm_f32__missing_barrier" in first
    assert "parts[threadIdx.x / 32] = v;" in lines[0]
    assert "sum += parts[i];" in lines[1]
    assert "thread 0 wrote in line" in detail
    assert remedy == "  → put __syncthreads() between the two"


# --- what cannot be checked ----------------------------------------------------------------------

SIGNATURE = "float* out, const float* x, const float* weight, int width, float eps"


def kernel(body: str, name: str = "rms_norm_f32") -> str:
    return f'extern "C" __global__ void {name}({SIGNATURE}) {{\n{body}\n}}\n'


def test_the_compiler_s_words_come_with_the_line() -> None:
    said = r'^kernel\.cu:2 does not compile: .*"nothing"'
    with pytest.raises(KernelSourceError, match=said) as raised:
        source_of(kernel("out[0] = nothing;"))
    assert raised.value.line == 2


def test_an_instruction_that_the_emulator_lacks_is_named() -> None:
    text = kernel('asm volatile("barrier.cluster.arrive.aligned;");')
    [finding] = check_kernels(source_of(text, "compute_90a")).findings
    assert (finding.what, finding.line) == ("unsupported instruction", 2)
    assert "`barrier.cluster.arrive.aligned`" in finding.detail


def test_a_kernel_of_another_name_needs_its_operator() -> None:
    source = source_of(kernel("out[0] = 0.f;", "mine"))
    with pytest.raises(UsageError, match="no operator launches mine: name it like the kernel"):
        check_kernels(source)
    with pytest.raises(UsageError, match="there is no operator 'norm', expected some of embed"):
        check_kernels(source, "norm")
    assert check_kernels(source, "rms_norm").tests == {"mine": ("rms_norm", "logits")}


def test_without_a_compiler_ptx_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(nvrtc: Path | None) -> None:
        raise NoCudaCompilerError("none")

    monkeypatch.setattr("cullama.inspect.kernels.source.find_compiler", none)
    with pytest.raises(KernelSourceError, match=r"there is no CUDA compiler: pip install .* PTX"):
        kernel_source(kernel(""))


@pytest.mark.parametrize("command", ["check", "profile"])
def test_without_a_c_compiler_one_line_says_what_to_install(
    command: str, cullama_command: CommandLine, tmp_path: Path
) -> None:
    ptx = PTX_FOLDER / "compute_80" / "silu_mul.ptx"
    if not ptx.is_file():
        pytest.skip("no PTX: `make ptx` builds it")
    variables = {"PATH": "/nowhere", "CXX": "", "CULLAMA_EMULATION_CACHE": str(tmp_path)}
    named = ptx if command == "check" else "silu_mul"
    code, out, err = cullama_command("kernels", command, named, environment=variables)
    (line,) = [line for line in err.splitlines() if line.startswith("cullama: ")]
    assert (code, out) == (1, "")
    assert "no C++ compiler was found" in line
    assert "apt install g++" in line
    assert "Traceback" not in err


def test_text_without_a_kernel_is_refused() -> None:
    with pytest.raises(KernelSourceError, match="has no kernel: expected a function extern"):
        source_of("__device__ int x; // no __global__\n")


def test_the_command_s_exit_status_and_json_say_what_was_found(
    cullama_command: CommandLine, tmp_path: Path
) -> None:
    file = tmp_path / "mine.cu"
    file.write_text(kernel("out[threadIdx.x] = nothing;"))
    code, out, err = cullama_command("kernels", "check", file)
    if "there is no CUDA compiler" in err:
        pytest.skip("needs nvcc or NVRTC")
    assert (code, out) == (1, "")
    assert "mine.cu:2 does not compile" in err
    ptx = tmp_path / "mine.ptx"
    whole = (PTX_FOLDER / "compute_80" / "silu_mul.ptx").read_text(encoding="utf-8")
    ptx.write_text(alone(whole, "silu_mul_f32"), encoding="utf-8")
    code, out, err = cullama_command("kernels", "check", ptx, "--json")
    assert code == 0, err
    [found] = json.loads(out)["kernels"]
    assert (found["kernel"], found["tests"]) == ("silu_mul_f32", ["silu_mul"])
    assert not [each for each in found["findings"] if each["severity"] == "error"]
