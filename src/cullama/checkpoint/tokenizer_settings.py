"""Applies the files beside tokenizer.json to a tokenizer: more tokens, their flags, BOS and EOS.

These are tokenizer_config.json, special_tokens_map.json and added_tokens.json. Where they differ
from tokenizer.json, ids are tokenizer.json's and flags are tokenizer_config.json's, as in
transformers 4. Chat templates are read by `template_files.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from tokenizers import AddedToken, Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from ..errors import ModelFileError
from ..files.fields import Fields
from ..files.regular_file import short_repr
from ..text.control_tokens import END_NAMES, SHAPE
from .bos_and_eos import surrounding
from .settings.tokenizer_config import TOKENIZER_CONFIG_RULES
from .settings.verdict import check_settings
from .template_files import CONFIG, SPECIAL, folder_names
from .tokenizer_probe import MAX_TOKEN_ID, MAX_TOKEN_LENGTH

ADDED = "added_tokens.json"
# Fields of more control tokens; the second is transformers 5's.
ADDITIONAL = ("additional_special_tokens", "extra_special_tokens")
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")

# Ids below an added token that have none get fillers; no published model lacks so many.
MAX_GAP = 1 << 12

# The classes of transformers 4 that obey add_bos_token and add_eos_token, whatever tokenizer.json
# says; and whether they add BOS where neither is given. All others go by tokenizer.json.
OBEYS_MARKS = {
    "LlamaTokenizer": True,
    "CodeLlamaTokenizer": True,
    "GemmaTokenizer": True,
    "CohereTokenizer": True,
    "GPTNeoXTokenizer": False,
}

_log = logging.getLogger("cullama")


@dataclass(frozen=True)
class TokenizerSettings:
    """What the files beside tokenizer.json say."""

    path: Path  # of tokenizer_config.json, for messages
    added: Mapping[int, AddedToken]  # by id
    named: tuple[tuple[str, AddedToken], ...]  # "bos_token" and so on, and additional ones
    adds: Mapping[str, bool]  # whether a text gets "bos" and "eos", as far as the files say
    kind: str | None  # tokenizer_class
    add_prefix_space: bool | None

    @classmethod
    def read(cls, folder: Path) -> TokenizerSettings:
        """Read the files of a folder, those that there are.

        Raises:
            ModelFileError: one is damaged, or a field is of the wrong kind.
        """
        config, special, older = (Fields.of_file(folder / it) for it in (CONFIG, SPECIAL, ADDED))
        check_settings(config.path, config.values, TOKENIZER_CONFIG_RULES)
        named = [
            (role, _token(content, {**_flags_of(special, role), **_flags_of(config, role)}))
            for role, content in folder_names(folder).items()
            if content  # an empty one names no token
        ]
        named += [it for fields in (special, config) for it in _additional(fields)]
        has_prefix = "add_prefix_space" in config
        return cls(
            path=config.path,
            added=dict(_added(config))
            or dict(_older_added(older, {it.content for _, it in named})),
            named=tuple(named),
            adds={
                mark: config.flag(f"add_{mark}_token", False)
                for mark in ("bos", "eos")
                if f"add_{mark}_token" in config
            },
            kind=config.text("tokenizer_class", None),
            add_prefix_space=config.flag("add_prefix_space", False) if has_prefix else None,
        )


def _flags_of(fields: Fields, role: str) -> Mapping[str, Any]:
    value = fields.values.get(role)
    return value if isinstance(value, Mapping) else {}


def _token(content: str, flags: Mapping[str, Any], special: bool = True) -> AddedToken:
    """Return a token with the flags given; one that is not special is normalized by default."""
    given = {name: flags[name] for name in FLAGS if isinstance(flags.get(name), bool)}
    special = given.get("special", special)
    return AddedToken(content, **{"normalized": not special, **given, "special": special})


def _additional(fields: Fields) -> Iterator[tuple[str, AddedToken]]:
    for role in ADDITIONAL:
        values = fields.values.get(role) or []
        # transformers 4 gives the extra ones a name each.
        values = [*values.values()] if isinstance(values, dict) and "extra" in role else values
        if not isinstance(values, list):
            fields.fail(role, "a list of tokens")
        for value in values:
            content = value.get("content") if isinstance(value, dict) else value
            if not _is_text(content):
                fields.fail(role, "a list of tokens")
            yield role, _token(content, value if isinstance(value, dict) else {})


def _is_text(content: Any) -> TypeGuard[str]:
    return isinstance(content, str) and 0 < len(content) <= MAX_TOKEN_LENGTH


def _added(config: Fields) -> Iterator[tuple[int, AddedToken]]:
    """Yield the ids and tokens of `added_tokens_decoder`."""
    name, expected = "added_tokens_decoder", 'an object of tokens by id, {"5": {"content": "<s>"}}'
    values = config.values.get(name) or {}
    if not isinstance(values, dict):
        config.fail(name, expected)
    for key, value in values.items():
        content = value.get("content") if isinstance(value, dict) else None
        is_id = key.isascii() and key.isdigit() and len(key) < 10 and int(key) < MAX_TOKEN_ID
        if not is_id or not _is_text(content):
            config.fail(name, expected)
        yield int(key), _token(content, value, special=False)


def _older_added(fields: Fields, special: set[str]) -> Iterator[tuple[int, AddedToken]]:
    """Yield the ids and tokens of added_tokens.json, which older models have instead."""
    for content, index in fields.values.items():
        if type(index) is not int or not 0 <= index < MAX_TOKEN_ID or not _is_text(content):
            fields.fail(content, "a token, and its id")
        yield index, _token(content, {}, special=content in special)


def apply_settings(settings: TokenizerSettings, tokenizer: Tokenizer, vocab_size: int) -> list[str]:
    """Change a tokenizer as its settings say; returns the changes, one line each.

    Args:
        vocab_size: of the model, which has no token beyond it.

    Raises:
        ModelFileError: ids that the tokenizer cannot give.
    """
    additions = _Additions(settings.path, tokenizer, vocab_size)
    for index, token in sorted(settings.added.items()):
        additions.add(token, index)
    for role, token in settings.named:
        additions.name(role, token)
    for content in sorted(END_NAMES):
        additions.mark_as_end(content)
    changes = additions.finish()
    changes += _surround(settings, tokenizer)
    before, wanted = tokenizer.pre_tokenizer, settings.add_prefix_space
    if isinstance(before, ByteLevel) and wanted is not None and before.add_prefix_space != wanted:
        before.add_prefix_space = wanted
        changes.append(f"add_prefix_space {wanted}")
    return changes


def _described(token: AddedToken) -> str:
    return f"{token.content!r} {[getattr(token, flag) for flag in FLAGS]}"


def _as_special(token: AddedToken) -> AddedToken:
    flags = {flag: getattr(token, flag) for flag in FLAGS}
    return AddedToken(token.content, **{**flags, "special": True})


class _Additions:
    """Tokens that are to be added, or to be added again with other flags."""

    def __init__(self, path: Path, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._path, self._tokenizer, self._vocab_size = path, tokenizer, vocab_size
        present = tokenizer.get_added_tokens_decoder()
        self._known = {token.content: token for token in present.values()}
        self._new: dict[str, tuple[int, AddedToken]] = {}
        own = tokenizer.get_vocab_size(with_added_tokens=False)
        self._next = max([own, *(index + 1 for index in present)])  # the library's next id

    def add(self, token: AddedToken, index: int) -> None:
        """Add a token, or give a known one these flags; an id that is not free is warned about."""
        own = self._id_of(token.content)
        if own is None:
            other = self._tokenizer.id_to_token(index)
            if other is not None or not self._next <= index < self._vocab_size:
                what = f"is that of {short_repr(other)}" if other is not None else "is out of range"
                text = short_repr(token.content)
                _log.warning("%s: token %s is left out: id %d %s", self._path, text, index, what)
                return
            if index - self._next > MAX_GAP:
                raise ModelFileError(
                    f"{self._path}: added_tokens_decoder holds id {index}, expected at most "
                    f"{self._next + MAX_GAP}: no tokens have the ids before it"
                )
            for unused in range(self._next, index):  # the library leaves no gaps
                filler = AddedToken(f"[unused id {unused}]", normalized=False, special=True)
                self._new[filler.content] = unused, filler
            own, self._next = index, index + 1
        known = self._known.get(token.content)
        if known is not None and known.special:
            token = _as_special(token)  # the library cannot take that back
        if known is None or _described(known) != _described(token):
            self._new[token.content] = own, token
            self._known[token.content] = token

    def _id_of(self, content: str) -> int | None:
        new = self._new.get(content)
        return self._tokenizer.token_to_id(content) if new is None else new[0]

    def name(self, role: str, token: AddedToken) -> None:
        """Mark a token as special that a role names; one that has no id gets the next one."""
        known, index = self._known.get(token.content), self._id_of(token.content)
        if known is not None:
            self._mark(known)
        elif index is None:
            self.add(token, self._next)
        elif SHAPE.fullmatch(token.content):  # others, such as a "!" that pads, remain text
            self.add(token, index)

    def mark_as_end(self, content: str) -> None:
        """Mark a known end token as special, as llama.cpp does, where nothing else names it."""
        known, index = self._known.get(content), self._id_of(content)
        if known is not None:
            self._mark(known)
        elif index is not None and content != "</s>":  # which HTML has, as text
            self.add(AddedToken(content, normalized=False, special=True), index)

    def _mark(self, known: AddedToken) -> None:
        if not known.special:
            self.add(_as_special(known), self._next)

    def finish(self) -> list[str]:
        """Add the tokens; returns one line for each.

        Raises:
            ModelFileError: the library gives another id.
        """
        in_order = sorted(self._new.values(), key=lambda it: it[0])
        if in_order:
            self._tokenizer.add_tokens([token for _, token in in_order])
        for index, token in in_order:
            if (found := self._tokenizer.token_to_id(token.content)) != index:
                raise ModelFileError(
                    f"{self._path}: added token {short_repr(token.content)} gets id {found}, "
                    f"expected {index}"
                )
        return [f"{index} {_described(token)}" for index, token in in_order]


def _surround(settings: TokenizerSettings, tokenizer: Tokenizer) -> list[str]:
    """Add BOS and EOS to texts as the settings say; returns the change, if there is one."""
    texts = {role.removesuffix("_token"): token.content for role, token in settings.named}
    if (settings.kind or "").startswith(("Llama", "CodeLlama")):
        texts = {"bos": "<s>", "eos": "</s>"} | texts  # as these classes have it by default
    ids = {mark: tokenizer.token_to_id(texts.get(mark, "")) for mark in ("bos", "eos")}
    now = tokenizer.encode("").ids
    has_bos = ids["bos"] is not None and now[:1] == [ids["bos"]]
    has_eos = ids["eos"] is not None and now[has_bos:][-1:] == [ids["eos"]]
    present = {"bos": has_bos, "eos": has_eos}
    marks = {}
    for mark, is_wanted in _wanted_marks(settings, present, ids["bos"] is not None).items():
        index = ids[mark]
        if is_wanted and index is None:
            text = f"add_{mark}_token is true, and there is no {mark}_token in the vocabulary"
            _log.warning("%s: %s: none is added", settings.path, text)
        elif is_wanted and index is not None:
            marks[mark] = index, texts[mark]
    if marks.keys() == {mark for mark, is_there in present.items() if is_there}:
        return []
    tokenizer.post_processor = surrounding(marks)
    return [f"{mark} {index}" for mark, (index, _) in marks.items()] or ["no bos, no eos"]


def _wanted_marks(
    settings: TokenizerSettings, present: dict[str, bool], has_bos: bool
) -> dict[str, bool]:
    """Return whether "bos" and "eos" are added, where tokenizer.json adds those `present`."""
    if settings.kind is None:
        return present | dict(settings.adds)
    default = OBEYS_MARKS.get(settings.kind.removesuffix("Fast"))
    if default is not None:
        return {"bos": default and has_bos, "eos": False} | dict(settings.adds)
    for mark, is_added in settings.adds.items():
        if is_added != present[mark]:
            _log.warning(
                "%s: add_%s_token is %s, which transformers does not obey for a %s: "
                "tokenizer.json decides, and %s it",
                *(settings.path, mark, str(is_added).lower(), settings.kind),
                "adds" if present[mark] else "does not add",
            )
    return present
