"""Writes tests/fixtures/smollm2_greedy.json: what transformers computes with SmolLM2-135M-Instruct.

The weights are those of a GGUF file, dequantised to float32, under transformers' names and in its
order of rows; the tokenizer is built from the file's vocabulary and merges. It imports nothing of
cullama, and needs torch, transformers, tokenizers and gguf; a file with another hash than the one
below is refused.

    python scripts/make_golden.py SmolLM2-135M-Instruct.Q4_1.gguf [smollm2_greedy.json]
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from gguf import GGUFReader, quants
from make_fixtures import Tensor, Weights, continue_greedily, logits_of
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

Record: TypeAlias = dict[str, Any]

WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GREEDY_STEPS = 32
LIKELIEST = 4  # the logits recorded for each prompt: these, and the ones below
SAMPLED_IDS = (0, 2, 28, 198, 1000, 10000, 30000, 49151)
DIGITS = 5  # after the point; float32 itself is good for about as many
CONTROL = 3  # gguf's token type of <|im_start|> and its like
PROMPTS = {
    "story": "Once upon a time, in a village at the edge of the desert, there lived",
    "opening": "The last train had left hours ago. Marta",
    "question": "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n",
    "code": "def fibonacci(n: int) -> int:\n    if n < 2:\n        return n\n",
    "unicode": "Zürich, São Paulo, 東京 and Ελλάδα 🦙 are",
    "digits": "1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024,",
}
RENAMED = {  # llama.cpp's words for a layer's tensors
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def huggingface_name(name: str) -> str:
    """Return `model.layers.0.self_attn.q_proj.weight` for `blk.0.attn_q.weight`."""
    if name.startswith("blk."):
        _, layer, part, kind = name.split(".")
        return f"model.layers.{layer}.{RENAMED[part]}.{kind}"
    outside = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    stem, kind = name.split(".")
    return f"{outside[stem]}.{kind}"


def rows_in_halves(weight: Tensor, heads: int) -> Tensor:
    """Undoes llama.cpp's order of a head's rows.

    It pairs neighbours for rotary embedding, where transformers pairs the two halves.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def value(reader: GGUFReader, key: str) -> Any:
    """Return a value of the file's header."""
    field = reader.get_field(key)
    assert field is not None, f"no {key}"
    return field.contents()


def read_config(reader: GGUFReader) -> Any:
    heads = value(reader, "llama.attention.head_count")
    return transformers.LlamaConfig(
        vocab_size=value(reader, "llama.vocab_size"),
        hidden_size=value(reader, "llama.embedding_length"),
        intermediate_size=value(reader, "llama.feed_forward_length"),
        num_hidden_layers=value(reader, "llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=value(reader, "llama.attention.head_count_kv"),
        max_position_embeddings=value(reader, "llama.context_length"),
        rms_norm_eps=value(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": value(reader, "llama.rope.freq_base"),
        },
        tie_word_embeddings=True,  # the file has no output.weight
    )


def read_weights(reader: GGUFReader, config: Any) -> Weights:
    """Return all tensors in float32, under transformers' names and in its order of rows."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for stored in reader.tensors:
        weight = torch.tensor(quants.dequantize(stored.data, stored.tensor_type))
        part = stored.name.split(".")[-2]
        weights[huggingface_name(stored.name)] = (
            rows_in_halves(weight, heads[part]) if part in heads else weight
        )
    return weights


def read_model(reader: GGUFReader) -> Any:
    config = read_config(reader)
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    left = model.load_state_dict(read_weights(reader, config), strict=False)
    assert left.missing_keys == ["lm_head.weight"], left  # the embedding, under its other name
    assert not left.unexpected_keys, left
    return model.eval()


def read_tokenizer(reader: GGUFReader) -> Any:
    """Build the byte-level BPE that the file's `pre = smollm` means."""
    assert value(reader, "tokenizer.ggml.pre") == "smollm"
    tokens = value(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in value(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, value(reader, "tokenizer.ggml.token_type"), strict=True)
    control = [AddedToken(token, special=True) for token, kind in kinds if kind == CONTROL]
    tokenizer.add_special_tokens(control)
    assert tokenizer.get_vocab_size() == len(tokens)
    return tokenizer


def some_logits(model: Any, ids: list[int]) -> Record:
    """Return logits of the last position: of the likeliest tokens, and of a fixed few."""
    logits = logits_of(model, ids)[-1]
    chosen = [*logits.topk(LIKELIEST).indices.tolist(), *SAMPLED_IDS]
    return {"ids": chosen, "values": rounded(logits[chosen].tolist())}


def rounded(numbers: list[float]) -> list[float]:
    return [round(number, DIGITS) for number in numbers]


def record(model: Any, tokenizer: Any, name: str, prompt: str) -> Record:
    """One prompt; `text` leaves out control tokens, `greedy` does not stop at them."""
    ids = tokenizer.encode(prompt).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == prompt
    greedy, margins = continue_greedily(model, ids, GREEDY_STEPS)
    text = tokenizer.decode(greedy)
    print(
        f"{name:10} {len(ids):3} tokens, smallest margin {min(margins):.4f}: {text!r}", flush=True
    )
    return {
        "name": name,
        "prompt": prompt,
        "ids": ids,
        "greedy": greedy,
        "margins": rounded(margins),
        "text": text,
        "logits": some_logits(model, ids),
    }


def header() -> Record:
    return {
        "made_by": "scripts/make_golden.py",
        "weights": "SmolLM2-135M-Instruct, Q4_1, dequantised to float32",
        "weights_sha256": WEIGHTS_SHA256,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def compact(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False)


def write(path: Path, records: list[Record]) -> None:
    """One line for each prompt, so that a change can be read."""
    prompts = ",\n".join(compact(record) for record in records)
    path.write_text(
        f'{{"header":{compact(header())},\n"prompts":[\n{prompts}\n]}}\n', encoding="utf-8"
    )


def main(weights: Path, output: Path) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        sys.exit(f"{weights} has sha256 {digest}, not {WEIGHTS_SHA256}")
    torch.set_num_threads(1)  # the order of sums must not depend on the machine's cores
    reader = GGUFReader(weights)
    model, tokenizer = read_model(reader), read_tokenizer(reader)
    write(output, [record(model, tokenizer, *prompt) for prompt in PROMPTS.items()])
    print(f"{output.name}: {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: make_golden.py SmolLM2-135M-Instruct.Q4_1.gguf [smollm2_greedy.json]")
    fixtures = Path(__file__).resolve().parents[1] / "tests" / "fixtures"
    named = Path(sys.argv[2]) if len(sys.argv) > 2 else fixtures / "smollm2_greedy.json"
    main(Path(sys.argv[1]), named)
