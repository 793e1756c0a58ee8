"""Shapes of public models, and checkpoints of these shapes with random weights, without files.

The numbers are those of the models' config.json files. Speed does not depend on the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.names import expected_shapes
from ..errors import NoTokenizerError, UsageError
from ..files.tensor import HostArray, StoredTensor
from ..model.config import ModelConfig
from ..model.rope import Llama3Scaling, Rope

TILE_ELEMENTS = 1 << 20


def _shape(
    hidden: int,
    inner: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    vocab: int,
    context: int,
    rope: Rope,
    tied: bool = True,
) -> ModelConfig:
    return ModelConfig(
        architecture="LlamaForCausalLM",
        hidden_size=hidden,
        intermediate_size=inner,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab,
        context_length=context,
        norm_eps=1e-5,
        rope=rope,
        windows=(0,) * layers,
        tied=tied,
    )


_LLAMA_31 = Rope(500000.0, Llama3Scaling(8.0, 1.0, 4.0, 8192))
_LLAMA_32 = Rope(500000.0, Llama3Scaling(32.0, 1.0, 4.0, 8192))

SHAPES = {
    "tinystories-656k": _shape(128, 384, 2, 8, 4, 16, 2048, 4096, Rope()),
    "smollm2-135m": _shape(576, 1536, 30, 9, 3, 64, 49152, 8192, Rope(100000.0)),
    "smollm2-360m": _shape(960, 2560, 32, 15, 5, 64, 49152, 8192, Rope(100000.0)),
    "tinyllama-1.1b": _shape(2048, 5632, 22, 32, 4, 64, 32000, 2048, Rope(), tied=False),
    "llama-3.2-1b": _shape(2048, 8192, 16, 32, 8, 64, 128256, 131072, _LLAMA_32),
    "llama-3.2-3b": _shape(3072, 8192, 28, 24, 8, 128, 128256, 131072, _LLAMA_32),
    "llama-3.1-8b": _shape(4096, 14336, 32, 32, 8, 128, 128256, 131072, _LLAMA_31, tied=False),
}


def known_shape(name: str) -> ModelConfig:
    """Return a known shape.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in SHAPES:
        raise UsageError(f"config is {name!r}, expected one of {', '.join(SHAPES)}")
    return SHAPES[name]


def random_checkpoint(name: str, seed: int = 0) -> Checkpoint:
    """Return a checkpoint of a known shape with random weights.

    Raises:
        UsageError: the shape is unknown.
    """
    config = known_shape(name)
    tensors = {
        tensor: StoredTensor(tensor, shape, "random", _random_tiles(shape, seed + index))
        for index, (tensor, shape) in enumerate(expected_shapes(config).items())
    }
    return Checkpoint(Path(name), config, tensors, _no_tokenizer, "random weights")


def _random_tiles(shape: tuple[int, ...], seed: int) -> Callable[[], Iterator[HostArray]]:
    columns = shape[1] if len(shape) > 1 else 1
    rows = max(1, TILE_ELEMENTS // columns)
    # This spread keeps activations of any width within float16's range.
    spread = np.float32(2 / columns**0.5)

    def tiles() -> Iterator[HostArray]:
        generator = np.random.default_rng(seed)
        for start in range(0, shape[0], rows):
            tile = generator.random((min(rows, shape[0] - start), *shape[1:]), dtype=np.float32)
            yield (tile - np.float32(0.5)) * spread

    return tiles


def _no_tokenizer() -> NoReturn:
    raise NoTokenizerError("a model of random weights has no tokenizer; give token ids")
