"""`cullama story` in real processes: pipes, JSON, Ctrl-C, odd terminals and odd texts."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from cullama import LLM, SamplingParams

WriteModel: TypeAlias = Callable[..., Path]
Bytes: TypeAlias = "subprocess.Popen[bytes]"

PROMPT = "Once upon a time"
FORTY = ("-n", "40", "--seed", "7", "--ignore-eos")
ASCII = {"PYTHONIOENCODING": "ascii"}
PLAIN_C = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "", "PYTHONUTF8": ""}
OLD_C = {**PLAIN_C, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

SAMPLING = (
    *("-q", "--json", "-n", "20", "--seed", "5", "-t", "0.5", "--top-k", "9", "--top-p", "0.8"),
    *("--min-p", "0.01", "--repetition-penalty", "1.3", "--presence-penalty", "0.5"),
    *("--frequency-penalty", "0.25", "--logit-bias", "70=2.5", "--logit-bias", "71=-1"),
    *("--stop-token-id", "90", "--stop", "zz", "--stop", "xyz"),
)

# As people write it who come from there.
LLAMA_CPP = (
    *("-q", "--json", "-p", "The old clock", "--n-predict", "9", "--temp", "0", "-c", "64"),
    *("--top-k", "-1", "--repeat-penalty", "1.2", "-s", "-1"),
)
FORCED = ("--logit-bias", "70=1000", "-n", "5")

# name → arguments, standard input, environment. All independent, so they run side by side.
RUNS: dict[str, tuple[tuple[str, ...], bytes, dict[str, str]]] = {
    "plain": (FORTY, b"", {}),
    "another": (("The old clock", "--dtype", "bfloat16", *FORTY, "--seed", "8"), b"", {}),
    "words": (("-q", *FORTY, "The", "old", "clock"), b"", {}),
    "dash": (("-q", "-5 degrees", *FORTY), b"", {}),
    "newline": (("-q", "--json", "-n", "3", "--logit-bias", "201=100", "--stop", r"\n"), b"", {}),
    "no seed": (("-q", "-n", "20", "--json"), b"", {}),
    "llama.cpp": (LLAMA_CPP, b"", {}),
    "stop kept": (("-q", "--json", "--stop-token-id", "70", "--include-stop", *FORCED), b"", {}),
    "threads": (("-q", "-t", "8", "-n", "1"), b"", {}),
    "foreign": (("-ngl", "99", "-n", "1"), b"", {}),
    "pipe": (("-q", "-", *FORTY), "Das Café —\nin 東京\n".encode(), {}),
    "json": (("--json", "--stats", "--logprobs", "2", *FORTY), b"", {}),
    "stats": (("--stats", *FORTY), b"", {}),
    "drafts": (("-q", "--stats", "-t", "0", "--speculation", "5", *FORTY), b"", {}),
    "samples": (("-q", "--n", "3", *FORTY), b"", {}),
    "json samples": (("-q", "--n", "2", "--json", *FORTY), b"", {}),
    "sampling": (SAMPLING, b"", {}),
    "end": (("-q", "--logit-bias", "1=1000"), b"", {}),
    "not utf-8": (("-q", "-"), b"caf\xe9 \xff", {}),
    "empty": (("-q", "-", *FORTY), b"", {}),
    "control": (("-q", "-", *FORTY), b"a\x00b\x1b[31mc\r\n", {}),
    "spelled": (("-q", "<|user|>Hi<|end|>", *FORTY), b"", {}),
    "no special": (("-q", "<|user|>Hi<|end|>", "--no-special", *FORTY), b"", {}),
    "locale c": (("-q", "naïve 🦙", *FORTY), b"", PLAIN_C),
    "old locale c": (("-q", "naïve 🦙", *FORTY), b"", OLD_C),
    "ascii": (("-q", "-", *FORTY), "naïve 🦙".encode(), ASCII),
    "ascii json": (("-q", "-", "--json", *FORTY), "naïve 🦙".encode(), ASCII),
    "too long": (("x" * 500,), b"", {}),
}


@pytest.fixture(scope="module")
def runs(cullama_command: Any, tiny_model: Path) -> dict[str, Any]:
    """Everything in RUNS, ended."""

    def start(name: str) -> Any:
        arguments, standard_input, environment = RUNS[name]
        return cullama_command(
            *("story", "-m", tiny_model, "--backend", "cpu", *arguments),
            standard_input=standard_input,
            environment=environment,
        )

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(RUNS, pool.map(start, RUNS), strict=True))


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> LLM:
    return LLM(tiny_model, backend="cpu")


def params(**changes: Any) -> SamplingParams:
    """The defaults of `story` where they differ from the library's, and FORTY."""
    defaults = {"temperature": 0.8, "top_p": 0.95, "max_tokens": 40, "seed": 7, "ignore_eos": True}
    return SamplingParams(**{**defaults, **changes})


