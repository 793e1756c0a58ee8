"""Writes tests/fixtures: tiny models, and what transformers computes with them in float32.

There is one `Variant` for each spelling of config.json and of weight files that cullama reads. Each
feature of a variant is removed in turn, and the logits have to change: a fixture that cannot fail
is worthless. The models are random, except the one under text/, which is trained on the sentences
below so that it writes a story. It imports nothing of cullama, and needs torch, transformers,
safetensors and tokenizers:

    python scripts/make_fixtures.py [folder]
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

Config: TypeAlias = dict[str, Any]  # config.json
Tensor: TypeAlias = Any
Weights: TypeAlias = dict[str, Tensor]

GREEDY_STEPS = 12
SMALLEST_MARGIN = 0.1  # far above what the order of float32 sums can move
SMALLEST_CHANGE = 0.4  # of the logits' RMS, when a feature is taken away: seen in bfloat16 too
WINDOW = 8
ORIGINAL_CONTEXT = 32  # for llama3 and yarn scaling: shorter than the prompts of those variants
LONG_PROMPT = 40


# --- the variants: data only


@dataclass(frozen=True)
class Ablation:
    """Removes a feature, by config entries or by values of some tensors."""

    feature: str
    config: Config = field(default_factory=dict)
    tensors: str = ""  # the end of the names of the tensors to change
    change: Callable[[Tensor], Tensor] = torch.zeros_like


@dataclass(frozen=True)
class Variant:
    """A form in which published models come."""

    name: str
    config: Config
    ablations: tuple[Ablation, ...] = ()
    prompt_length: int = 32
    stored: Any = torch.float32
    shards: int = 1
    renamed: dict[str, str] = field(default_factory=dict)  # tensor names in the file
    has_end_tokens: bool = False  # also a generation_config.json, whose list cuts `greedy` short


COMMON: Config = {
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-05,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA: Config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **COMMON}
MISTRAL: Config = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", **COMMON}
QWEN2: Config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **COMMON}
QWEN3: Config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **COMMON}

# How transformers 4 and transformers 5 write the same things.
OLD: Config = {"rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "float32"}
NEW: Config = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "dtype": "float32",
}
TWO_GROUPS: Config = {"num_key_value_heads": 2, "tie_word_embeddings": False}
LLAMA3_ROPE: Config = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL_CONTEXT,
}

YARN_ROPE: Config = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": ORIGINAL_CONTEXT,
}

EVERYWHERE = (
    Ablation("attention", tensors="o_proj.weight"),
    Ablation("feed forward", tensors="down_proj.weight"),
    Ablation("norm weights", tensors="layernorm.weight", change=torch.ones_like),
    Ablation("last norm's weight", tensors="model.norm.weight", change=torch.ones_like),
)
QUERY_KEY_NORMS = (
    Ablation("query norm", tensors="q_norm.weight", change=torch.ones_like),
    Ablation("key norm", tensors="k_norm.weight", change=torch.ones_like),
)
WINDOW_SIZE = (
    Ablation("window one shorter", {"sliding_window": WINDOW - 1}),
    Ablation("window one longer", {"sliding_window": WINDOW + 1}),
)


def without_biases(*projections: str) -> tuple[Ablation, ...]:
    """Remove the bias of each projection by itself."""
    return tuple(Ablation(f"{name} bias", tensors=f"{name}.bias") for name in projections)


def without_llama3_bands() -> tuple[Ablation, ...]:
    """Remove Llama 3's scaling, then treat each of its three bands as another one."""

    def with_entries(**entries: Any) -> Config:
        return {"rope_scaling": {**LLAMA3_ROPE, **entries}}

    return (
        Ablation("scaling", {"rope_scaling": None}),
        Ablation("fast band kept", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        Ablation("middle band smoothed, not slowed", with_entries(low_freq_factor=3.99)),
        Ablation("middle band smoothed, not kept", with_entries(high_freq_factor=1.01)),
        Ablation("slow band slowed by 8", with_entries(factor=4.0)),
    )


def without_yarn_parts(yarn: Config) -> tuple[Ablation, ...]:
    """Remove YaRN, then its attention factor, then the end of its ramp."""
    linear = {"rope_type": "linear", "factor": yarn["factor"]}
    return (
        Ablation("scaling", {"rope_scaling": None}),
        Ablation("fast pairs kept", {"rope_scaling": linear}),
        Ablation("attention factor", {"rope_scaling": {**yarn, "attention_factor": 1.0}}),
        Ablation("end of the ramp", {"rope_scaling": {**yarn, "beta_slow": 0.2}}),
    )


def llama_variants() -> Iterator[Variant]:
    """Head counts, tying, biases."""
    yield Variant("llama_mha", {**LLAMA, "torch_dtype": "float32"})  # as terse as Llama 1
    yield Variant(
        "llama_gqa",
        {
            **LLAMA,
            **NEW,
            **TWO_GROUPS,
            "hidden_size": 48,
            "num_attention_heads": 6,
            "head_dim": None,
            "vocab_size": 67,  # odd, as after a token was added
            "rms_norm_eps": 0.05,  # large enough to be seen
        },
        (
            Ablation("epsilon", {"rms_norm_eps": 1e-05}),
            Ablation("groups' order", tensors="k_proj.weight", change=lambda t: t.roll(8, 0)),
        ),
        has_end_tokens=True,
    )
    yield Variant("llama_mqa", {**LLAMA, **OLD, **TWO_GROUPS, "num_key_value_heads": 1})
    yield Variant("llama_head_width", {**LLAMA, **NEW, **TWO_GROUPS, "head_dim": 16})
    tied = {**TWO_GROUPS, "tie_word_embeddings": True}
    yield Variant("llama_tied", {**LLAMA, **OLD, **tied})
    yield Variant(
        "llama_tied_head_only",
        {**LLAMA, **NEW, **tied},
        renamed={"model.embed_tokens.weight": "lm_head.weight"},
    )
    yield Variant(
        "llama_biases",
        {**LLAMA, **NEW, **TWO_GROUPS, "attention_bias": True, "mlp_bias": True},
        without_biases(
            *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        ),
    )


def rope_variants() -> Iterator[Variant]:
    """Frequencies and their scaling, in the three spellings."""
    yield Variant(
        "llama_rope_theta",
        {**LLAMA, **OLD, **TWO_GROUPS, "rope_theta": 500000.0},
        (Ablation("theta", {"rope_theta": 10000.0}),),
    )
    yield Variant(
        "llama_rope_linear_type",  # the oldest spelling: "type", and no theta
        {
            **LLAMA,
            **TWO_GROUPS,
            "rope_scaling": {"type": "linear", "factor": 4.0},
            "torch_dtype": "float32",
        },
        (Ablation("scaling", {"rope_scaling": None}),),
    )
    yield Variant(
        "llama_rope_llama3",
        {**LLAMA, **OLD, **TWO_GROUPS, "head_dim": 16, "rope_scaling": LLAMA3_ROPE},
        without_llama3_bands(),
        prompt_length=LONG_PROMPT,
    )
    yield Variant(
        "llama_rope_yarn",  # as Qwen's pages propose it, with the paper's attention factor
        {**LLAMA, **OLD, **TWO_GROUPS, "head_dim": 16, "rope_scaling": YARN_ROPE},
        without_yarn_parts(YARN_ROPE),
        prompt_length=LONG_PROMPT,
    )
    named = {**YARN_ROPE, "mscale": 2.0, "mscale_all_dim": 0.5, "beta_fast": 2.0, "beta_slow": 0.5}
    yield Variant(
        "qwen3_rope_yarn",  # with all that may be named, in transformers 5's spelling
        {
            **QWEN3,
            **TWO_GROUPS,
            "head_dim": 16,
            "rope_parameters": {**named, "rope_theta": 500.0, "truncate": False},
            "dtype": "float32",
        },
        prompt_length=LONG_PROMPT,
    )


def file_variants() -> Iterator[Variant]:
    """Storage types and shards; the half-width ones also differ in more than one way at once."""
    yield Variant(
        "llama_bfloat16",  # Llama 3.2 in small: tied, scaled, with a real head width
        {
            **LLAMA,
            **OLD,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 64,
            "tie_word_embeddings": True,
            "rope_theta": 500000.0,
            "rope_scaling": LLAMA3_ROPE,
            "eos_token_id": [2, 3],
            "torch_dtype": "bfloat16",
        },
        (Ablation("scaling", {"rope_scaling": None}), Ablation("theta", {"rope_theta": 1e4})),
        prompt_length=LONG_PROMPT,
        stored=torch.bfloat16,
    )
    scaled = {"rope_type": "linear", "factor": 4.0, "rope_theta": 50000.0}
    yield Variant(
        "llama_float16",
        {
            **LLAMA,
            **TWO_GROUPS,
            "head_dim": 32,
            "rope_parameters": scaled,
            "dtype": "float16",
        },
        (
            Ablation("scaling", {"rope_parameters": {**scaled, "rope_type": "default"}}),
            Ablation("theta", {"rope_parameters": {**scaled, "rope_theta": 1e4}}),
        ),
        stored=torch.float16,
    )
    yield Variant("llama_sharded", {**LLAMA, **NEW, **TWO_GROUPS}, shards=2)


def relative_variants() -> Iterator[Variant]:
    """Llama's relatives: windows, biases on q, k, v alone, and normed queries and keys."""
    yield Variant(
        "mistral_window",
        {**MISTRAL, **OLD, **TWO_GROUPS, "sliding_window": WINDOW},
        (Ablation("window", {"sliding_window": None}), *WINDOW_SIZE),
    )
    windowed = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
    biases = without_biases("q_proj", "k_proj", "v_proj")
    yield Variant(
        "qwen2",  # names a window that it says not to use
        {
            **QWEN2,
            **OLD,
            **windowed,
            "use_sliding_window": False,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "rope_theta": 1000000.0,
        },
        (*biases, Ablation("window left unused", {"use_sliding_window": True})),
    )
    yield Variant(
        "qwen2_mixed_windows",
        {**QWEN2, **OLD, **TWO_GROUPS, **windowed},
        (
            *biases,
            *WINDOW_SIZE,
            Ablation("window", {"use_sliding_window": False}),
            Ablation("no window in the first layer", {"max_window_layers": 0}),
        ),
    )
    qwen3 = {**QWEN3, **NEW, **TWO_GROUPS, "head_dim": 16, "attention_bias": False}
    yield Variant(
        "qwen3",
        {**qwen3, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 2},
        QUERY_KEY_NORMS,
    )
    full, sliding = "full_attention", "sliding_attention"
    yield Variant(
        "qwen3_layer_types",  # a window in the first layer only: max_window_layers cannot say so
        {**qwen3, **windowed, "layer_types": [sliding, full]},
        (
            *QUERY_KEY_NORMS,
            *WINDOW_SIZE,
            Ablation("window", {"layer_types": [full, full]}),
            Ablation("window in the first layer", {"layer_types": [full, sliding]}),
        ),
    )


def all_variants() -> list[Variant]:
    """In the order of the printed table."""
    return [*llama_variants(), *rope_variants(), *file_variants(), *relative_variants()]


# --- weights and files


def generator_for(*words: object) -> np.random.Generator:
    """Return a generator for each name, so that a change of one tensor leaves the others."""
    return np.random.default_rng(list(" ".join(map(str, words)).encode()))


def random_weight(model_name: str, name: str, shape: tuple[int, ...]) -> Tensor:
    """Large enough that attention is far from uniform and every bias and norm weight is seen.

    And not larger: the logits' float32 rounding error stays below 6e-6 of their RMS.
    """
    noise = generator_for(model_name, name).standard_normal(shape, dtype=np.float32)
    if name.endswith("norm.weight"):
        return torch.from_numpy(1 + np.float32(0.3) * noise)
    if name.endswith(".bias"):
        return torch.from_numpy(np.float32(0.5) * noise)
    gain = 2.0 if "embed" in name else 3.0 if "lm_head" in name else 1.2
    return torch.from_numpy(noise * np.float32(gain / np.sqrt(shape[-1])))


def parsed(config: Config) -> Any:
    """Parse a config.json with transformers; a copy, because it writes into its argument."""
    return transformers.AutoConfig.for_model(**copy.deepcopy(config))


def random_weights(variant: Variant) -> Weights:
    """Return random tensors by their names in memory, where a tied output matrix has none."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(parsed(variant.config))
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    return {
        name: random_weight(variant.name, name, shape).to(variant.stored)
        for name, shape in shapes.items()
    }


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: Weights, **metadata: str) -> None:
    assert len(metadata) == 1, "the order of several entries in the file is not fixed"
    save_file(tensors, path, metadata)
    path.chmod(0o644)  # save_file leaves it to its owner alone


def write_weights(folder: Path, weights: Weights, shards: int = 1) -> None:
    """One file, or several and their index. Shards split a layer, as published ones do."""
    if shards == 1:
        write_tensors(folder / "model.safetensors", weights, format="pt")
        return
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        names = sorted(weights)[shard::shards]
        write_tensors(folder / file, {name: weights[name] for name in names}, format="pt")
        weight_map.update(dict.fromkeys(names, file))
    size = sum(weight.nbytes for weight in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def write_expected(folder: Path, expected: Weights) -> None:
    made_with = f"torch {torch.__version__}, transformers {transformers.__version__}"
    write_tensors(folder / "expected.safetensors", expected, made_with=made_with)


# --- what transformers computes


def load(folder: Path, changes: Config | None = None) -> Any:
    """Load the files with transformers in float32; refuse tensors that it does not use."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        **({"config": parsed({**config, **changes})} if changes else {}),
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
    )
    assert not any(report.values()), (folder.name, report)
    return model.eval()


