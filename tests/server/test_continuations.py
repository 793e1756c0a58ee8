"""Answers that go on: from the last message, or from tokens that the request names."""

from __future__ import annotations

from typing import Any

import pytest
from live_server import LiveServer

from cullama import LLM, SamplingParams

MESSAGES: Any = [{"role": "user", "content": "Once upon a time"}]
CHAT = "/v1/chat/completions"
BODY: Any = {
    "messages": MESSAGES,
    "seed": 11,
    "temperature": 0.8,
    "max_tokens": 24,
    "presence_penalty": 0.5,
    "return_token_ids": True,
    "logprobs": True,
    "top_logprobs": 3,
}


@pytest.fixture(scope="module")
def whole(server: LiveServer) -> Any:
    answer = server.post(CHAT, BODY).json()
    assert len(answer["choices"][0]["token_ids"]) == 24
    return answer["choices"][0]


@pytest.mark.parametrize("length", [1, 7, 23])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_goes_on_from_its_tokens_as_if_it_had_not_been_stopped(
    server: LiveServer, whole: Any, length: int, stream: bool
) -> None:
    given = whole["token_ids"][:length]
    body = {**BODY, "answer_token_ids": given, "max_tokens": 24 - length, "echo": True}
    if stream:
        choices = [each for event in server.events(CHAT, body) for each in event["choices"]]
        text = "".join(each["delta"].get("content") or "" for each in choices)
        ids = [token for each in choices for token in each.get("token_ids", ())]
        logprobs = [one for each in choices for one in (each["logprobs"] or {}).get("content", ())]
    else:
        [choice] = server.post(CHAT, body).json()["choices"]
        text, ids = choice["message"]["content"], choice["token_ids"]
        logprobs = choice["logprobs"]["content"]
    assert ids == whole["token_ids"]
    assert text == whole["message"]["content"]
    expected = whole["logprobs"]["content"]
    assert [each["token_id"] for each in logprobs] == ids
    for each, one in zip(logprobs, expected, strict=True):
        assert each["logprob"] == pytest.approx(one["logprob"], abs=1e-4)


def test_without_echo_only_what_is_new_comes(server: LiveServer, whole: Any) -> None:
    body = {**BODY, "answer_token_ids": whole["token_ids"][:9], "max_tokens": 15}
    answer = server.post(CHAT, body).json()
    assert answer["choices"][0]["token_ids"] == whole["token_ids"][9:]
    assert len(answer["choices"][0]["logprobs"]["content"]) == 15
    assert answer["usage"]["completion_tokens"] == 15


def test_an_alternative_takes_the_place_of_a_token(server: LiveServer, whole: Any) -> None:
    tops = whole["logprobs"]["content"][5]["top_logprobs"]
    other = next(top for top in tops if top["token_id"] != whole["token_ids"][5])
    given = [*whole["token_ids"][:5], other["token_id"]]
    body = {**BODY, "answer_token_ids": given, "max_tokens": 3, "echo": True}
    answer = server.post(CHAT, body).json()
    [choice] = answer["choices"]
    assert choice["token_ids"][:6] == given
    assert choice["logprobs"]["content"][5]["logprob"] == pytest.approx(other["logprob"], abs=1e-4)
    assert len(choice["token_ids"]) == 9


def test_a_chosen_token_that_ends_answers_ends_this_one(
    server: LiveServer, local: LLM, whole: Any
) -> None:
    end = next(iter(local.chat_format.stop_tokens))
    body = {**BODY, "answer_token_ids": [*whole["token_ids"][:5], end], "echo": True}
    [choice] = server.post(CHAT, body).json()["choices"]
    assert choice["token_ids"] == [*whole["token_ids"][:5], end]
    assert choice["finish_reason"] == "stop"
    assert len(choice["logprobs"]["content"]) == 6


