"""Render messages with a checkpoint's chat template, into the text that the model reads.

It checks messages and variables, and words the errors. The rendering itself is `sandbox`, which
imports jinja2, so it is loaded with the first rendering. `checkpoint/template_files.py` finds the
template of a checkpoint; tokens are not dealt with here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ChatTemplateError, CullamaError, ModelFileError, UsageError
from ..files.regular_file import open_regular_file
from .messages import checked_message, plain_data

if TYPE_CHECKING:
    from .sandbox.environment import SafeTemplate

MAX_REASON = 300  # characters of an error of jinja2 or of the template
MAX_FILE_BYTES = 1 << 20  # bytes


@dataclass(frozen=True)
class ChatTemplate:
    """A template's source, and the names of tokens that it may use."""

    source: str  # jinja2
    where: str  # for errors: "FILE: chat_template"
    names: Mapping[str, str] = field(default_factory=dict)  # "bos_token" → its text, and so on
    for_tools: ChatTemplate | None = None  # another one, for conversations in which tools are given

    @classmethod
    def from_file(cls, path: Path, names: Mapping[str, str]) -> ChatTemplate:
        """Read a template from a file of its own.

        Raises:
            ChatTemplateError: it cannot be read, or is not UTF-8.
        """
        return cls(read_template(path), str(path), names)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Render the conversation as one text, in which control tokens are spelled out.

        The result is that of transformers' `apply_chat_template`.

        Args:
            messages: each has a "role" and a "content": a text, or a list of parts of type text,
                which the template gets as it is; None beside "tool_calls".
            add_generation_prompt: end with the header of the assistant's next message.
            variables: further variables of the template, such as `enable_thinking=False`, and
                `tools` and `documents`: JSON schemas, and objects with a title and a text.

        Raises:
            UsageError: the messages are malformed, or the template refuses them.
            ChatTemplateError: the template is malformed, or does what the sandbox forbids.
        """
        plain = [checked_message(it, f"message {index}") for index, it in enumerate(messages)]
        given = {
            **{name: plain_data(f"variable {name!r}", value) for name, value in variables.items()},
            "messages": plain,
            "add_generation_prompt": add_generation_prompt,
        }
        return self._guarded_render(given)

    def _guarded_render(self, given: Mapping[str, Any]) -> str:
        from .sandbox.budget import Budget
        from .sandbox.context import ConversationRefusedError

        # The budget grows with the caller's messages, not with what the checkpoint provides.
        budget = Budget.for_conversation(len(given["messages"]), _characters(given))
        known = {**self.names, "tools": None, "documents": None, **given}
        try:
            return self._compiled.render(known, budget)
        except ConversationRefusedError as refusal:
            raise UsageError(
                f"the chat template refuses these messages: {_one_line(refusal)}"
            ) from None
        except CullamaError:
            raise
        except Exception as error:  # a template is a program: it can raise anything
            raise self._error(error) from None

    @cached_property
    def _compiled(self) -> SafeTemplate:
        from .sandbox.environment import SafeTemplate

        try:
            return SafeTemplate(self.source)
        except Exception as error:
            raise self._error(error) from None

    def _error(self, error: Exception) -> ChatTemplateError:
        from jinja2.exceptions import SecurityError, TemplateSyntaxError

        from .sandbox.budget import LackError

        if isinstance(error, TemplateSyntaxError) and (tag := _unknown_tag(error.message)):
            error = LackError(f"the tag {tag!r:.80} in line {error.lineno}")
        if isinstance(error, LackError):
            what = f"the template uses {_one_line(error)}, which cullama's sandbox does not have"
        elif isinstance(error, SecurityError):
            what = f"the template {_one_line(error)}"
        elif isinstance(error, TemplateSyntaxError):
            what = f"line {error.lineno} is not valid jinja2: {_one_line(error.message)}"
        elif isinstance(error, RecursionError):
            what = "the template is nested too deeply, or recurses without end"
        else:
            what = f"the template fails: {_one_line(error)}"
        return ChatTemplateError(f"{self.where}: {what}; use another with --template FILE")


def read_template(path: Path) -> str:
    """Return the text of a template's file.

    Raises:
        ChatTemplateError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        with open_regular_file(path, "a chat template") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (ModelFileError, ValueError) as error:  # ValueError: a NUL in the path
        raise ChatTemplateError(str(error)) from None
    if len(content) > MAX_FILE_BYTES:
        raise ChatTemplateError(
            f"{path}: holds more than {MAX_FILE_BYTES:,} bytes, expected a chat template"
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ChatTemplateError(f"{path}: is not text: {error}, expected UTF-8") from None


def _unknown_tag(message: str | None) -> str | None:
    """Return the tag of an extension that jinja2 does not know, if that is what it says."""
    found = re.match(r"Encountered unknown tag '(?!end|el)(\w+)'", message or "")
    return found and found[1]


def _one_line(what: object) -> str:
    text = " ".join(str(what)[:MAX_REASON].split())
    text = "".join(it if it.isprintable() else repr(it)[1:-1] for it in text)
    return text or "no reason given"


def _characters(value: Any) -> int:
    """Return the number of characters in plain data."""
    if isinstance(value, Mapping):
        return sum(len(key) + _characters(inner) for key, inner in value.items())
    if isinstance(value, list):
        return sum(map(_characters, value))
    return len(value) if isinstance(value, str) else 1
