"""Time the second turn of a conversation to its first token, and its new tokens alone.

The first turn is in the prefix cache, so the second turn should cost what its own tokens cost. Both
are measured alternately. The second turn is measured as a user has it: render the conversation,
encode it, look up cached blocks, prefill the rest, draw a token.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .runs import clear_prefix_cache, greedy

if TYPE_CHECKING:
    from ..llm import LLM

WORDS = ("llama", "river", "stone", "music", "window", "garden", "paper", "winter", "bridge")
ANSWER = 16  # tokens of the first turn's answer


@dataclass(frozen=True)
class TurnLatency:
    """Times after one length of first turn."""

    before: int  # tokens of the conversation that were cached
    new: int  # tokens of the second turn
    seconds: float  # to its first token, median
    alone: float  # the same number of tokens with nothing before them, median
    ratios: tuple[float, ...]  # of each pair of runs

    @property
    def ratio(self) -> float:
        return median(self.ratios)


@dataclass(frozen=True)
class ChatReport:
    """All figures; `as_json` is the output of `--json`."""

    model: str
    runs: tuple[TurnLatency, ...]

    def as_json(self) -> dict[str, Any]:
        runs = [{**asdict(run), "ratio": run.ratio} for run in self.runs]
        return {"model": self.model, "runs": runs}


def benchmark(
    llm: LLM, histories: tuple[int, ...], words: int = 48, repeats: int = 7
) -> ChatReport:
    """Time second turns of `words` words, after first turns of `histories` tokens.

    Raises:
        UsageError: a first turn leaves no room for the second one in the context.
    """
    longest = llm.longest_text - 4 * words - 2 * ANSWER
    if max(histories) > longest:
        raise UsageError(
            f"a first turn of {max(histories)} tokens leaves no room for a second one, "
            f"expected at most {longest}"
        )
    return ChatReport(
        llm.description, tuple(_turn_latency(llm, tokens, words, repeats) for tokens in histories)
    )


def _turn_latency(llm: LLM, history: int, words: int, repeats: int) -> TurnLatency:
    turns, alone, before, new = [], [], 0, 0
    for repeat in range(repeats + 1):
        clear_prefix_cache(llm.engine)
        session = llm.session(params=greedy(ANSWER))
        ids = llm.tokenizer.encode(_text(history, repeat), add_special_tokens=False)
        session.send(llm.tokenizer.decode(ids[:history]))
        question = _text(words, repeat)
        start = time.perf_counter()
        completion = session.send(question, greedy(1))
        turns.append(time.perf_counter() - start)

        assert session.last_prompt is not None
        prompt, before = list(session.last_prompt.token_ids), completion.cached_tokens
        new = len(prompt) - before
        clear_prefix_cache(llm.engine)
        start = time.perf_counter()
        llm.generate(prompt[-new:], greedy(1))
        alone.append(time.perf_counter() - start)
    turns, alone = turns[1:], alone[1:]  # the first pair warms caches and pages
    ratios = tuple(turn / one for turn, one in zip(turns, alone, strict=True))
    return TurnLatency(before, new, median(turns), median(alone), ratios)


def _text(words: int, shift: int) -> str:
    return " ".join(WORDS[(shift + i * i) % len(WORDS)] for i in range(words))
