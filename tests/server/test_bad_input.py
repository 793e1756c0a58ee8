"""Whatever a request holds, it is answered in OpenAI's form, and none of it comes into the log."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from live_server import LiveServer

SECRET = "xyzzy-plugh"
BIASES = {str(token): 1 for token in range(2000)}
USER = {"role": "user", "content": SECRET}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": SECRET, "stop": ["x"] * 1000}, "stop"),
        ("/v1/completions", {"prompt": SECRET, "stop": "x" * 257}, "stop"),
        (
            "/v1/completions",
            {"prompt": SECRET, "logit_bias": {str(k): 1 for k in range(2000)}},
            "logit_bias",
        ),
        ("/v1/completions", {"prompt": SECRET, "n": 16384}, "n"),
        ("/v1/completions", {"prompt": SECRET, "n": -1}, "n"),
        ("/v1/completions", {"prompt": SECRET, "max_tokens": -5}, "max_tokens"),
        ("/v1/completions", {"prompt": SECRET, "max_tokens": 1 << 40}, "max_tokens"),
        ("/v1/completions", {"prompt": SECRET, "temperature": "hot"}, "temperature"),
        ("/v1/completions", {"prompt": SECRET, "temperature": True}, "temperature"),
        ("/v1/completions", {"prompt": SECRET, "stream": "yes"}, "stream"),
        ("/v1/completions", {"prompt": [[1], "a"]}, "prompt"),
        ("/v1/completions", {"prompt": [-1]}, "prompt"),
        ("/v1/completions", {"prompt": None}, "prompt"),
        ("/v1/completions", [SECRET], None),
        ("/v1/completions", SECRET, None),
        ("/v1/chat/completions", {"messages": SECRET}, "messages"),
        ("/v1/chat/completions", {"messages": [SECRET]}, "messages"),
        ("/v1/chat/completions", {"messages": [{}]}, "messages"),
        ("/v1/chat/completions", {"messages": [USER], "__class__": 1}, "__class__"),
        ("/v1/chat/completions", {"messages": [{**USER, "content": {"a": 1}}]}, "messages"),
        ("/v1/chat/completions", {"messages": [{**USER, "role": 7}]}, "messages"),
        ("/tokenize", {"content": 7}, "content"),
        ("/detokenize", {"tokens": [1 << 40]}, "tokens"),
        ("/apply-template", {"messages": [{"content": SECRET}]}, "messages"),
        ("/apply-template", {"messages": [{"content": SECRET}], "with_pieces": True}, "messages"),
    ],
)
def test_what_is_out_of_bounds_is_a_400_that_names_the_field_and_is_not_logged(
    server: LiveServer, caplog: pytest.LogCaptureFixture, path: str, body: Any, param: str | None
) -> None:
    with caplog.at_level(logging.DEBUG, "cullama"):
        response = server.post(path, body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").partition(".")[0] == (param or "")
    for word in ("Traceback", "/work", "site-packages", ".py"):
        assert word not in error["message"]
    assert SECRET not in caplog.text
    assert "Traceback" not in caplog.text


def test_an_answer_leaves_no_text_in_the_log(
    server: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "cullama"):
        body = {"messages": [USER], "max_tokens": 4}
        assert server.post("/v1/chat/completions", body).status_code == 200
        assert server.post("/tokenize", {"content": SECRET}).status_code == 200
        server.events("/v1/completions", {"prompt": SECRET, "max_tokens": 4})
    assert SECRET not in caplog.text
