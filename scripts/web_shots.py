"""Takes pictures of all the page's states, with real servers and the default model.

    python scripts/web_shots.py FOLDER [--model NAME] [--beside FOLDER] [--only NAME,NAME] [--docs]

Each state is photographed in a wide window by day and by night, on a phone, and in Chinese; what
axe-core finds in any of them makes the command fail.
FOLDER/index.html shows them; with `--beside`, next to pictures of the same names from elsewhere: a
design's, or an earlier version's. `--docs` makes the pictures of docs/page.md again. It takes some
minutes, and needs Linux, the built page (`make web`), playwright, pillow, and chromium in PATH; for
pictures in Chinese, a font that has it.
"""

from __future__ import annotations

import argparse
import html
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import CDPSession, Page, ViewportSize, sync_playwright
from web_states import (
    TEMPLATE,
    WAIT,
    Reader,
    Server,
    of_engine,
    of_json,
    of_reading,
    of_small_context,
    of_trouble,
    of_writing,
    prepare,
    write_json_chat,
    write_main_chat,
)

WIDE: ViewportSize = {"width": 1440, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
LOOKS = ("light", "dark", "phone", "zh")
# The pictures of the documentation: whence, and what of it.
ASSETS = {
    "page-chat": "chat-light",
    "page-probabilities": "probabilities-light",
    "page-prompt": "xray-light",
    "page-engine": "engine-dark",
    "page-schema": "schema-light",
}
AXE = Path(__file__).resolve().parents[1] / "web" / "node_modules" / "axe-core" / "axe.min.js"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "assets"
COLOURS = 256  # of a picture of the documentation: what keeps it small


class Camera:
    """Photographs what the page shows, in each look, without leaving the state that it is in."""

    def __init__(self, page: Page, folder: Path) -> None:
        self._page, self._folder = page, folder
        self._devices: CDPSession = page.context.new_cdp_session(page)
        # A page of the same origin, which changes the settings as another tab does.
        self._other: Page | None = None
        self._axe = AXE.read_text()
        self.taken: list[str] = []
        self.violations: list[str] = []

    def shoot(self, state: str, only: str | None = None) -> None:
        for look in LOOKS if only is None else (only,):
            self._dress(look)
            if state == "nav":
                self._page.get_by_role("button", name="Chats").click()
                self._page.wait_for_timeout(400)
            self._page.screenshot(path=self._folder / f"{state}-{look}.png")
            self._check(f"{state}-{look}")
            self._undress(look)
        self.taken.append(state)
        print(state, flush=True)

    def _check(self, name: str) -> None:
        """Let axe-core look at what was photographed."""
        if not self._page.evaluate("typeof window.axe === 'object'"):
            self._page.evaluate(self._axe)
        found = self._page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        for each in found["violations"]:
            nodes = ", ".join(node["html"][:120] for node in each["nodes"])
            self.violations.append(f"{name}: {each['id']}: {nodes}")

    def _dress(self, look: str) -> None:
        if look == "dark":
            self._page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        if look == "phone":
            self._devices.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
            self._page.set_viewport_size(PHONE)
        if look == "zh":
            self._speak("zh")
        self._page.wait_for_timeout(250)

    def _undress(self, look: str) -> None:
        if look == "dark":
            self._page.emulate_media(color_scheme="light", reduced_motion="reduce")
        if look == "phone":
            self._devices.send("Emulation.setTouchEmulationEnabled", {"enabled": False})
            self._page.set_viewport_size(WIDE)
        if look == "zh":
            self._speak("en")

    def _speak(self, language: str) -> None:
        if self._other is None:
            self._other = self._page.context.new_page()
            self._other.goto(self._page.url.split("#")[0] + "manifest.webmanifest")
            self._page.bring_to_front()
        self._other.evaluate(
            "language => { const name = 'cullama-settings';"
            " const now = JSON.parse(localStorage.getItem(name) ?? '{}');"
            " localStorage.setItem(name, JSON.stringify({...now, language})); }",
            language,
        )
        self._page.wait_for_timeout(300)


def write_sheet(folder: Path, states: list[str], beside: Path | None) -> None:
    """Write index.html: each picture, with the one it is to be compared with at its left."""
    rows = []
    for state in states:
        for look in LOOKS:
            ours = folder / f"{state}-{look}.png"
            if not ours.is_file():
                continue
            pair = [ours.name]
            if beside is not None and (theirs := beside / ours.name).is_file():
                pair.insert(0, os.path.relpath(theirs, folder))
            pictures = "".join(f'<img src="{html.escape(name)}" alt="">' for name in pair)
            rows.append(f"<h2>{html.escape(ours.stem)}</h2><div>{pictures}</div>")
    style = "body{font:14px system-ui;margin:24px}div{display:flex;gap:12px}img{width:49%}"
    page = f"<!doctype html><meta charset=utf-8><title>The page</title><style>{style}</style>"
    (folder / "index.html").write_text(page + "".join(rows))


def write_assets(folder: Path) -> None:
    """Copy the best pictures into the documentation, with as few colours as they need."""
    for name, source in ASSETS.items():
        with Image.open(folder / f"{source}.png") as picture:
            few = picture.convert("RGB").quantize(
                COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            )
        few.save(DOCS / f"{name}.png", optimize=True)


def say_missing_fonts() -> None:
    found = subprocess.run(["fc-list", ":lang=zh"], capture_output=True, text=True, check=False)
    if not found.stdout:
        print("no font here has Chinese: its pictures show boxes")


def take_all(camera: Camera, reader: Reader, only: set[str]) -> None:
    """Go through the states."""
    reader.open()
    camera.shoot("empty")
    prepare(reader)
    write_main_chat(reader)
    write_json_chat(reader)
    parts: list[Callable[[Reader, Callable[..., None]], None]] = [
        *(of_reading, of_writing, of_json, of_engine, of_trouble, of_small_context)
    ]
    for part in parts:
        if not only or part.__name__.removeprefix("of_") in only:
            part(reader, camera.shoot)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="of the server; the default one without it")
    parser.add_argument("--beside", type=Path, help="a folder of pictures to compare with")
    parser.add_argument("--only", default="", help="reading,writing,json,engine,…")
    parser.add_argument("--docs", action="store_true", help="make the pictures of docs/")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    say_missing_fonts()
    server = Server([given.model] if given.model else [])
    template = given.folder / "template.jinja"
    template.write_text(TEMPLATE)
    server.start("--template", str(template))
    try:
        server.wait_until_ready()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            context = browser.new_context(viewport=WIDE, locale="en-GB", reduced_motion="reduce")
            page = context.new_page()
            page.set_default_timeout(WAIT)
            camera = Camera(page, given.folder)
            only = set(filter(None, given.only.split(",")))
            try:
                take_all(camera, Reader(page, server), only)
            except BaseException:
                page.screenshot(path=given.folder / "failed.png")
                raise
            browser.close()
    finally:
        server.kill()
    write_sheet(given.folder, camera.taken, given.beside)
    if given.docs:
        write_assets(given.folder)
    print(given.folder / "index.html")
    if camera.violations:
        sys.exit("\n".join(camera.violations))


if __name__ == "__main__":
    main()
