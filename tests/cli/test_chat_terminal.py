"""`cullama chat` at a real pseudo-terminal: ten turns, every command, Ctrl-C and Ctrl-D."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import pytest
from terminal import Terminal

StartChat: TypeAlias = Callable[..., Terminal]

LETTERS = range(67, 93)  # the tiny tokenizer's a to z, which a random model writes if asked to
PLAIN = [f"--logit-bias={letter}=100" for letter in LETTERS]
READ = re.compile(r"read (\d+) new tokens of (\d+) in .*? wrote (\d+),")


@pytest.fixture
def start_chat(cullama_command: Any, chat_model: Path, tmp_path: Path) -> Iterator[StartChat]:
    started: list[Terminal] = []

    def start(
        *arguments: str,
        model: Path | None = chat_model,
        environment: Mapping[str, str] = MappingProxyType({}),
        **size: int,
    ) -> Terminal:
        named = () if model is None else ("-m", model)
        options = (*named, "-q", "-t", "0", "-n", "8", *PLAIN, *arguments)
        terminal = Terminal(
            cullama_command.command("chat", *options),
            cullama_command.environment(
                {
                    "XDG_STATE_HOME": str(tmp_path / "state"),
                    "XDG_DATA_HOME": str(tmp_path / "data"),
                    **environment,
                }
            ),
            **size,
        )
        started.append(terminal)
        return terminal

    yield start
    for terminal in started:
        terminal.kill()


def reads(terminal: Terminal) -> list[tuple[int, int, int]]:
    """New tokens, tokens of the prompt, tokens written: of each turn so far."""
    text = terminal.text().replace("\n", " ")
    return [(int(new), int(all_), int(wrote)) for new, all_, wrote in READ.findall(text)]


def ask(terminal: Terminal, question: str, turns: int) -> None:
    terminal.say(question)
    terminal.wait_until(lambda: len(reads(terminal)) >= turns, f"turn {turns}")


def test_ten_turns_and_every_command_work(start_chat: StartChat, tmp_path: Path) -> None:
    terminal = start_chat("--stats")
    terminal.wait_for("Ctrl-D leaves")
    for turn in range(1, 11):
        ask(terminal, f"question number {turn}", turn)
    figures = reads(terminal)
    for (_, before, wrote), (new, prompt, _) in pairwise(figures):
        assert new == prompt - (before + wrote - 1)  # the last token was never fed back

    terminal.say("/help")
    terminal.wait_for("Put the last answer into the clipboard")
    terminal.say("/stats")
    terminal.wait_for(r"turns +10 in this conversation")
    terminal.say("/set temperature")
    terminal.wait_for(r"temperature +0\.0")
    terminal.say("/set top_k 5")
    terminal.wait_for(r"top_k +5  \*")
    terminal.say("/tokens")
    terminal.wait_for(r"<\|begin\|>0 <\|user\|>2 ")
    terminal.say("/undo 2")
    terminal.wait_for("taken back: question number 9\n.*taken back: question number 10")
    ask(terminal, "another ninth", 11)
    terminal.say("/retry")
    terminal.wait_until(lambda: len(reads(terminal)) >= 12, "another answer")
    assert reads(terminal)[-1][0] == 1  # of the prompt only the last token is read again
    ask(terminal, "/edit a better ninth", 13)
    terminal.say("/system Be brief.")
    terminal.wait_for("system: Be brief.")
    terminal.say(f"/save {tmp_path}/talk.json")
    terminal.wait_for("saved 9 turns")
    terminal.say("/reset")
    terminal.wait_for("a new conversation")
    terminal.say(f"/load {tmp_path}/talk.json")
    terminal.wait_for("> a better ninth\n(.*\n)+9 turns so far")
    terminal.say("/copy")
    terminal.wait_for("copied 8 characters")
    terminal.say("/model")
    terminal.wait_for("tiny-chat · safetensors F32")
    terminal.say("/quit")
    assert terminal.end() == 0

    saved = json.loads((tmp_path / "talk.json").read_text())
    questions = [m["content"] for m in saved["messages"] if m["role"] == "user"]
    assert questions == [*(f"question number {n}" for n in range(1, 9)), "a better ninth"]
    assert saved["messages"][0] == {"role": "system", "content": "Be brief."}
    assert saved["params"]["top_k"] == 5
    [copied] = re.findall("\x1b\\]52;c;([^\x07]+)\x07", terminal.raw)
    assert base64.b64decode(copied).decode() == saved["messages"][-1]["content"]


def test_edit_puts_the_last_question_into_the_line(start_chat: StartChat) -> None:
    terminal = start_chat("--stats")
    ask(terminal, "hallo", 1)
    terminal.say("/edit")
    terminal.wait_for("> hallo *\n(?:.*\n)+> hallo")
    ask(terminal, " there", 2)
    terminal.say("/tokens")
    terminal.wait_for("llo")
    terminal.send("\x04")
    assert terminal.end() == 0
    assert "> hallo there" in terminal.text()


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("/rest", "there is no /rest; did you mean /reset?"),
        ("/frobnicate", "there is no /frobnicate; /help lists those there are"),
        ("/help me", "/help takes no argument, found 'me'"),
        ("/undo", "nothing has been asked yet"),
        ("/undo 5", "nothing has been asked yet"),
        ("/undo many", "/undo takes a number of turns, found 'many'"),
        ("/undo -1", "/undo takes a number of turns, found '-1'"),
        ("/undo " + "9" * 40, "/undo takes a number of turns, found"),
        ("/retry", "nothing has been asked yet"),
        ("/edit", "nothing has been asked yet"),
        ("/set temprature 1", "there is no setting 'temprature'; did you mean temperature?"),
        ("/set temperature hot", "temperature is 'hot', expected a number from 0"),
        ("/set n 2", "n cannot be set in a conversation"),
        ("/copy", "there is no answer to copy yet"),
        ("/tokens", "nothing has been asked yet"),
        ("/save", "/save takes the name of a file"),
        ("/load /nowhere/chat", "cannot read /nowhere/chat: No such file"),
        ("/model /nowhere/model", "no model '/nowhere/model'"),
    ],
)
def test_mistakes_get_one_line_and_change_nothing(chat: Terminal, line: str, answer: str) -> None:
    start = len(chat.text())
    chat.say(line)
    chat.wait_until(lambda: answer in re.sub(r"\s+", " ", chat.text()), repr(answer))
    assert "Traceback" not in chat.text()[start:]


@pytest.fixture(scope="module")
def chat(
    cullama_command: Any, chat_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Terminal]:
    """One for all mistakes: none of them may end it."""
    state = str(tmp_path_factory.mktemp("state"))
    terminal = Terminal(
        cullama_command.command("chat", "-q", "-m", chat_model),
        cullama_command.environment({"XDG_STATE_HOME": state}),
        columns=300,
    )
    terminal.wait_for("Ctrl-D leaves")
    yield terminal
    terminal.send("\x04")
    assert terminal.end() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(start_chat: StartChat) -> None:
    terminal = start_chat("--ignore-eos", "-n", "3900", "--stats")
    terminal.wait_for("Ctrl-D leaves")
    terminal.say("tell")
    terminal.wait_for("> tell *\n[a-z]{20}")
    terminal.send("\x03")
    terminal.wait_for("stopped; /continue goes on, /retry asks again")
    terminal.wait_for("cancelled")
    terminal.say("/set max_tokens 5")
    terminal.say("go on")
    terminal.wait_for("wrote 5,")
    terminal.send("half a line\x03")
    terminal.wait_for("Ctrl-D or /quit leaves")
    terminal.send("\x04")
    assert terminal.end() == 0


def test_what_is_typed_during_an_answer_is_shown_once_and_sent_next(
    start_chat: StartChat, tmp_path: Path
) -> None:
    terminal = start_chat("--ignore-eos", "-n", "300", "--stats")
    terminal.wait_for("Ctrl-D leaves")
    terminal.say("tell")
    terminal.wait_for("> tell *\n[a-z]{20}")
    terminal.send("typed ahead\rand half a li")
    terminal.wait_until(lambda: len(reads(terminal)) >= 1, "the first answer")
    terminal.wait_until(lambda: len(reads(terminal)) >= 2, "an answer to what was typed")
    terminal.wait_for("> and half a li")
    terminal.send("ne\r")
    terminal.wait_until(lambda: len(reads(terminal)) >= 3, "an answer to the rest")
    text = terminal.text()
    assert text.count("typed ahead") == 1
    assert text.count("and half a li") == 1
    terminal.say(f"/save {tmp_path}/talk.json")
    terminal.wait_for("saved 3 turns")
    messages = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert [messages[2]["content"], messages[4]["content"]] == ["typed ahead", "and half a line"]


def test_ctrl_z_suspends_and_fg_resumes_in_the_line_and_in_an_answer(
    cullama_command: Any, chat_model: Path, tmp_path: Path
) -> None:
    chat = cullama_command.command(
        *("chat", "-q", "-m", chat_model, "--no-markdown", "-t", "0", "--ignore-eos"),
        *("--logit-bias=75=100", "--logit-bias=80=100", "-n", "400", "--stats"),
    )
    environment = {"XDG_STATE_HOME": str(tmp_path / "state"), "PS1": "shell: "}
    terminal = Terminal(
        ["bash", "--norc", "--noprofile", "-i"], cullama_command.environment(environment)
    )
    try:
        terminal.wait_for("shell:")
        terminal.say(shlex.join(chat))
        terminal.wait_for("Ctrl-D leaves")
        terminal.send("tell me\x1a")
        terminal.wait_for("Stopped(?:.*\n)+shell:")
        terminal.say("expr 6 '*' 7")
        terminal.wait_for("shell: expr 6.*\n42\n")  # the shell echoes what is typed
        terminal.say("fg")
        terminal.wait_for("42\n(?:.*\n)*> tell me")
        terminal.say(" more")
        terminal.wait_for("> tell me more *\n[a-z]{20}")
        terminal.send("\x1a")
        terminal.wait_until(lambda: terminal.text().count("Stopped") == 2, "stop of the answer")
        terminal.say("fg")
        terminal.wait_until(lambda: len(reads(terminal)) >= 1, "the whole answer")
        terminal.say("/undo")
        terminal.wait_for("taken back: tell me more")
        terminal.say("exit")
        terminal.wait_for("> exit *\n+shell:")
        terminal.say("expr 6 '*' 8")
        terminal.wait_for("shell: expr 6.*\n48\n")
    finally:
        terminal.kill()


def test_continue_goes_on_where_the_answer_was_cut(start_chat: StartChat) -> None:
    uncut = start_chat("--ignore-eos", "-n", "60", "--stats")
    ask(uncut, "tell", 1)
    [whole] = re.findall("> tell *\n([a-z]{60})\n", uncut.text())
    terminal = start_chat("--ignore-eos", "-n", "20", "--stats")
    ask(terminal, "tell", 1)
    terminal.wait_for("cut after 20 tokens; /continue goes on")
    ask(terminal, "/continue", 2)
    ask(terminal, "/continue", 3)
    terminal.wait_for(rf"/continue *\n{whole[:40]}\n(?:.*\n)+> /continue *\n{whole}\n")
    terminal.say("/undo")
    terminal.wait_for("taken back: tell")


def test_alternatives_are_listed_and_one_is_taken(start_chat: StartChat) -> None:
    terminal = start_chat("--ignore-eos", "-n", "20", "--stats", columns=80)
    ask(terminal, "tell", 1)
    terminal.say("/alternatives")
    text = terminal.wait_for("takes a at place 1, and goes on from there")
    places = re.findall(
        r'^ +(\d) ([a-z]*) "(.+)" <?\d+%\n    a "(.+)" <?\d+% · b "', text, re.MULTILINE
    )
    assert [number for number, *_ in places] == ["1", "2", "3", "4", "5"]
    terminal.say("/alternatives 9a")
    terminal.wait_for("there is no alternative '9a', expected a place and a letter")
    ask(terminal, "/alternatives 3a", 2)
    terminal.say("/undo")
    terminal.wait_for("taken back: tell")
    terminal.say("/alternatives")
    terminal.wait_for("nothing has been answered yet")


def test_several_lines_are_one_message(start_chat: StartChat, tmp_path: Path) -> None:
    terminal = start_chat("--stats")
    terminal.wait_for("Ctrl-D leaves")
    terminal.send("one\\\rtwo\x1b\rthree")
    ask(terminal, "", 1)
    terminal.say(f"/save {tmp_path}/talk.json")
    terminal.wait_for("saved 1 turn in")
    assert json.loads((tmp_path / "talk.json").read_text())["messages"][0] == {
        "role": "user",
        "content": "one\ntwo\nthree",
    }


def test_a_space_in_front_makes_a_slash_text(start_chat: StartChat, tmp_path: Path) -> None:
    terminal = start_chat("--stats")
    ask(terminal, " /etc is what?", 1)
    terminal.say(f"/save {tmp_path}/talk.json")
    terminal.wait_for("saved 1 turn in")
    [question, _] = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert question["content"] == "/etc is what?"


def test_history_lasts_from_one_conversation_to_the_next(
    start_chat: StartChat, tmp_path: Path
) -> None:
    first = start_chat("--stats")
    ask(first, "remember the llama", 1)
    first.send("\x04")
    assert first.end() == 0
    second = start_chat("--stats")
    second.wait_for("Ctrl-D leaves")
    second.send("\x1b[A")
    second.wait_for("> remember the llama")
    history = tmp_path / "state" / "cullama" / "chat_history"
    assert history.stat().st_mode & 0o077 == 0


def test_without_a_writable_history_file_chat_says_so_and_runs(
    start_chat: StartChat, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("in the way")
    terminal = start_chat("--stats", columns=300)
    terminal.wait_for("no history is kept: .*chat_history: Not a directory")
    ask(terminal, "hallo", 1)


def test_tab_then_enter_runs_the_command_that_was_completed(start_chat: StartChat) -> None:
    terminal = start_chat("--stats")
    ask(terminal, "hallo", 1)
    terminal.send("/und")
    terminal.wait_for("/undo +Take the last turn back")
    terminal.send("\t")
    terminal.wait_for("> /undo")
    terminal.send("\r")
    terminal.wait_for("taken back: hallo")


def test_tab_and_enter_may_be_typed_at_once(start_chat: StartChat) -> None:
    terminal = start_chat("--stats")
    ask(terminal, "hallo", 1)
    terminal.send("/set temper\t\r")
    terminal.wait_for(r"temperature +0\.0")
    terminal.send("/und\t\r")
    terminal.wait_for("taken back: hallo")


def test_set_reads_escapes_in_a_stop_text(start_chat: StartChat) -> None:
    terminal = start_chat()
    terminal.wait_for("Ctrl-D leaves")
    terminal.say(r"/set stop \n\n")
    terminal.wait_for(r'stop +\["\\n\\n"\]')
    terminal.say('/set stop ["a", "b"]')
    terminal.wait_for(r'stop +\["a", "b"\]')


def test_undo_of_more_turns_than_there_are_takes_them_all(start_chat: StartChat) -> None:
    terminal = start_chat("--stats")
    ask(terminal, "one", 1)
    ask(terminal, "two", 2)
    terminal.say("/undo 5")
    terminal.wait_for("taken back: one\n.*taken back: two\n.*there were no more than 2 turns")
    terminal.wait_for("context ░{10} 0 of")


@pytest.mark.parametrize("word", ["exit", "quit", "/exit"])
def test_what_people_type_to_leave_leaves(start_chat: StartChat, word: str) -> None:
    terminal = start_chat()
    terminal.wait_for("Ctrl-D leaves")
    terminal.say(word)
    assert terminal.end() == 0


def test_a_space_in_front_makes_the_word_exit_a_message(start_chat: StartChat) -> None:
    terminal = start_chat("--stats")
    ask(terminal, " exit", 1)
    terminal.say("/undo")
    terminal.wait_for("taken back: exit")


@pytest.mark.parametrize("columns", [40, 60])
def test_help_is_wrapped_on_a_narrow_terminal(start_chat: StartChat, columns: int) -> None:
    terminal = start_chat(columns=columns, rows=70)
    terminal.wait_for("leaves")
    terminal.say("/help")
    text = terminal.wait_for(r"makes the\s+line\s+a\s+message")
    for summary in ("Change the last question, in the line or to TEXT, and ask it again", "a file"):
        assert re.search(summary.replace(" ", r"\s+"), text)
    assert not re.search(r"^(ask|it|again)", text, re.MULTILINE)  # further lines are indented


# Loads slowly as long as there is a file "slow" in the current folder.
SLOW_LOADING = """
import os, time
from cullama.cli import main
from cullama.cli.chat import loop
load = loop.load_with_sampling
def slow_load(*arguments, **options):
    if os.path.exists("slow"):
        print("loading slowly")
        time.sleep(60)
    return load(*arguments, **options)
