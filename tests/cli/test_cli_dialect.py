"""What other programs call by another name is answered with the name here."""

from __future__ import annotations

import pytest

from cullama.cli import COMMANDS, run
from cullama.cli.dialect import COMMANDS_ELSEWHERE


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run", "there is no command 'run'; here it is chat, with -m MODEL"),
        ("list", "there is no command 'list'; here it is models"),
        ("chta", "there is no command 'chta'; did you mean chat?"),
        ("xyzzy", "there is no command 'xyzzy', expected one of chat, story, serve"),
    ],
)
def test_a_command_that_does_not_exist_is_answered_with_the_one_that_was_meant(
    capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    assert run([name, "llama3"]) == 2
    assert capsys.readouterr().err.startswith(f"cullama: {words}")


def test_commands_of_other_programs_are_none_of_ours_and_answered_with_ours() -> None:
    assert not {*COMMANDS_ELSEWHERE} & {*COMMANDS}
    assert {answer.split()[0].rstrip(",") for answer in COMMANDS_ELSEWHERE.values()} <= {*COMMANDS}