# --- what is written


@pytest.mark.parametrize("name", RUNS)
def test_nothing_shows_a_traceback(runs: dict[str, Any], name: str) -> None:
    assert "Traceback" not in runs[name].err
    assert "Exception" not in runs[name].err


def test_a_story_is_prompt_and_text(runs: dict[str, Any], llm: LLM) -> None:
    assert runs["plain"].code == 0
    assert runs["plain"].out == PROMPT + llm.generate(PROMPT, params()).text + "\n"


@pytest.mark.parametrize(("name", "prompt"), [("words", "The old clock"), ("dash", "-5 degrees")])
def test_a_prompt_needs_no_quotation_marks_and_may_begin_with_a_dash(
    runs: dict[str, Any], llm: LLM, name: str, prompt: str
) -> None:
    assert runs[name].out == prompt + llm.generate(prompt, params()).text + "\n"


def test_a_stop_text_may_be_a_newline(runs: dict[str, Any], llm: LLM) -> None:
    newline = llm.tokenizer.encode("\n", add_special_tokens=False)
    result = json.loads(runs["newline"].out)
    assert (result["token_ids"], result["text"]) == (newline, "")
    assert result["finish_reason"] == "stop"


def test_a_prompt_a_type_and_a_seed_can_be_chosen(runs: dict[str, Any], tiny_model: Path) -> None:
    ended = runs["another"]
    with LLM(tiny_model, backend="cpu", dtype="bfloat16") as llm:
        text = llm.generate("The old clock", params(seed=8)).text
        assert ended == (0, f"The old clock{text}\n", f"{llm.description}\n")


def test_the_model_is_described_in_one_line_unless_quiet(runs: dict[str, Any], llm: LLM) -> None:
    assert runs["plain"].err == f"{llm.description}\n"
    assert runs["plain"].err.startswith("tiny · safetensors F32 · cpu · ")
    assert runs["pipe"].err == ""


def test_a_story_without_a_seed_names_the_drawn_one(runs: dict[str, Any], llm: LLM) -> None:
    result = json.loads(runs["no seed"].out)
    again = params(seed=result["seed"], max_tokens=20, ignore_eos=False)
    assert list(llm.generate(PROMPT, again).token_ids) == result["token_ids"]


def test_a_prompt_comes_through_a_pipe(runs: dict[str, Any], llm: LLM) -> None:
    prompt = "Das Café —\nin 東京"  # the newline at its end is the shell's
    assert runs["pipe"].out == prompt + llm.generate(prompt, params()).text + "\n"
    assert runs["pipe"].code == 0


def test_json_is_one_object_with_what_the_library_says(runs: dict[str, Any], llm: LLM) -> None:
    assert runs["json"].code == 0
    assert len(runs["json"].out.splitlines()) == 1
    result = json.loads(runs["json"].out)
    completion = llm.generate(PROMPT, params(logprobs=2))
    assert result["prompt"] == PROMPT
    assert result["text"] == completion.text
    assert result["token_ids"] == list(completion.token_ids)
    assert result["finish_reason"] == "length"
    assert result["prompt_tokens"] == completion.prompt_tokens
    assert result["seed"] == 7
    assert result["model"] == llm.description
    assert 0 < result["timings"]["first_token"] <= result["timings"]["total"]
    assert result["decode_tokens_per_second"] > 0
    assert completion.logprobs is not None
    assert len(result["logprobs"]) == 40


def test_draft_tokens_are_counted_and_change_nothing(runs: dict[str, Any], llm: LLM) -> None:
    assert runs["drafts"].out == PROMPT + llm.generate(PROMPT, params(temperature=0)).text + "\n"
    accepted, drafts = re.findall(r"(\d+) of (\d+) draft tokens accepted", runs["drafts"].err)[0]
    assert 0 < int(accepted) <= int(drafts)
    assert "draft" not in runs["stats"].err


