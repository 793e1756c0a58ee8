"""One text being continued: its tokens, how many of them the model has seen, where it keeps them.

Integers only. A sequence whose `computed` is smaller than its length has catching up to do; a
prompt and a single new token differ in nothing but how much.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ..sampling.draw import Draw, Drawn
from ..sampling.params import SamplingParams, TokenLogprobs
from ..sampling.philox import fresh_seed
from .speculation import PromptLookup

if TYPE_CHECKING:
    from .prefix_cache import Node

FinishReason = Literal["stop", "length", "cancelled", "error"]
Stage = Literal["out", "waiting", "reading", "writing", "landing", "paused"]

TABLE_STEP = 256  # bytes: 64 blocks


@dataclass(eq=False)
class Sequence:
    tokens: list[int]  # the prompt; what is drawn comes behind it
    params: SamplingParams
    max_tokens: int
    seed: int
    end_ids: frozenset[int]  # tokens that end it
    index: int = 0  # which of a request's n samples
    leader: Sequence | None = None  # the first of the n: the others wait until it has read
    rank: tuple[int, int] = (0, 0)  # the lower goes first
    stage: Stage = "out"  # where the scheduler has it
    has_been_in: bool = False  # at work before, if only to be preempted
    lookup: PromptLookup | None = None  # guesses its next tokens, where that was asked for
    guesses: list[int] = field(default_factory=list)  # what may follow the newest token
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    taken: int = 0  # tokens of the answer that its reader has
    cached: int = 0  # tokens of the prompt that were in the prefix cache when it first came in
    on_change: Callable[[], None] | None = None  # told of new tokens, and of the end
    finish_reason: FinishReason | None = None
    error: Exception | None = None

    computed: int = 0  # tokens whose keys and values are in the cache, or on their way
    sound: int = 0  # of those, how many led to a token drawn
    in_flight: int = 0  # tokens that a pass which has begun will give
    blocks: Many[int] = ()
    room: int = 0  # tokens that its blocks hold
    table: bytes = b""  # its blocks once more, as int32, padded so that most tables are alike
    listed: int = 0  # blocks that the prefix cache knows of …
    node: Node | None = None  # … and where it lists the last of them

    def __post_init__(self) -> None:
        self.prompt_length = len(self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def prompt(self) -> list[int]:
        return self.tokens[: self.prompt_length]

    @property
    def answer(self) -> list[int]:
        return self.tokens[self.prompt_length :]

    @property
    def drawn(self) -> int:
        """Tokens of the answer."""
        return len(self.tokens) - self.prompt_length

    @property
    def pending(self) -> int:
        """Tokens the model has not seen, those on their way counted."""
        return len(self.tokens) + self.in_flight - self.computed

    @property
    def longest(self) -> int:
        """Tokens the cache may have to hold; the last one drawn is never fed back."""
        return self.prompt_length + self.max_tokens - 1

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    def use_blocks(self, blocks: Many[int], block_size: int) -> None:
        self.blocks, self.room = blocks, len(blocks) * block_size
        table = array("i", blocks).tobytes()
        self.table = table.ljust(-(-len(table) // TABLE_STEP) * TABLE_STEP, b"\0")

    def next_tokens(self, count: int) -> list[int]:
        """The first `count` tokens that the model has not seen, guesses at the end.

        One that is on its way is filled in later; the newest stands in for it.
        """
        if self.in_flight:
            return self.tokens[-1:]
        tokens = self.tokens[self.computed : self.computed + count]
        return tokens + self.guesses[: count - len(tokens)]

    def draw(self, guessed: int = 0) -> Draw:
        """How the next token is drawn, if so many guesses before it are right."""
        tokens = self.tokens + self.guesses[:guessed] if guessed else self.tokens
        return Draw(self.params, self.seed, self.index, tokens, self.prompt_length)

    def append(self, drawn: Drawn) -> None:
        """Take a new token, and see whether it is the last."""
        self.tokens.append(drawn.token)
        if drawn.logprobs is not None:
            self.logprobs.append(drawn.logprobs)
        if drawn.token in self.end_ids:
            self.end("stop")
        elif len(self.tokens) - self.prompt_length >= self.max_tokens:
            self.end("length")

    def end(self, reason: FinishReason, error: Exception | None = None) -> None:
        """The one end that a sequence has."""
        assert self.finish_reason is None, "a sequence ends once"
        self.error, self.finish_reason = error, reason


def sequences_of(
    prompt: list[int], params: SamplingParams, max_tokens: int, eos_ids: tuple[int, ...]
) -> list[Sequence]:
    """One for each of a checked request's n samples, all with the same seed."""
    seed = fresh_seed() if params.seed is None else params.seed
    ends = frozenset(() if params.ignore_eos else eos_ids) | set(params.stop_token_ids)
    sequences: list[Sequence] = []
    for index in range(params.n):
        leader = sequences[0] if sequences else None
        sequence = Sequence(list(prompt), params, max_tokens, seed, ends, index, leader)
        if params.speculation:
            sequence.lookup = PromptLookup(sequence.tokens)
        sequences.append(sequence)
    return sequences
