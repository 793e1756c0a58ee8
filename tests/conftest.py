"""Fixtures of several test files: a tiny random model with a tokenizer, and the command line.

Model folders are written by hand here, without cullama's own code for checkpoints.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import pytest
from command_line import CommandLine
from hypothesis import settings
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from cullama.errors import DeviceUnavailableError
from cullama.files.cache_folder import cache_folder

Config: TypeAlias = dict[str, Any]
Tensors: TypeAlias = dict[str, NDArray[Any]]
WriteModel: TypeAlias = Callable[..., Path]

# A shell that starts tests in the background has them ignore Ctrl-C, and with them all processes
# that they start, where it is to be tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The emulated GPU's kernels are compiled once, whatever cache a test gives to a process.
os.environ.setdefault("CULLAMA_EMULATION_CACHE", str(cache_folder() / "emulation"))

# The same examples every time, on machines of any speed.
settings.register_profile("cullama", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("cullama")

BEGIN, END, USER = "<|begin|>", "<|end|>", "<|user|>"  # ids 0, 1, 2
VOCABULARY = 300
SENTENCES = (
    "Once upon a time a small llama went over the hill to see the sea.",
    "The old clock in the hall struck twelve, and nobody was there to hear it.",
    "In the naïve little café they sell crème brûlée — twice a day.",
    "東京 and Zürich are far apart, said the llama. 🦙",
    "def add(left, right):\n    return left + right\n",
)


CONFIG: Config = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "hidden_act": "silu",
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
}

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def random_tensors(config: Config, dtype: str = "float32", seed: int = 0) -> Tensors:
    """Return weights under Hugging Face's names, so large that every part affects the logits."""
    draw = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries = head_dim * config["num_attention_heads"]
    keys = head_dim * config["num_key_value_heads"]

    def matrix(rows: int, columns: int) -> NDArray[Any]:
        return (draw.standard_normal((rows, columns)) * columns**-0.5).astype(DTYPES[dtype])

    def norm() -> NDArray[Any]:
        return draw.uniform(0.5, 1.5, (hidden,)).astype(DTYPES[dtype])

    tensors = {"model.embed_tokens.weight": matrix(config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        tensors |= {
            prefix + "self_attn.q_proj.weight": matrix(queries, hidden),
            prefix + "self_attn.k_proj.weight": matrix(keys, hidden),
            prefix + "self_attn.v_proj.weight": matrix(keys, hidden),
            prefix + "self_attn.o_proj.weight": matrix(hidden, queries),
            prefix + "mlp.gate_proj.weight": matrix(inner, hidden),
            prefix + "mlp.up_proj.weight": matrix(inner, hidden),
            prefix + "mlp.down_proj.weight": matrix(hidden, inner),
            prefix + "input_layernorm.weight": norm(),
            prefix + "post_attention_layernorm.weight": norm(),
        }
    tensors["model.norm.weight"] = norm()
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = matrix(config["vocab_size"], hidden)
    return tensors


def trained_tokenizer() -> Tokenizer:
    """Return a byte-level BPE of SENTENCES that puts BEGIN before a text, as Llama 3's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True) for token in (BEGIN, END, USER)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)]
    )
    assert tokenizer.get_vocab_size() == VOCABULARY
    return tokenizer


def write_folder(
    folder: Path,
    tensors: Tensors | None = None,
    dtype: str = "float32",
    tokenizer: Path | None = None,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """Write a model folder; `changes` are config entries, None leaves one out."""
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if tensors is None:
        tensors = random_tensors(config, dtype, seed)
    save_file(tensors, folder / "model.safetensors")
    if tokenizer is not None:
        shutil.copy(tokenizer, folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="session", autouse=True)
def auto_takes_the_cpu() -> Iterator[None]:
    """Make "auto" choose the CPU even where there is a GPU, real or emulated; tests name theirs."""

    def hidden(*arguments: Any) -> None:
        raise DeviceUnavailableError("GPUs are hidden from tests", "name one")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cullama.backends._first_gpu", hidden)
        yield


USERS_CACHE = os.environ.get("CULLAMA_CACHE")


def cache_with_kernels(folder: Path) -> Path:
    """Link the kernels that tests have compiled into a cache folder, and return the folder."""
    if find_spec("llvmlite") is not None:
        from compiled_cpu import folder as kernels

        (folder / "kernels").symlink_to(kernels())
    return folder


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_in_the_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CULLAMA_CACHE", str(cache_with_kernels(tmp_path_factory.mktemp("own-cache"))))
        yield


@pytest.fixture(scope="module")
def users_cache() -> Iterator[None]:
    """Use the user's own cache, which holds the default model."""
    with pytest.MonkeyPatch.context() as patch:
        if USERS_CACHE is None:
            patch.delenv("CULLAMA_CACHE")
        else:
            patch.setenv("CULLAMA_CACHE", USERS_CACHE)
        yield


@pytest.fixture(scope="session")
def cullama_command(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return CommandLine(cache_with_kernels(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    trained_tokenizer().save(str(path))
    return path


@pytest.fixture(scope="session")
def write_model() -> WriteModel:
    return write_folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Path:
    """Return a folder with a model of random weights and a tokenizer; tests must not change it."""
    return write_folder(tmp_path_factory.mktemp("models") / "tiny", tokenizer=tokenizer_file)


# As ChatML has it, in the tiny tokenizer's control tokens.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|user|>{{ m.role }}\n{{ m.content }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|user|>assistant\n{% endif %}"
)


def write_chat_folder(folder: Path, tokenizer: Path, context_length: int = 4096) -> Path:
    """Write the tiny model with a chat template."""
    write_folder(folder, tokenizer=tokenizer, max_position_embeddings=context_length)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    names = {"bos_token": BEGIN}
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def write_chat_model() -> WriteModel:
    return write_chat_folder


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Path:
    """Return the tiny model with a chat template and a longer context; tests must not change it."""
    return write_chat_folder(tmp_path_factory.mktemp("models") / "tiny-chat", tokenizer_file)


@pytest.fixture
def tiny_tensors() -> Tensors:
    """Return the tensors of the tiny model's weights file."""
    return random_tensors(CONFIG)