def test_stats_are_a_line_on_standard_error(runs: dict[str, Any], llm: LLM) -> None:
    assert runs["stats"].out == runs["plain"].out
    for name in ("stats", "json"):
        description, stats = runs[name].err.splitlines()
        assert description == llm.description
        tokens = len(llm.tokenizer.encode(PROMPT))
        for words in (f"prompt: {tokens} tokens", "40 tokens", "tok/s", "length", "seed 7"):
            assert words in stats


def test_several_stories_come_one_after_the_other(runs: dict[str, Any], llm: LLM) -> None:
    first = llm.generate(PROMPT, params(n=3))
    texts = [one.text for one in (first, *first.alternatives)]
    assert runs["samples"].out == "".join(f"{PROMPT}{text}\n\n" for text in texts)
    result = json.loads(runs["json samples"].out)
    assert [result["text"], *(one["text"] for one in result["alternatives"])] == texts[:2]


def test_every_sampling_option_reaches_the_library(runs: dict[str, Any], llm: LLM) -> None:
    same = SamplingParams(
        max_tokens=20,
        seed=5,
        temperature=0.5,
        top_k=9,
        top_p=0.8,
        min_p=0.01,
        repetition_penalty=1.3,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logit_bias={70: 2.5, 71: -1.0},
        stop_token_ids=(90,),
        stop=("zz", "xyz"),
    )
    result = json.loads(runs["sampling"].out)
    assert result["token_ids"] == list(llm.generate(PROMPT, same).token_ids)


def test_a_command_line_of_llama_cpp_is_understood(runs: dict[str, Any], llm: LLM) -> None:
    asked = SamplingParams(max_tokens=9, temperature=0, repetition_penalty=1.2)
    result = json.loads(runs["llama.cpp"].out)
    assert result["prompt"] == "The old clock"
    assert result["token_ids"] == list(llm.generate("The old clock", asked).token_ids)


def test_options_of_other_programs_are_answered_with_ours(runs: dict[str, Any]) -> None:
    assert runs["foreign"].code == 2
    assert "-ngl is an option of other programs; here it is --backend cuda" in runs["foreign"].err
    assert len(runs["foreign"].err.splitlines()) == 1


def test_a_temperature_that_looks_like_a_count_of_threads_is_noted(runs: dict[str, Any]) -> None:
    assert runs["threads"].code == 0
    assert runs["threads"].err == "temperature 8; -t is no count of threads, --threads is\n"


def test_the_stop_is_named_and_can_be_kept(runs: dict[str, Any], llm: LLM) -> None:
    result = json.loads(runs["stop kept"].out)
    assert (result["finish_reason"], result["stop_reason"]) == ("stop", 70)
    assert result["text"] == llm.tokenizer.decode([70])


def test_a_story_may_end_at_once(runs: dict[str, Any]) -> None:
    assert (runs["end"].code, runs["end"].out) == (0, PROMPT + "\n")


# --- odd input


def test_bytes_that_are_not_utf_8_are_misuse(runs: dict[str, Any]) -> None:
    ended = runs["not utf-8"]
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("cullama: standard input is not UTF-8")
    assert len(ended.err.splitlines()) == 1


def test_an_empty_pipe_is_an_empty_prompt(runs: dict[str, Any], llm: LLM) -> None:
    assert runs["empty"].code == 0
    assert runs["empty"].out == llm.generate("", params()).text + "\n"


def test_a_prompt_spells_control_tokens_unless_told_otherwise(
    runs: dict[str, Any], llm: LLM
) -> None:
    prompt = "<|user|>Hi<|end|>"
    read, kept = llm.tokenizer.encode(prompt, allow_special=True), llm.tokenizer.encode(prompt)
    assert read != kept
    assert runs["spelled"].out == prompt + llm.generate(read, params()).text + "\n"
    assert runs["no special"].out == prompt + llm.generate(kept, params()).text + "\n"


def test_control_characters_reach_the_model_as_they_are(runs: dict[str, Any], llm: LLM) -> None:
    ended, prompt = runs["control"], "a\x00b\x1b[31mc"
    assert ended.code == 0
    text = llm.generate(prompt, params()).text
    assert ended.out == prompt + text + "\n"


