"""A command whose arguments are running text: `cullama chat "-5 + 3?"`, `cullama story A llama`.

Text may begin with a dash, and may follow -p, as llama.cpp has it. What is spelled as an option
stays one, misspelled ones too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

import click

from .dialect import answer

SPELLED_AS_OPTION = re.compile(r"-[a-zA-Z]\S*|--[^\s\d=][^\s=]*(=.*)?", re.DOTALL)

PROMPT_OPTIONS = ("-p", "--prompt")  # by which llama.cpp takes its text


class TextCommand(click.Command):
    """Hands click the options first, then all texts behind `--`, which it takes as they are."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        takes_value = {
            name: isinstance(option, click.Option) and not option.is_flag
            for option in self.get_params(ctx)
            for name in (*option.opts, *option.secondary_opts)
        }
        options: list[str] = []
        texts: list[str] = []
        rest = iter(args)
        for word in rest:
            if word == "--":
                texts += rest
            elif word in PROMPT_OPTIONS and word not in takes_value:
                texts += islice(rest, 1)
            elif not _is_option(word, takes_value):
                texts.append(word)
            elif word not in takes_value and (elsewhere := answer([word])):
                raise click.UsageError(elsewhere, ctx)  # or -ngl would be read as -n gl
            else:
                options.append(word)
                if _awaits_value(word, takes_value):
                    options += islice(rest, 1)
        return super().parse_args(ctx, [*options, *(["--", *texts] if texts else [])])


def _is_option(word: str, known: dict[str, bool]) -> bool:
    return word[:2] in known or SPELLED_AS_OPTION.fullmatch(word) is not None


def _awaits_value(word: str, takes_value: dict[str, bool]) -> bool:
    """Whether the next word is this option's value, as behind `-n`, `-qn` and `--seed`."""
    if word.startswith("--"):
        return takes_value.get(word, False)
    flags: Sequence[str] = [f"-{letter}" for letter in word[1:]]
    with_value = [index for index, flag in enumerate(flags) if takes_value.get(flag, False)]
    return with_value[:1] == [len(flags) - 1]
