"""The filters that make a text: cases, padding, lines, cutting, quoting, markup, JSON.

Each pays the budget for the longest text it could make, then does what jinja2's filter of its name
does; `tojson` does what transformers' does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pprint import pformat
from types import GeneratorType
from typing import Any

from jinja2 import Undefined, pass_context
from jinja2.filters import FILTERS
from markupsafe import Markup

from ..escape import mark_escapes, restore_split
from .budget import REPR_GROWTH, Budget, Lists, Scalars, describe, refuse
from .context import RenderContext, TemplateFunction, with_budget
from .methods import MARKUP_GROWTH, escaped, replace
from .values import percent_format

MAX_INDENT = 16  # characters of an indentation in JSON, and of its separators
JSON_GROWTH = 12  # characters for one: an emoji becomes \ud83e\udd99
QUOTE_GROWTH = 12  # characters for one in a URL: an emoji becomes %F0%9F%A6%99


# --- cases and white space


def _cased(name: str) -> TemplateFunction:
    def cased(budget: Budget, value: Any) -> str:
        text = budget.text_of(value)
        changed: str = getattr(text, name)()
        return changed

    return with_budget(cased)


def do_title(budget: Budget, value: Any) -> str:
    text = budget.text_of(value)
    budget.spend(len(text))  # jinja2 splits the text into words
    return FILTERS["title"](text)


def do_trim(budget: Budget, value: Any, chars: str | None = None) -> str:
    text = budget.text_of(value)
    budget.spend_search(text, chars)
    return text.strip(chars)


def do_center(budget: Budget, value: Any, width: int = 80) -> str:
    text = budget.text_of(value)
    budget.spend_text(max(len(text), width))
    return text.center(width)


def do_indent(
    budget: Budget, text: str, width: int | str = 4, first: bool = False, blank: bool = False
) -> str:
    if not isinstance(text, str):
        refuse(f"indents {describe(text)}, expected a text")
    wide = len(width) if isinstance(width, str) else max(width, 0)
    budget.spend_text(len(text))
    lines = len(text.splitlines()) if len(text) <= budget.left else budget.left
    budget.spend((lines + 1) * (1 + wide // 8))
    return FILTERS["indent"](text, width, bool(first), bool(blank))


# --- cutting and replacing


def do_replace(budget: Budget, value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, before, after = (str(budget.text_of(it)) for it in (value, old, new))
    return replace(budget, text, before, after, -1 if count is None else count)


def do_truncate(context: RenderContext, value: Any, *options: Any, **named: Any) -> Any:
    if isinstance(value, str):
        context.budget.spend_on([value, *options, *named.values()], growth=MARKUP_GROWTH)
    elif not isinstance(value, (*Lists, dict, Undefined)):
        refuse(f"truncates {describe(value)}, expected a text or a list")
    return FILTERS["truncate"](context.environment, value, *options, **named)


def do_wordwrap(
    context: RenderContext,
    value: str,
    width: int = 79,
    break_long_words: bool = True,
    wrapstring: str | None = None,
    break_on_hyphens: bool = True,
) -> str:
    budget = context.budget
    between = "\n" if wrapstring is None else wrapstring
    budget.spend(4 * len(value))
    # Breaking a word copies the rest of it once for each line.
    longest = max(map(len, value.split()), default=0)
    budget.spend_text(longest * longest // max(width, 1))
    budget.spend_text(len(between) * MARKUP_GROWTH * (len(value) + 1))
    return FILTERS["wordwrap"](
        context.environment, value, width, bool(break_long_words), between, bool(break_on_hyphens)
    )


def do_wordcount(budget: Budget, value: Any) -> int:
    text = budget.text_of(value)
    budget.spend(len(text))
    return FILTERS["wordcount"](text)


def do_format(budget: Budget, text: str, *values: Any, **named: Any) -> str:
    if values and named:
        refuse("formats a text with values and named values at once")
    return percent_format(budget, budget.text_of(text), named or values)


# --- markup


def do_safe(budget: Budget, value: Any) -> Markup:
    return Markup(budget.text_of(value))


def do_force_escape(budget: Budget, value: Any) -> Markup:
    return escaped(budget, str(budget.text_of(value)))


def do_strip_tags(budget: Budget, value: Any) -> str:
    text = str(budget.text_of(value))
    budget.spend(len(text))
    # An unclosed tag is searched for once for each that is open.
    budget.spend_text(len(text) * (1 + text.count("<")))
    return Markup(text).striptags()


# --- for other readers


def do_url_encode(budget: Budget, value: Any) -> str:
    if not isinstance(value, Scalars):
        value = value if isinstance(value, dict) else budget.listed(value)
    budget.spend_on(value, growth=QUOTE_GROWTH)
    budget.spend_on(value, growth=QUOTE_GROWTH)
    return FILTERS["urlencode"](value)


def do_pprint(budget: Budget, value: Any) -> str:
    budget.spend_on(value, growth=REPR_GROWTH)  # so that it has an end
    # Each level of a value is printed once more, to see whether it fits on a line.
    for _ in range(2 * (1 + _depth(value))):
        budget.spend_on(value, growth=REPR_GROWTH, indent=1)
    return restore_split(pformat(value))


def _depth(value: Any) -> int:
    if not isinstance(value, (*Lists, dict)):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)


def do_to_json(
    budget: Budget,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(value, GeneratorType):  # as in llama.cpp; jinja2's `map` fails here
        value = budget.listed(value)
    wide = len(indent) if isinstance(indent, str) else indent or 0
    budget.spend_on(separators)
    between = sum(len(it) for it in separators or ())
    if not wide <= MAX_INDENT or between > MAX_INDENT:
        refuse(f"indents or separates JSON by more than {MAX_INDENT} characters")
    budget.spend_on(value, growth=JSON_GROWTH if ensure_ascii else 2, indent=wide + between)
    text = json.dumps(
        value,
        ensure_ascii=bool(ensure_ascii),
        indent=indent,
        separators=separators,
        sort_keys=bool(sort_keys),
    )
    return restore_split(text) if ensure_ascii else text


def do_from_json(budget: Budget, text: str) -> Any:
    """Parse JSON, as llama.cpp's templates may; jinja2 has no such filter."""
    budget.spend(len(text))
    return json.loads(mark_escapes(text))


TEXT_FILTERS: Mapping[str, TemplateFunction] = {
    **{name: _cased(name) for name in ("upper", "lower", "capitalize")},
    **dict.fromkeys(("escape", "e"), with_budget(escaped)),
    "center": with_budget(do_center),
    "forceescape": with_budget(do_force_escape),
    "format": with_budget(do_format),
    "from_json": with_budget(do_from_json),
    "indent": with_budget(do_indent),
    "pprint": with_budget(do_pprint),
    "replace": with_budget(do_replace),
    "safe": with_budget(do_safe),
    "string": with_budget(Budget.text_of),
    "striptags": with_budget(do_strip_tags),
    "title": with_budget(do_title),
    "tojson": with_budget(do_to_json),
    "trim": with_budget(do_trim),
    "truncate": pass_context(do_truncate),
    "urlencode": with_budget(do_url_encode),
    "wordcount": with_budget(do_wordcount),
    "wordwrap": pass_context(do_wordwrap),
}
