"""Conversations in files: JSON with the messages and the wishes that belong to them.

It knows the file; what may be in a message or a wish is theirs to check.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..sampling.params import SamplingParams, biases_from_json
from .session import Session

if TYPE_CHECKING:
    from ..llm import LLM

KIND, VERSION = "cullama chat", 1


def save(session: Session, path: Path) -> None:
    """Write a conversation; what was in the file before stays until all of it is written.

    Raises:
        UsageError: the file cannot be written, or is no saved conversation and would be lost.
    """
    if path.exists() and not _is_saved_chat(path):
        raise UsageError(f"{path} exists and is no saved conversation; choose another name")
    saved = {
        "kind": KIND,
        "version": VERSION,
        "model": session.llm.name,
        "params": _wishes(session.params),
        "messages": session.messages,
    }
    text = json.dumps(saved, ensure_ascii=False, indent=2) + "\n"
    try:
        _write(path, text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def load(llm: LLM, path: Path) -> Session:
    """A conversation to go on with, on this model.

    Raises:
        UsageError: the file is missing, or no saved conversation.
    """
    saved = _read(path)
    messages, params = saved.get("messages"), saved.get("params")
    if not isinstance(messages, list) or not isinstance(params, dict):
        raise UsageError(f"{path}: messages or params are missing, expected a saved conversation")
    if isinstance(biases := params.get("logit_bias"), dict):
        params = {**params, "logit_bias": biases_from_json(biases)}
    return Session(llm, None, SamplingParams.from_mapping(params), messages)


def _wishes(params: SamplingParams) -> dict[str, Any]:
    """Those that differ from the default."""
    usual = asdict(SamplingParams())
    return {name: value for name, value in asdict(params).items() if value != usual[name]}


def _read(path: Path) -> dict[str, Any]:
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        saved = None
    if not isinstance(saved, dict) or saved.get("kind") != KIND:
        raise UsageError(f"{path} is no conversation that /save wrote")
    if saved.get("version") != VERSION:
        raise UsageError(
            f"{path}: version is {saved.get('version')!r}, expected {VERSION}; "
            "another version of cullama wrote it"
        )
    return saved


def _is_saved_chat(path: Path) -> bool:
    try:
        _read(path)
    except UsageError:
        return False
    return True


def _write(path: Path, text: str) -> None:
    with NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        try:
            file.write(text)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
