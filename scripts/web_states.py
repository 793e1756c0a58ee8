"""Brings the page to each of its states, before real servers with the default model.

Nothing is put in by hand but what a reader types: a full queue is a queue that other clients have
filled, a failed answer one whose engine was killed while it was written.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Locator, Page, expect

from cullama.engine.engine import MAX_RUNNING

WAIT = 40_000  # milliseconds: of each wait
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "wool": {"enum": ["white", "brown", "black"]},
        "age_years": {"type": "integer", "minimum": 1, "maximum": 25},
        "is_tame": {"type": "boolean"},
        "likes": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 3},
    },
    "required": ["name", "wool", "age_years", "is_tame", "likes"],
}
TOOL = {
    "name": "list_files",
    "description": "List the files of a folder that are larger than a size.",
    "parameters": {
        "type": "object",
        "properties": {
            "folder": {"type": "string", "maxLength": 12},
            "min_bytes": {"type": "integer", "minimum": 1000, "maximum": 1000000000},
        },
        "required": ["folder", "min_bytes"],
        "additionalProperties": False,
    },
}
# The default model's own form, and the tools that its template lacks.
TEMPLATE = """{% if tools %}<|im_start|>system
You may call these functions:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call one as <tool_call>{"name": …, "arguments": …}</tool_call>.<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or "" }}{% for call in message.tool_calls or [] %}\
<tool_call>{"name": "{{ call.function.name }}", \
"arguments": {{ call.function.arguments | tojson }}}</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
EARLIER = (
    "Why do llamas hum?",
    "What does a library keep?",
    "Name a mountain in Peru.",
    "What is a prime number?",
)
FIRST = "What is the difference between a list and a tuple in Python?"
SECOND = "Show me both in a short example."
LAST = "One CPU costs $0.04 an hour. What do two of them cost a day?"
LONG = "Write a long story of a llama that walks into a library, with many chapters."


