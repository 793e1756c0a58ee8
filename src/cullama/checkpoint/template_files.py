"""Finds a checkpoint's chat template, and the strings of the special tokens that it may name.

It reads them from the files of a folder or from the metadata of a GGUF file. Templates are compiled
and rendered by `chat/template.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..chat.template import ChatTemplate
from ..errors import ChatTemplateError
from ..files.fields import Fields
from ..files.regular_file import short_repr

TEMPLATE, CONFIG, SPECIAL = (
    "chat_template.jinja",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
FOR_TOOLS = "additional_chat_templates/tool_use.jinja"
NAMES = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))

# The token ids in GGUF that give these names their strings.
GGUF_NAMES = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
}


# --- folders


def folder_template(folder: Path) -> ChatTemplate | None:
    """Load chat_template.jinja, or else the chat_template of tokenizer_config.json.

    Raises:
        ChatTemplateError: there is one, and it cannot be used.
        ModelFileError: tokenizer_config.json or special_tokens_map.json is damaged.
    """
    names = folder_names(folder)
    if (folder / TEMPLATE).exists():
        other = folder / FOR_TOOLS
        for_tools = ChatTemplate.from_file(other, names) if other.exists() else None
        return replace(ChatTemplate.from_file(folder / TEMPLATE, names), for_tools=for_tools)
    fields = Fields.of_file(folder / CONFIG)
    sources, where = _sources(fields), f"{fields.path}: chat_template"
    return _with_tools(sources.get("default"), sources.get("tool_use"), where, names)


def _with_tools(
    source: str | None, for_tools: str | None, where: str, names: Mapping[str, str]
) -> ChatTemplate | None:
    if not source:
        return None
    tool_use = ChatTemplate(for_tools, f"{where} tool_use", names) if for_tools else None
    return ChatTemplate(source, where, names, tool_use)


def folder_names(folder: Path) -> Mapping[str, str]:
    """Return the strings of bos_token, eos_token …: of tokenizer_config.json, or older files."""
    files = [Fields.of_file(folder / SPECIAL), Fields.of_file(folder / CONFIG)]
    return {name: _token(fields, name) for fields in files for name in NAMES if name in fields}


def _token(fields: Fields, name: str) -> str:
    """Return the string of a token, which is a string or an object with `content`."""
    value = fields.values[name]
    if isinstance(value, str):
        return value
    group = fields.group(name)
    return fields.fail(name, "a token, as a string") if group is None else group.text("content")


def _sources(fields: Fields) -> dict[str, str]:
    """Return the one template as "default", or those of a list, which have names."""
    named = fields.values.get("chat_template")
    if not isinstance(named, list):
        return {"default": fields.text("chat_template", None) or ""}
    for entry in named:
        if not isinstance(entry, dict) or not isinstance(entry.get("template"), str):
            fields.fail("chat_template", "a string, or a list of objects with name and template")
    found = {str(entry.get("name")): str(entry["template"]) for entry in named}
    if found and "default" not in found:
        raise ChatTemplateError(
            f"{fields.path}: chat_template holds {short_repr(sorted(found))}, "
            "expected one with the name default; use another with --template FILE"
        )
    return found


# --- GGUF


def gguf_template(metadata: Mapping[str, Any], path: Path) -> ChatTemplate | None:
    """Load `tokenizer.chat_template`, if there is one.

    Raises:
        ChatTemplateError: it cannot be used.
        ModelFileError: a field is of the wrong kind.
    """
    fields = Fields(path, metadata)
    source = fields.text("tokenizer.chat_template", None)
    for_tools = fields.text("tokenizer.chat_template.tool_use", None)
    where = f"{path}: tokenizer.chat_template"
    return _with_tools(source, for_tools, where, gguf_names(metadata, path) if source else {})


def gguf_names(metadata: Mapping[str, Any], path: Path) -> Mapping[str, str]:
    """Return the strings of BOS, EOS, unknown and padding, those that the file has.

    Raises:
        ModelFileError: a field holds no token id.
    """
    fields = Fields(path, metadata, prefix="tokenizer.ggml.")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        return {}
    ids = {
        name: fields.token_id(f"{kind}_token_id", len(tokens)) for name, kind in GGUF_NAMES.items()
    }
    return {name: str(tokens[index]) for name, index in ids.items() if index is not None}