def test_the_seed_of_an_answer_replays_it(server: LiveServer) -> None:
    body = {"messages": MESSAGES, "temperature": 1.0, "max_tokens": 12}
    first = server.post(CHAT, body).json()["choices"][0]
    again = server.post(CHAT, {**body, "seed": first["seed"]}).json()["choices"][0]
    assert again["message"] == first["message"]
    assert again["seed"] == first["seed"]
    events = server.events(CHAT, {**body, "seed": first["seed"]})
    assert events[0]["choices"][0]["seed"] == first["seed"]
    prompt = {"prompt": "Once", "temperature": 1.0, "max_tokens": 4}
    completion = server.post("/v1/completions", prompt).json()["choices"][0]
    *_, last = server.events("/v1/completions", {**prompt, "seed": completion["seed"]})
    assert last["choices"][0]["seed"] == completion["seed"]


def test_the_prompts_tokens_are_those_that_the_template_shows(server: LiveServer) -> None:
    shown = server.post("/apply-template", {"messages": MESSAGES}).json()["tokens"]
    body: Any = {"messages": MESSAGES, "max_tokens": 2, "return_token_ids": True}
    assert server.post(CHAT, body).json()["prompt_token_ids"] == shown
    first, *others = server.events(CHAT, body)
    assert first["prompt_token_ids"] == shown
    assert not any("prompt_token_ids" in event for event in others)
    body = {"prompt": [[5, 6], [7]], "max_tokens": 2, "n": 2, "return_token_ids": True}
    choices = server.post("/v1/completions", body).json()["choices"]
    assert [each["prompt_token_ids"] for each in choices] == [[5, 6], [5, 6], [7], [7]]


def test_the_last_message_is_continued(server: LiveServer, local: LLM) -> None:
    begun = [*MESSAGES, {"role": "assistant", "content": "There was a"}]
    body: Any = {"temperature": 0, "max_tokens": 10, "continue_final_message": True}
    body |= {"messages": begun, "add_generation_prompt": False, "return_token_ids": True}
    answer = server.post(CHAT, body).json()
    shown = server.post("/apply-template", {"messages": MESSAGES}).json()
    plain = local.generate(
        local.tokenizer.encode(shown["prompt"] + "There was a", False, True),
        SamplingParams(temperature=0, max_tokens=10),
    )
    [choice] = answer["choices"]
    assert choice["message"]["content"] == plain.text
    assert answer["usage"]["prompt_tokens"] == plain.prompt_tokens
    params = SamplingParams(temperature=0, max_tokens=10)
    assert local.chat(begun, params, continue_final_message=True).text == plain.text
    assert "".join(local.stream_chat(begun, params, continue_final_message=True)) == plain.text
    echoed = server.post(CHAT, {**body, "echo": True}).json()["choices"][0]
    assert echoed["message"]["content"] == "There was a" + plain.text


def test_a_continued_message_spells_no_control_token(server: LiveServer, local: LLM) -> None:
    begun = [*MESSAGES, {"role": "assistant", "content": "a <|end|> b"}]
    body = {"messages": begun, "continue_final_message": True, "with_pieces": True}
    shown = server.post("/apply-template", body).json()
    [last] = shown["turns"][-1:]
    assert (last["message"], last["role"]) == (1, "assistant")
    of_answer = [each["piece"] for each in shown["tokens"][last["start"] : last["end"]]]
    assert "".join(of_answer).endswith("a <|end|> b")
    control = [each["id"] for each in shown["tokens"] if each["is_control"]]
    assert control.count(local.tokenizer.tokenizer.token_to_id("<|end|>")) == 1


def test_completions_go_on_from_tokens_too(server: LiveServer) -> None:
    body: Any = {"prompt": "Once", "seed": 3, "max_tokens": 12, "return_token_ids": True}
    body |= {"frequency_penalty": 1.0, "ignore_eos": True}
    [whole] = server.post("/v1/completions", body).json()["choices"]
    given = {"answer_token_ids": whole["token_ids"][:5], "max_tokens": 7}
    [rest] = server.post("/v1/completions", {**body, **given}).json()["choices"]
    assert rest["token_ids"] == whole["token_ids"][5:]
    assert whole["text"].endswith(rest["text"])
    refused = server.post("/v1/completions", {**body, **given, "prompt": ["a", "b"]})
    assert refused.json()["error"]["param"] == "answer_token_ids"