loop.load_with_sampling = slow_load
main()
"""


def test_ctrl_c_while_a_model_is_loaded_goes_back_to_the_old_one(
    cullama_command: Any,
    chat_model: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    *start, _ = cullama_command.command()
    terminal = Terminal(
        [*start, SLOW_LOADING, "chat", "-q", "-m", str(chat_model), "-n", "3", "--stats"],
        cullama_command.environment({"XDG_STATE_HOME": str(tmp_path / "state")}),
    )
    ask(terminal, "hallo", 1)
    slow = tmp_path / "slow"
    slow.touch()
    terminal.say(f"/model {tiny_model}")
    terminal.wait_for("loading slowly")
    slow.unlink()
    terminal.send("\x03")
    terminal.wait_for("back to tiny-chat …\n+stopped\n")
    terminal.wait_for("tokens · tiny-chat", len(terminal.text()) - 500)
    ask(terminal, "more", 2)

    slow.touch()
    terminal.say(f"/model {tiny_model}")
    terminal.wait_until(lambda: terminal.text().count("loading slowly") == 2, "loading")
    terminal.send("\x03")
    terminal.wait_until(lambda: terminal.text().count("loading slowly") == 3, "loading again")
    terminal.send("\x03")  # neither the new one nor the old one
    terminal.wait_for("tiny-chat is not loaded; the next line loads it")
    slow.unlink()
    ask(terminal, "and more", 3)
    assert "Traceback" not in terminal.text()
    terminal.say("exit")
    assert terminal.end() == 0


def kept(tmp_path: Path) -> list[list[str]]:
    """The questions of each conversation that was saved by itself."""
    files = sorted((tmp_path / "data" / "cullama" / "conversations").glob("*"))
    saved = [json.loads(path.read_text())["messages"] for path in files]
    return [[it["content"] for it in each if it["role"] == "user"] for each in saved]


def test_a_conversation_is_saved_by_itself_and_continued_with_its_model(
    start_chat: StartChat, tmp_path: Path
) -> None:
    first = start_chat("--stats")
    ask(first, "the first one", 1)
    first.say("/reset")
    ask(first, "one", 2)
    ask(first, "two", 3)
    first.kill()  # as a crash would
    assert sorted(kept(tmp_path)) == [["one", "two"], ["the first one"]]

    again = start_chat("--stats", "--continue", model=None)
    again.wait_for("> two\n+[a-z]{8}\n+2 turns so far")
    ask(again, "three", 1)
    assert reads(again)[0][1] > 60  # the whole conversation is in the prompt
    again.say("/undo")
    again.wait_for("taken back: three")
    ask(again, "four", 2)
    again.say("/model")
    again.wait_for("tiny-chat · safetensors F32")
    again.say("exit")
    assert again.end() == 0
    assert sorted(kept(tmp_path)) == [["one", "two", "four"], ["the first one"]]


def test_saved_conversations_are_listed_and_one_is_chosen(
    start_chat: StartChat, tmp_path: Path
) -> None:
    first = start_chat("--stats")
    ask(first, "the first one", 1)
    first.say("/reset")
    ask(first, "a llama " * 20, 2)
    first.say("/list")
    first.wait_for(r"   1  20\d\d-.*  1 turn   a llama a llama.*…\n   2 .* the first one\n")
    first.say("/load 2")
    first.wait_for("> the first one\n+[a-z]{8}\n+1 turn so far")
    ask(first, "more", 3)
    first.say("/load 7")
    first.wait_for("'7' is no number of the list, 1 to 2")
    first.say("exit")
    assert first.end() == 0

    again = start_chat("--list", model=None)
    again.wait_for("   1 .* 2 turns  the first one\n(.*\n)+go on with number")
    again.say("9")
    again.wait_for("'9' is no number of the list, 1 to 2\\n+go on with number")
    again.say("2")
    again.wait_for("1 turn so far")
    again.say("/undo 3")
    again.wait_for("no more than 1 turn")
    again.say("exit")
    assert again.end() == 0
    assert kept(tmp_path) == [["the first one", "more"]]  # nothing is kept of what is taken back


NO_HOME = {"HOME": "", "XDG_DATA_HOME": "", "XDG_STATE_HOME": ""}


@pytest.mark.parametrize("off", [{"CULLAMA_SAVE": "0", "XDG_STATE_HOME": ""}, NO_HOME])
def test_nothing_is_saved_where_that_is_turned_off_or_there_is_no_home(
    start_chat: StartChat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    terminal = start_chat("--stats", environment=off)
    ask(terminal, "hallo", 1)
    terminal.say("/list")
    terminal.wait_for("no conversation has been saved yet|conversations are not kept where HOME")
    terminal.say("exit")
    assert terminal.end() == 0
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == (set() if off is NO_HOME else {"home/.local/state/cullama/chat_history"})


def test_a_folder_that_cannot_be_written_is_named_once(
    start_chat: StartChat, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("in the way")
    terminal = start_chat("--stats", columns=300)
    ask(terminal, "hallo", 1)
    terminal.wait_for("cannot make .*: Not a directory; this conversation is no longer saved")
    ask(terminal, "more", 2)
    assert terminal.text().count("no longer saved") == 1


def test_commands_and_settings_are_completed(start_chat: StartChat) -> None:
    terminal = start_chat()
    terminal.wait_for("Ctrl-D leaves")
    terminal.send("/sa")
    terminal.wait_for("/save +Write the conversation to a file")
    terminal.send("\x15/set temp")
    terminal.wait_for(r"> /set temp *\n +temperature")


def test_another_model_continues_the_conversation(
    start_chat: StartChat, chat_model: Path, tiny_model: Path
) -> None:
    terminal = start_chat("--stats", columns=200)
    ask(terminal, "hallo", 1)
    terminal.say(f"/model {tiny_model}")
    terminal.wait_for("tiny has no chat template")
    ask(terminal, "more", 2)
    terminal.say("/stats")
    terminal.wait_for(r"turns +2 in this conversation")


def test_changing_the_model_says_that_a_given_template_is_dropped(
    start_chat: StartChat, chat_model: Path, tiny_model: Path
) -> None:
    terminal = start_chat("--template", str(chat_model / "chat_template.jinja"), columns=300)
    terminal.wait_for("Ctrl-D leaves")
    terminal.say(f"/model {tiny_model}")
    terminal.wait_for("chat_template.jinja was for the model before")
    terminal.wait_for("0 of 128 tokens · tiny")


def test_a_base_model_warns_that_it_only_continues_text(
    start_chat: StartChat, tiny_model: Path
) -> None:
    terminal = start_chat("--stats", model=tiny_model, columns=200)
    terminal.wait_for("tiny has no chat template, as base models have none: what is said is")
    ask(terminal, "Once upon a time", 1)


def test_a_full_context_is_reported(start_chat: StartChat) -> None:
    terminal = start_chat("--stats", "--context", "130", columns=200)
    for turn in range(1, 7):
        ask(terminal, f"question {turn}", turn)
    assert "the context is full: the oldest" in terminal.text()


def test_the_status_line_shows_how_full_the_context_is(start_chat: StartChat) -> None:
    terminal = start_chat("--context", "128")
    terminal.wait_for("context ░{10} 0 of 128 tokens · tiny-chat")
    terminal.say("hallo")
    terminal.wait_for("context █+░+ [1-9][0-9] of 128 tokens")


def test_a_saved_conversation_of_parts_and_tool_calls_is_listed_and_continued(
    start_chat: StartChat, tmp_path: Path
) -> None:
    first = start_chat("--stats")
    ask(first, "the first one", 1)
    first.say("exit")
    assert first.end() == 0
    [path] = tmp_path.rglob("*.json")
    saved = json.loads(path.read_text(encoding="utf-8"))
    call = {"id": "1", "function": {"name": "clock", "arguments": {}}}
    saved["messages"] = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "what"}, {"type": "text", "text": "time"}],
        },
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "noon", "tool_call_id": "1"},
        {"role": "assistant", "content": "Noon."},
    ]
    path.write_text(json.dumps(saved), encoding="utf-8")

    again = start_chat("--stats", "--continue", model=None)
    again.wait_for("Noon.\n+2 turns so far")
    again.say("/list")
    again.wait_for("   1 .* what time\n")
    ask(again, "and now", 1)
    again.say("/undo 2")
    again.wait_for("taken back: what time")
    again.say("exit")
    assert again.end() == 0