def logits_of(model: Any, ids: list[int]) -> Tensor:
    """[T, V], without a cache."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def greedy_steps(model: Any, ids: list[int]) -> Iterator[tuple[int, float]]:
    """Yield the likeliest token and its margin over the second, step by step.

    The whole text is computed again at every step, so that no cache can be wrong.
    """
    tokens = list(ids)
    while True:
        two = logits_of(model, tokens)[-1].topk(2)
        tokens.append(int(two.indices[0]))
        yield tokens[-1], float(two.values[0] - two.values[1])


def continue_greedily(model: Any, ids: list[int], steps: int) -> tuple[list[int], list[float]]:
    """Decode so many tokens greedily; return them and their margins."""
    pairs = list(islice(greedy_steps(model, ids), steps))
    return [token for token, _ in pairs], [margin for _, margin in pairs]


def expectation(model: Any, ids: list[int], steps: int) -> Weights:
    """`ids` [T], `logits` [T, V], and `greedy` and `margins`, one of each for every step."""
    greedy, margins = continue_greedily(model, ids, steps)
    return {
        "ids": torch.tensor(ids),
        "logits": logits_of(model, ids).contiguous(),
        "greedy": torch.tensor(greedy),
        "margins": torch.tensor(margins, dtype=torch.float32),
    }


def is_telling(expected: Weights, config: Config) -> bool:
    """Whether there are no near ties, no end of text, and more than one token repeated."""
    greedy = set(expected["greedy"].tolist())
    ends = config["eos_token_id"]
    has_ended = not greedy.isdisjoint(ends if isinstance(ends, list) else [ends])
    return bool(expected["margins"].min() > SMALLEST_MARGIN) and not has_ended and len(greedy) >= 6


def first_telling_expectation(variant: Variant, model: Any) -> Weights:
    """Draws prompts, always the same, until greedy decoding is telling."""
    for draw in range(200):
        generator = generator_for(variant.name, "prompt", draw)
        ids = generator.integers(3, variant.config["vocab_size"], variant.prompt_length).tolist()
        expected = expectation(model, ids, GREEDY_STEPS)
        if is_telling(expected, variant.config):
            return expected
    raise AssertionError(f"{variant.name}: no telling prompt")


def changed_by(folder: Path, ablation: Ablation, expected: Weights) -> float:
    """The largest change of a logit, as a share of the logits' RMS."""
    model = load(folder, ablation.config)
    weights = dict(model.named_parameters())
    names = [name for name in weights if ablation.tensors and name.endswith(ablation.tensors)]
    assert names or ablation.config, f"{folder.name}: no tensor ends in {ablation.tensors}"
    with torch.no_grad():
        for name in names:
            weights[name].copy_(ablation.change(weights[name]))
    logits = expected["logits"]
    change = (logits_of(model, expected["ids"].tolist()) - logits).abs().max()
    return float(change / logits.pow(2).mean().sqrt())


