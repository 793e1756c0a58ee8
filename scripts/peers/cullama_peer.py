"""cullama as a peer: requests to its engine, step by step."""

from __future__ import annotations

import cullama
from cullama.engine.client import GenerationRequest
from cullama.engine.request import Request


class Cullama:
    variants: tuple[str, ...] = ()

    def __init__(self, model: str, threads: int, backend: str) -> None:
        try:
            self._llm = cullama.LLM(model, backend=backend, threads=threads)
        except cullama.CullamaError as error:
            raise SystemExit(f"cullama: {error}") from None
        self._requests: list[Request] = []
        self.vocabulary = self._llm.config.vocab_size
        self.description = self._llm.description

    def use(self, variant: str) -> None:
        raise AssertionError(variant)

    def encode(self, text: str) -> list[int]:
        return self._llm.tokenizer.encode(text)

    def begin(self, prompts: list[list[int]], tokens: int) -> None:
        with self._llm.engine.exclusive() as access:
            access.clear_prefix_cache()
        params = cullama.SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
        self._requests = [
            self._llm.engine.submit(GenerationRequest(prompt, params))[0].request
            for prompt in prompts
        ]

    def step(self) -> None:
        """Step the engine until each request has another token; a long prompt takes several."""
        wanted = [1 + drawn for drawn in self._drawn()]
        while self._drawn() != wanted:
            self._llm.engine.step()

    def _drawn(self) -> list[int]:
        for request in self._requests:
            if request.error is not None:
                raise request.error
        return [request.drawn for request in self._requests]
