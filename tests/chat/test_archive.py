"""Conversations that are saved by themselves: where, how many, who may read them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cullama import LLM, SamplingParams
from cullama.chat.archive import Archive, archive_folder
from cullama.chat.session import Session
from cullama.errors import UsageError


@pytest.fixture(scope="module")
def llm(chat_model: Path) -> Iterator[LLM]:
    with LLM(chat_model, backend="cpu", context_length=256) as llm:
        yield llm


def talk(llm: LLM, question: str) -> Session:
    params = SamplingParams(temperature=0.5, max_tokens=3, ignore_eos=True)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "Yes."}]
    return Session(llm, "Be brief.", params, messages)


def questions(archive: Archive) -> list[str]:
    return [each.saved.messages[1]["content"] for each in archive.conversations()]


def save_all(archive: Archive, llm: LLM, *texts: str) -> list[Path]:
    """Save conversations one second apart."""
    paths = []
    for second, text in enumerate(texts):
        path = archive.save(talk(llm, text), None, None)
        os.utime(path, (1e9 + second, 1e9 + second))
        paths.append(path)
    return paths


def test_conversations_are_listed_the_last_one_first(llm: LLM, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "kept")
    assert archive.conversations() == []
    assert archive.last() is None
    save_all(archive, llm, "one", "two", "three")
    assert questions(archive) == ["three", "two", "one"]
    last = archive.last()
    assert last is not None
    assert last.saved.messages[1]["content"] == "three"


def test_a_conversation_comes_back_whole(llm: LLM, tmp_path: Path) -> None:
    session = talk(llm, "naïve 🦙\nsecond line")
    path = Archive(tmp_path).save(session, None, "owner/name:Q4_K_M")
    last = Archive(tmp_path).last()
    assert last is not None
    assert last.path == path
    assert last.saved.loaded_from == "owner/name:Q4_K_M"
    again = last.saved.session(llm)
    assert (again.messages, again.params) == (session.messages, session.params)


def test_a_conversation_that_goes_on_keeps_its_file(llm: LLM, tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    [path] = save_all(archive, llm, "one")
    assert archive.save(talk(llm, "longer"), path, None) == path
    assert questions(archive) == ["longer"]


def test_only_the_owner_may_read_them(llm: LLM, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        path = Archive(tmp_path / "kept").save(talk(llm, "secret"), None, None)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_oldest_go_where_there_are_too_many(llm: LLM, tmp_path: Path) -> None:
    archive = Archive(tmp_path, max_conversations=2)
    save_all(archive, llm, "one", "two", "three")
    assert questions(archive) == ["three", "two"]


def test_the_oldest_go_where_they_are_too_large_together(llm: LLM, tmp_path: Path) -> None:
    archive = Archive(tmp_path, max_bytes=5000)
    save_all(archive, llm, "a" * 2000, "b" * 2000, "c" * 2000)
    assert [text[0] for text in questions(archive)] == ["c", "b"]


def test_files_that_are_no_conversations_are_passed_over_and_stay(llm: LLM, tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    save_all(archive, llm, "one")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text(json.dumps({"kind": "cullama chat", "version": 99}))
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    assert questions(archive) == ["one"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_that_another_process_removes_meanwhile_hides_no_other(
    llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path)
    gone, _ = save_all(archive, llm, "one", "two")
    paths = [*tmp_path.glob("*.json")]
    gone.unlink()
    monkeypatch.setattr(Path, "glob", lambda *_: iter(paths))
    assert questions(archive) == ["two"]


def test_a_conversation_is_saved_where_the_oldest_cannot_be_removed(
    llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    archive = Archive(tmp_path, max_conversations=1)
    save_all(archive, llm, "one", "two")
    assert questions(archive) == ["two", "one"]


def test_a_folder_that_cannot_be_written_is_named(llm: LLM, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"cannot make .*file/kept: Not a directory"):
        Archive(tmp_path / "file" / "kept").save(talk(llm, "one"), None, None)


def test_they_lie_in_the_user_s_data_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert archive_folder() == tmp_path / ".local/share/cullama/conversations"
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert archive_folder() == Path("/data/cullama/conversations")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.delenv("HOME")
    assert archive_folder() is None
