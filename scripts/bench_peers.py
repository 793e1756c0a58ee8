"""cullama beside transformers on this machine's CPU: same weights, same threads, same run.

    pip install torch transformers
    python scripts/bench_peers.py [MODEL] [--threads N] [--rounds N] [--json]

Each engine lives in a process of its own, loaded once; they are measured in turn, and a ratio is
taken within each pair, so that a machine whose speed drifts cannot favour one of them. MODEL is a
folder or GGUF file of a Llama; nothing stands for the default model. transformers runs in float32
with its default attention and a dynamic cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from cullama.checkpoint import Checkpoint, open_checkpoint
from cullama.cpu.threads import physical_cores
from cullama.hub import resolve_model
from cullama.rope import LinearScaling, Llama3Scaling

PROMPT, CONTEXT, WRITTEN = 512, 64, 32  # tokens


class Peer(Protocol):
    """One engine, asked for seconds."""

    def prefill(self, tokens: int) -> float: ...

    def decode(self, context: int, tokens: int) -> float: ...


class Cullama:
    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        import cullama

        self._llm = cullama.LLM(checkpoint, threads=threads)

    def prefill(self, tokens: int) -> float:
        from cullama.benchmark import runs

        return runs.prefill(self._llm.engine, tokens, repeats=1).seconds

    def decode(self, context: int, tokens: int) -> float:
        from cullama.benchmark import runs

        return runs.decode(self._llm.engine, context, tokens).seconds


class Transformers:
    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._torch, self._vocabulary = torch, checkpoint.config.vocab_size
        self._model = _as_transformers(checkpoint)

    def prefill(self, tokens: int) -> float:
        self._pass(self._prompt(tokens), None)
        start = time.perf_counter()
        self._pass(self._prompt(tokens), None)
        return time.perf_counter() - start

    def decode(self, context: int, tokens: int) -> float:
        """Seconds a token, median."""
        token, cache = self._pass(self._prompt(context), None)
        times = []
        for _ in range(tokens):
            start = time.perf_counter()
            token, cache = self._pass(token, cache)
            times.append(time.perf_counter() - start)
        return median(times)

    def _prompt(self, tokens: int) -> Any:
        return self._torch.arange(tokens)[None] % self._vocabulary

    def _pass(self, ids: Any, cache: Any) -> tuple[Any, Any]:
        with self._torch.inference_mode():
            out = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values


PEERS: dict[str, Callable[[Checkpoint, int], Peer]] = {
    "cullama": Cullama,
    "transformers": Transformers,
}


def _as_transformers(checkpoint: Checkpoint) -> Any:
    """The same weights in transformers' own model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = checkpoint.config
    if config.architecture != "LlamaForCausalLM":
        raise SystemExit(f"{checkpoint.path}: {config.architecture}; this script compares Llamas")
    settings = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.context_length,
        rms_norm_eps=config.norm_eps,
        rope_parameters=_rope_parameters(checkpoint),
        attention_bias=config.qkv_bias,
        mlp_bias=config.mlp_bias,
        tie_word_embeddings=config.tied,
    )
    model = LlamaForCausalLM(settings).eval()
    state = {
        name: torch.from_numpy(tensor.read().astype("float32"))
        for name, tensor in checkpoint.tensors.items()
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing  # the tied head
    return model


def _rope_parameters(checkpoint: Checkpoint) -> dict[str, Any]:
    rope = checkpoint.config.rope
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": rope.theta}
    match rope.scaling:
        case LinearScaling(factor):
            parameters |= {"rope_type": "linear", "factor": factor}
        case Llama3Scaling(factor, low, high, original):
            parameters |= {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    return parameters


class Worker:
    """A peer in a process of its own, asked over a pipe."""

    def __init__(self, name: str, model: Path, threads: int) -> None:
        command = [sys.executable, __file__, str(model), "--threads", str(threads), "--peer", name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()  # loaded

    def ask(self, what: str, *numbers: int) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, *numbers]) + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a peer ended early; what it said stands above")
        return line

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(name: str, model: Path, threads: int) -> None:
    """The worker's side of the pipe."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    peer = PEERS[name](open_checkpoint(model), threads)
    print("loaded", file=answers, flush=True)
    for line in sys.stdin:
        what, *numbers = json.loads(line)
        print(getattr(peer, what)(*numbers), file=answers, flush=True)


@dataclass(frozen=True)
class Comparison:
    what: str
    cullama: float  # tokens a second, median
    transformers: float
    ratio: float  # median of the pairs'
    lowest: float
    highest: float


def compare(
    workers: dict[str, Worker], rounds: int, what: str, tokens: int, *numbers: int
) -> Comparison:
    """`tokens`: how many of them the measured seconds are for."""
    pairs = [[tokens / workers[name].ask(what, *numbers) for name in PEERS] for _ in range(rounds)]
    ratios = [ours / theirs for ours, theirs in pairs]
    ours, theirs = (median(column) for column in zip(*pairs, strict=True))
    name = f"{what} {numbers[0]}" if what == "prefill" else f"{what} at {numbers[0]}"
    return Comparison(name, ours, theirs, median(ratios), min(ratios), max(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peer", choices=list(PEERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    model = resolve_model(options.model)
    if options.peer:
        serve(options.peer, model, options.threads)
        return
    workers = {name: Worker(name, model, options.threads) for name in PEERS}
    results = [
        compare(workers, options.rounds, "prefill", PROMPT, PROMPT),
        compare(workers, options.rounds, "decode", 1, CONTEXT, WRITTEN),
    ]
    for worker in workers.values():
        worker.close()
    if options.json:
        print(json.dumps([asdict(result) for result in results]))
        return
    print(f"{model.name}, float32, {options.threads} threads, tokens a second")
    for r in results:
        print(
            f"{r.what:14} cullama {r.cullama:8.1f}   transformers {r.transformers:8.1f}   "
            f"ratio {r.ratio:.2f} ({r.lowest:.2f} … {r.highest:.2f})"
        )


if __name__ == "__main__":
    main()
