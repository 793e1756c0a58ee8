"""Measures transformers on this machine's GPU: the shape of a model, bfloat16, random weights.

    python scripts/gpu_peer.py SHAPE eager|compiled [CONTEXT]

Prints one JSON document: tokens a second of decode after CONTEXT tokens (default 64), and of
prefill where the model is not compiled. `compiled` has a static cache, which transformers compiles
for. Needs torch and transformers; gpu_check.sh calls it where they are installed.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from statistics import median
from typing import Any

from cullama.benchmark.shapes import SHAPES

TOKENS, WARM_UP = 80, 20
PROMPTS = (512, 2048)


def config_of(name: str) -> dict[str, Any]:
    """Return the arguments of LlamaConfig for one of our shapes."""
    shape = SHAPES[name]
    return {
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.context_length,
        "tie_word_embeddings": shape.tied,
    }


class _Clock:
    """A streamer of transformers' generate() that notes when each token came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: object) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def decode(torch: Any, model: Any, context: int, mode: str) -> float:
    """Return the tokens a second of the third run, after its first tokens."""
    ids = torch.randint(0, model.config.vocab_size, (1, context), device="cuda")
    options = {"cache_implementation": "static"} if mode == "compiled" else {}
    for _ in range(3):
        clock = _Clock()
        length = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
        mask = torch.ones_like(ids)
        model.generate(
            ids, attention_mask=mask, do_sample=False, streamer=clock, **length, **options
        )
        torch.cuda.synchronize()
    times = clock.times[WARM_UP:]
    return 1 / median(after - before for before, after in pairwise(times))


def prefill(torch: Any, model: Any, tokens: int) -> float:
    """Return the tokens a second of a prompt, by the model's forward pass alone."""
    ids = torch.randint(0, model.config.vocab_size, (1, tokens), device="cuda")
    seconds = []
    for _ in range(4):
        torch.cuda.synchronize()
        start = time.perf_counter()
        model(ids, logits_to_keep=1)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return tokens / median(seconds[1:])


def main(arguments: list[str]) -> None:
    if len(arguments) not in (2, 3) or arguments[0] not in SHAPES:
        sys.exit(f"usage: gpu_peer.py SHAPE eager|compiled [CONTEXT]; shapes: {', '.join(SHAPES)}")
    name, mode, *rest = arguments
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_default_dtype(torch.bfloat16)
    config = LlamaConfig(**config_of(name), bos_token_id=1, eos_token_id=2, pad_token_id=0)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).eval()
    context = int(rest[0]) if rest else 64
    with torch.inference_mode():
        figures: dict[str, Any] = {"peer": "transformers", "mode": mode, "shape": name}
        figures["decode"] = {str(context): decode(torch, model, context, mode)}
        if mode == "eager":
            figures["prefill"] = {str(tokens): prefill(torch, model, tokens) for tokens in PROMPTS}
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
