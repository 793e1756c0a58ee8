"""One server for all tests that leave it as it was, and the same model in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import OPTIONS, LiveServer, live_server

from cullama import LLM


@pytest.fixture(scope="session")
def server(chat_model: Path) -> Iterator[LiveServer]:
    with live_server(chat_model) as live:
        yield live


@pytest.fixture(scope="session")
def local(chat_model: Path) -> LLM:
    """The served model in this process: what answers are compared with."""
    return LLM(chat_model, **OPTIONS)
