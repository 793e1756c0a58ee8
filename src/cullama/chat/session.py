"""Keeps a conversation: messages, undo, retry, fork, truncation when the context is full.

It also keeps the token ids of each answer as the model generated them, so that the next prompt
starts with exactly the tokens in the KV cache; finding them there is the prefix cache's work
(engine/prefix_cache.py). It prints nothing.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from ..engine.client import EngineClient, GenerationRequest
from ..errors import ContextLengthError, UsageError
from ..process.interrupts import INTERRUPTS
from ..sampling.params import UNLIMITED, SamplingParams
from ..text.completion import Completion
from ..text.generation import Stream, submit
from ..text.tokenizer import NO_TOKENS, text_behind
from .answer import BegunAnswer, RenderedPrompt, Turn
from .format import template_variables
from .messages import Content, Message, Tools, checked_message, content_text
from .uncertain import UncertainToken, least_sure

if TYPE_CHECKING:
    from ..model.config import ModelConfig
    from ..text.tokenizer import Tokenizer
    from .format import ChatFormat
    from .tools.functions import ToolUse

# Of the context: kept free for an answer. When old turns are truncated, this much is freed at
# once: every truncation costs a prefill of all that stays, so it must not happen every turn.
ANSWER_SHARE = 1 / 4


SYSTEM_ROLES = ("system", "developer")


class ChatModel(Protocol):
    """What a session uses of an `LLM`."""

    @property
    def name(self) -> str: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def chat_format(self) -> ChatFormat: ...
    @property
    def longest_text(self) -> int: ...
    @property
    def default_params(self) -> SamplingParams: ...
    @property
    def engine(self) -> EngineClient: ...
    @property
    def tokenizer(self) -> Tokenizer: ...


class Session:
    """A conversation with a model.

    When the context is full, the oldest turns are truncated from the prompt, as many as it takes
    to have a quarter of the context free; the system message always stays. `messages` keeps them
    all, and `left_out` says how many of them the last prompt did not hold.

    Args:
        llm: the model; closing it ends its sessions.
        system: the system message; None leaves it to the template.
        params: for all turns that are not given their own; None takes the model's
            `default_params`.
        messages: a conversation to continue.
        tools: JSON schemas of the functions that the model may call.

    Raises:
        UsageError: messages that are not text, or not a conversation.
        ChatTemplateError: the model's chat template cannot be used.
    """

    def __init__(
        self,
        llm: ChatModel,
        system: str | None = None,
        params: SamplingParams | None = None,
        messages: Sequence[Message] = (),
        tools: Tools = None,
    ) -> None:
        self.llm, self.tools = llm, template_variables(tools, None, None)["tools"]
        self.params = llm.default_params if params is None else params
        self.messages: list[dict[str, Any]] = [checked_message(message) for message in messages]
        self.left_out = 0
        self.last_prompt: RenderedPrompt | None = None
        self._turns: list[Turn] = []  # whose token ids are known
        self._reply: weakref.ref[Reply] | None = None
        if system is not None:
            self.system = system

    @property
    def system(self) -> str | None:
        """The system message. A new one holds from the next turn, whose prompt is read in full."""
        is_first = bool(self.messages) and self.messages[0]["role"] in SYSTEM_ROLES
        return content_text(self.messages[0]) if is_first else None

    @system.setter
    def system(self, text: str | None) -> None:
        rest = self.messages[self.system is not None :]
        system = [] if text is None else [checked_message({"role": "system", "content": text})]
        self.messages, self.left_out = [*system, *rest], 0
        self._turns = []

    @property
    def turns(self) -> int:
        """The number of answers in the conversation."""
        return sum(message["role"] == "assistant" for message in self.messages)

    @property
    def context_used(self) -> int:
        """Tokens of the conversation so far, without what is truncated."""
        if not self.turns:
            return 0
        prompt = self._render(self.messages, self.left_out, add_generation_prompt=False)
        return len(prompt.token_ids)

    def send(self, text: Content, params: SamplingParams | None = None) -> Completion:
        """Send a user message, a text or a list of parts of type text, and return the answer.

        Raises:
            ContextLengthError: the message alone, with the system message, fills the context.
        """
        with self.stream(text, params) as reply:
            for _ in reply:
                pass
        return reply.completion

    async def asend(self, text: Content, params: SamplingParams | None = None) -> Completion:
        """As `send`, in an event loop, which goes on meanwhile."""
        reply = self.stream(text, params)
        async for _ in reply:
            pass
        return reply.completion

    def stream(self, text: Content, params: SamplingParams | None = None) -> Reply:
        """Send a user message and return an iterator over the answer's text.

        The turn joins the conversation when the answer ends: whole, or as far as it was read
        where the reply is closed before. A turn that fails, or is closed before its first text,
        leaves the conversation as it was.
        """
        return self._ask(
            [*self.messages, checked_message({"role": "user", "content": text})], params
        )

    def send_results(
        self, results: Sequence[Content], params: SamplingParams | None = None
    ) -> Completion:
        """Send what the calls of the last answer have given, in their order, and return the answer.

        Raises:
            UsageError: another number of results than of calls.
        """
        with self.stream_results(results, params) as reply:
            for _ in reply:
                pass
        return reply.completion

    def stream_results(
        self, results: Sequence[Content], params: SamplingParams | None = None
    ) -> Reply:
        """As `send_results`, streamed."""
        calls = self.messages[-1].get("tool_calls", []) if self.messages else []
        if isinstance(results, str) or len(calls) != len(results) or not calls:
            raise UsageError(
                f"the results are {results!r:.80}, expected a list of {len(calls)}, one for each "
                "call of the last answer"
            )
        told = [
            checked_message({"role": "tool", "tool_call_id": call["id"], "content": result})
            for call, result in zip(calls, results, strict=True)
        ]
        return self._ask([*self.messages, *told], params)

    def undo(self, turns: int = 1) -> list[dict[str, Any]]:
        """Remove the last turns, questions and answers, and return their messages.

        Raises:
            UsageError: there are fewer turns, or an answer is still being generated.
        """
        self._check_idle()
        start = self._start_of_last(turns)
        removed = self.messages[start:]
        self.messages, self.left_out = self.messages[:start], 0
        self._forget_turns_after(start)
        return removed

    def retry(self, params: SamplingParams | None = None) -> Completion:
        """Ask the last question again; the new answer replaces the old one."""
        with self.stream_retry(params) as reply:
            for _ in reply:
                pass
        return reply.completion

    def stream_retry(self, params: SamplingParams | None = None) -> Reply:
        """As `retry`, streamed. The old answer stays if the new one fails."""
        start = self._start_of_last(1)
        return self._ask(self.messages[: start + 1], params)

    def stream_edit(self, text: Content, params: SamplingParams | None = None) -> Reply:
        """Replace the last question by `text` and ask it. The old turn stays if that fails."""
        start = self._start_of_last(1)
        question = checked_message({"role": "user", "content": text})
        return self._ask([*self.messages[:start], question], params)

    def continue_(self, params: SamplingParams | None = None) -> Completion:
        """Go on with the last answer where it ends; the completion is what is added to it."""
        with self.stream_continue(params) as reply:
            for _ in reply:
                pass
        return reply.completion

    def stream_continue(self, params: SamplingParams | None = None) -> Reply:
        """As `continue_`, streamed.

        The next token is the one that would have come if the answer had not been stopped there:
        it is drawn by the same seed, and penalties count the answer's tokens. An answer that the
        model ended itself, ends again. `max_tokens` counts new tokens.

        Raises:
            UsageError: the last message is no answer, or one is still being generated.
        """
        turn = self._last_turn()
        return self._ask(self.messages[:-1], params, turn.answer)

    def uncertain_tokens(self, count: int = 5, others: int = 3) -> list[UncertainToken]:
        """Return the tokens of the last answer of which the model was least sure.

        Args:
            count: how many tokens, the one with the least probability first.
            others: how many other tokens for each, likeliest first; up to 19.

        Raises:
            UsageError: the last message is no answer, or one is still being generated.
        """
        return least_sure(self.llm.engine, self.llm.tokenizer, self._last_turn(), count, others)

    def stream_branch(
        self, index: int, token_id: int, params: SamplingParams | None = None
    ) -> Reply:
        """Answer otherwise from one token on: those before it stay, another stands in its place.

        Args:
            index: the token's place in the last answer, as in `uncertain_tokens`.
            token_id: what stands there instead; a token that ends answers ends it there.

        Raises:
            UsageError: the answer has no such token, or the vocabulary has none.
        """
        turn, format = self._last_turn(), self.llm.chat_format
        ids = turn.answer.token_ids
        if not 0 <= index < len(ids):
            raise UsageError(f"index is {index}, expected 0 to {len(ids) - 1}, the answer's tokens")
        kept, params = ids[:index], self.params if params is None else params
        if token_id in {*self.llm.config.eos_ids, *format.stop_tokens}:
            params = params.ending_with(token_id)
        else:
            kept = (*kept, token_id)
        text = text_behind(self.llm.tokenizer, turn.prompt.token_ids, kept)
        return self._ask(self.messages[:-1], params, BegunAnswer(text, kept, turn.answer.seed))

    def fork(self) -> Session:
        """Return a copy that continues independently; the prompt so far stays cached for both."""
        twin = Session(self.llm, None, self.params, self.messages, self.tools)
        twin._turns, twin.last_prompt = [*self._turns], self.last_prompt
        twin.left_out = self.left_out
        return twin

    def __repr__(self) -> str:
        return f"Session({self.turns} turns, {self.llm!r})"

    # --- a turn --------------------------------------------------------------------------------

    def _ask(
        self,
        messages: list[dict[str, Any]],
        params: SamplingParams | None,
        begun: BegunAnswer = BegunAnswer(),  # noqa: B008  (frozen)
    ) -> Reply:
        self._check_idle()
        params = self.params if params is None else params
        if params.n != 1:
            raise UsageError(f"n is {params.n}, expected 1: a turn has one answer")
        prompt, left_out = self._fit(messages, params, len(begun.token_ids))
        format = self.llm.chat_format
        use = format.answers.tool_use(self.tools)
        params = format.params_for(params, prompt.token_ids, use)
        if params.max_tokens is not None:
            room = self.llm.longest_text - len(prompt.token_ids) - len(begun.token_ids)
            params = replace(params, max_tokens=min(params.max_tokens, room))
        if params.seed is None:
            params = replace(params, seed=begun.seed)
        reply = Reply(self, messages, prompt, params, begun, use)
        self.left_out, self.last_prompt = left_out, prompt
        self._reply = weakref.ref(reply)
        return reply

    def _check_idle(self) -> None:
        reply = self._reply() if self._reply is not None else None
        if reply is not None and reply.is_open:
            raise UsageError(
                "the last answer is still being generated; read it to its end or close it first"
            )

    def _fit(
        self, messages: list[dict[str, Any]], params: SamplingParams, begun: int
    ) -> tuple[RenderedPrompt, int]:
        """Return the prompt with room for an answer, of which `begun` tokens are there, and how
        many messages are truncated."""
        longest = self.llm.longest_text - begun
        spare = int(longest * ANSWER_SHARE)
        asked = params.max_tokens
        room = spare if asked is None or asked == UNLIMITED else min(spare, asked)
        for left_out in _truncations(messages[self._system_messages :], self.left_out):
            prompt = self._render(messages, left_out)
            if len(prompt.token_ids) + max(1, room) <= longest:
                return prompt, left_out
            room = spare
        if len(prompt.token_ids) < longest:
            return prompt, left_out
        raise ContextLengthError(
            f"the message is {len(prompt.token_ids)} tokens, with the system message where there "
            f"is one, which leaves no room for an answer in a context of {longest}; "
            "say it in fewer words"
            if not begun
            else f"the question and its answer so far are {len(prompt.token_ids) + begun} tokens, "
            f"which leaves no room for more in a context of {self.llm.longest_text}"
        )

    def _render(
        self, messages: list[dict[str, Any]], left_out: int, add_generation_prompt: bool = True
    ) -> RenderedPrompt:
        """Render and encode a conversation without its `left_out` oldest messages.

        Answers keep the token ids that the model generated: the tokenizer may encode the same
        text differently, and then the KV cache would not hold the prompt.
        """
        format, count, first = self.llm.chat_format, len(messages), self._system_messages
        kept = messages[:first] + messages[first + left_out :]
        text = format.write(kept, add_generation_prompt, tools=self.tools)
        for known in reversed([turn.rendered for turn in self._turns]):
            rest = text[len(known.text) :]
            if text.startswith(known.text) and format.starts_with_control_token(rest):
                ids = (*known.token_ids, *format.encode_continuation(rest))
                return RenderedPrompt(text, ids, count)
        return RenderedPrompt(text, tuple(format.encode(text)), count)

    @property
    def _system_messages(self) -> int:
        return int(self.system is not None)

    def _end_turn(self, reply: Reply) -> None:
        completion, begun = reply.completion, reply.begun
        if not completion.text and completion.finish_reason == "cancelled":
            return  # closed before its first text
        answer: dict[str, Any] = {"role": "assistant", "content": begun.text + completion.text}
        if completion.message is not None and completion.message.get("tool_calls"):
            answer = dict(completion.message)
        self.messages = [*reply.messages, answer]
        self._forget_turns_after(len(reply.messages) - 1)
        if answer.get("tool_calls"):  # which the template writes in its own way
            return
        ids = self._answer_ids(completion, has_stop_strings=bool(reply.params.stop))
        if ids is not None and not reply.params.include_stop:
            ids = (*begun.token_ids, *ids)
            self._turns.append(self._turn(reply.prompt, answer, ids, completion.seed))

    def _turn(
        self, prompt: RenderedPrompt, answer: Message, ids: tuple[int, ...], seed: int | None
    ) -> Turn:
        text = prompt.text + self.llm.chat_format.escape_control_tokens(answer)
        rendered = RenderedPrompt(text, (*prompt.token_ids, *ids), prompt.messages + 1)
        return Turn(prompt, BegunAnswer(content_text(answer), ids, seed), rendered)

    def _last_turn(self) -> Turn:
        """Return how the last answer was generated; one whose ids are not known, as that of a
        saved conversation, is encoded again.

        Raises:
            UsageError: the last message is no answer, or one is still being generated.
        """
        self._check_idle()
        if not self.messages or self.messages[-1]["role"] != "assistant":
            raise UsageError("nothing has been answered yet, expected an answer to go on with")
        if self.messages[-1].get("tool_calls"):
            raise UsageError("the last answer is a tool call, expected a text to go on with")
        if self._turns and self._turns[-1].rendered.messages == len(self.messages):
            return self._turns[-1]
        *before, answer = self.messages
        prompt = self._render(before, self.left_out)
        ids = self.llm.chat_format.encode_answer(answer, prompt.text, prompt.token_ids)
        return self._turn(prompt, answer, tuple(ids), None)

    def _answer_ids(self, completion: Completion, has_stop_strings: bool) -> tuple[int, ...] | None:
        """Return the answer's token ids without the token that ends the turn, which the template
        writes; None where they spell more than the text, as at a stop string."""
        ids = completion.token_ids
        if completion.finish_reason == "stop":
            has_end = ids[-1] in {*self.llm.config.eos_ids, *self.llm.chat_format.stop_tokens}
            return ids[:-1] if has_end else None
        is_cut = completion.finish_reason == "cancelled" and has_stop_strings
        return None if is_cut else ids

    def _forget_turns_after(self, messages: int) -> None:
        """Drop the turns of more than the first `messages`: later ones have changed."""
        self._turns = [turn for turn in self._turns if turn.rendered.messages <= messages]

    def _start_of_last(self, turns: int) -> int:
        asked = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        if not asked:
            raise UsageError("nothing has been asked yet, expected a turn to go back to")
        if turns < 1 or turns > len(asked):
            raise UsageError(
                f"{turns} turns to take back, expected 1 to {len(asked)}, as many as there are"
            )
        return asked[-turns]


class Reply:
    """An answer that is being generated: iterate for its text, with `for` or `async for`.

    Closing it, from any thread, stops the answer there. `completion` has the tokens, timings and
    finish reason; `begun` is the part of the answer that was there before.
    """

    def __init__(
        self,
        session: Session,
        messages: list[dict[str, Any]],
        prompt: RenderedPrompt,
        params: SamplingParams,
        begun: BegunAnswer,
        use: ToolUse | None = None,
    ) -> None:
        answers, tokenizer = session.llm.chat_format.answers, session.llm.tokenizer

        def finish(completion: Completion) -> Completion:
            message = answers.message(completion.text, prompt.token_ids, begun.token_ids, use)
            return replace(completion, message=message)

        request = GenerationRequest(prompt.token_ids, params, answer=begun.token_ids)
        shown = answers.shown_tokens if use is not None else NO_TOKENS
        with INTERRUPTS.deferred:  # a request without its stream could not be cancelled
            [sample] = submit(session.llm.engine, request, tokenizer, shown)
            self._session, self._stream = session, Stream(sample, finish=finish)
        self.messages, self.prompt, self.params = messages, prompt, params
        self.begun = begun
        self.is_open = True
        self._ending = threading.RLock()  # two threads must not both end the turn

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            return next(self._stream)
        except StopIteration:
            self.close()
            raise
        except Exception:  # a turn that fails does not join the conversation
            with self._ending:
                self.is_open = False
            raise

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        """Leaving the loop early stops the answer, as `close` does."""
        try:
            async with aclosing(aiter(self._stream)) as pieces:
                async for piece in pieces:
                    yield piece
        except Exception:
            with self._ending:
                self.is_open = False
            raise
        finally:
            self.close()

    @property
    def completion(self) -> Completion:
        """What has been generated so far."""
        return self._stream.completion

    def close(self) -> None:
        """Stop the answer, and keep the turn as far as it was read; does nothing a second time.

        A thread that is reading the answer comes to its end, in the middle of waiting for text.
        """
        with self._ending:
            if self.is_open:
                self.is_open = False
                self._stream.close()
                self._session._end_turn(self)

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _truncations(messages: list[dict[str, Any]], left_out: int) -> Iterator[int]:
    """Yield how many of the oldest messages to truncate: as many as last time, then up to each
    later question; the last question always stays."""
    yield left_out
    for index, message in enumerate(messages):
        if index > left_out and message["role"] == "user":
            yield index
