"""Saves conversations to JSON files and loads them: messages and sampling parameters.

It checks the file's form; messages are checked by `Session`, parameters by `SamplingParams`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from ..errors import UsageError
from ..sampling.params import SamplingParams, biases_from_json
from .session import ChatModel, Session

KIND, VERSION = "cullama chat", 1


def save(session: Session, path: Path) -> None:
    """Write a conversation to a file; an older one there stays until the new one is complete.

    Raises:
        UsageError: the file cannot be written, or holds something else, which would be lost.
    """
    if path.exists():
        try:
            _read(path)
        except UsageError:
            message = f"{path} exists and is not a saved conversation; choose another name"
            raise UsageError(message) from None
    defaults = asdict(SamplingParams())
    params = asdict(session.params)
    saved = {
        "kind": KIND,
        "version": VERSION,
        "model": session.llm.name,
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
    saved = _read(path)
    messages, params = saved.get("messages"), saved.get("params")
    if not isinstance(messages, list) or not isinstance(params, dict):
        raise UsageError(f"{path}: messages or params are missing, expected a saved conversation")
    if isinstance(biases := params.get("logit_bias"), dict):
        params = {**params, "logit_bias": biases_from_json(biases)}
    return Session(llm, None, SamplingParams.from_mapping(params), messages)


def _read(path: Path) -> dict[str, Any]:
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
    return saved


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
