"""`scripts/bench_peers.py`: who is asked when, what counts, and which way a ratio points.

Other engines are not installed here: llama.cpp's library is played by a module that notes what it
is asked, and only cullama is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count, repeat
from pathlib import Path
from typing import Any

import pytest

from cullama.benchmark.yardsticks import CpuYardsticks
from cullama.checkpoint.opening import open_checkpoint

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import bench_peers  # noqa: E402
from peers.comparison import MEASURES, Entrant, Figure, PeerComparison, Quantity, Spread, compare  # noqa: E402
from peers.others import Others  # noqa: E402
from peers.peer import is_peer, prompts  # noqa: E402
from peers.worker import PeerRun, Worker  # noqa: E402

RATE = Quantity("decode at 64", "tok/s", more_is_better=True, reads_all_weights=True)
COST = Quantity("start to first token", "s")


class Pretender(Worker):
    """A worker without a process: a step takes as long as `seconds_of(variant, run)` says."""

    def __init__(
        self, seconds_of: Callable[[str, PeerRun], float], variants: tuple[str, ...] = ()
    ) -> None:
        self.name, self.description = "pretender", "1.0"
        self.chosen, self.variants = {}, list(variants)
        self.asked: list[Any] = []
        self._seconds_of, self._variant = seconds_of, ""

    @property
    def process_id(self) -> int:
        return os.getpid()

    def ask(self, what: str, *details: Any) -> Any:
        self.asked.append(what)
        if what == "use":
            (self._variant,) = details
            return None
        if what == "steps":
            return self._step_times(*details)
        return {"first_token": None, "peak_memory": 5_000_000}[what]

    def _step_times(self, count: int, tokens: int, steps: int) -> list[float]:
        """The first two of several are slow, as they are in life."""
        seconds = self._seconds_of(self._variant, PeerRun(count, tokens))
        return [seconds] if steps == 1 else [9.0, 9.0, *(steps - 2) * [seconds]]

    def __exit__(self, *error: object) -> None:
        self.asked.append("left")


class Neighbours(Others):
    """Other processes that take the given shares, one for each measurement."""

    def __init__(self, *shares: float) -> None:
        self._shares = iter(shares)

    def share_during(self, work: Callable[[], Any]) -> tuple[Any, float]:
        return work(), next(self._shares)


@pytest.fixture(autouse=True)
def all_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else what is counted here would depend on who is busy beside the tests."""
    monkeypatch.setattr("peers.comparison.Others", lambda processes: Neighbours(*repeat(0.0, 99)))


def entrant(name: str, worker: Worker) -> Entrant:
    return Entrant(name, worker, lambda: worker)


def numbers(measure: str, worker: Worker) -> list[float]:
    return MEASURES[measure].take(entrant("one", worker))


def test_a_rate_is_of_all_prompts_together() -> None:
    worker = Pretender(lambda variant, run: 0.5)
    assert numbers("prefill", worker) == [1024]
    assert numbers("decode", worker) == [2]
    assert numbers("batch", worker) == [16]


def test_a_prefill_is_run_once_before_it_is_timed() -> None:
    times = iter([7.0, 0.5])
    assert numbers("prefill", Pretender(lambda variant, run: next(times))) == [1024]


def test_a_decode_is_run_twice_before_it_is_timed() -> None:
    assert Pretender(lambda variant, run: 0.5).seconds(PeerRun(1, 64, written=1)) == 0.5


def test_the_cost_of_a_long_context_is_a_multiple_of_that_of_a_short_one() -> None:
    worker = Pretender(lambda variant, run: 0.3 if run.tokens == 2048 else 0.2)
    assert numbers("long", worker) == pytest.approx([1 / 0.3, 1.5])


def test_start_and_memory_are_measured_in_a_new_process() -> None:
    fresh = Pretender(lambda variant, run: 0.5)
    old = Pretender(lambda variant, run: 0.5)
    one = Entrant("one", old, lambda: fresh)
    assert MEASURES["memory"].take(one) == [5.0]
    assert fresh.asked == ["steps", "peak_memory", "left"]
    (seconds,) = MEASURES["start"].take(one)
    assert 0 < seconds < 1
    assert fresh.asked[3:] == ["first_token", "left"]
    assert not old.asked


def test_a_peer_runs_in_the_fastest_variant_for_each_run() -> None:
    def seconds_of(variant: str, run: PeerRun) -> float:
        return {"on": 0.001 * run.tokens, "off": 0.5}[variant]

    worker = Pretender(seconds_of, variants=("on", "off"))
    figures = compare([entrant("a", worker)], ["long", "decode"], rounds=2).figures
    assert {run.tokens: variant for run, variant in worker.chosen.items()} == {
        64: "on",
        2048: "off",
    }
    assert [figure.numbers[1] for figure in figures] == pytest.approx([2, 0.5 / 0.064, 1 / 0.064])


