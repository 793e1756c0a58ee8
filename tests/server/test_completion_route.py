"""/v1/completions through OpenAI's own client, beside the same model in this process."""

from __future__ import annotations

from typing import Any

import pytest
from live_server import LiveServer

from cullama import LLM, SamplingParams

PROMPTS = ["Once upon a time", "The old clock in the hall"]
GREEDY: Any = {"model": "tiny-chat", "temperature": 0, "max_tokens": 12}


def test_a_text_is_continued_as_by_the_library(server: LiveServer, local: LLM) -> None:
    answer = server.openai.completions.create(prompt=PROMPTS[0], **GREEDY)
    expected = local.generate(PROMPTS[0], SamplingParams(temperature=0, max_tokens=12))
    assert answer.choices[0].text == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == expected.prompt_tokens


def test_token_ids_are_continued_like_the_text_they_stand_for(server: LiveServer) -> None:
    ids = server.post("/tokenize", {"content": PROMPTS[0], "add_special": True}).json()["tokens"]
    by_text = server.openai.completions.create(prompt=PROMPTS[0], **GREEDY)
    by_ids = server.openai.completions.create(prompt=ids, **GREEDY)
    assert by_ids.choices[0].text == by_text.choices[0].text


@pytest.mark.parametrize("n", [1, 2])
def test_several_prompts_are_answered_in_their_order(
    server: LiveServer, local: LLM, n: int
) -> None:
    answer = server.openai.completions.create(
        model="tiny-chat", prompt=PROMPTS, n=n, seed=4, max_tokens=10
    )
    expected = local.generate(PROMPTS, SamplingParams(n=n, seed=4, max_tokens=10))
    texts = [one.text for each in expected for one in (each, *each.alternatives)]
    assert [choice.text for choice in answer.choices] == texts
    assert [choice.index for choice in answer.choices] == list(range(2 * n))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(each.prompt_tokens for each in expected)


def test_a_stream_adds_up_to_the_answer(server: LiveServer) -> None:
    body = {"prompt": PROMPTS, "n": 2, "seed": 4, "max_tokens": 10, "echo": True}
    texts = [""] * 4
    for event in server.events("/v1/completions", body):
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    whole = server.post("/v1/completions", body).json()
    assert texts == [choice["text"] for choice in whole["choices"]]


def test_control_tokens_that_a_prompt_spells_are_read_as_such(
    server: LiveServer, local: LLM
) -> None:
    prompt = "<|user|>Once<|end|>"
    answer = server.openai.completions.create(prompt=prompt, **GREEDY)
    expected = local.generate(prompt, SamplingParams(temperature=0, max_tokens=12))
    assert answer.choices[0].text == expected.text
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == expected.prompt_tokens


def test_echo_repeats_the_prompt(server: LiveServer) -> None:
    plain = server.openai.completions.create(prompt=PROMPTS[0], **GREEDY)
    echoed = server.openai.completions.create(prompt=PROMPTS[0], echo=True, **GREEDY)
    assert echoed.choices[0].text == PROMPTS[0] + plain.choices[0].text


def test_logprobs_are_those_of_the_library_with_the_texts_offsets(
    server: LiveServer, local: LLM
) -> None:
    answer = server.openai.completions.create(prompt=PROMPTS[0], logprobs=2, **GREEDY)
    params = SamplingParams(temperature=0, max_tokens=12, logprobs=2)
    expected = local.generate(PROMPTS[0], params).logprobs
    found = answer.choices[0].logprobs
    assert found is not None
    assert expected is not None
    scores = [each.logprob for each in expected]
    assert found.token_logprobs == pytest.approx(scores, abs=1e-5)  # of another batch
    assert found.tokens is not None
    lengths = [len(token) for token in found.tokens]
    assert found.text_offset == [sum(lengths[:k]) for k in range(len(lengths))]
    assert found.top_logprobs is not None
    likeliest = [each.top[0][1] for each in expected]
    assert [max(top.values()) for top in found.top_logprobs] == pytest.approx(likeliest, abs=1e-5)


