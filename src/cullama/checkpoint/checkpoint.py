"""What a model's files hold, whatever their format: nobody asks for the format after this.

It knows config, tensors by Hugging Face's names, and how to get at the tokenizer. It knows no
backend, and reads no weights by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.tensor import StoredTensor
from ..model.config import ModelConfig

if TYPE_CHECKING:
    import tokenizers

    from ..chat.template import ChatTemplate


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    config: ModelConfig
    tensors: dict[str, StoredTensor]  # exactly those the config asks for
    load_tokenizer: Callable[[], tokenizers.Tokenizer]  # raises NoTokenizerError
    format_name: str  # for people: "safetensors BF16", "GGUF Q4_1"
    # Names the very bytes of a file whose weights are costly to convert, so that a backend may
    # keep the converted ones; None where reading them again is as good.
    conversion_key: str | None = None
    # None where it has none; raises ChatTemplateError where it has one that cannot be used.
    load_chat_template: Callable[[], ChatTemplate | None] = lambda: None
    # What templates may name: {"bos_token": "<s>", …}.
    template_names: Callable[[], Mapping[str, str]] = dict


def most_common_dtype(tensors: dict[str, StoredTensor]) -> str:
    """The type that holds most elements, as the file spells it."""
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
    return max(sizes, key=lambda kind: sizes[kind])