def test_the_variant_with_the_best_of_two_times_is_chosen() -> None:
    times = iter([0.9, 0.5, 0.3, 0.5])  # on, off, on, off
    worker = Pretender(lambda variant, run: next(times), variants=("on", "off"))
    assert worker.fastest_variant(PeerRun(1, 64, 4)) == "on"


def test_peers_take_turns_to_go_first() -> None:
    order: list[str] = []

    def noting(name: str) -> Worker:
        def seconds(variant: str, run: PeerRun) -> float:
            order.append(name)
            return 1.0

        return Pretender(seconds)

    compare([entrant(name, noting(name)) for name in "abc"], ["decode"], rounds=4)
    assert "".join(order) == "abcbcacababc"


def test_a_figure_has_a_number_for_each_round_in_the_order_of_peers() -> None:
    times = iter([1.0, 2.0, 4.0, 0.5])  # a, b in the first round, then b, a
    worker = Pretender(lambda variant, run: next(times))
    figures = compare([entrant("a", worker), entrant("b", worker)], ["decode"], rounds=2).figures
    assert [(figure.peer, figure.numbers) for figure in figures] == [
        ("a", (1.0, 2.0)),
        ("b", (0.5, 0.25)),
    ]


def test_measures_with_two_quantities_give_both() -> None:
    worker = Pretender(lambda variant, run: run.tokens / 64)
    figures = compare([entrant("a", worker)], ["long"], rounds=1).figures
    assert [figure.numbers for figure in figures] == [(1 / 32,), (32.0,)]


def with_neighbours(monkeypatch: pytest.MonkeyPatch, *shares: float) -> Any:
    """Return the seconds of a round whose steps take 1, 2, 3 …, and how often it is disturbed."""
    monkeypatch.setattr("peers.comparison.Others", lambda processes: Neighbours(*shares))
    times = count(1)
    worker = Pretender(lambda variant, run: float(next(times)))
    comparison = compare([entrant("a", worker)], ["decode"], rounds=1)
    return 1 / comparison.figures[0].numbers[0], comparison.disturbed


def test_a_measurement_that_other_processes_disturb_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert with_neighbours(monkeypatch, 0.01) == (1, 0)
    assert with_neighbours(monkeypatch, 0.5, 0.01) == (2, 0)


def test_the_quietest_of_three_is_taken_and_counted_where_none_is_quiet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert with_neighbours(monkeypatch, 0.5, 0.2, 0.4) == (2, 1)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux tells")
def test_only_busy_processes_that_are_not_ours_count_as_others() -> None:
    spin = "import time; print(flush=True); end = time.time() + 60\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        known, unknown = Others([busy.pid]), Others([])
        work = partial(time.sleep, 0.5)
        (_, less), more = unknown.share_during(lambda: known.share_during(work))
        busy.kill()
    # Other load counts in both; the busy process may have to share its core.
    assert more - less > 0.05 / (os.cpu_count() or 1)


def test_a_gain_is_taken_round_by_round_and_above_one_for_the_better() -> None:
    ours = Figure(RATE, "ours", (10.0, 30.0, 50.0))
    theirs = Figure(RATE, "theirs", (5.0, 30.0, 10.0))
    assert ours.gain_over(theirs) == Spread(median=2.0, lowest=1.0, highest=5.0)
    ours, theirs = Figure(COST, "ours", (1.0, 2.0)), Figure(COST, "theirs", (3.0, 3.0))
    assert ours.gain_over(theirs) == Spread(median=2.25, lowest=1.5, highest=3.0)


def test_prompts_differ_and_stay_inside_the_vocabulary() -> None:
    eight = prompts(8, 16, 49152)
    assert len({prompt[0] for prompt in eight}) == 8
    assert {len(prompt) for prompt in eight} == {16}
    assert max(token for prompt in prompts(8, 600, 300) for token in prompt) < 300


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("cullama", True),
        ("cullama:numpy", True),
        ("llama.cpp", True),
        ("transformers", True),
        ("llama.cpp:numpy", False),
        ("cullama:", False),
        ("ollama", False),
    ],
)
def test_peers_are_known_by_name(name: str, is_one: bool) -> None:
    assert is_peer(name) is is_one


# --- the script -----------------------------------------------------------------------------------


def report(
    *figures: Figure, limit: CpuYardsticks | None = None, disturbed: int = 0
) -> bench_peers.PeerReport:
    peers = {figure.peer: f"{figure.peer} 1.0" for figure in figures}
    comparison = PeerComparison(list(figures), heats=6, disturbed=disturbed)
    return bench_peers.PeerReport("tiny", 2, 2, 10_000_000, limit, peers, comparison)