def check_that_features_matter(folder: Path, variant: Variant, expected: Weights) -> float:
    """Return the smallest change of the logits that removing a feature makes."""
    changes = {
        ablation.feature: changed_by(folder, ablation, expected)
        for ablation in (*EVERYWHERE, *variant.ablations)
    }
    for feature, change in changes.items():
        assert change > SMALLEST_CHANGE, f"{variant.name}: {feature} changes only {change:.3f}"
    return min(changes.values())


def end_tokens(expected: Weights) -> list[int]:
    """Return the usual end token, and one that greedy decoding first meets halfway."""
    greedy = expected["greedy"].tolist()
    return [2, next(t for i, t in enumerate(greedy) if i >= 4 and t not in greedy[:i])]


def make_variant(root: Path, variant: Variant) -> None:
    folder = root / variant.name
    folder.mkdir(parents=True)
    write_json(folder / "config.json", variant.config)
    weights = random_weights(variant)
    renamed = {variant.renamed.get(name, name): weight for name, weight in weights.items()}
    write_weights(folder, renamed, variant.shards)
    model = load(folder)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, weights[name].float()), f"{variant.name}: {name} was not read"
    expected = first_telling_expectation(variant, model)
    write_expected(folder, expected)
    if variant.has_end_tokens:
        ends = {"bos_token_id": 1, "eos_token_id": end_tokens(expected)}
        write_json(folder / "generation_config.json", ends)
    print_row(folder, expected, check_that_features_matter(folder, variant, expected))


