"""F1 to F5 of docs/hostile-files.md: many mutants of each format, each in a process of its own.

The goals and the counting are here; the mutants come from the modules beside it.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import config_mutants
import gguf_mutants
import gguf_root_causes
import large_files
import safetensors_mutants
import shards_mutants
from figures import Figure
from measuring import Cost, refusal_costs
from mutation import Mutant, Tally, attack

from cullama.checkpoint.opening import open_checkpoint
from cullama.errors import ModelFileError, UnsupportedModelError

GOAL = "0 crashes, 0 hangs > 1 s, only ModelFileError, 100 % name file and field"
SECONDS_A_MUTANT = 0.5  # after which a process hangs for good


def attack_safetensors(root: Path, count: int, seed: int) -> Tally:
    file = root / "model.safetensors"
    mutants = safetensors_mutants.mutants(count, seed)
    return attack(mutants, file, safetensors_mutants.read, agree=safetensors_mutants.agree)


def attack_gguf(root: Path, count: int, seed: int) -> Tally:
    mutants = gguf_mutants.mutants(count, seed, root / "valid.gguf")
    return attack(mutants, root / "model.gguf", gguf_mutants.read, agree=gguf_mutants.agree)


def attack_root_causes(root: Path, count: int, seed: int) -> Tally:
    """All of them, whatever the count."""
    sets = {
        **gguf_root_causes.ROOT_CAUSES,
        "hyper-parameter beyond a bound": gguf_root_causes.hyperparameters(root / "valid.gguf"),
    }
    mutants = [
        Mutant(name, file, (message,)) for name, cases in sets.items() for file, message in cases
    ]
    tally = attack(mutants, root / "model.gguf", open_checkpoint)
    tally.valid_refused.clear()
    if tally.accepted:
        tally.escapes.append(f"{tally.accepted} of the root causes were accepted")
    return tally


Attack = Callable[[Path, int, int], Tally]


def in_own_process(attack: Attack, count: int, seed: int) -> Tally:
    """What `attack` counts, or a tally that holds the crash or the hang."""
    with tempfile.TemporaryDirectory() as root:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            future = pool.submit(attack, Path(root), count, seed)
            try:
                return future.result(timeout=60 + SECONDS_A_MUTANT * count)
            except BrokenProcessPool:
                return Tally(count, escapes=["the process died"])
            except TimeoutError:
                for process in multiprocessing.active_children():
                    process.kill()
                return Tally(count, hangs=["the process did not end"])


def figures(count: int, seed: int) -> list[Figure]:
    """Of `count` mutants for each format."""
    safetensors = in_own_process(attack_safetensors, count, seed)
    gguf = in_own_process(attack_gguf, count, seed)
    causes = in_own_process(attack_root_causes, count, seed)
    configs = in_own_process(config_mutants.attack_configs, count, seed)
    indexes = in_own_process(shards_mutants.attack_indexes, count, seed)
    return [
        _mutants("F1 hostile safetensors", safetensors),
        _mutants("F1 hostile config.json", configs),
        _mutants("F2 hostile GGUF", gguf),
        _root_causes(causes),
        _memory(list(costs())),
        _differential(safetensors, gguf),
        _mutants("F5 shard index", indexes),
        _traversals(),
    ]


def _mutants(name: str, tally: Tally) -> Figure:
    named = 100 * (1 - len(tally.unnamed) / max(tally.refused, 1))
    reached = (
        f"{tally.count:,} mutants, {tally.refused:,} refused: {len(tally.escapes)} crashes, "
        f"{len(tally.hangs)} hangs (slowest {tally.slowest:.2f} s), {named:.4g} % named"
    )
    is_met = not (
        tally.escapes
        or tally.hangs
        or tally.unnamed
        or tally.valid_refused
        or tally.broken_accepted
    )
    return Figure(name, GOAL, reached, is_met and tally.accepted < tally.count)


def _root_causes(tally: Tally) -> Figure:
    sets = len(gguf_root_causes.ROOT_CAUSES) + 1
    reached = f"{sets} sets, {tally.count} files: {tally.refused} refused by name"
    is_met = not tally.complaints and tally.refused == tally.count
    return Figure("F2 GGUF root causes, CVEs", "a named set for each, all refused", reached, is_met)


def costs() -> Iterator[tuple[str, Cost, int]]:
    """Of each large file: its name, its cost, and the growth of memory it may cause."""
    for kind, name in large_files.EVERY:
        with tempfile.TemporaryDirectory() as root:
            path, header = large_files.write(Path(root), kind, name)
            (cost,) = refusal_costs([path])
            yield f"{kind}: {name}", cost, large_files.ALLOWED + 2 * header


def is_cheap(cost: Cost, allowed: int) -> bool:
    is_refused = cost.outcome.startswith((ModelFileError.__name__, UnsupportedModelError.__name__))
    return is_refused and cost.seconds <= 1 and cost.growth <= allowed


def _memory(costs: list[tuple[str, Cost, int]]) -> Figure:
    slowest = max(cost.seconds for _, cost, _ in costs)
    tightest = max(cost.growth / allowed for _, cost, allowed in costs)
    dear = [name for name, cost, allowed in costs if not is_cheap(cost, allowed)]
    reached = (
        f"{len(costs)} files: slowest {slowest:.2f} s, growth at most {100 * tightest:.0f} % "
        f"of what is allowed{'; missed by ' + ', '.join(dear) if dear else ''}"
    )
    goal = "refused ≤ 1 s of CPU, growth ≤ 64 MiB + 2 x header"
    return Figure("F3 memory on a bad file", goal, reached, not dear)


def _differential(safetensors: Tally, gguf: Tally) -> Figure:
    both = [safetensors, gguf]
    differing = sum(len(it.differing) for it in both)
    refused = sum(len(it.valid_refused) + len(it.unruled) for it in both)
    rules = safetensors.rules + gguf.rules
    listed = ", ".join(f"{count} x {rule}" for rule, count in rules.most_common())
    reached = (
        f"{sum(it.accepted for it in both):,} accepted, {differing} read otherwise; {refused} "
        f"refused without a rule; by rule: {listed}"
    )
    goal = "accepted files read bit-equal by the reference; nothing valid refused"
    return Figure("F4 differential", goal, reached, differing == refused == 0)


@contextmanager
def _sharded() -> Iterator[tuple[Path, dict[str, str]]]:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "between" / "model"
        yield folder, shards_mutants.write_sharded(folder)


def refusal_of(folder: Path) -> str:
    try:
        open_checkpoint(folder)
    except (ModelFileError, UnsupportedModelError) as error:
        return str(error)
    return ""


def _traversals() -> Figure:
    names, damage = shards_mutants.TRAVERSALS, shards_mutants.DAMAGE
    refused = named = 0
    with _sharded() as (folder, weight_map):
        for name in names:
            shards_mutants.write_index(folder, shards_mutants.redirected(weight_map, name))
            refused += bool(refusal_of(folder))
    for harm, message in damage.values():
        with _sharded() as (folder, _):
            harm(folder)
            named += message in refusal_of(folder)
    reached = f"{refused} of {len(names)} refused; {named} of {len(damage)} damaged shards named"
    goal = "≥ 40 traversal forms refused; missing, extra, duplicated, mis-sized shards named"
    is_met = refused == len(names) >= 40 and named == len(damage)
    return Figure("F5 traversal, shards", goal, reached, is_met)
