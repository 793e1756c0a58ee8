"""Examines the model that `--model` names: whether its files can be read, and its sizes.

Its tokenizer is loaded, too, which tells whether it can be used; its weights are not.
"""

from __future__ import annotations

from ..checkpoint.opening import open_checkpoint
from ..errors import CullamaError, NoTokenizerError
from ..files.tensor import DTYPES
from ..hub import resolve_model
from ..inspect.operators.fixture import MODEL, ModelSizes
from ..model.config import ModelConfig
from .findings import Fact, failing
from .host import gigabytes
from .stored import damaged_blobs


def examine_model(name: str) -> tuple[Fact, ModelSizes]:
    """Return a fact about a model, and its sizes: the default model's if it cannot be read."""
    try:
        checkpoint = open_checkpoint(resolve_model(name))
        try:
            tokens = checkpoint.load_tokenizer().get_vocab_size()
        except NoTokenizerError:
            tokens = None
    except CullamaError as error:
        remedy = "name another with --model, or fetch this one again"
        return failing("model", str(error), "a model that cullama runs", remedy), MODEL
    damaged = damaged_blobs(checkpoint.files)
    if damaged:
        found = f"{damaged[0]} is not what its hash in the hub's cache says, so it is damaged"
        remedy = "remove it with `cullama models --remove`, and fetch it again"
        return failing("model", found, "the bytes that the hub has", remedy), MODEL
    config = checkpoint.config
    path = str(checkpoint.path)
    sizes = {dtype: config.parameters * kind.itemsize for dtype, kind in DTYPES.items()}
    words = [path, config.architecture, f"{config.parameters / 1e6:,.1f} million parameters"]
    words.append(
        f"{gigabytes(sizes['float32'])} as float32, {gigabytes(sizes['float16'])} in 16 bits"
    )
    words.append("no tokenizer: token ids only" if tokens is None else f"{tokens:,} tokens")
    details = {
        "path": path,
        "parameters": config.parameters,
        "weight_bytes": sizes,
        "tokens": tokens,
    }
    return Fact("model", " · ".join(words), details), _sizes(checkpoint.path.name, config)


def _sizes(name: str, config: ModelConfig) -> ModelSizes:
    """Return a model's sizes, with the default model's numbers of tokens up to its context."""
    return ModelSizes(
        name=name,
        hidden=config.hidden_size,
        inner=config.intermediate_size,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        vocabulary=config.vocab_size,
        rows=min(MODEL.rows, config.context_length),
        context=min(MODEL.context, config.context_length),
        long_context=min(MODEL.long_context, config.context_length),
    )