# --- the model that has learnt a few sentences by heart

BEGIN, END = "<|begin|>", "<|end|>"
TEXT_VOCABULARY = 320
TRAINING_STEPS = 400
STORIES = {  # how each opens, and how it goes on
    "Once upon a time": ", a small llama found a lantern in the snow. It carried the light over "
    "the hill, and the whole village came out to see. “Who lit the way?” they asked. The llama "
    "only smiled, and went home to sleep. 🦙",
    "The clockmaker": " kept 12 clocks and 3 cats. At noon the clocks rang, and the cats ran 7 "
    "times around the table.",
    "In the little café": " by the sea, a naïve gull ordered crème brûlée — twice."
    "\n\nNobody said no.",
    "def add(left, right):": "\n    return left + right\n",
}
QUESTIONS = {
    "Who are you?": "I am a very small llama, and I like short stories.",
    "What do you eat?": "Grass, hay, and now and then a carrot.",
}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['role'] + '\\n' + message['content'] + eos_token + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}"
)
TEXT_CONFIG: Config = {
    **LLAMA,
    **NEW,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
    "max_position_embeddings": 256,
    "vocab_size": TEXT_VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "dtype": "bfloat16",
}


def asked(question: str) -> str:
    """Render a question with the chat template, up to where the answer begins."""
    return f"user\n{question}{END}\nassistant\n"


