"""Turns a conversation into token ids: rendered by the model's chat template, then encoded.

Control tokens come from the template alone: a message that spells one is encoded as plain text.
It loads no model and keeps no history.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ..errors import CullamaError, UsageError
from ..sampling.params import SamplingParams

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer
    from .template import ChatTemplate

Message: TypeAlias = Mapping[str, Any]  # {"role": "user", "content": "Hi"}

# Inserted into a control token that a message spells, so that no template, however it joins
# texts, puts the token together again; removed before encoding. U+FDD0 is a noncharacter, which
# no text meant for interchange contains; in a message it becomes U+FFFD.
SPLIT, REPLACEMENT = "\ufdd0", "\ufffd"

_PROBE = "0123456789"  # an assistant message that no template changes


class _ControlToken(NamedTuple):
    id: int
    strips_left: bool  # the tokenizer drops the white space before it
    strips_right: bool


class ChatFormat:
    """Renders and encodes conversations the way one model expects them.

    Without a template, as for base models, the messages are joined line by line, to be continued
    as text. `variables` are passed to the template along with the messages.
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

    def write(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """Render the conversation as one text for `encode`, with control tokens that messages
        spell escaped.

        Raises:
            UsageError: something that is not a message, or messages that the template refuses.
            ChatTemplateError: the template fails, or does what templates may not do.
        """
        contents = [self.escape_control_tokens(message) for message in messages]
        if self.template is None:
            return "\n".join(contents)
        escaped = [{**it, "content": text} for it, text in zip(messages, contents, strict=True)]
        return self.template.render(escaped, add_generation_prompt, **self._variables)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text from `write`, with one BOS where template and
        tokenizer would make two."""
        if self.template is None:
            return self._tokenizer.encode(text.replace(SPLIT, ""))
        ids = self.encode_continuation(text)
        return ids[1:] if ids[:2] == [self._bos_id] * 2 else ids

    def encode_continuation(self, text: str) -> list[int]:
        """Return the token ids of a rendered text, or of the part of one that starts with a
        control token. Adds no BOS."""
        if SPLIT not in text:
            return self._tokenizer.encode(text, add_special_tokens=False, allow_special=True)
        ids: list[int] = []
        for piece in self._split_at_control_tokens(text):
            if piece in self._control_tokens:
                ids.append(self._control_tokens[piece].id)
            else:
                plain = piece.replace(SPLIT, "")
                ids += self._tokenizer.encode(plain, add_special_tokens=False)
        return ids

    def escape_control_tokens(self, message: Message) -> str:
        """Return a message's content, with every control token it spells split by `SPLIT`."""
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise not_a_message(message)
        text: str = message["content"].replace(SPLIT, REPLACEMENT)
        # Once is not enough where the end of one token is the start of another.
        while self._control_tokens and self._any_control_token.search(text):
            text = self._any_control_token.sub(
                lambda found: found.group()[0] + SPLIT + found.group()[1:], text
            )
        return text

    def with_stop_tokens(self, params: SamplingParams) -> SamplingParams:
        """Return the parameters with the token that ends an assistant message as a stop token."""
        if params.ignore_eos or not self.stop_tokens:
            return params
        return replace(params, stop_token_ids=(*params.stop_token_ids, *self.stop_tokens))

    def starts_with_control_token(self, text: str) -> bool:
        """Whether a rendered text starts with a control token that the template wrote."""
        return bool(self._control_tokens) and self._any_control_token.match(text) is not None

    @cached_property
    def stop_tokens(self) -> frozenset[int]:
        """The control token that the template writes behind an assistant message; often not
        among the EOS tokens of the model's config. Empty where it writes none."""
        if self.template is None:
            return frozenset()
        sample = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _PROBE}]
        try:
            behind = self.write(sample, add_generation_prompt=False).rpartition(_PROBE)[2]
        except CullamaError:  # a template that refuses this sample, or needs variables
            return frozenset()
        if not self._control_tokens:
            return frozenset()
        found = self._any_control_token.match(behind.lstrip())
        return frozenset([self._control_tokens[found.group()].id]) if found else frozenset()

    @cached_property
    def _control_tokens(self) -> dict[str, _ControlToken]:
        added = self._tokenizer.tokenizer.get_added_tokens_decoder()
        return {
            token.content: _ControlToken(index, token.lstrip, token.rstrip)
            for index, token in added.items()
            if token.special and token.content
        }

    @cached_property
    def _any_control_token(self) -> re.Pattern[str]:
        longest_first = sorted(self._control_tokens, key=len, reverse=True)
        # A token of one character cannot be split inside; SPLIT behind it escapes it.
        return re.compile(f"(?:{'|'.join(map(re.escape, longest_first))})(?!{SPLIT})")

    def _split_at_control_tokens(self, text: str) -> list[str]:
        """Return control tokens and the texts between them, stripped as the tokenizer would."""
        pieces = re.split(f"({self._any_control_token.pattern})", text)
        for index in range(1, len(pieces), 2):
            token = self._control_tokens[pieces[index]]
            if token.strips_left:
                pieces[index - 1] = pieces[index - 1].rstrip()
            if token.strips_right:
                pieces[index + 1] = pieces[index + 1].lstrip()
        return pieces


def not_a_message(found: object) -> UsageError:
    return UsageError(
        f"a message is {found!r:.80}, expected a role and a text: "
        "{'role': 'user', 'content': 'Hi'}"
    )
