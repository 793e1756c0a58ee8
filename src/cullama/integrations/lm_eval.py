"""Runs the tasks of lm-evaluation-harness (EleutherAI; `cullama[lm-eval]`) on cullama.

    python -m cullama.integrations.lm_eval --model cullama --tasks hellaswag,arc_easy
        --model_args pretrained=owner/name,dtype=float32

Or in a program: `lm_eval.simple_evaluate(model=CullamaLM("owner/name"), tasks=[…])`. Prompts and
continuations are split by the harness's own rule, and texts longer than the context are read in the
windows of its own documentation. Requests are batched by the engine, whatever the batch size.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from ..benchmark.evaluation.perplexity import split_windows
from ..chat.escape import SPLIT
from ..errors import UsageError
from ..llm import LLM
from ..sampling.params import SamplingParams
from ..text.scoring import Pair, Score

DEFAULT_MAX_TOKENS = 256  # of a generation that names no limit, as in the harness

# Names under which tasks and the command line limit the length of a generation.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")

BATCH = 256  # prompts generated from at once

logger = logging.getLogger("cullama")


@register_model("cullama")
class CullamaLM(TemplateLM):  # type: ignore[misc]  # the package brings no types
    """A model for lm-evaluation-harness.

    Args:
        pretrained: what `LLM` takes, or an `LLM`; nothing for the default model.
        device: the harness's word for a backend: "cpu", "cuda:1". "cuda" and "cuda:0", which its
            command line says where nobody chose, take a GPU that can be used, else the CPU;
            `backend="cuda"` insists.
        batch_size: not needed, the engine makes its own batches; so with `max_batch_size`.
        max_length: the context length.
        max_gen_toks: tokens of a generation that names no limit.
        options: those of `LLM`: dtype, backend, threads, deterministic …
    """

    backend = "causal"

    def __init__(
        self,
        pretrained: Any = None,
        *,
        device: str | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        max_length: int | None = None,
        max_gen_toks: int = DEFAULT_MAX_TOKENS,
        **options: Any,
    ) -> None:
        super().__init__()
        if device is not None:
            options.setdefault("backend", "auto" if device in ("cuda", "cuda:0") else device)
        if max_length is not None:
            options["context_length"] = max_length
        if isinstance(pretrained, LLM) and options:
            raise UsageError(
                f"{', '.join(sorted(options))}: the LLM that is given has its own settings; give "
                "these where it is made"
            )
        self.llm = pretrained if isinstance(pretrained, LLM) else LLM(pretrained, **options)
        self.max_gen_toks = max_gen_toks
        self._device = self.llm.description
        self._scorer = self.llm.scorer
        self._is_chat = False

    # --- the model and its tokenizer -------------------------------------------------------------

    @property
    def max_length(self) -> int:
        """Tokens that go through the model at most."""
        return self._scorer.longest - 1

    @property
    def eot_token_id(self) -> int:
        ends = self.llm.config.eos_ids
        return ends[0] if ends else self.prefix_token_id

    @cached_property
    def prefix_token_id(self) -> int:
        """What stands in front of a text without context: BOS, or else the end token."""
        if not self._scorer.first_ids:
            raise UsageError("the model names neither a BOS nor an end token")
        return self._scorer.first_ids[0]

    @property
    def tokenizer_name(self) -> str:
        return self.llm.name

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **others: Any
    ) -> list[int]:
        """Encode a text, with the control tokens that it spells; BOS where the model adds one."""
        tokenizer = self.llm.tokenizer
        if add_special_tokens is False:
            return tokenizer.encode(string, add_special_tokens=False, allow_special=True)
        return tokenizer.encode_prompt(string, self.llm.config.bos_id)

    def tok_decode(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self.llm.tokenizer.decode(tokens, skip_special_tokens)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the template, which the harness writes into its results."""
        if not chat_template:
            return None
        if self.llm.chat_template is None:
            raise UsageError(f"{self.llm.name} has no chat template, expected one to apply")
        if isinstance(chat_template, str):
            raise UsageError(
                f"the chat template is {chat_template!r}, expected the model's own; for another, "
                "load the model with chat_template=FILE"
            )
        return self.llm.chat_template.source

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render messages; without a generation prompt, the last of them is to be continued."""
        self.chat_template(True)
        self._is_chat = True
        text = self.llm.chat_format.write(chat_history, add_generation_prompt).replace(SPLIT, "")
        if not add_generation_prompt:
            last = str(chat_history[-1]["content"]).strip()
            text = text[: text.rindex(last) + len(last)]
        return text

    # --- requests --------------------------------------------------------------------------------

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-likelihood of each text, every token of it predicted once."""
        texts = [request.args[0] for request in requests]
        prefix, longest = [self.prefix_token_id], self.max_length
        windows = [
            list(split_windows(ids, prefix, longest, longest)) if ids else []
            for ids in (self.tok_encode(text, add_special_tokens=False) for text in texts)
        ]
        pairs = [pair for each in windows for pair in each]
        scores = iter(self._scores(pairs, disable_tqdm))
        found = [sum(next(scores).logprob for _ in each) for each in windows]
        for text, logprob in zip(texts, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), logprob)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, **others: Any
    ) -> list[tuple[float, bool]]:
        whole = [Pair(list(context), list(continuation)) for _, context, continuation in requests]
        for (texts, *_), pair in zip(requests, whole, strict=True):
            if not pair.continuation:
                raise UsageError(f"{texts!r:.200}: the continuation has no token of its own")
        pairs = [self._scorer.fitting(pair) for pair in whole]
        _warn_truncated(sum(one != other for one, other in zip(pairs, whole, strict=True)))
        scores = self._scores(pairs, disable_tqdm)
        found = [(score.logprob, score.is_greedy) for score in scores]
        for (texts, *_), result in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, result)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what each context is continued with, up to one of its stop texts."""
        groups: list[tuple[SamplingParams, list[int]]] = []
        for index, request in enumerate(requests):
            params = self._params(request.args[1])
            group = next((group for each, group in groups if each == params), None)
            if group is None:
                groups.append((params, group := []))
            group.append(index)
        texts: dict[int, str] = {}
        with tqdm(total=len(requests), desc="Generating", disable=disable_tqdm) as bar:
            for params, group in groups:
                for start in range(0, len(group), BATCH):
                    some = group[start : start + BATCH]
                    prompts = self._prompts([requests[index].args[0] for index in some], params)
                    completions = self.llm.generate(prompts, params)
                    texts |= {i: one.text for i, one in zip(some, completions, strict=True)}
                    bar.update(len(some))
        for index, request in enumerate(requests):
            self.cache_hook.add_partial("generate_until", request.args, texts[index])
        return [texts[index] for index in range(len(requests))]

    def _params(self, wanted: Mapping[str, Any]) -> SamplingParams:
        """Return the harness's generation arguments as ours. Raises UsageError for unknown ones."""
        given = dict(wanted)
        until = given.pop("until", None) or ()
        lengths = [given.pop(name) for name in LENGTHS if name in given]
        is_sampled = given.pop("do_sample", None)
        temperature = given.pop("temperature", None)
        if not is_sampled and (is_sampled is False or temperature is None):
            temperature = 0.0
        params = SamplingParams.from_mapping(
            {
                "stop": until,
                "max_tokens": next((it for it in lengths if it is not None), self.max_gen_toks),
                "temperature": 1.0 if temperature is None else temperature,
                **given,
            }
        )
        return self.llm.chat_format.with_stop_tokens(params) if self._is_chat else params

    def _prompts(self, contexts: Sequence[str], params: SamplingParams) -> list[list[int]]:
        """Encode contexts, cut at their beginning where they leave no room for the answer."""
        room = self.llm.longest_text - (params.max_tokens or 0)
        if room < 1:
            raise UsageError(
                f"generations of {params.max_tokens} tokens leave no room for a prompt in the "
                f"context of {self.llm.longest_text}; lower max_gen_toks"
            )
        whole = [self.tok_encode(context) for context in contexts]
        _warn_truncated(sum(len(ids) > room for ids in whole))
        return [ids[-room:] for ids in whole]

    def _scores(self, pairs: Sequence[Pair], is_silent: bool) -> list[Score]:
        with tqdm(total=len(pairs), desc="Scoring", disable=is_silent) as bar:
            return self._scorer.score_pairs(pairs, lambda done, total: bar.update())


def _warn_truncated(count: int) -> None:
    if count:
        logger.warning("%d prompts were cut at their beginning to fit the context", count)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
