"""Saves conversations to JSON files and loads them: messages and sampling parameters.

It checks the file's form; messages are checked by `Session`, parameters by `SamplingParams`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from ..errors import UsageError
from ..sampling.params import SamplingParams
from .session import ChatModel, Session

KIND, VERSION = "cullama chat", 1


@dataclass(frozen=True)
class SavedConversation:
    """What a file holds.

    Attributes:
        messages: as they are in the file; `Session` checks each.
        params: sampling parameters that differ from `SamplingParams()`, unchecked.
        model: the name of the model that gave the answers.
        loaded_from: what that model was loaded by, a path or a hub id; None is not known.
    """

    messages: list[Any]
    params: dict[str, Any]
    model: str
    loaded_from: str | None

    def session(self, llm: ChatModel) -> Session:
        """Return the conversation, to continue it with this model.

        Raises:
            UsageError: messages that are not text, or parameters that do not exist.
        """
        return Session(llm, None, SamplingParams.from_mapping(self.params), self.messages)


def save(session: Session, path: Path, loaded_from: str | None = None) -> None:
    """Write a conversation to a file; an older one there stays until the new one is complete.

    Raises:
        UsageError: the file cannot be written, or holds something else, which would be lost.
    """
    if path.exists():
        try:
            read(path)
        except UsageError:
            message = f"{path} exists and is not a saved conversation; choose another name"
            raise UsageError(message) from None
    defaults = asdict(SamplingParams())
    params = asdict(session.params)
    saved = {
        "kind": KIND,
        "version": VERSION,
        "model": session.llm.name,
        **({} if loaded_from is None else {"loaded_from": loaded_from}),
        "params": {name: value for name, value in params.items() if value != defaults[name]},
        "messages": session.messages,
    }
    text = json.dumps(saved, ensure_ascii=False, indent=2) + "\n"
    try:
        _replace(path, text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def load(llm: ChatModel, path: Path) -> Session:
    """Read a conversation, to continue it with this model.

    Raises:
        UsageError: the file is missing, or not a saved conversation.
    """
    return read(path).session(llm)


def read(path: Path) -> SavedConversation:
    """Read a file. Raises UsageError: it is missing, or not a saved conversation."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        saved = None
    if not isinstance(saved, dict) or saved.get("kind") != KIND:
        raise UsageError(f"{path} is not a saved conversation, expected a file that /save wrote")
    if saved.get("version") != VERSION:
        raise UsageError(
            f"{path}: version is {saved.get('version')!r}, expected {VERSION}; "
            "another version of cullama wrote it"
        )
    messages, params = saved.get("messages"), saved.get("params")
    if not isinstance(messages, list) or not isinstance(params, dict):
        raise UsageError(f"{path}: messages or params are missing, expected a saved conversation")
    source = saved.get("loaded_from")
    return SavedConversation(
        messages, params, str(saved.get("model")), source if isinstance(source, str) else None
    )


def _replace(path: Path, text: str) -> None:
    """Write to a temporary file beside `path`, then rename it, which is atomic."""
    with NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        try:
            file.write(text)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
