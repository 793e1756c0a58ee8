"""Writes a model as a GGUF file of another type, and measures what that loses.

    conversion.py             a checkpoint becomes a file
    plan.py                   each tensor's name in the file, its type, the order of its rows
    rows.py                   a tensor's rows encoded in that type
    model_fields.py           the model's shape as GGUF metadata
    tokenizer_fields.py       its tokenizer and chat template as GGUF metadata
    tokenizer_equivalence.py  whether that tokenizer encodes as the model's own does
    file.py                   writes the file, whole or not at all
    loss.py                   divergence between source and file on a text
    sample.py                 that text

Such files are read by `cullama.checkpoint`.
"""

from ..model.choices import GGUF_TYPES as TYPES
from .conversion import Quantized, file_name, quantize
from .loss import measured_loss
from .sample import sample_text

__all__ = ["TYPES", "Quantized", "file_name", "measured_loss", "quantize", "sample_text"]
