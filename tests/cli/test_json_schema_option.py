"""`--json-schema` of story and chat, in real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import CommandLine

SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": [1, 22]}},
    "required": ["a"],
    "additionalProperties": False,
}
SHORT = ("-n", "40", "--seed", "1", "--backend", "cpu:numpy")


@pytest.mark.parametrize("is_file", [True, False])
def test_a_story_is_json_under_the_schema(
    cullama_command: CommandLine, tiny_model: Path, tmp_path: Path, is_file: bool
) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA), encoding="utf-8")
    option = ("--json-schema", path if is_file else json.dumps(SCHEMA))
    done = cullama_command("story", "-m", tiny_model, "--json", "-q", *option, *SHORT, "Once")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert json.loads(told["text"])["a"] in (1, 22)
    assert (told["finish_reason"], told["stop_reason"]) == ("stop", None)


def test_a_chat_answers_in_json_under_the_schema(
    cullama_command: CommandLine, chat_model: Path
) -> None:
    option = ("--json-schema", json.dumps(SCHEMA))
    done = cullama_command("chat", "-m", chat_model, "-q", *option, *SHORT, "Once?")
    assert done.code == 0, done.err
    assert json.loads(done.out)["a"] in (1, 22)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("/nowhere/schema.json", "cannot be read"),
        ('{"not": {}}', "the keyword 'not' is not supported"),
        ('{"type": ', "is not JSON"),
        ('{"type": "integer", "minimum": 2, "maximum": 1}', "minimum"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_misuse(
    cullama_command: CommandLine, tiny_model: Path, schema: str, words: str
) -> None:
    done = cullama_command("story", "-m", tiny_model, "-q", "--json-schema", schema, *SHORT)
    assert done.code == 2
    assert words in done.err
    assert len(done.err.splitlines()) == 1