class Server:
    """`cullama serve` at one port, started again with other options, killed and stopped."""

    def __init__(self, model: list[str]) -> None:
        self._model, self._port = model, 0
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self, *options: str) -> None:
        """Start; return once its address can be asked, while it is still loading."""
        serve = [sys.executable, "-m", "cullama", "serve", *self._model, "--port", str(self._port)]
        self._process = subprocess.Popen([*serve, *options], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        found = re.search(r"http://\S+(?=/v1)", self._process.stdout.readline())
        if not found:
            sys.exit("the server did not start")
        self.url = found[0]
        self._port = int(self.url.rsplit(":", 1)[1])

    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{self.url}/health", timeout=30).json()
        return answer

    def wait_until_ready(self, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while self.health()["status"] != "ok":
            if time.monotonic() > end:
                sys.exit("the server is not ready")
            time.sleep(0.1)

    def engine(self) -> int:
        """Return the id of the engine's process."""
        assert self._process is not None
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        for pid in " ".join(each.read_text() for each in tasks).split():
            if b"process.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        sys.exit("the server has no engine's process")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def held_while_loading(self) -> Iterator[None]:
        """Stop the engine's process in the middle of its model's weights, then let it go on."""
        end = time.monotonic() + 60
        while not (progress := self.health().get("progress")) or progress["done"] == 0:
            if time.monotonic() > end:
                sys.exit("the server tells no progress")
        engine = self.engine()
        os.kill(engine, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(engine, signal.SIGCONT)

    @contextmanager
    def busy(self, requests: int, tokens: int) -> Iterator[None]:
        """Let other clients write meanwhile."""
        clients = [
            threading.Thread(target=self._write, args=(seed, tokens), daemon=True)
            for seed in range(requests)
        ]
        for client in clients:
            client.start()
        time.sleep(2)
        try:
            yield
        finally:
            self._is_over = True
            for client in clients:
                client.join()
            self._is_over = False

    _is_over = False

    def _write(self, seed: int, tokens: int) -> None:
        body = {
            "messages": [{"role": "user", "content": LONG}],
            "max_tokens": tokens,
            "seed": seed,
            "stream": True,
            "ignore_eos": True,
        }
        address = f"{self.url}/v1/chat/completions"
        while not self._is_over:
            with httpx.stream("POST", address, json=body, timeout=60) as answer:
                for _ in answer.iter_lines():
                    if self._is_over:
                        return
            time.sleep(0.05)


@dataclass
class Reader:
    """Who uses the page: clicks, types and waits."""

    page: Page
    server: Server
    chats: dict[str, str] = field(default_factory=dict)  # address of each, by its name

    def open(self, address: str = "/") -> None:
        self.page.goto(self.server.url + address)
        expect(self.page.locator(".host strong")).not_to_have_text("–", timeout=WAIT)

    def go(self, name: str) -> None:
        self.page.goto(self.chats[name])
        expect(self.page.locator(".answer").last).to_be_visible(timeout=WAIT)
        self.page.wait_for_timeout(300)

    def new_chat(self) -> None:
        self.page.keyboard.press("Control+Shift+O")
        expect(self.page.locator(".empty h2")).to_be_visible()

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def ask(self, text: str, ends: bool = True) -> None:
        before = self.page.locator(".answer").count()
        self.page.locator("#ask").fill(text)
        self.page.locator("#ask").press("Enter")
        expect(self.page.locator(".answer")).to_have_count(before + 1, timeout=WAIT)
        if ends:
            self.wait_for_end()

    def wait_for_end(self) -> None:
        expect(self.button("Send")).to_be_visible(timeout=WAIT)
        expect(self.page.locator(".answer[aria-busy=true]")).to_have_count(0, timeout=WAIT)

    def wait_for_words(self, number: int) -> None:
        script = (
            "n => [...document.querySelectorAll('.answer .prose')].at(-1)?.innerText.length >= n"
        )
        self.page.wait_for_function(script, arg=number, timeout=WAIT)

    def stop(self) -> None:
        stop = self.button("Stop")
        expect(stop.or_(self.button("Send"))).to_be_visible(timeout=WAIT)
        if stop.count():
            stop.click()
        self.wait_for_end()

    def command(self, words: str) -> None:
        """Open the list of commands and take one."""
        self.page.keyboard.press("Control+k")
        self.page.get_by_role("combobox").wait_for()
        self.page.keyboard.type(words)
        self.page.wait_for_timeout(200)
        self.page.keyboard.press("Enter")
        self.page.wait_for_timeout(500)

    def set(self, **values: str) -> None:
        """Set fields of the sampling drawer by their names."""
        self.command("Sampling")
        drawer = self.page.get_by_role("complementary", name="Sampling")
        for name, value in values.items():
            label = name.replace("_", " ").capitalize()
            box = drawer.get_by_label(label, exact=True).and_(self.page.locator("input[type=text]"))
            box.fill(value)
            box.press("Enter")
        drawer.get_by_role("button", name="Close").click()

    def keep(self, name: str) -> None:
        self.chats[name] = self.page.url


Shoot = Callable[..., None]


def prepare(reader: Reader) -> None:
    """Write the chats that the pictures show: some of them on earlier days."""
    page = reader.page
    for days, question in enumerate(EARLIER, 2):
        page.clock.set_system_time(datetime.now(timezone.utc) - timedelta(days=days))
        reader.new_chat()
        reader.ask(question, ends=False)
        reader.wait_for_words(30)
        reader.stop()
    page.clock.set_system_time(datetime.now(timezone.utc))
    reader.new_chat()
    reader.ask("What does min-p do?", ends=False)
    reader.wait_for_words(20)
    reader.stop()


def write_main_chat(reader: Reader) -> None:
    """Three questions; the second answer has three versions, and the last was replayed."""
    page = reader.page
    reader.new_chat()
    reader.set(longest_answer="160", seed="7")
    reader.ask(FIRST)
    reader.keep("main")
    reader.ask(SECOND)
    for _ in range(2):
        page.locator(".answer").last.get_by_role("button", name="Regenerate").click()
        reader.wait_for_end()
    page.locator(".answer").last.get_by_role("button", name="Earlier version").click()
    reader.set(longest_answer="90", seed="7")
    reader.ask(LAST)
    last = page.locator(".answer").last
    last.get_by_role("button", name="Replay").click()
    expect(last.get_by_role("button", name="Same seed, same text")).to_be_visible(timeout=WAIT)
    page.keyboard.press("F2")
    page.keyboard.type("Lists, tuples and the price of a day")
    page.keyboard.press("Enter")


def set_schema(reader: Reader, schema: dict[str, Any]) -> None:
    reader.command("JSON schema")
    reader.page.get_by_role("complementary").locator("textarea").fill(json.dumps(schema, indent=2))
    reader.button("Use schema").click(timeout=WAIT)


def write_json_chat(reader: Reader) -> None:
    """An answer in the form of a schema, then a tool's call that waits."""
    page = reader.page
    reader.new_chat()
    set_schema(reader, SCHEMA)
    reader.set(longest_answer="", seed="3")
    reader.ask("Describe a llama as JSON.")
    reader.keep("json")
    reader.command("JSON schema")
    reader.button("Use none").click()
    reader.command("Tools")
    drawer = page.get_by_role("complementary", name="Tools")
    drawer.locator("textarea").fill(json.dumps([TOOL], indent=2))
    drawer.get_by_role("button", name="Always").click()
    reader.button("Use tools").click()
    reader.ask("Which of my files are larger than 1 GB?")
    page.keyboard.press("Escape")


def of_reading(reader: Reader, shoot: Shoot) -> None:
    """States of a chat that is read: nothing is written."""
    page = reader.page
    reader.go("main")
    shoot("chat")
    reader.button("More").first.click()
    shoot("menu")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    page.keyboard.type("python")
    page.wait_for_timeout(500)
    shoot("palette")
    page.keyboard.press("Escape")
    for state, words in {"xray": "Prompt, as", "sampling": "Sampling"}.items():
        reader.command(words)
        page.wait_for_timeout(700)
        shoot(state)
        page.keyboard.press("Escape")
    reader.command("Settings")
    shoot("settings")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    page.keyboard.type("Keys")
    page.keyboard.press("Enter")
    shoot("keys")
    page.keyboard.press("Escape")
    page.locator("#ask").focus()
    page.keyboard.press("ArrowUp")
    shoot("edit")
    page.keyboard.press("Escape")
    page.locator("#ask").blur()
    page.keyboard.press("p")
    page.locator(".scroll").evaluate("box => { box.scrollTop = 0 }")
    page.wait_for_timeout(600)
    page.locator(".t.p2, .t.p3").nth(3).click()
    page.wait_for_timeout(500)
    shoot("probabilities")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    shoot("nav", only="phone")


def of_writing(reader: Reader, shoot: Shoot) -> None:
    """States of an answer that is cut, deleted, waited for, written and stopped."""
    page = reader.page
    reader.new_chat()
    reader.set(longest_answer="48", seed="7")
    reader.ask(FIRST)
    shoot("cut")
    reader.command("Delete")
    expect(reader.button("Undo")).to_be_visible()
    shoot("deleted")
    page.locator(".toast").wait_for(state="hidden")
    reader.new_chat()
    text = " ".join(f"Shelf {k} holds {k * 7} books on llamas." for k in range(400))
    reader.ask(f"How many shelves are there? {text}", ends=False)
    page.locator(".reading[role=progressbar]").wait_for(timeout=WAIT)
    shoot("reading")
    reader.stop()
    reader.command("Delete")
    page.locator(".toast").wait_for(state="hidden")
    fork(reader)
    reader.set(longest_answer="", seed="11")
    reader.ask(LONG, ends=False)
    reader.wait_for_words(150)
    shoot("streaming")
    page.locator(".scroll").hover()
    page.mouse.wheel(0, -500)
    expect(reader.button("Latest")).to_be_visible()
    shoot("latest")
    reader.stop()
    shoot("stopped")
    reader.page.locator(".answer").last.get_by_role("button", name="More").click()
    reader.page.get_by_role("menuitem", name="Delete").click()
    expect(reader.button("Answer this")).to_be_visible()
    reader.command("Delete")
    page.locator(".toast").wait_for(state="hidden")


def fork(reader: Reader) -> None:
    """Go on in a copy of the main chat."""
    reader.go("main")
    main = reader.page.url
    reader.command("Branch into")
    reader.page.wait_for_url(lambda url: url != main)
    expect(reader.page.locator(".answer").last).to_be_visible()


def of_json(reader: Reader, shoot: Shoot) -> None:
    page = reader.page
    reader.go("json")
    fields = page.get_by_label("Answer it by hand")
    fields.last.fill('["SmolLM2-135M-Instruct-Q4_1.gguf"]')
    shoot("tools")
    for left in range(fields.count(), 0, -1):  # a small model calls more than once
        expect(fields).to_have_count(left)
        fields.last.fill('["SmolLM2-135M-Instruct-Q4_1.gguf"]')
        reader.button("Give result").last.click()
    expect(fields).to_have_count(0)
    reader.wait_for_end()
    page.locator(".ans pre").last.scroll_into_view_if_needed()
    shoot("toolsanswered")
    reader.new_chat()
    set_schema(reader, SCHEMA)
    reader.ask("Describe a llama as JSON.", ends=False)
    page.locator(".jsonline").wait_for(timeout=WAIT)
    reader.command("JSON schema")
    page.locator(".verdict.ok").wait_for(timeout=WAIT)
    shoot("schema")
    bad = {**SCHEMA, "properties": {**SCHEMA["properties"], "wool": {"not": {"type": "null"}}}}  # type: ignore[dict-item]
    page.get_by_role("complementary").locator("textarea").fill(json.dumps(bad, indent=2))
    page.locator(".verdict.bad").wait_for(timeout=WAIT)
    shoot("badschema")
    page.keyboard.press("Escape")
    reader.wait_for_end()


def of_engine(reader: Reader, shoot: Shoot) -> None:
    page = reader.page
    fork(reader)
    with reader.server.busy(5, 300):
        reader.set(longest_answer="", seed="5")
        reader.ask(LONG, ends=False)
        reader.wait_for_words(40)
        reader.command("Engine")
        page.wait_for_timeout(2500)
        shoot("engine")
        page.keyboard.press("Escape")
    reader.stop()
    reader.command("Delete")


def of_trouble(reader: Reader, shoot: Shoot) -> None:
    """States of servers that fail, are gone, are loading, and are full."""
    page, server = reader.page, reader.server
    reader.new_chat()
    reader.set(longest_answer="", seed="5")
    session = page.context.new_cdp_session(page)
    reader.ask(LONG, ends=False)
    reader.wait_for_words(150)
    os.kill(server.engine(), signal.SIGKILL)
    page.wait_for_timeout(500)
    server.wait_until_ready()
    page.locator(".fault").wait_for(timeout=WAIT)
    quota = {"origin": server.url, "quotaSize": 1000}
    session.send("Storage.overrideQuotaForOrigin", quota)
    full = page.get_by_text("storage is full")
    for _ in range(20):  # the browser counts what is stored now and then
        page.keyboard.press("F2")
        page.keyboard.type(f"A llama in the library {'…' * 200}")
        page.keyboard.press("Enter")
        page.wait_for_timeout(500)
        if full.count():
            break
    page.keyboard.press("F2")
    page.keyboard.type("A llama in the library")
    page.keyboard.press("Enter")
    full.wait_for(timeout=WAIT)
    shoot("error")
    session.send("Storage.overrideQuotaForOrigin", {"origin": server.url})
    reader.go("main")
    page.locator("#ask").fill("And what would ten of them cost?")
    server.kill()
    page.evaluate("dispatchEvent(new Event('online'))")
    page.get_by_text("The server is gone").wait_for(timeout=WAIT)
    page.wait_for_timeout(4000)
    shoot("offline")
    page.keyboard.press("Control+Shift+O")
    server.start("--context", "512", "--cache-tokens", "1024", "--max-waiting", "1")
    with server.held_while_loading():
        page.locator(".reading").wait_for(timeout=WAIT)
        page.locator("#ask").fill(FIRST)
        shoot("loading")
    server.wait_until_ready()


def of_small_context(reader: Reader, shoot: Shoot) -> None:
    page = reader.page
    reader.go("main")
    reader.set(longest_answer="60", seed="7")
    reader.ask("Give me one more example.")
    page.locator(".banner").wait_for(timeout=WAIT)
    reader.button("Show which").click()
    shoot("full")
    refused = page.get_by_text("Trying again in")
    with reader.server.busy(MAX_RUNNING + 40, 200):
        for _ in range(8):  # until others have the only place in the queue
            reader.ask("And what would ten of them cost?", ends=False)
            page.wait_for_timeout(2000)
            if refused.count():
                break
            reader.stop()
        refused.wait_for(timeout=WAIT)
        shoot("busy")
    reader.stop()
