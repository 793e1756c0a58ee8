"""A conversation: what was said, what the model has read of it, and how to take some of it back.

It keeps messages and the token ids in which an answer was written, so that the next turn begins
with the very tokens the cache holds. What can be reused is the engine's to find. It prints nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import ContextLengthError, UsageError
from ..sampling.params import SamplingParams
from ..text.completion import Completion
from .format import Message, not_a_message

if TYPE_CHECKING:
    from ..llm import LLM

# Of the context: kept free for an answer, and made free at once when old turns have to go, so that
# they do not go one by one, each time at the price of reading all the rest again.
SHARE_OF_ANSWER = 1 / 4


@dataclass(frozen=True)
class Written:
    """Some messages as the model reads them, or wrote the last of them itself."""

    text: str
    token_ids: tuple[int, ...]
    messages: int  # of the conversation, up to here


class Session:
    """A conversation with a model.

    When the context is full, the oldest turns are left out of what the model reads, as many as it
    takes to have a quarter of the context free; the system message always stays. `messages` keeps
    them, and `left_out` says how many of them the last turn did without.

    Args:
        llm: the model; closing it ends its sessions.
        system: how the model is to behave; None leaves that to the template.
        params: for all turns that do not bring their own.
        messages: a conversation to go on with.

    Raises:
        UsageError: messages that are not text, or not a conversation.
        ChatTemplateError: the model's chat template cannot be used.
    """

    def __init__(
        self,
        llm: LLM,
        system: str | None = None,
        params: SamplingParams | None = None,
        messages: Many[Message] = (),
    ) -> None:
        self.llm = llm
        self.params = SamplingParams() if params is None else params
        self.messages: list[dict[str, str]] = [_checked(message) for message in messages]
        self.left_out = 0
        self.last_prompt: Written | None = None
        self._written: list[Written] = []  # each turn with all before it
        self._reply: weakref.ref[Reply] | None = None
        if system is not None:
            self.system = system

    @property
    def system(self) -> str | None:
        """The system message. The next turn goes by it, and reads all anew."""
        first = self.messages[0] if self.messages else {"role": "", "content": ""}
        return first["content"] if first["role"] == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        rest = self.messages[self.system is not None :]
        told = [] if text is None else [_checked({"role": "system", "content": text})]
        self.messages, self.left_out = [*told, *rest], 0
        self._written = []

    @property
    def turns(self) -> int:
        """Questions that were answered."""
        return sum(message["role"] == "assistant" for message in self.messages)

    @property
    def context_used(self) -> int:
        """Tokens of the conversation so far, without what is left out."""
        if not self.turns:
            return 0
        told = int(self.system is not None)
        return len(self._written_down(self.messages, told, self.left_out, False).token_ids)

    def send(self, text: str, params: SamplingParams | None = None) -> Completion:
        """Say something and return the answer.

        Raises:
            ContextLengthError: the text alone, with the system message, fills the context.
        """
        with self.stream(text, params) as reply:
            for _ in reply:
                pass
        return reply.completion

    def stream(self, text: str, params: SamplingParams | None = None) -> Reply:
        """Say something; iterate over the answer as it is written.

        The turn is part of the conversation when the answer has ended: read to its end, closed
        in between (then as far as it was read), or not at all, if it fails.
        """
        return self._ask([*self.messages, _checked({"role": "user", "content": text})], params)

    def undo(self, turns: int = 1) -> list[dict[str, str]]:
        """Take the last turns back: questions and answers. Returns what was taken.

        Raises:
            UsageError: there are not so many, or an answer is still being written.
        """
        self._check_idle()
        start = self._start_of_last(turns)
        taken = self.messages[start:]
        self.messages, self.left_out = self.messages[:start], 0
        self._keep_written(start)
        return taken

    def retry(self, params: SamplingParams | None = None) -> Completion:
        """Ask the last question again; the answer takes the place of the one before."""
        with self.stream_retry(params) as reply:
            for _ in reply:
                pass
        return reply.completion

    def stream_retry(self, params: SamplingParams | None = None) -> Reply:
        """The same, iterating. The old answer stays if the new one fails."""
        start = self._start_of_last(1)
        return self._ask(self.messages[: start + 1], params)

    def stream_edit(self, text: str, params: SamplingParams | None = None) -> Reply:
        """Say `text` in place of the last question. What stood there stays if that fails."""
        start = self._start_of_last(1)
        question = _checked({"role": "user", "content": text})
        return self._ask([*self.messages[:start], question], params)

    def fork(self) -> Session:
        """The same conversation once more, to go on otherwise. What was read is not read again."""
        twin = Session(self.llm, None, self.params, self.messages)
        twin._written, twin.last_prompt = [*self._written], self.last_prompt
        twin.left_out = self.left_out
        return twin

    def __repr__(self) -> str:
        return f"Session({self.turns} turns, {self.llm!r})"

    # --- a turn --------------------------------------------------------------------------------

    def _ask(self, messages: list[dict[str, str]], params: SamplingParams | None) -> Reply:
        self._check_idle()
        params = self.params if params is None else params
        prompt, left_out = self._fitting(messages, params)
        params = self.llm.chat_format.with_ends(params)
        if params.max_tokens is not None:
            room = self.llm.longest_text - len(prompt.token_ids)
            params = replace(params, max_tokens=min(params.max_tokens, room))
        reply = Reply(self, messages, prompt, params)
        self.left_out, self.last_prompt = left_out, prompt
        self._reply = weakref.ref(reply)
        return reply

    def _check_idle(self) -> None:
        reply = self._reply() if self._reply is not None else None
        if reply is not None and reply.is_open:
            raise UsageError("the last answer is still being written; read it or close it first")

    def _fitting(
        self, messages: list[dict[str, str]], params: SamplingParams
    ) -> tuple[Written, int]:
        """The conversation with room for an answer, and how many messages that does without."""
        longest = self.llm.longest_text
        spare = int(longest * SHARE_OF_ANSWER)
        room = min(spare, params.max_tokens or spare)
        told = int(self.system is not None)
        for left_out in _choices(messages[told:], self.left_out):
            prompt = self._written_down(messages, told, left_out)
            if len(prompt.token_ids) + max(1, room) <= longest:
                return prompt, left_out
            room = spare
        if len(prompt.token_ids) < longest:
            return prompt, left_out
        raise ContextLengthError(
            f"the message is {len(prompt.token_ids)} tokens with what must stay before it, which "
            f"leaves no room for an answer in a context of {longest}; say it in fewer words"
        )

    def _written_down(
        self, messages: list[dict[str, str]], told: int, left_out: int, is_asked: bool = True
    ) -> Written:
        """The prompt in token ids; as far as they go, those that were read and written before.

        A model may spell its answer in other tokens than the tokenizer would.
        """
        format, count = self.llm.chat_format, len(messages)
        text = format.write(messages[:told] + messages[told + left_out :], is_asked)
        for known in reversed(self._written):
            rest = text[len(known.text) :]
            if text.startswith(known.text) and format.begins_with_control(rest):
                return Written(text, (*known.token_ids, *format.encode_rest(rest)), count)
        return Written(text, tuple(format.encode(text)), count)

    def _end_turn(self, reply: Reply) -> None:
        completion = reply.completion
        if not completion.text and completion.finish_reason == "cancelled":
            return  # nothing was said
        answer = {"role": "assistant", "content": completion.text}
        self.messages = [*reply.messages, answer]
        self._keep_written(len(reply.messages) - 1)
        ids = self._spoken(completion, has_stops=bool(reply.params.stop))
        if ids is not None:
            text = reply.prompt.text + self.llm.chat_format.typed(answer)
            ids = (*reply.prompt.token_ids, *ids)
            self._written.append(Written(text, ids, len(self.messages)))

    def _spoken(self, completion: Completion, has_stops: bool) -> tuple[int, ...] | None:
        """The answer in the model's own tokens, without the end of the turn, which is the
        template's to write; None where they say more than was read, as behind a stop string."""
        ids = completion.token_ids
        if completion.finish_reason == "stop":
            has_end = ids[-1] in {*self.llm.config.eos_ids, *self.llm.chat_format.ends}
            return ids[:-1] if has_end else None
        is_cut = completion.finish_reason == "cancelled" and has_stops
        return None if is_cut else ids

    def _keep_written(self, messages: int) -> None:
        """Only the first so many messages are still the same."""
        self._written = [known for known in self._written if known.messages <= messages]

    def _start_of_last(self, turns: int) -> int:
        asked = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        if turns < 1 or turns > len(asked):
            raise UsageError(
                f"{turns} turns to take back, expected 1 to {len(asked)}, what was said"
            )
        return asked[-turns]


