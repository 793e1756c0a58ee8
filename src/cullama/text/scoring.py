"""Scores continuations: how likely a model finds a text behind a prompt.

Prompt and continuation are encoded together, and the tokens split where those of the prompt alone
end: as lm-evaluation-harness does it (EleutherAI; `TemplateLM._encode_pair`), so that figures can
be compared. It uses the engine through its interface alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, fsum
from typing import Any, NamedTuple

from ..engine.client import EngineClient, GenerationRequest, RequestHandle, RequestOutput
from ..errors import UsageError
from ..sampling.params import SamplingParams
from .prompts import Prompt, asked_prompts
from .tokenizer import Tokenizer

Progress = Callable[[int, int], None]  # (pairs done, pairs in all)

SCORED = SamplingParams(max_tokens=0, temperature=0, prompt_logprobs=1)

WINDOW = 128  # pairs in the engine's queue at once

# Of pairs with the same prompt of so many tokens, the first goes before the others, so that these
# find the prompt in the prefix cache.
MIN_SHARED = 32


@dataclass(frozen=True)
class Score:
    """How likely a model finds a continuation.

    Attributes:
        token_ids: the continuation's tokens.
        token_logprobs: the log-probability (natural logarithm) of each, behind the prompt and the
            tokens before it.
        is_greedy: whether each of them is the likeliest in its place: greedy decoding would have
            said the same.
        prompt_tokens: tokens of the prompt.
        cached_tokens: of those, how many were found in the prefix cache.
    """

    token_ids: tuple[int, ...]
    token_logprobs: tuple[float, ...]
    is_greedy: bool
    prompt_tokens: int
    cached_tokens: int

    @property
    def logprob(self) -> float:
        """The log-probability of the whole continuation."""
        return fsum(self.token_logprobs)

    @property
    def perplexity(self) -> float:
        """e to the mean negative log-probability of a token."""
        return exp(-self.logprob / len(self.token_logprobs))


class Pair(NamedTuple):
    """The token ids of a prompt and of what follows it; neither is empty."""

    prompt: list[int]
    continuation: list[int]


class Scorer:
    """Scores pairs of one model.

    `tokenizer` is asked for where there is a text. `first_ids` go in front of what is scored
    without a prompt: the model's BOS, or else its end token, as lm-evaluation-harness has it.
    """

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Callable[[], Tokenizer],
        bos_id: int | None,
        eos_ids: Sequence[int],
    ) -> None:
        self._engine, self._tokenizer, self._bos_id = engine, tokenizer, bos_id
        self.first_ids = [*((eos_ids[:1]) if bos_id is None else (bos_id,))]

    def score(self, prompt: Any, continuation: Any) -> Any:
        """Score as `LLM.score` says: one pair, a prompt's continuations, or lists of both."""
        prompts, given = asked_prompts(prompt), asked_prompts(continuation)
        if not prompts.is_list:
            [one] = prompts.items
            scores = self.score_pairs([self.pair(one, each) for each in given.items])
            return scores if given.is_list else scores[0]
        count = len(prompts.items)
        continuations = given.items if given.is_list else given.items * count
        if len(continuations) != count:
            raise UsageError(
                f"there are {count} prompts and {len(continuations)} continuations, expected one "
                "continuation, or a list of them, for each prompt"
            )
        groups = [asked_prompts(each) for each in continuations]
        pairs = [
            self.pair(one, each)
            for one, group in zip(prompts.items, groups, strict=True)
            for each in group.items
        ]
        found = iter(self.score_pairs(pairs))
        by_prompt = [[next(found) for _ in group.items] for group in groups]
        return [
            scores if group.is_list else scores[0]
            for scores, group in zip(by_prompt, groups, strict=True)
        ]

    def pair(self, prompt: Prompt, continuation: Prompt) -> Pair:
        """Encode a prompt and its continuation, each a text or token ids.

        White space at the end of the prompt counts as the continuation's, since tokens begin with
        it. An empty prompt is the model's first token alone.

        Raises:
            UsageError: the continuation has no token of its own; or there is no prompt, and the
                model knows no token to begin with.
        """
        if not isinstance(prompt, str):
            own = (
                list(continuation)
                if not isinstance(continuation, str)
                else self._encode(continuation)
            )
            return self._checked(list(prompt) or self.first_ids, own, continuation)
        if not isinstance(continuation, str):
            context = self._encode_prompt(prompt) if prompt else self.first_ids
            return self._checked(context, list(continuation), continuation)
        context_text = prompt.rstrip()
        continuation = prompt[len(context_text) :] + continuation
        if not context_text:
            own = self._encode(continuation)
            if own[:1] == self.first_ids:  # spelled in the text
                return self._checked(own[:1], own[1:], continuation)
            return self._checked(self.first_ids, own, continuation)
        context = self._encode_prompt(context_text)
        whole = self._encode_prompt(context_text + continuation)
        return self._checked(whole[: len(context)], whole[len(context) :], continuation)

    @property
    def longest(self) -> int:
        """Most tokens of a prompt and its continuation; the last one is only predicted."""
        capacity = self._engine.capacity
        return min(capacity.context_length, capacity.cache_tokens) + 1

    def fitting(self, pair: Pair) -> Pair:
        """Cut a prompt at its beginning where it does not fit with its continuation."""
        room = max(1, self.longest - len(pair.continuation))
        return Pair(pair.prompt[-room:], pair.continuation)

    def score_pairs(
        self, pairs: Sequence[Pair], progress: Progress = lambda done, total: None
    ) -> list[Score]:
        """Score pairs in batches; returns their scores in order.

        Raises:
            UsageError, ContextLengthError: as `LLM.score`.
            NumericalError: the model's logits hold NaN.
        """
        scores: dict[int, Score] = {}
        for start in range(0, len(pairs), WINDOW):
            for index, score in self._score_window(pairs, range(len(pairs))[start:][:WINDOW]):
                scores[index] = score
                progress(len(scores), len(pairs))
        return [scores[index] for index in range(len(pairs))]

    def _score_window(
        self, pairs: Sequence[Pair], window: Sequence[int]
    ) -> Iterator[tuple[int, Score]]:
        firsts, others = group_by_prompt(pairs, window)
        running: deque[tuple[int, RequestHandle]] = deque()
        try:
            running.extend((index, self._submit(pairs[index])) for index in firsts)
            while running:
                index, handle = running[0]
                while (output := handle.read()).finish_reason is None:
                    handle.wait()
                running.popleft()
                for other in others.get(index, ()):
                    running.append((other, self._submit(pairs[other])))
                yield index, _score(pairs[index], output)
        finally:
            for _, handle in running:
                handle.cancel()

    def _submit(self, pair: Pair) -> RequestHandle:
        tokens, start = [*pair.prompt, *pair.continuation], len(pair.prompt)
        [handle] = self._engine.submit(GenerationRequest(tokens, SCORED, logprobs_start=start))
        return handle

    def _encode_prompt(self, text: str) -> list[int]:
        return self._tokenizer().encode_prompt(text, self._bos_id)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer().encode(text, add_special_tokens=False, allow_special=True)

    def _checked(self, prompt: list[int], continuation: list[int], given: Prompt) -> Pair:
        if not continuation:
            raise UsageError(
                f"the continuation is {given!r:.80}, expected at least one token behind those of "
                "the prompt; where the two share a token, split them at a word's beginning"
            )
        if not prompt:
            raise UsageError(
                "the prompt is empty, expected at least one token: the model knows no BOS to "
                "begin with"
            )
        return Pair(prompt, continuation)


def group_by_prompt(
    pairs: Sequence[Pair], window: Iterable[int]
) -> tuple[list[int], dict[int, list[int]]]:
    """Group some pairs by their prompts.

    Returns the first of each group, to be scored at once, and for these, the others of their
    groups. Short prompts are computed faster than they are waited for: each is its own group.
    """
    firsts: dict[tuple[int, ...], int] = {}
    others: dict[int, list[int]] = {}
    at_once: list[int] = []
    for index in window:
        prompt = tuple(pairs[index].prompt)
        first = firsts.setdefault(prompt, index)
        if len(prompt) < MIN_SHARED or first == index:
            at_once.append(index)
        else:
            others.setdefault(first, []).append(index)
    return at_once, others


def _score(pair: Pair, output: RequestOutput) -> Score:
    if output.error is not None:
        raise output.error
    scored = output.prompt_logprobs
    return Score(
        tuple(pair.continuation),
        tuple(each.logprob for each in scored),
        all(each.token_id == each.top[0][0] for each in scored),
        len(pair.prompt),
        output.cached_tokens,
    )
