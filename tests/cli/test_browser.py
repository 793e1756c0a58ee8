"""Opening a browser: the one there is, and none that would take the terminal."""

from __future__ import annotations

import logging
import webbrowser

import pytest

from cullama.cli import browser

URL = "http://127.0.0.1:8000/"


def _choose(monkeypatch: pytest.MonkeyPatch, chosen: webbrowser.BaseBrowser | None) -> None:
    def get() -> webbrowser.BaseBrowser:
        if chosen is None:
            raise webbrowser.Error("could not locate runnable browser")
        return chosen

    monkeypatch.delenv("BROWSER", raising=False)
    monkeypatch.setattr(webbrowser, "get", get)


@pytest.mark.parametrize("chosen", [None, webbrowser.GenericBrowser("w3m")])
def test_where_there_is_none_the_address_is_said(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    chosen: webbrowser.BaseBrowser | None,
) -> None:
    _choose(monkeypatch, chosen)
    with caplog.at_level(logging.WARNING, "cullama"):
        browser.open_browser(URL)
    assert URL in caplog.text
