"""Compares two settings operator by operator, for one prompt.

    side.py         a model, and how the prompt is batched and chunked
    storage.py      a backend's storage type, and its tolerance
    figures.py      errors between two results of one operator
    logits.py       divergence between two sides' logits
    recording.py    runs the first side and keeps its results, then runs the second and compares
    section.py      the errors of an operator, and of a layer
    comparison.py   the result: where the sides differ, the verdict
    report.py       tables for terminals and notebooks, and an HTML page

The operators' results come from `cullama.inspect.instrumented`; no file names a backend.
"""

from .comparison import Comparison
from .recording import Recording, compare, record
from .side import Side, two_sides

__all__ = ["Comparison", "Recording", "Side", "compare", "record", "two_sides"]
