"""A visit to the page: a server in a process of its own, a browser, and what a reader does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from cullama.server.http.page import FOLDER

WEB = Path(__file__).resolve().parents[2] / "web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
SECONDS = 20_000  # milliseconds: of each wait
# The tests' model is random: what it writes is different text, and has no end at temperature 0.
LONG = {"temperature": 0, "max_tokens": 1500}
SHORT = {"temperature": 1, "max_tokens": 24, "seed": 7}


ENGLISH = {"keys": "Keys", "prompt": "Prompt, as", "schema": "JSON schema"}
CHINESE = {
    "settings": "设置",
    "keys": "快捷键",
    "prompt": "模型读到的提示词",
    "sampling": "采样",
    "schema": "JSON Schema",
    "tools": "工具",
    "engine": "引擎",
    "delete": "删除",
}


def missing() -> str | None:
    """Return what the tests of the page need and this machine lacks, or None."""
    if CHROMIUM is None:
        return "no chromium in PATH"
    if find_spec("playwright") is None:
        return "no playwright"
    if not (FOLDER / "index.html").is_file():
        return "the page is not built: `make web`"
    return None


@contextmanager
def serving(model: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start `cullama serve`; yields the process and its address."""
    command = [sys.executable, "-m", "cullama", "serve", str(model), "--port", str(port)]
    with subprocess.Popen(
        [*command, "--backend", "cpu:numpy", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    ) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+(?=/v1)", process.stdout.readline())
        assert found
        try:
            yield process, found[0]
        finally:
            process.kill()


@dataclass
class Visit:
    """One reader in one profile: a page, and what went wrong on it."""

    page: Page
    context: BrowserContext
    url: str
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch(self.page)

    def watch(self, page: Page) -> None:
        """Note scripts' errors, what the policy blocked, and requests to other origins."""
        page.set_default_timeout(SECONDS)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        page.on(
            "console",
            lambda line: (
                self.faults.append(f"console: {line.text}")
                if line.type == "error" and "Failed to load resource" not in line.text
                else None
            ),
        )
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((self.url, "blob:"))
                else self.faults.append(f"request: {request.url}")
            ),
        )

    def open(self, path: str = "/") -> None:
        self.page.goto(self.url + path)
        expect(self.page.locator(".host strong")).not_to_have_text("–", timeout=SECONDS)

    # --- what a reader finds ---------------------------------------------------------------------

    @property
    def words(self) -> dict[str, str]:
        """The names of commands, where the page does not speak English."""
        language = self.page.locator("html").get_attribute("lang") or "en"
        return CHINESE if language.startswith("zh") else ENGLISH

    @property
    def field(self) -> Locator:
        return self.page.locator("#ask")

    @property
    def questions(self) -> Locator:
        return self.page.locator(".question")

    @property
    def answers(self) -> Locator:
        return self.page.locator(".answer")

    @property
    def answer(self) -> Locator:
        return self.answers.last

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def text(self) -> str:
        """Return the text of the last answer, without its row and notes."""
        return self.answer.locator(".prose").inner_text()

    # --- what a reader does ----------------------------------------------------------------------

    def set_sampling(self, sampling: dict[str, Any]) -> None:
        """Set temperature, seed and the longest answer in their drawer."""
        self.page.locator(".under .btn.set").first.click()
        drawer = self.page.get_by_role("complementary", name="Sampling")
        names = {"temperature": "Temperature", "seed": "Seed", "max_tokens": "Longest answer"}
        for name, value in sampling.items():
            box = drawer.get_by_label(names[name], exact=True)
            box.locator("visible=true").and_(self.page.locator("input[type=text]")).fill(str(value))
            self.page.keyboard.press("Enter")
        drawer.get_by_role("button", name="Close").click()

    def ask(self, text: str) -> None:
        before = self.answers.count()
        self.field.fill(text)
        self.field.press("Enter")
        expect(self.answers).to_have_count(before + 1)

    def wait_for_words(self, number: int = 1) -> None:
        """Wait until the last answer shows so many characters."""
        self.page.wait_for_function(
            "n => [...document.querySelectorAll('.answer .prose')].at(-1)?.innerText.length >= n",
            arg=number,
        )

    def wait_for_end(self) -> None:
        expect(self.button("Send")).to_be_visible(timeout=SECONDS)
        expect(self.page.locator(".answer[aria-busy=true]")).to_have_count(0, timeout=SECONDS)

    def palette(self, words: str) -> None:
        """Open the list of chats and commands, and type into it."""
        self.page.keyboard.press("Control+k")
        expect(self.page.get_by_role("combobox")).to_be_focused()
        self.page.keyboard.type(words)

    def import_file(self, path: Path) -> None:
        self.page.locator(".sidefoot .btn").first.click()
        self.page.locator("input[type=file]").set_input_files(path)

    def axe(self, *rules: str) -> list[str]:
        """Return the violations that axe-core finds, of some rules or of all, a line each."""
        if not self.page.evaluate("typeof window.axe === 'object'"):
            self.page.evaluate((WEB / "node_modules/axe-core/axe.min.js").read_text())
        options: dict[str, Any] = {"resultTypes": ["violations"]}
        if rules:
            options["runOnly"] = rules
        found = self.page.evaluate("options => axe.run(document, options)", options)
        return [
            f"{each['id']}: {json.dumps([node['html'][:160] for node in each['nodes']])}"
            for each in found["violations"]
        ]


@contextmanager
def visiting(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """Open a profile of its own; at the end nothing may have gone wrong on its pages."""
    settings: dict[str, Any] = {
        "viewport": {"width": 1440, "height": 900},
        "locale": "en-GB",
        "color_scheme": "light",
        "reduced_motion": "reduce",
        **options,
    }
    context = browser.new_context(**settings)
    try:
        visit = Visit(context.new_page(), context, url)
        yield visit
        assert visit.faults == []
    finally:
        context.close()
