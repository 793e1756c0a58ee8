"""Takes pictures of the page's states, with a real server and the default model.

    python scripts/web_shots.py FOLDER [MODEL]

Needs the built page (`make web`), playwright, and chromium in PATH.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

QUESTION = "Name three things that a library has, with a sentence each."
COMMANDS = {
    "sampling": "Sampling",
    "schema": "JSON schema",
    "tools": "Tools",
    "prompt": "Prompt, as",
    "settings": "Settings",
    "keys": "Keys",
}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True},
}


def command(page: Page, words: str) -> None:
    """Open the list of commands and take one."""
    page.keyboard.press("Control+k")
    page.get_by_role("combobox").wait_for()
    page.keyboard.type(words)
    page.keyboard.press("Enter")
    page.wait_for_timeout(700)


def take(page: Page, folder: Path, look: str) -> None:
    """Ask once, and go through the states."""

    def shot(state: str) -> None:
        page.screenshot(path=folder / f"{state}-{look}.png")

    page.wait_for_timeout(1500)
    shot("empty")
    page.locator("#ask").fill(QUESTION)
    page.locator(".go").click()
    page.wait_for_timeout(1200)
    shot("streaming")
    page.wait_for_timeout(4000)
    stop = page.get_by_role("button", name="Stop", exact=True)
    if stop.count():
        stop.click()
    page.wait_for_timeout(800)
    shot("chat")
    page.get_by_role("button", name="Probabilities").first.click()
    page.wait_for_timeout(500)
    page.locator(".t.p2, .t.p3").nth(2).click()
    page.wait_for_timeout(500)
    shot("probabilities")
    page.keyboard.press("Escape")
    for state, words in COMMANDS.items():
        command(page, words)
        shot(state)
        page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    page.wait_for_timeout(400)
    shot("palette")
    page.keyboard.press("Escape")
    command(page, "Engine")
    page.wait_for_timeout(1000)
    shot("engine")


def visit(browser: Browser, url: str, folder: Path, look: str) -> None:
    settings: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}, "locale": "en-GB"}
    context = browser.new_context(**{**settings, **LOOKS[look]})
    page = context.new_page()
    page.goto(url)
    take(page, folder, look)
    context.close()


def main() -> None:
    folder, model = Path(sys.argv[1]), sys.argv[2:3]
    folder.mkdir(parents=True, exist_ok=True)
    serve = [sys.executable, "-m", "cullama", "serve", *model, "--port", "0"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            found = re.search(
                r"http://\S+(?=/v1)", server.stdout.readline() if server.stdout else ""
            )
            if not found:
                sys.exit("the server did not start")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=shutil.which("chromium"), args=["--no-sandbox"]
                )
                for look in LOOKS:
                    visit(browser, found[0], folder, look)
                browser.close()
        finally:
            server.terminate()
    print(folder)


if __name__ == "__main__":
    main()
