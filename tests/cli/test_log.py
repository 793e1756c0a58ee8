"""The library's log on standard error: each warning once, other lines as often as they come."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from cullama.cli.log import show_log

LOGGER = logging.getLogger("cullama")


@pytest.fixture(autouse=True)
def fresh_handlers() -> Iterator[None]:
    before, level = LOGGER.handlers[:], LOGGER.level
    LOGGER.handlers.clear()
    yield
    LOGGER.handlers[:] = before
    LOGGER.setLevel(level)


def test_a_warning_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # as when /model opens a file to check it, then to load it
        show_log(quiet=False)
        LOGGER.warning("%s: passed over", "a")
        LOGGER.warning("%s: passed over", "b")
        LOGGER.info("compiling")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["a: passed over", "b: passed over", "compiling", "compiling"]


def test_quiet_leaves_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    show_log(quiet=True)
    LOGGER.info("compiling")
    LOGGER.warning("passed over")
    assert capsys.readouterr().err == "passed over\n"
