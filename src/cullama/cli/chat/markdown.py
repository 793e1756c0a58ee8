"""Renders an answer's markdown so that what is selected on the screen is the answer's text.

rich pads every line to the width of the terminal, centres titles, and indents lists and code; here
nothing is padded or indented, and the terminal itself breaks long lines of code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import BlockQuote, CodeBlock, Heading, ListItem, Markdown, TableElement
from rich.segment import Segment, Segments
from rich.style import Style
from rich.syntax import Syntax
from rich.table import Table


def print_markdown(console: Console, text: str) -> None:
    """Print text as markdown. A link shows its address: the text is not trusted."""
    markdown = AnswerMarkdown(text, hyperlinks=False, code_theme="ansi_dark")
    lines = Segment.split_lines(console.render(markdown))
    newline = Segment("\n")
    rendered = [segment for line in lines for segment in (*_without_end_spaces(line), newline)]
    console.print(Segments(rendered), crop=False, end="")


class _Title(Heading):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.text


class _Code(CodeBlock):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = Syntax("", self.lexer_name, theme=self.theme).highlight(str(self.text).rstrip())
        text.rstrip()
        text.no_wrap, text.overflow = True, "ignore"
        yield text


class _Item(ListItem):
    def render_bullet(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return self._behind("• ", "markdown.item.bullet", console, options)

    def render_number(
        self, console: Console, options: ConsoleOptions, number: int, last_number: int
    ) -> RenderResult:
        return self._behind(f"{number}. ", "markdown.item.number", console, options)

    def _behind(
        self, mark: str, style_name: str, console: Console, options: ConsoleOptions
    ) -> Iterator[Segment]:
        first = Segment(mark, console.get_style(style_name, default="none"))
        others = Segment(" " * len(mark))
        return _marked(first, others, self.elements, self.style, console, options)


class _Quote(BlockQuote):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        mark = Segment("▌ ", self.style)
        return _marked(mark, mark, self.elements, self.style, console, options)


class _Table(TableElement):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            assert isinstance(table, Table)
            table.show_edge = False
            yield table


class AnswerMarkdown(Markdown):
    elements = {  # noqa: RUF012  (as rich has it)
        **Markdown.elements,
        "heading_open": _Title,
        "fence": _Code,
        "code_block": _Code,
        "list_item_open": _Item,
        "blockquote_open": _Quote,
        "table_open": _Table,
    }


def _marked(
    first: Segment,
    others: Segment,
    elements: RenderableType,
    style: Style,
    console: Console,
    options: ConsoleOptions,
) -> Iterator[Segment]:
    """Yield rendered elements with a mark before each line."""
    width = max(1, options.max_width - len(first.text))
    segments = console.render(elements, options.update(width=width))
    mark = first
    for line in Segment.split_lines(Segment.apply_style(segments, style)):
        yield mark
        yield from line
        yield Segment("\n")
        mark = others


def _without_end_spaces(line: Iterable[Segment]) -> list[Segment]:
    kept: list[Any] = [*line]
    while kept:
        text, style, _ = kept[-1]
        if text.rstrip(" "):
            return [*kept[:-1], Segment(text.rstrip(" "), style)]
        kept.pop()
    return kept
