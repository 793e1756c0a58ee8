"""cullama as a peer: sequences through its engine, as any other text goes."""

from __future__ import annotations

import cullama
from cullama.engine.sequence import Sequence


class Cullama:
    variants: tuple[str, ...] = ()

    def __init__(self, model: str, threads: int, backend: str) -> None:
        try:
            self._llm = cullama.LLM(model, backend=backend, threads=threads)
        except cullama.CullamaError as error:
            raise SystemExit(f"cullama: {error}") from None
        self._sequences: list[Sequence] = []
        self.vocabulary = self._llm.config.vocab_size
        self.description = self._llm.description

    def use(self, variant: str) -> None:
        raise AssertionError(variant)

    def encode(self, text: str) -> list[int]:
        return self._llm.tokenizer.encode(text)

    def begin(self, prompts: list[list[int]], tokens: int) -> None:
        self._llm.engine.cache.clear()  # what is read is to be read, not found
        params = cullama.SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
        self._sequences = [self._llm.engine.submit(prompt, params)[0] for prompt in prompts]

    def step(self) -> None:
        """A long prompt takes the engine several of its own."""
        wanted = [1 + drawn for drawn in self._drawn()]
        while self._drawn() != wanted:
            self._llm.engine.step()

    def _drawn(self) -> list[int]:
        for sequence in self._sequences:
            if sequence.error is not None:
                raise sequence.error
        return [sequence.drawn for sequence in self._sequences]