def documents() -> dict[str, str]:
    """Return the documents that the model is trained on."""
    return {**STORIES, **{asked(question): answer for question, answer in QUESTIONS.items()}}


def trained_tokenizer() -> Any:
    """A byte-level BPE over the documents, adding `BEGIN` in front as Llama 3's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT_VOCABULARY,
        special_tokens=[AddedToken(BEGIN, special=True), AddedToken(END, special=True)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [(opening + rest).replace(END, "") for opening, rest in documents().items()]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, 0)]
    )
    assert [tokenizer.token_to_id(token) for token in (BEGIN, END)] == [0, 1]
    assert tokenizer.get_vocab_size() == TEXT_VOCABULARY
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: Any) -> None:
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": TEXT_CONFIG["max_position_embeddings"],
        "chat_template": CHAT_TEMPLATE,
    }
    write_json(folder / "tokenizer_config.json", settings)


def trained_weights(texts: list[list[int]]) -> Weights:
    """Train until overfitted, on purpose; rounded to the type of the file."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        parsed({**TEXT_CONFIG, "initializer_range": 0.1}), dtype=torch.float32
    )
    rows = [torch.tensor(text) for text in texts]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    for _ in range(TRAINING_STEPS):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=labels).loss.backward()
        optimizer.step()
    return {name: w.detach().to(torch.bfloat16) for name, w in model.named_parameters()}


