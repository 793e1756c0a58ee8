"""The mark that splits a control token which a message spells, and how it stays one mark.

Templates join, cut and print texts as they like; the mark inside a token keeps them from putting it
together again. It is removed before encoding.
"""

from __future__ import annotations

import re

# U+FDD0 is a noncharacter, which no text meant for interchange contains; in a message it becomes
# U+FFFD.
SPLIT, REPLACEMENT = "\ufdd0", "\ufffd"

_WRITTEN = re.compile(r"(?<!\\)((?:\\\\)*)\\ufdd0")


def restore_split(text: str) -> str:
    r"""Return a text printed by `repr` or as ASCII JSON, in which the mark became \ufdd0."""
    return _WRITTEN.sub(r"\1" + SPLIT, text) if "\\ufdd0" in text else text


# An escape in JSON; those of signs end with the mark, and are told from halves of pairs.
_ESCAPE = re.compile(r"\\(?:(?P<sign>/|u(?!00[01]|0020|[dD][89abAB])[0-9a-fA-F]{4})|.)", re.DOTALL)


def mark_escapes(json: str) -> str:
    r"""Return JSON with the mark behind each sign that it escapes, white space aside.

    A text that is read from it spells no control token by them, as `\\u003c/s>` would.
    """
    return _ESCAPE.sub(lambda found: found[0] + SPLIT * bool(found["sign"]), json)