LIMIT = CpuYardsticks(threads=2, read_huge=2e9, read_small=1e9, sgemm=1e9)
OURS = Figure(RATE, "cullama", (100.0, 110.0, 150.0))
THEIRS = Figure(RATE, "llama.cpp", (50.0, 44.0, 60.0))


def test_a_share_is_of_the_better_read_rate_and_of_the_files_bytes() -> None:
    assert report(OURS, limit=LIMIT).share(OURS) == pytest.approx(110 * 10e6 / 2e9)
    assert report(OURS).share(OURS) is None
    start = Figure(COST, "cullama", (1.0,))
    assert report(start, limit=LIMIT).share(start) is None


def test_the_table_has_medians_spreads_shares_and_gains() -> None:
    printed = " ".join(bench_peers.table(report(OURS, THEIRS, limit=LIMIT)).split())
    assert "decode at 64 │ cullama │ 110.0 tok/s │ 100.0 … 150.0 │ 55% │ │" in printed
    assert "llama.cpp │ 50.0 tok/s │ 44.0 … 60.0 │ 25% │ 2.50 × │ 2.00 … 2.50 │" in printed
    assert "10.0 MB of the file's weights, and this machine 2.0 GB/s" in printed
    assert "llama.cpp: llama.cpp 1.0 A ratio above 1: cullama is that many times better." in printed


def test_busy_neighbours_are_reported() -> None:
    assert "during 2 of 6 measurements" in bench_peers.table(report(OURS, disturbed=2))
    assert "measurements" not in bench_peers.table(report(OURS))


def test_one_peer_alone_is_compared_with_no_other() -> None:
    printed = bench_peers.table(report(OURS))
    assert "110.0 tok/s" in printed
    assert "ratio" not in printed


def test_json_has_every_round() -> None:
    written = json.loads(json.dumps(bench_peers.as_json(report(OURS, THEIRS, limit=LIMIT))))
    ours, theirs = written["comparison"]["figures"]
    assert theirs["rounds"] == [50.0, 44.0, 60.0]
    assert theirs["gain_of_first"] == {"median": 2.5, "lowest": 2.0, "highest": 2.5}
    assert ours["gain_of_first"]["median"] == 1
    assert ours["share_of_read"] == pytest.approx(0.55)
    assert written["limit"]["read_huge"] == 2e9


def test_a_token_reads_the_files_bytes_but_for_an_embedding_that_is_no_head(
    write_model: Callable[..., Path], tmp_path: Path
) -> None:
    def size(folder: str, **changes: Any) -> int:
        return bench_peers.weight_bytes(open_checkpoint(write_model(tmp_path / folder, **changes)))

    whole = size("tied", tie_word_embeddings=True, dtype="bfloat16")
    assert size("untied", dtype="bfloat16") == whole
    assert size("float32") == 2 * whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "cullama,ollama"], "expected different ones of cullama"),
        (["--peers", "cullama,cullama"], "expected different ones of cullama"),
        (["--measure", "speed"], "expected some of prefill, decode"),
        (["--rounds", "0"], "expected 1 or more"),
    ],
)
def test_unknown_peers_measures_and_rounds_are_refused(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_peers.py", *arguments])
    with pytest.raises(SystemExit) as refusal:
        bench_peers.main()
    assert refusal.value.code == 2
    assert message in capsys.readouterr().err


def test_cullama_starts_in_a_process_of_its_own(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tiny_model), "--peers", "cullama", "--measure", "start", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["bench_peers.py", *arguments, "--threads", "1", "--json"])
    bench_peers.main()
    [written] = json.loads(capsys.readouterr().out)
    [figure] = written["comparison"]["figures"]
    assert 0.05 < figure["median"] < 60
    assert "cpu" in written["peers"]["cullama"]


def test_cullama_runs_all_sequences_in_one_step(tiny_model: Path) -> None:
    with Worker(sys.executable, "cullama", tiny_model, 1) as worker:
        assert len(worker.steps(PeerRun(3, 20), 4)) == 4
        assert len(worker.steps(PeerRun(1, 100), 2)) == 2
        assert worker.seconds(PeerRun(2, 5, written=3)) > 0
        if sys.platform == "linux":
            assert 10e6 < worker.ask("peak_memory") < 10e9


def test_cullama_prefills_its_prompt_each_time(tiny_model: Path) -> None:
    from peers.cullama_peer import Cullama

    peer = Cullama(str(tiny_model), threads=1, backend="cpu")
    for _ in range(2):
        peer.begin(prompts(1, 100, peer.vocabulary), tokens=1)
        peer.step()
        assert [request.cached_tokens for request in peer._requests] == [0]


