"""Running text on the command line: without quotation marks, with dashes, beside options."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from cullama.cli.options import unescaped
from cullama.cli.text_command import TextCommand


@click.command(cls=TextCommand)
@click.argument("words", nargs=-1)
@click.option("-s", "--seed", type=int)
@click.option("-q", "--quiet", is_flag=True)
@click.option("--system")
@click.option("--bold/--no-bold", default=True)
def command(**given: object) -> None:
    click.echo(repr(sorted(given.items())))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["A", "llama", "walked"], {"words": ("A", "llama", "walked")}),
        (["-5 + 3?"], {"words": ("-5 + 3?",)}),
        (["-5", "+", "3?"], {"words": ("-5", "+", "3?")}),
        (["-.5 rounded"], {"words": ("-.5 rounded",)}),
        (["- a\n- list"], {"words": ("- a\n- list",)}),
        (["-i do not know"], {"words": ("-i do not know",)}),
        (["--no way, he said"], {"words": ("--no way, he said",)}),
        (["—dash"], {"words": ("—dash",)}),
        (["-"], {"words": ("-",)}),
        (["-5 + 3?", "-s", "-7"], {"words": ("-5 + 3?",), "seed": -7}),
        (["-qs", "7", "-3?"], {"words": ("-3?",), "seed": 7, "quiet": True}),
        (["-s7", "a", "-q"], {"words": ("a",), "seed": 7, "quiet": True}),
        (["--seed=7", "a"], {"words": ("a",), "seed": 7}),
        (["--system", "-5 is cold", "hm"], {"words": ("hm",), "system": "-5 is cold"}),
        (["--system=Be brief.", "hm"], {"words": ("hm",), "system": "Be brief."}),
        (["--no-bold", "hm"], {"words": ("hm",), "bold": False}),
        (["a", "--", "-q", "--seed"], {"words": ("a", "-q", "--seed")}),
    ],
)
def test_text_may_stand_anywhere_and_begin_with_a_dash(
    arguments: list[str], expected: dict[str, object]
) -> None:
    blank = {"words": (), "seed": None, "quiet": False, "system": None, "bold": True}
    result = CliRunner().invoke(command, arguments)
    assert result.output == f"{sorted((blank | expected).items())!r}\n"


@pytest.mark.parametrize("word", ["--sytem=Be brief.", "--quit", "-x", "-xyz"])
def test_a_misspelled_option_is_an_error_and_no_text(word: str) -> None:
    result = CliRunner().invoke(command, ["hm", word])
    assert result.exit_code == 2
    assert "No such option" in result.output


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (r"\n", "\n"),
        (r"\n\n\t", "\n\n\t"),
        (r"\\n", r"\n"),
        (r"end\u2026\x21", "end…!"),
        (r"C:\data", r"C:\data"),
        ("END", "END"),
        ("\\", "\\"),
    ],
)
def test_escapes_in_a_stop_text_are_read(text: str, meant: str) -> None:
    assert unescaped(text) == meant