@pytest.mark.parametrize("echo", [False, True])
def test_the_likeliest_tokens_have_ids_where_ids_are_asked_for(
    server: LiveServer, echo: bool
) -> None:
    body = {"prompt": PROMPTS[0], "logprobs": 3, "temperature": 0, "max_tokens": 6, "echo": echo}
    plain = server.post("/v1/completions", body).json()["choices"][0]["logprobs"]
    assert "top_tokens" not in plain
    answer = server.post("/v1/completions", {**body, "return_token_ids": True}).json()
    choice, found = answer["choices"][0], answer["choices"][0]["logprobs"]
    tops = found["top_tokens"][len(found["tokens"]) - 6 :]
    assert [each[0]["token_id"] for each in tops] == choice["token_ids"]
    assert all(len(each) == 3 for each in tops)
    for texts, each in zip(found["top_logprobs"][-6:], tops, strict=True):
        for top in each:
            assert texts[top["token"]] >= top["logprob"]
            assert bytes(top["bytes"]).decode(errors="replace") in (top["token"], "�")
    if echo:
        assert found["top_tokens"][0] is None
        return
    streamed = server.events("/v1/completions", {**body, "return_token_ids": True})
    told = [it for event in streamed for it in event["choices"][0]["logprobs"]["top_tokens"]]
    assert [[top["token_id"] for top in each] for each in told] == [
        [top["token_id"] for top in each] for each in tops
    ]


def test_offsets_in_a_stream_are_those_of_the_whole_with_control_tokens_between(
    server: LiveServer, local: LLM
) -> None:
    [letter] = local.tokenizer.encode("q", add_special_tokens=False)
    bias = {str(letter): 50, str(local.config.eos_ids[0]): 50}
    body = {"prompt": "a", "max_tokens": 20, "seed": 1, "ignore_eos": True, "logit_bias": bias}
    whole = server.post("/v1/completions", {**body, "logprobs": 0}).json()["choices"][0]["logprobs"]
    assert len(set(whole["tokens"])) == 2  # both come
    offsets: list[int] = []
    for event in server.events("/v1/completions", {**body, "logprobs": 0}):
        offsets += event["choices"][0]["logprobs"]["text_offset"]
    assert offsets == whole["text_offset"]


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_an_echo_with_logprobs_scores_the_prompt_as_the_library_does(
    server: LiveServer, local: LLM, max_tokens: int
) -> None:
    answer = server.openai.completions.create(
        model="tiny-chat",
        prompt=PROMPTS,
        max_tokens=max_tokens,
        echo=True,
        logprobs=1,
        temperature=0,
    )
    params = SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=1, prompt_logprobs=1)
    for choice, expected in zip(answer.choices, local.generate(PROMPTS, params), strict=True):
        assert expected.prompt_logprobs is not None
        assert expected.logprobs is not None
        entries = [*expected.prompt_logprobs, *expected.logprobs]
        found = choice.logprobs
        assert found is not None
        assert found.token_logprobs is not None
        assert found.token_logprobs[0] is None
        scores = [each.logprob for each in entries if each is not None]
        assert found.token_logprobs[1:] == pytest.approx(scores, abs=1e-5)  # of another batch
        assert found.top_logprobs is not None
        assert found.top_logprobs[0] is None
        assert found.tokens is not None
        assert found.text_offset is not None
        for place in range(1, expected.prompt_tokens):  # an answer may hold parts of characters
            assert choice.text[found.text_offset[place] :].startswith(found.tokens[place])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "prompt is missing"),
        ({"prompt": []}, "at least 1"),
        ({"prompt": [[]]}, "at least 1"),
        ({"prompt": [99999]}, "below 300"),
        ({"prompt": ["a"] * 65}, "at most 64"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "logprobs": 21}, "less than or equal to 20"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": "a", "max_tokens": 0}, "echo and logprobs"),
        ({"prompt": "a", "echo": True, "logprobs": 0, "stream": True}, "stream: false"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(server: LiveServer, body: Any, words: str) -> None:
    response = server.post("/v1/completions", body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_one_prompt_that_is_refused_leaves_none_running(server: LiveServer) -> None:
    response = server.post("/v1/completions", {"prompt": ["a", "a" * 10_000], "max_tokens": 3000})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert server.service.engine.num_running == 0