# --- llama.cpp, played ----------------------------------------------------------------------------

PLAYED = '''
"""Notes each batch; the likeliest token is the place in the batch that is asked about."""
import ctypes
from types import SimpleNamespace

__version__ = "0.0"
llama_token = ctypes.c_int
batches = []

def llama_decode(context, batch):
    batches.append([
        (batch.token[i], batch.pos[i], batch.seq_id[i][0], bool(batch.logits[i]))
        for i in range(batch.n_tokens)
    ])
    return 0

def llama_get_logits_ith(context, index):
    logits = (ctypes.c_float * 600)()
    logits[index] = 1.0
    return ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))

def llama_batch_init(tokens, width, sequences):
    lists = {name: [0] * tokens for name in ("token", "pos", "n_seq_id", "logits")}
    return SimpleNamespace(n_tokens=0, seq_id=[[0] for _ in range(tokens)], **lists)

contexts = []
def llama_init_from_model(model, params):
    contexts.append(params)
    return params

def llama_log_set(log, data): pass
def llama_backend_init(): pass
def llama_print_system_info(): return b"CPU : SSE3 = 1 | AVX2 = 1 | NEON = 0 | "
def llama_model_default_params(): return SimpleNamespace()
def llama_context_default_params(): return SimpleNamespace()
def llama_model_load_from_file(path, params): return path if b"bad" not in path else None
def llama_model_get_vocab(model): return model
def llama_vocab_n_tokens(vocabulary): return 600
def llama_get_memory(context): return context
def llama_memory_clear(memory, data): pass
'''


@pytest.fixture
def llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, and the peer that takes it for llama.cpp's."""
    (tmp_path / "llama_cpp.py").write_text(PLAYED)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("llama_cpp", "peers.llama_cpp_peer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import llama_cpp

    yield llama_cpp
    for name in ("llama_cpp", "peers.llama_cpp_peer"):
        sys.modules.pop(name, None)


def peer() -> Any:
    from peers.peer import load_peer

    return load_peer("llama.cpp", "model.gguf", 2)


def test_llama_cpp_gives_logits_for_the_last_token_of_each_sequence_alone(llama_cpp: Any) -> None:
    two = peer()
    two.begin([[5, 6, 7], [8, 9, 10]], tokens=2)
    two.step()
    two.step()
    assert llama_cpp.batches == [
        [
            *((5, 0, 0, False), (6, 1, 0, False), (7, 2, 0, True)),
            *((8, 0, 1, False), (9, 1, 1, False), (10, 2, 1, True)),
        ],
        [(2, 3, 0, True), (5, 3, 1, True)],  # what the played library found likeliest
    ]


def test_llama_cpp_prefills_long_prompts_in_chunks(llama_cpp: Any) -> None:
    one = peer()
    one.begin([list(range(600))], tokens=1)
    one.step()
    first, second = llama_cpp.batches
    assert (len(first), len(second)) == (512, 88)
    assert not any(is_last for *_, is_last in first)
    assert second[-1] == (599, 599, 0, True)


def test_llama_cpp_has_a_context_of_its_own_for_each_variant_and_size(llama_cpp: Any) -> None:
    one = peer()
    one.use("flash attention")
    for tokens in (10, 20, 300):
        one.begin([[1]], tokens)
    one.use("no flash attention")
    one.begin([[1]] * 8, 10)
    assert [(made.flash_attn_type, made.n_seq_max, made.n_ctx) for made in llama_cpp.contexts] == [
        (1, 1, 256),
        (1, 1, 512),
        (0, 8, 2048),
    ]
    assert {made.n_threads for made in llama_cpp.contexts} == {2}
    assert one.description == "llama-cpp-python 0.0 · SSE3 AVX2"


def test_llama_cpp_says_what_it_cannot_load(llama_cpp: Any) -> None:
    from peers.peer import load_peer

    with pytest.raises(SystemExit, match="is no GGUF file, expected one"):
        load_peer("llama.cpp", "folder", 2)
    with pytest.raises(SystemExit, match="cannot be loaded"):
        load_peer("llama.cpp", "bad.gguf", 2)


@pytest.mark.parametrize(
    ("engine", "module", "install"),
    [
        ("llama.cpp", "llama_cpp", "pip install llama-cpp-python"),
        ("transformers", "torch", "pip install torch transformers"),
    ],
)
def test_an_engine_that_is_not_installed_is_reported_in_one_line(
    engine: str, module: str, install: str, tmp_path: Path
) -> None:
    (tmp_path / f"{module}.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), str(SCRIPTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "peers", engine, "model.gguf", "1"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert install in done.stderr