class Reply:
    """An answer while it is written: iterate for its pieces.

    Closing it ends the answer where it is. `completion` tells the rest.
    """

    def __init__(
        self,
        session: Session,
        messages: list[dict[str, str]],
        prompt: Written,
        params: SamplingParams,
    ) -> None:
        self._session, self._stream = session, session.llm.stream([*prompt.token_ids], params)
        self.messages, self.prompt, self.params = messages, prompt, params
        self.is_open = True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            return next(self._stream)
        except StopIteration:
            self.close()
            raise
        except Exception:  # it failed: there was no such turn
            self.is_open = False
            raise

    @property
    def completion(self) -> Completion:
        return self._stream.completion

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self._stream.close()
            self._session._end_turn(self)

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _checked(message: Message) -> dict[str, str]:
    """A copy, of which nobody else has a hold."""
    values = message if isinstance(message, Mapping) else {}
    role, content = values.get("role"), values.get("content")
    if not isinstance(role, str) or not isinstance(content, str) or len(values) != 2:
        raise not_a_message(message)
    return {"role": role, "content": content}


def _choices(messages: list[dict[str, str]], left_out: int) -> Iterator[int]:
    """How many of the oldest messages to leave out: as many as last time, or up to the next
    question, and the next; the last question always stays."""
    yield left_out
    for index, message in enumerate(messages):
        if index > left_out and message["role"] == "user":
            yield index