def test_a_prompt_that_is_too_long_is_misuse(runs: dict[str, Any]) -> None:
    ended = runs["too long"]
    assert (ended.code, ended.out) == (2, "")
    *_, complaint = ended.err.splitlines()
    assert complaint.startswith("cullama: a prompt of ")
    assert "context of 128 tokens" in complaint


# --- odd output


def test_unicode_is_written_in_a_plain_locale(runs: dict[str, Any], llm: LLM) -> None:
    assert runs["locale c"].out == "naïve 🦙" + llm.generate("naïve 🦙", params()).text + "\n"


def test_unicode_in_an_old_locale_is_written_or_refused(runs: dict[str, Any]) -> None:
    ended = runs["old locale c"]
    assert ended.code in (0, 2)
    assert ended.code == 0 or ended.err.startswith("cullama: ")


def test_an_ascii_output_gets_replacement_characters(runs: dict[str, Any], llm: LLM) -> None:
    assert runs["ascii"].code == 0
    assert runs["ascii"].out.startswith("na")
    result = json.loads(runs["ascii json"].out)
    assert result["prompt"] == "naïve 🦙"
    assert result["text"] == llm.generate("naïve 🦙", params()).text


def test_a_story_sends_no_control_characters_to_a_terminal(
    cullama_command: Any, tiny_model: Path
) -> None:
    ours, theirs = pty.openpty()
    # Forty tokens, some of which are control characters, after a prompt that is full of them.
    arguments = ("-q", "-m", tiny_model, *FORTY, "-t", "3")
    process = subprocess.Popen(
        cullama_command.command("story", "evil \x1b]0;title\x07\x1b[31m\x9b2J\r\x08", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=cullama_command.environment({"TERM": "xterm"}),
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # how Linux says that the other end has closed
        pass
    os.close(ours)
    assert process.wait(30) == 0
    story = shown.decode().replace("\r\n", "\n")
    assert "evil" in story
    assert [c for c in story if not c.isprintable() and c not in "\n\t"] == []


# --- a story that is stopped from outside


@pytest.fixture(scope="module")
def endless(
    tmp_path_factory: pytest.TempPathFactory, write_model: WriteModel, tokenizer_file: Path
) -> Path:
    """A model that generates for minutes."""
    folder = tmp_path_factory.mktemp("models") / "endless"
    return write_model(folder, tokenizer=tokenizer_file, max_position_embeddings=32768)


@contextmanager
def started(cullama_command: Any, model: Path, *arguments: str) -> Iterator[Bytes]:
    process = subprocess.Popen(
        cullama_command.command(
            *("story", "-m", model, "-n", "32000", "--ignore-eos", "--seed", "7", *arguments)
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=cullama_command.environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: Bytes) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=10)
    return process.returncode, out.decode(), err.decode()


def test_ctrl_c_keeps_what_was_written(cullama_command: Any, endless: Path, llm: LLM) -> None:
    with started(cullama_command, endless, "-q") as process:
        assert process.stdout is not None
        begun = os.read(process.stdout.fileno(), 60)
        while len(begun) < 60:
            begun += os.read(process.stdout.fileno(), 60)
        process.send_signal(signal.SIGINT)
        code, out, err = ended(process)
    assert code == 130
    assert err == ""
    text = begun.decode(errors="ignore")
    assert (PROMPT + llm.generate(PROMPT, params()).text).startswith(text[:40])
    assert out.endswith("\n")


@pytest.mark.parametrize("arguments", [("--json",), ("--n", "2"), ("--json", "--n", "2")])
def test_ctrl_c_ends_every_kind_of_story(
    cullama_command: Any, endless: Path, arguments: tuple[str, ...]
) -> None:
    with started(cullama_command, endless, *arguments) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the description: loading is done
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        code, out, err = ended(process)
    assert code == 130
    assert err.strip() == ""
    if arguments == ("--json",):
        result = json.loads(out)
        assert result["finish_reason"] == "cancelled"
        assert len(result["token_ids"]) > 0


@pytest.mark.parametrize("count", [0, 20])
def test_a_closed_pipe_ends_the_story_quietly(
    cullama_command: Any, endless: Path, count: int
) -> None:
    """As `| head -c 20` does, and `| true`."""
    with started(cullama_command, endless, "-q") as process:
        assert process.stdout is not None
        begun = process.stdout.read(count)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(10) in (0, 1, 141)
    assert begun == PROMPT.encode()[:count] + begun[len(PROMPT) :]
