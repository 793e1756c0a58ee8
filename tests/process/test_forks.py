"""A model loaded before a fork gives its own text in every process, at once, whoever was at work.

Each program runs in a process of its own, and ends with an alarm where something waits for ever.
"""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from command_line import CommandLine

import cullama
from cullama.errors import UsageError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

Run: TypeAlias = Callable[..., None]

BEGIN = """
import asyncio, os, signal, sys, threading, time
import cullama
from cullama.errors import CullamaError

signal.alarm(90)  # a process that hangs is ended, and its parent sees that
MODEL, BACKEND = sys.argv[1:]
JOBS = [("Once upon a time", 1), ("The big dog", 2), ("A little girl", 3), ("In the park", 4)]

def open_llm():
    return cullama.LLM(MODEL, backend=BACKEND, threads=2, cache_tokens=1024)

def work(job):
    text, seed = job
    params = cullama.SamplingParams(max_tokens=40, seed=seed, ignore_eos=True)
    return llm.generate(text, params).text

def fork(task):
    child = os.fork()
    if child:
        return child
    signal.alarm(30)
    try:
        task()
        os._exit(0)
    except BaseException:
        import traceback
        traceback.print_exc()
    os._exit(1)

def all_succeed(children):
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

def check():
    assert list(map(work, JOBS)) == wanted

def keep_busy():
    while True:
        llm.generate("Once upon a time", cullama.SamplingParams(max_tokens=60))

llm = open_llm()
wanted = list(map(work, JOBS))
"""


@pytest.fixture
def run(tiny_model: Path, cullama_command: CommandLine) -> Run:
    def run_program(program: str, backend: str = "cpu") -> None:
        if backend == "cpu":
            pytest.importorskip("llvmlite")
        # Python 3.12 warns of forks while threads run, which is what this is about.
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", BEGIN + program]
        done = subprocess.run(
            [*command, str(tiny_model), backend],
            env=cullama_command.environment(),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr

    return run_program


@pytest.mark.parametrize("backend", ["cpu", "cpu:numpy"])
def test_children_and_their_parent_generate_at_once(run: Run, backend: str) -> None:
    """They wrote into one KV cache: with four processes, no text was right."""
    run(
        """
children = [fork(lambda: [check() for _ in range(3)]) for _ in range(4)]
for _ in range(3):
    check()
assert all_succeed(children) == [0] * 4
check()
""",
        backend,
    )


def test_a_grandchild_generates_too(run: Run) -> None:
    run("""
def with_a_child():
    check()
    assert all_succeed([fork(check)]) == [0]
    check()
assert all_succeed([fork(with_a_child)]) == [0]
""")


@pytest.mark.parametrize("pool", ["multiprocessing", "concurrent.futures"])
def test_a_pool_of_forked_workers_gives_the_right_texts(run: Run, pool: str) -> None:
    start = {
        "multiprocessing": "multiprocessing.get_context('fork').Pool(3)",
        "concurrent.futures": "concurrent.futures.ProcessPoolExecutor("
        "3, mp_context=multiprocessing.get_context('fork'))",
    }
    run(f"""
import concurrent.futures, multiprocessing
with {start[pool]} as pool:
    assert list(pool.map(work, JOBS * 3)) == wanted * 3
check()
""")


@pytest.mark.parametrize("backend", ["cpu", "cpu:numpy"])
def test_forks_while_other_threads_generate(run: Run, backend: str) -> None:
    """The child waited for ever for locks that threads of its parent held."""
    run(
        """
for _ in range(2):
    threading.Thread(target=keep_busy, daemon=True).start()
time.sleep(0.1)
for _ in range(12):
    assert all_succeed([fork(check), fork(check)]) == [0, 0]
check()
""",
        backend,
    )


def test_a_fork_while_another_thread_compiles_leaves_the_compiler_free(run: Run) -> None:
    run("""
from cullama.cpu.compiled.rows import COPY_ROWS
from cullama.cpu.jit.compiler import JIT
from cullama.cpu.jit.instruction_sets import choose_instruction_set

def compile_kernel():
    JIT(choose_instruction_set(""), None).compile(COPY_ROWS)

def keep_compiling():
    while True:
        compile_kernel()

threading.Thread(target=keep_compiling, daemon=True).start()
for _ in range(5):
    assert all_succeed([fork(compile_kernel)]) == [0]
""")


@pytest.mark.parametrize("backend", ["cpu", "cpu:numpy"])
def test_a_fork_from_a_process_whose_engine_has_a_thread(run: Run, backend: str) -> None:
    run(
        """
async def read(text, seed):
    params = cullama.SamplingParams(max_tokens=40, seed=seed, ignore_eos=True)
    return "".join([piece async for piece in llm.stream(text, params)])

async def read_all():
    return list(await asyncio.gather(*(read(*job) for job in JOBS)))

assert asyncio.run(read_all()) == wanted
def sync_and_async():
    check()
    assert asyncio.run(read_all()) == wanted
    check()
children = [fork(sync_and_async), fork(sync_and_async)]
assert asyncio.run(read_all()) == wanted
assert all_succeed(children) == [0, 0]
""",
        backend,
    )


def test_a_stream_of_the_parent_is_refused_in_the_child(run: Run) -> None:
    run("""
params = cullama.SamplingParams(max_tokens=40, seed=1, ignore_eos=True)
stream = llm.stream(JOBS[0][0], params)
begun = next(stream)
def read_on():
    try:
        list(stream)
        raise AssertionError
    except CullamaError as error:
        assert "begun before the process was forked" in str(error)
    stream.close()
    check()
assert all_succeed([fork(read_on)]) == [0]
assert begun + "".join(stream) == wanted[0]
""")


def test_a_fork_in_the_middle_of_a_pass_has_a_model_that_works(run: Run) -> None:
    run("""
codes = []
def fork_here(record):
    llm.engine.observers.clear()
    codes.extend(all_succeed([fork(check)]))
llm.engine.observers.append(fork_here)
check()
assert codes == [0]
""")


def test_a_closed_model_is_closed_in_the_child(run: Run) -> None:
    run("""
llm.close()
def use():
    try:
        work(JOBS[0])
        raise AssertionError
    except CullamaError as error:
        assert "was closed" in str(error)
assert all_succeed([fork(use)]) == [0]
""")


def test_closing_the_model_in_the_child_leaves_the_parent_s_alone(run: Run) -> None:
    run("""
assert all_succeed([fork(llm.close), fork(llm.close)]) == [0, 0]
check()
""")


def test_a_child_begins_with_metrics_of_its_own(run: Run) -> None:
    run("""
def count():
    assert llm.engine.metrics.submitted == 0
    check()
    assert llm.engine.metrics.submitted == len(JOBS)
assert all_succeed([fork(count)]) == [0]
assert llm.engine.metrics.submitted == len(JOBS)
""")


def test_a_fork_that_python_was_not_told_of_is_noticed(run: Run) -> None:
    """As of servers written in C, which fork without Python's own function."""
    run("""
import ctypes
os.fork = ctypes.PyDLL(None).fork
assert all_succeed([fork(check), fork(check)]) == [0, 0]
check()
""")


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_model_that_is_sent_to_another_process_says_what_to_do(
    tiny_model: Path, copying: Callable[[object], object]
) -> None:
    with cullama.LLM(tiny_model) as llm:
        for thing in (llm, llm.session(), [llm]):
            with pytest.raises(UsageError, match=r"cannot be copied or pickled.*LLM\(path\)"):
                copying(thing) if thing is llm else pickle.dumps(thing)
