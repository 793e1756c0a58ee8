"""Two settings side by side: the same prompt through both, compared operator by operator.

    side.py         a model, and how the prompt goes through it: in company, in pieces
    storage.py      which storage type a backend keeps, and what may be expected of it
    figures.py      how far two results of one operator lie apart
    logits.py       how far two predictions lie apart
    recording.py    one side on record, the other held against it
    comparison.py   what came of it: the first place where they part, the verdict
    report.py       as a table, for notebooks, and as a page that needs nothing else

What each operator gives comes from `cullama.inspect.watching`; no file knows a backend by name.
"""

from .comparison import Comparison
from .recording import Recording, compare, record
from .side import Side, two_sides

__all__ = ["Comparison", "Recording", "Side", "compare", "record", "two_sides"]
