"""What a model's files hold, whatever their format: config, tensors, tokenizer, chat template.

Tensors carry Hugging Face's names. It reads no weights by itself, and works for any backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.tensor import StoredTensor
from ..model.config import ModelConfig

if TYPE_CHECKING:
    import tokenizers

    from ..chat.template import ChatTemplate


@dataclass(frozen=True)
class Checkpoint:
    """An opened model; nothing after it depends on the format of the files."""

    path: Path
    config: ModelConfig
    tensors: dict[str, StoredTensor]  # exactly those that the config requires
    load_tokenizer: Callable[[], tokenizers.Tokenizer]  # raises NoTokenizerError
    format_name: str  # shown to users: "safetensors BF16", "GGUF Q4_1"
    files: tuple[Path, ...] = ()  # that hold the tensors
    # Identifies the bytes of a file whose weights are costly to convert, so that a backend can
    # cache the converted ones; None where reading them again is as fast.
    conversion_key: str | None = None
    # Returns None where there is none; raises ChatTemplateError where it cannot be used.
    load_chat_template: Callable[[], ChatTemplate | None] = lambda: None
    # The variables that templates may use: {"bos_token": "<s>", …}.
    template_names: Callable[[], Mapping[str, str]] = dict
    # What its makers recommend, under the names of `SamplingParams`.
    sampling_defaults: Mapping[str, Any] = field(default_factory=dict)


def most_common_dtype(tensors: dict[str, StoredTensor]) -> str:
    """Return the type of most elements, as the file spells it."""
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
    return max(sizes, key=lambda kind: sizes[kind])
