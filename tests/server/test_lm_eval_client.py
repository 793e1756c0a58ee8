"""lm-evaluation-harness' `local-completions` gets the likelihoods of `LLM.score`.

Its package is 600 MB, so its requests are sent by a double here: prompts as token ids, one token
more, `echo` and `logprobs`; and what it makes of the answers: the sum of the log-probabilities from
the context's length to before the last token, and whether each was the likeliest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from live_server import LiveServer

from cullama import LLM, SamplingParams

CONTEXTS = ["Once upon a time", "The old clock in the hall", "In the naïve little café they sell"]
CONTINUATIONS = [" a small llama went over the hill", " struck twelve", " 東京 🦙", "."]


class Likelihood(NamedTuple):
    logprob: float
    is_greedy: bool


class LocalCompletions:
    """Asks as lm_eval 0.4.13 does; `batch_size` as in its --batch_size."""

    def __init__(self, server: LiveServer, batch_size: int, **more: Any) -> None:
        self._server, self._batch_size, self._more = server, batch_size, more
        self.reasons: list[str] = []

    def loglikelihood(
        self, requests: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[Likelihood]:
        found: list[Likelihood] = []
        for start in range(0, len(requests), self._batch_size):
            batch = requests[start : start + self._batch_size]
            body = {
                "model": "tiny-chat",
                "prompt": [[*context, *continuation] for context, continuation in batch],
                "temperature": 0,
                "max_tokens": 1,
                "logprobs": 1,
                "seed": 1234,
                "echo": True,
                **self._more,
            }
            choices = self._server.post("/v1/completions", body).json()["choices"]
            for choice, (context, _) in zip(choices, batch, strict=True):
                self.reasons.append(choice["finish_reason"])
                logprobs = choice["logprobs"]
                scores = logprobs["token_logprobs"][len(context) : -1]
                tops = logprobs["top_logprobs"][len(context) : -1]
                greedy = all(
                    score == max(top.values()) for score, top in zip(scores, tops, strict=True)
                )
                found.append(Likelihood(sum(scores), greedy))
        return found


@pytest.mark.parametrize("batch_size", [1, 7])
def test_likelihoods_are_those_of_the_library(
    server: LiveServer, local: LLM, batch_size: int
) -> None:
    encode = local.tokenizer.encode
    contexts = [encode(context) for context in CONTEXTS]
    continuations = [encode(each, add_special_tokens=False) for each in CONTINUATIONS]
    requests = [(context, each) for context in contexts for each in continuations]
    params = SamplingParams(max_tokens=3, temperature=0)  # what the model itself says is greedy
    requests += [(context, list(local.generate(context, params).token_ids)) for context in contexts]
    found = LocalCompletions(server, batch_size).loglikelihood(requests)
    for (context, continuation), one in zip(requests, found, strict=True):
        expected = local.score(context, continuation)
        assert one.logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert one.is_greedy == expected.is_greedy
    assert {one.is_greedy for one in found} == {True, False}


def test_a_continuation_behind_which_the_model_ends_is_scored_whole(
    server: LiveServer, local: LLM
) -> None:
    """The client leaves out the last token, which has to be there where it is an end token, too."""
    context, continuation = [5, 6, 7], [8, 9]
    end = {"logit_bias": {str(local.config.eos_ids[0]): 1000}}  # is no part of log-probabilities
    client = LocalCompletions(server, 1, **end)
    [one] = client.loglikelihood([(context, continuation)])
    assert client.reasons == ["stop"]
    assert one.logprob == pytest.approx(local.score(context, continuation).logprob, abs=1e-4)
