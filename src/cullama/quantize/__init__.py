"""A model written anew, as a GGUF file of another type, and what that costs.

    conversion.py        the whole of it: a checkpoint becomes a file
    plan.py              each tensor's name in the file, its type, the order of its rows
    rows.py              a tensor's rows as the bytes of that type
    model_fields.py      the model's shape in GGUF's words
    tokenizer_fields.py  its tokenizer and chat template in GGUF's words
    tokenizer_equivalence.py  whether that tokenizer reads as the model's does
    file.py              the file on its way to the disk
    loss.py              source and file on one text: how far they lie apart
    sample.py            that text

Reading such a file is `cullama.checkpoint`'s.
"""

from ..choices import GGUF_TYPES as TYPES
from .conversion import Quantized, file_name, quantize
from .loss import measured_loss
from .sample import sample_text

__all__ = ["TYPES", "Quantized", "file_name", "measured_loss", "quantize", "sample_text"]
