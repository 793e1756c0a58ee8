"""A conversation becomes token ids: written down by the model's template, then encoded.

It knows which tokens are the template's to write and which are only spelled by somebody who types:
the text of a message is plain text, whatever it spells. It knows no model and keeps no history.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ..errors import CullamaError, UsageError
from ..sampling.params import SamplingParams

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer
    from .template import ChatTemplate

Message: TypeAlias = Mapping[str, Any]  # {"role": "user", "content": "Hi"}

# Splits the spelling of a control token that somebody typed, until all is written down. A
# noncharacter, U+FDD0: text that is meant for others holds none, and here it becomes U+FFFD.
SPLIT, REPLACEMENT = "\ufdd0", "\ufffd"

_PROBE = "0123456789"  # an answer's text that no template changes


class _Special(NamedTuple):
    """A control token, and whether it takes the space beside it along."""

    id: int
    swallows_before: bool
    swallows_behind: bool


class ChatFormat:
    """How this model wants a conversation.

    Without a template, which base models lack, the texts follow each other line by line, to be
    continued as a story would be. `variables` are what a template may be told besides.
    """

    def __init__(
        self,
        template: ChatTemplate | None,
        tokenizer: Tokenizer,
        bos_id: int | None,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        self.template, self._tokenizer, self._bos_id = template, tokenizer, bos_id
        self._variables = variables or {}

    def write(self, messages: Many[Message], add_generation_prompt: bool = True) -> str:
        """The conversation as one text, to be given to `encode`; control tokens that were typed
        are split.

        Raises:
            UsageError: messages that are none, or that the template refuses.
            ChatTemplateError: the template does what it must not.
        """
        contents = [self.typed(message) for message in messages]
        plain = [{**it, "content": text} for it, text in zip(messages, contents, strict=True)]
        if self.template is None:
            return "\n".join(message["content"] for message in plain)
        return self.template.render(plain, add_generation_prompt, **self._variables)

    def encode(self, text: str) -> list[int]:
        """Token ids of what `write` wrote. A text that begins with a BOS keeps one, not two."""
        if self.template is None:
            return self._tokenizer.encode(text.replace(SPLIT, ""))
        ids = self.encode_rest(text)
        return ids[1:] if ids[:2] == [self._bos_id] * 2 else ids

    def encode_rest(self, text: str) -> list[int]:
        """Token ids of what goes on behind a control token, or begins with one."""
        if SPLIT not in text:
            return self._tokenizer.encode(text, add_special_tokens=False, allow_special=True)
        return [token for piece in self._pieces(text) for token in self._encode_piece(piece)]

    def typed(self, message: Message) -> str:
        """A message's text, in which nothing spells a control token."""
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise not_a_message(message)
        text: str = message["content"].replace(SPLIT, REPLACEMENT)
        # Once is not enough where the end of one token is the beginning of another.
        while self._special and self._any_special.search(text):
            text = self._any_special.sub(lambda found: _split(found.group()), text)
        return text

    def with_ends(self, params: SamplingParams) -> SamplingParams:
        """The same wishes for an answer in a conversation, which ends where its turn does."""
        if params.ignore_eos or not self.ends:
            return params
        return replace(params, stop_token_ids=(*params.stop_token_ids, *self.ends))

    def begins_with_control(self, text: str) -> bool:
        return bool(self._special) and self._any_special.match(text) is not None

    @cached_property
    def ends(self) -> frozenset[int]:
        """The control token which the template puts behind an answer, whatever the model's own
        end tokens are."""
        if self.template is None:
            return frozenset()
        talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _PROBE}]
        try:
            behind = self.write(talk, add_generation_prompt=False).rpartition(_PROBE)[2]
        except CullamaError:  # of a template with such needs that it must be asked in earnest
            return frozenset()
        found = self._any_special.match(behind.lstrip()) if self._special else None
        return frozenset([self._special[found.group()].id]) if found else frozenset()

    @cached_property
    def _special(self) -> dict[str, _Special]:
        added = self._tokenizer.tokenizer.get_added_tokens_decoder()
        return {
            token.content: _Special(index, token.lstrip, token.rstrip)
            for index, token in added.items()
            if token.special and token.content
        }

    @cached_property
    def _any_special(self) -> re.Pattern[str]:
        longest_first = sorted(self._special, key=len, reverse=True)
        # One that is a single character cannot be split in two; it is split from what follows.
        return re.compile(f"(?:{'|'.join(map(re.escape, longest_first))})(?!{SPLIT})")

    def _pieces(self, text: str) -> list[str]:
        """Control tokens and what is between them, without the space that some tokens swallow."""
        pieces = re.split(f"({self._any_special.pattern})", text)
        for index in range(1, len(pieces), 2):
            special = self._special[pieces[index]]
            if special.swallows_before:
                pieces[index - 1] = pieces[index - 1].rstrip()
            if special.swallows_behind:
                pieces[index + 1] = pieces[index + 1].lstrip()
        return pieces

    def _encode_piece(self, piece: str) -> list[int]:
        if piece in self._special:
            return [self._special[piece].id]
        return self._tokenizer.encode(piece.replace(SPLIT, ""), add_special_tokens=False)


def not_a_message(found: object) -> UsageError:
    return UsageError(
        f"a message is {found!r:.80}, expected a role and a text: "
        "{'role': 'user', 'content': 'Hi'}"
    )


def _split(token: str) -> str:
    return token[0] + SPLIT + token[1:]
