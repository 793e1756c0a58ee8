"""What the pages take from the program itself while the site is built, so that it cannot go stale.

    <!-- commands -->             each command and what it is for
    <!-- synopsis: chat -->       how it is called
    <!-- options: bench serve --> its options, grouped as the program groups them
    <!-- conversation -->         what can be said in `cullama chat` to the program
    <!-- errors -->               the tree of errors
    <!-- files -->                every file of the package, and the first line of its docstring

A line that holds nothing but one of these becomes what it names. mkdocs calls `on_page_markdown`
for each page; click is asked for the rest. It knows no command by name.

After the build, the search index is written a second time as a script: a page that is opened from
the disk may not fetch JSON.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from cullama import errors
from cullama.cli import COMMANDS, cli, options
from cullama.cli.chat.commands import ARGUMENTS, Commands, method_name
from cullama.notebook.page import mark_element

PACKAGE = Path(errors.__file__).parent
MARK = re.compile(r"^<!-- (?P<what>\w+)(?:: (?P<name>[\w ]+))? -->$", re.MULTILINE)
GROUPS = {"Model and device": options.model_options, "Sampling": options.sampling_options}


def on_page_markdown(markdown: str, **given: Any) -> str:
    return MARK.sub(lambda mark: MAKERS[mark["what"]](mark["name"] or ""), markdown)


def on_post_page(output: str, **given: Any) -> str:
    """Draw the mark in the page, where it takes the accent of the theme that is shown."""
    return re.sub(r'<img src="[^"]*mark\.svg"[^>]*>', mark_element(), output)


def on_post_build(config: Any) -> None:
    index = Path(config["site_dir"], "search", "search_index.json")
    index.with_suffix(".js").write_text(f"var __index = {index.read_text('utf-8')}", "utf-8")


def command_named(name: str) -> tuple[click.Command, click.Context]:
    """`bench serve` is a command within a command."""
    first, *rest = name.split()
    command: click.Command = import_module(f"cullama.cli.{first}").command
    whole = click.Context(cli, info_name="cullama", **cli.context_settings)
    context = click.Context(command, info_name=first, parent=whole)
    for word in rest:
        assert isinstance(command, click.Group)
        command = command.commands[word]
        context = click.Context(command, info_name=word, parent=context)
    return command, context


def synopsis(name: str) -> str:
    command, context = command_named(name)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    return f"```text\n{usage}\n```"


def options_of(name: str) -> str:
    command, context = command_named(name)
    rest = [option for option in command.params if isinstance(option, click.Option)]
    parts = []
    for title, stack in GROUPS.items():
        shared = _names_in(stack)
        group = [option for option in rest if option.name in shared]
        if len(group) == len(shared):  # else the command has options of its own that look alike
            rest = [option for option in rest if option not in group]
            parts.append(_titled(title, group, context))
    own = "Of this command" if parts else ""
    return "\n".join([_titled(own, rest, context), *parts])


def _names_in(stack: Callable[[Callable[..., Any]], Callable[..., Any]]) -> set[str]:
    """What a stack of shared options adds to a command."""

    def blank() -> None: ...

    return {option.name for option in stack(blank).__click_params__}  # type: ignore[attr-defined]


def _titled(title: str, group: list[click.Option], context: click.Context) -> str:
    items = "\n".join(_item(option, context) for option in group)
    head = f'<p class="options-title">{title}</p>\n' if title else ""
    return f'{head}<dl class="options">\n{items}\n</dl>\n'


def _item(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    assert record is not None, f"{option.name} is hidden"
    spelling, meaning = record
    longest = max(option.opts, key=len)
    return f'<dt id="{longest}"><code>{escape(spelling)}</code></dt><dd>{_as_html(meaning)}</dd>'


def _as_html(text: str) -> str:
    """What click says of default and range, in brackets at the end, stands back; words in
    backquotes are code."""
    said = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    said, brackets = re.fullmatch(r"(.*?)((?:\s*\[[^\[\]]*\])*)", said, re.DOTALL).groups()  # type: ignore[union-attr]
    notes = re.findall(r"\[([^\]]*)\]", brackets)
    return said + "".join(f' <span class="default">{note}</span>' for note in notes)


def commands(_: str) -> str:
    lines = ["| command | |", "|---|---|"]
    for name in _every_command():
        page = name.replace(" ", "-")
        short = command_named(name)[0].get_short_help_str(100)
        lines.append(f"| [`cullama {name}`]({page}.md) | {short} |")
    return "\n".join(lines)


def _every_command() -> Iterator[str]:
    for name in COMMANDS:
        yield name
        command, _ = command_named(name)
        yield from (f"{name} {inner}" for inner in getattr(command, "commands", ()))


def conversation(_: str) -> str:
    lines = ["| command | |", "|---|---|"]
    for name, takes in ARGUMENTS.items():
        meaning = (getattr(Commands, method_name(name)).__doc__ or "").partition("\n")[0]
        lines.append(f"| `{f'{name} {takes}'.rstrip()}` | {meaning} |")
    return "\n".join(lines)


def error_tree(_: str) -> str:
    lines = (errors.__doc__ or "").splitlines()
    tree = [line.removeprefix("    ") for line in lines if line.startswith("    ")]
    return "\n".join(["```console", *tree, "```"])


def error_classes(_: str) -> str:
    names = [name for name, value in vars(errors).items() if isinstance(value, type)]
    return "\n\n".join(f"::: cullama.errors.{name}" for name in names)


def files(_: str) -> str:
    """A table for each folder, those at the top of the package last."""
    folders: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        first = escape(" ".join(text.partition("\n\n")[0].split())).replace("|", "&#124;")
        folder = path.parent.relative_to(PACKAGE).as_posix()
        if path.stem not in ("__init__", "__main__"):
            folders.setdefault(folder, []).append(f"| `{path.name}` | {first} |")
    tables = []
    for folder, rows in sorted(folders.items(), key=lambda each: (each[0] == ".", each[0])):
        title = "cullama" if folder == "." else folder
        tables.append("\n".join([f"| `{title}/` | |", "|---|---|", *rows]))
    return "\n\n".join(tables)


MAKERS: dict[str, Callable[[str], str]] = {
    "commands": commands,
    "synopsis": synopsis,
    "options": options_of,
    "conversation": conversation,
    "errors": error_tree,
    "error_classes": error_classes,
    "files": files,
}
