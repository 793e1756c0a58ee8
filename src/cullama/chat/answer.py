"""Holds how an answer was generated, which is what continuing it and branching off it need.

Records only; `Session` makes and uses them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RenderedPrompt:
    """The first messages of a conversation, as text and as the token ids the model reads."""

    text: str
    token_ids: tuple[int, ...]
    messages: int  # how many are rendered


@dataclass(frozen=True)
class BegunAnswer:
    """The beginning of an answer, or all of it so far.

    Attributes:
        text: what the token ids spell; a part of a character at their end is left out.
        token_ids: without the token that ended the answer.
        seed: what its tokens were drawn with; None is not known.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Turn:
    """A prompt, and the tokens of the model that answered it."""

    prompt: RenderedPrompt
    answer: BegunAnswer
    rendered: RenderedPrompt  # all messages, up to the answer
