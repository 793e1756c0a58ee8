"""Where a checkpoint keeps its chat template, and the texts of the tokens a template may name.

It knows the files and fields in which they are found, in folders and in GGUF. What a template
does is `chat_template`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..chat.template import ChatTemplate
from ..errors import ChatTemplateError
from ..files.fields import Fields, load_json
from ..files.regular_file import short_repr

TEMPLATE, CONFIG, SPECIAL = (
    "chat_template.jinja",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
NAMES = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))

# GGUF: which token ids give the names their texts.
GGUF_NAMES = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
}


# --- folders


def folder_template(folder: Path) -> ChatTemplate | None:
    """chat_template.jinja goes before the chat_template of tokenizer_config.json.

    Raises:
        ChatTemplateError: there is one, and it cannot be used.
        ModelFileError: the files round it are damaged.
    """
    names = folder_names(folder)
    if (folder / TEMPLATE).exists():
        return ChatTemplate.from_file(folder / TEMPLATE, names)
    fields = _fields(folder / CONFIG)
    source = _source(fields)
    return ChatTemplate(source, f"{fields.path}: chat_template", names) if source else None


def folder_names(folder: Path) -> Mapping[str, str]:
    """The texts of bos_token, eos_token and so on: from tokenizer_config.json, or older files."""
    files = [_fields(folder / SPECIAL), _fields(folder / CONFIG)]
    return {name: _token(fields, name) for fields in files for name in NAMES if name in fields}


def _fields(path: Path) -> Fields:
    return Fields(path, load_json(path) if path.exists() else {})


def _token(fields: Fields, name: str) -> str:
    """A token is its text, or an object that holds it."""
    value = fields.values[name]
    if isinstance(value, str):
        return value
    group = fields.group(name)
    return fields.fail(name, "a token, as a string") if group is None else group.text("content")


def _source(fields: Fields) -> str | None:
    """One template, or a list of templates with names; "default" is the one for conversations."""
    named = fields.values.get("chat_template")
    if not isinstance(named, list):
        return fields.text("chat_template", None)
    for one in named:
        if not isinstance(one, dict) or not isinstance(one.get("template"), str):
            fields.fail("chat_template", "a string, or a list of objects with name and template")
    found = {str(one.get("name")): str(one["template"]) for one in named}
    if found and "default" not in found:
        raise ChatTemplateError(
            f"{fields.path}: chat_template holds {short_repr(sorted(found))}, "
            "expected one with the name default; use another with --template FILE"
        )
    return found.get("default")


# --- GGUF


def gguf_template(metadata: Mapping[str, Any], path: Path) -> ChatTemplate | None:
    """
    Raises:
        ModelFileError: the fields are not what they must be.
    """
    source = Fields(path, metadata).text("tokenizer.chat_template", None)
    if not source:
        return None
    where = f"{path}: tokenizer.chat_template"
    return ChatTemplate(source, where, gguf_names(metadata, path))


def gguf_names(metadata: Mapping[str, Any], path: Path) -> Mapping[str, str]:
    """The texts of the tokens with a role; a token outside the vocabulary is an error."""
    fields = Fields(path, metadata, prefix="tokenizer.ggml.")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        return {}
    ids = {
        name: fields.integer(f"{kind}_token_id", None, low=0, high=len(tokens) - 1)
        for name, kind in GGUF_NAMES.items()
    }
    return {name: str(tokens[index]) for name, index in ids.items() if index is not None}
