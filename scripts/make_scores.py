"""Writes tests/fixtures/scores.json: log-probabilities of continuations, as transformers has them.

For the model in tests/fixtures/text, and for SmolLM2-135M-Instruct in float32, of the file that
`make_golden.py` describes. A prompt and its continuation are encoded together, and split where the
prompt alone ends, white space at its end left to the continuation; an empty prompt is BOS. It
imports nothing of cullama, and needs what `make_golden.py` does.

    python scripts/make_scores.py SmolLM2-135M-Instruct.Q4_1.gguf [scores.json]
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from gguf import GGUFReader
from make_fixtures import load, logits_of
from make_golden import WEIGHTS_SHA256, Record, compact, read_model, read_tokenizer, rounded, value
from tokenizers import Tokenizer

FIXTURES = Path(__file__).resolve().parents[1] / "tests" / "fixtures"
TEXT_PAIRS = (
    ("Once upon a time", " a llama went over the hill"),
    ("Once upon a time ", "there was no llama."),
    ("The old", " clock"),
    ("", "Once upon a time"),
    ("Zürich and", " 東京 🦙"),
)
SMOLLM2_PAIRS = (
    ("The capital of France is", " Paris."),
    ("The capital of France is", " Madrid."),
    ("The capital of France is ", "Paris, which lies on the Seine."),
    ("Question: What do llamas eat?\nAnswer:", " Mostly grass and hay."),
    ("", "Once upon a time, there was a little girl who lived in a village."),
    ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "Hello! How can I help you today?"),
    ("def fibonacci(n: int) -> int:\n    if n < 2:\n        return", " n\n"),
    ("Zürich, São Paulo and", " 東京 🦙"),
)


def split(tokenizer: Any, bos_id: int, prompt: str, continuation: str) -> tuple[list[int], int]:
    """Return the tokens of both together, and how many of them are the prompt's."""
    before = prompt.rstrip()
    if not before:
        own = tokenizer.encode(prompt + continuation, add_special_tokens=False).ids
        return [bos_id, *own], 1
    return tokenizer.encode(prompt + continuation).ids, len(tokenizer.encode(before).ids)


def record(model: Any, ids: list[int], start: int, prompt: str, continuation: str) -> Record:
    logits = logits_of(model, ids[:-1])[start - 1 :].double()
    logprobs = torch.log_softmax(logits, dim=-1)
    targets = torch.tensor(ids[start:])
    return {
        "prompt": prompt,
        "continuation": continuation,
        "context_ids": ids[:start],
        "ids": ids[start:],
        "logprobs": rounded(logprobs.gather(1, targets[:, None])[:, 0].tolist()),
        "is_greedy": bool((logits.argmax(-1) == targets).all()),
    }


def records(
    model: Any, tokenizer: Any, bos_id: int, pairs: tuple[tuple[str, str], ...]
) -> list[Record]:
    return [record(model, *split(tokenizer, bos_id, *pair), *pair) for pair in pairs]


def main(weights: Path, output: Path) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        sys.exit(f"{weights} has sha256 {digest}, not {WEIGHTS_SHA256}")
    torch.set_num_threads(1)  # the order of sums must not depend on the machine's cores
    text = Tokenizer.from_file(str(FIXTURES / "text" / "tokenizer.json"))
    model = load(FIXTURES / "text")
    reader = GGUFReader(weights)
    parts = {
        "text": records(model, text, model.config.bos_token_id, TEXT_PAIRS),
        "smollm2": records(
            read_model(reader),
            read_tokenizer(reader),
            value(reader, "tokenizer.ggml.bos_token_id"),
            SMOLLM2_PAIRS,
        ),
    }
    header = {
        "made_by": "scripts/make_scores.py",
        "smollm2_sha256": WEIGHTS_SHA256,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    lines = [
        f'"{name}":[\n' + ",\n".join(map(compact, made)) + "\n]" for name, made in parts.items()
    ]
    output.write_text(f'{{"header":{compact(header)},\n' + ",\n".join(lines) + "\n}\n", "utf-8")
    print(f"{output.name}: {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: make_scores.py SmolLM2-135M-Instruct.Q4_1.gguf [scores.json]")
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else FIXTURES / "scores.json")
