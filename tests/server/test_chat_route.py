"""/v1/chat/completions through OpenAI's own client, beside the same model in this process."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from live_server import LiveServer

from cullama import LLM, SamplingParams

MESSAGES: Any = [{"role": "user", "content": "Once upon a time"}]
GREEDY: Any = {"model": "tiny-chat", "messages": MESSAGES, "temperature": 0, "max_tokens": 20}


def test_an_answer_is_that_of_the_library(server: LiveServer, local: LLM) -> None:
    answer = server.openai.chat.completions.create(**GREEDY)
    expected = local.chat(MESSAGES, SamplingParams(temperature=0, max_tokens=20))
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert answer.model == "tiny-chat"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == expected.prompt_tokens
    assert answer.usage.completion_tokens == len(expected.token_ids)
    assert answer.usage.total_tokens == expected.prompt_tokens + len(expected.token_ids)


def test_a_stream_adds_up_to_the_answer(server: LiveServer) -> None:
    client = server.openai
    whole = client.chat.completions.create(**GREEDY, seed=3)
    chunks = list(
        client.chat.completions.create(
            **GREEDY, seed=3, stream=True, stream_options={"include_usage": True}
        )
    )
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    ends = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert ends[-1] == whole.choices[0].finish_reason
    assert ends[:-1] == [None] * (len(ends) - 1)
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_several_choices_are_those_of_the_library(server: LiveServer, local: LLM) -> None:
    answer = server.openai.chat.completions.create(
        model="tiny-chat", messages=MESSAGES, n=3, seed=5, max_tokens=12
    )
    expected = local.chat(MESSAGES, SamplingParams(n=3, seed=5, max_tokens=12))
    texts = [expected.text, *(each.text for each in expected.alternatives)]
    assert [choice.message.content for choice in answer.choices] == texts
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_the_choices_of_a_stream_are_told_apart_by_their_index(server: LiveServer) -> None:
    body = {"messages": MESSAGES, "n": 3, "seed": 5, "max_tokens": 12}
    texts = {0: "", 1: "", 2: ""}
    for event in server.events("/v1/chat/completions", body):
        for choice in event["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
    whole = server.post("/v1/chat/completions", body).json()
    assert list(texts.values()) == [each["message"]["content"] for each in whole["choices"]]


def test_logprobs_are_those_of_the_library(server: LiveServer, local: LLM) -> None:
    answer = server.openai.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=2)
    expected = local.chat(MESSAGES, SamplingParams(temperature=0, max_tokens=20, logprobs=2))
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None
    assert expected.logprobs is not None
    for each, one in zip(content, expected.logprobs, strict=True):
        # What the prefix cache holds decides how a prompt is chunked, and with it the last digit.
        assert each.logprob == pytest.approx(one.logprob, abs=1e-5)
        likeliest = [logprob for _, logprob in one.top]
        assert [top.logprob for top in each.top_logprobs] == pytest.approx(likeliest, abs=1e-5)
    spelled = b"".join(bytes(each.bytes or []) for each in content)
    assert spelled.decode(errors="replace") == expected.text


def test_a_streams_logprobs_are_those_of_the_answer(server: LiveServer) -> None:
    body = {**GREEDY, "logprobs": True, "top_logprobs": 1}
    whole = server.post("/v1/chat/completions", body).json()["choices"][0]["logprobs"]["content"]
    streamed = [
        each
        for event in server.events("/v1/chat/completions", body)
        for choice in event["choices"]
        if choice["logprobs"]
        for each in choice["logprobs"]["content"]
    ]
    assert [each["token"] for each in streamed] == [each["token"] for each in whole]
    for each, one in zip(streamed, whole, strict=True):
        assert each["logprob"] == pytest.approx(one["logprob"], abs=1e-5)
        assert len(each["top_logprobs"]) == len(one["top_logprobs"])


def test_a_stop_string_ends_an_answer(server: LiveServer, local: LLM) -> None:
    text = local.chat(MESSAGES, SamplingParams(temperature=0, max_tokens=20)).text
    stop = text[8:11]
    answer = server.openai.chat.completions.create(**GREEDY, stop=stop)
    assert answer.choices[0].message.content == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_an_answer_may_fill_the_room_left(server: LiveServer) -> None:
    body = {"messages": MESSAGES, "temperature": 0, "logit_bias": {"1": -1000}}
    answer = server.post("/v1/chat/completions", body).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == server.service.llm.longest_text


def test_forty_conversations_at_once_are_answered_as_they_are_alone(server: LiveServer) -> None:
    async def ask(client: openai.AsyncOpenAI, seed: int) -> str:
        stream = await client.chat.completions.create(
            model="tiny-chat", messages=MESSAGES, seed=seed, max_tokens=16, stream=True
        )
        return "".join([c.delta.content or "" async for chunk in stream for c in chunk.choices])

    async def ask_all() -> list[str]:
        async with server.async_openai() as client:
            return await asyncio.gather(*(ask(client, seed) for seed in range(40)))

    together = asyncio.run(ask_all())
    client = server.openai
    for seed in range(0, 40, 8):
        alone = client.chat.completions.create(
            model="tiny-chat", messages=MESSAGES, seed=seed, max_tokens=16
        )
        assert together[seed] == alone.choices[0].message.content
    assert len(set(together)) > 10


@pytest.mark.parametrize(
    ("change", "status", "param", "words"),
    [
        ({"messages": []}, 400, "messages", "at least 1"),
        ({"messages": [{"role": "user"}]}, 400, "messages", "content"),
        ({"messages": "Hi"}, 400, "messages", "list"),
        ({"model": "gpt-5"}, 404, "model", "tiny-chat"),
        ({"temperature": -1}, 400, "temperature", "greater than or equal to 0"),
        ({"temperature": "warm"}, 400, "temperature", "number"),
        ({"n": 9}, 400, "n", "less than or equal to 8"),
        ({"stop": ["x"] * 17}, 400, "stop", "at most 16"),
        ({"stop": ""}, 400, "stop", "at least 1"),
        ({"logit_bias": {"99999": 1}}, 400, None, "logit_bias"),
        ({"logit_bias": {"a": 1}}, 400, "logit_bias.a", "pattern"),
        ({"top_logprobs": 2}, 400, "top_logprobs", "logprobs: true"),
        ({"stream_options": {}}, 400, "stream_options", "stream: true"),
        ({"max_tokens": 100_000}, 400, None, "does not fit the context"),
        ({"max_tokens": 4, "max_completion_tokens": 4}, 400, "max_tokens", "give one"),
        ({"functions": []}, 400, "functions", "old form of tools"),
        ({"messages": [{"role": "user", "content": "a " * 9000}]}, 400, None, "shorten the prompt"),
        ({"temprature": 1}, 400, "temprature", "unknown field"),
        ({"seed": 1.5}, 400, "seed", "integer"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, 400, "messages", "to answer"),
        ({"template_variables": {"messages": []}}, 400, "template_variables", "no variable"),
        ({"template_variables": {"bos_token": "a"}}, 400, "template_variables", "no variable"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "messages",
            "image",
        ),
        ({"continue_final_message": True}, 400, "messages", "expected the assistant's"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            400,
            "add_generation_prompt",
            "both",
        ),
        ({"add_generation_prompt": False}, 400, "add_generation_prompt", "only for"),
        (
            {"continue_final_message": True, "answer_token_ids": [5]},
            400,
            "answer_token_ids",
            "give one",
        ),
        ({"echo": True}, 400, "echo", "only for"),
        ({"answer_token_ids": [99_999]}, 400, None, "token ids below"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    server: LiveServer, change: Any, status: int, param: str | None, words: str
) -> None:
    response = server.post("/v1/chat/completions", {"messages": MESSAGES, **change})
    assert response.status_code == status
    error = response.json()["error"]
    assert error["param"] == param
    assert words in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_openais_client_raises_its_own_errors(server: LiveServer) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        server.openai.chat.completions.create(**{**GREEDY, "temperature": -1})
    with pytest.raises(openai.NotFoundError, match="no model"):
        server.openai.chat.completions.create(**{**GREEDY, "model": "gpt-5"})


def test_a_negative_seed_is_a_seed(server: LiveServer) -> None:
    body = {"messages": MESSAGES, "max_tokens": 8}
    answers = [server.post("/v1/chat/completions", {**body, "seed": -1}).json() for _ in range(2)]
    assert answers[0]["choices"] == answers[1]["choices"]
    assert answers[0]["choices"][0]["seed"] == (1 << 64) - 1
    again = server.post("/v1/chat/completions", {**body, "seed": (1 << 64) - 1}).json()
    assert again["choices"] == answers[0]["choices"]


def test_names_that_other_servers_have_are_told_their_names_here(server: LiveServer) -> None:
    body: dict[str, object] = {"messages": MESSAGES, "max_tokens": 1}
    refused = server.post("/v1/chat/completions", {**body, "guided_json": {}})
    assert (
        refused.json()["error"]["message"] == "guided_json is not taken; expected response_format"
    )
    both = {"chat_template_kwargs": {"a": 1}, "template_variables": {"a": 1}}
    refused = server.post("/v1/chat/completions", {**body, **both})
    assert refused.json()["error"]["param"] == "chat_template_kwargs"
    taken = server.post("/v1/chat/completions", {**body, "chat_template_kwargs": {"a": 1}})
    assert taken.status_code == 200