def recital(model: Any, tokenizer: Any, opening: str, continuation: str) -> Config:
    """Decode a document greedily from its opening; fail unless all of it comes."""
    ids = tokenizer.encode(opening).ids
    document = tokenizer.encode(opening + continuation + END).ids
    assert document[: len(ids)] == ids, f"{opening!r} does not end where a token ends"
    wanted = document[len(ids) :]
    greedy, margins = continue_greedily(model, ids, len(wanted))
    assert greedy == wanted, tokenizer.decode(greedy, skip_special_tokens=False)
    assert min(margins) > SMALLEST_MARGIN, (opening, min(margins))
    assert tokenizer.decode(greedy) == continuation
    return {"prompt": opening, "ids": ids, "greedy": greedy, "text": continuation}


def make_text_model(folder: Path) -> None:
    folder.mkdir(parents=True)
    tokenizer = trained_tokenizer()
    write_tokenizer(folder, tokenizer)
    write_json(folder / "config.json", TEXT_CONFIG)
    texts = [tokenizer.encode(opening + rest + END).ids for opening, rest in documents().items()]
    write_weights(folder, trained_weights(texts))
    model = load(folder)
    recitals = [recital(model, tokenizer, *document) for document in documents().items()]
    write_json(folder / "expected.json", recitals)
    expected = expectation(model, recitals[0]["ids"], len(recitals[0]["greedy"]))
    write_expected(folder, expected)
    print_row(folder, expected, float("nan"))


# --- the command


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def print_row(folder: Path, expected: Weights, change: float) -> None:
    margin = float(expected["margins"].min())
    print(f"{folder.name:24} {size_of(folder):9,} {margin:8.3f} {change:8.3f}", flush=True)


def main(root: Path) -> None:
    torch.set_num_threads(1)  # the order of sums must not depend on the machine's cores
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(f"{'fixture':24} {'bytes':>9} {'margin':>8} {'change':>8}")
    for made in (root / "models", root / "text"):
        shutil.rmtree(made, ignore_errors=True)
    for variant in all_variants():
        make_variant(root / "models", variant)
    make_text_model(root / "text")
    print(f"{'all of ' + root.name:24} {size_of(root):9,}")


if __name__ == "__main__":
    default = Path(__file__).resolve().parents[1] / "tests" / "fixtures"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
