"""Hostile texts on every way into the page run nothing and ask no other server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from browsing import SHORT, Visit
from playwright.sync_api import expect

HOSTILE = [
    "<img src=x onerror=window.hit=1>",
    "<script>window.hit=1</script>",
    "[a](javascript:window.hit=1)",
    "![a](https://example.com/pixel.png)",
    "<svg onload=window.hit=1>",
    "<a href='data:text/html,<script>parent.hit=1</script>'>a</a>",
    "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
    "`<img src=x onerror=window.hit=1>`",
    "$$\\href{javascript:window.hit=1}{a}$$",
    "<style>@import 'https://example.com/a.css'</style>",
    "<form action=https://example.com><button>a</button></form>",
    "<math><mtext><img src=x onerror=window.hit=1></mtext></math>",
    '```"><img src=x onerror=window.hit=1>\na\n```',
    "| <svg onload=window.hit=1> |\n|---|\n| <img src=x onerror=window.hit=1> |",
    "\u202e<script>window.hit=1</script>",
]
ALL = "\n\n".join(HOSTILE)


def is_harmless(visit: Visit) -> bool:
    expect(visit.page.locator(".app :is(img, iframe, form, script, style)")).to_have_count(0)
    links = visit.page.locator(".prose a[href]").evaluate_all("all => all.map(a => a.href)")
    assert all(link.startswith("https:") for link in links)
    return visit.page.evaluate("window.hit") is None


def hostile_chat(title: str) -> dict[str, Any]:
    """A chat whose every text is hostile: questions, answers, thoughts, calls and their results."""
    call = {
        "id": "call-1",
        "type": "function",
        "function": {"name": HOSTILE[0], "arguments": json.dumps({HOSTILE[0]: HOSTILE[1]})},
    }
    return {
        "title": title,
        "messages": [
            {"role": "system", "content": ALL},
            {"role": "user", "content": ALL},
            {"role": "assistant", "content": ALL, "reasoning_content": ALL},
            {"role": "user", "content": ALL},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call-1", "content": ALL},
            {"role": "assistant", "content": json.dumps({HOSTILE[0]: HOSTILE[4]})},
        ],
    }


def test_hostile_imports_run_nothing_and_ask_nobody(visit: Visit, tmp_path: Path) -> None:
    export = tmp_path / "hostile.json"
    export.write_text(json.dumps([hostile_chat(title) for title in HOSTILE[:4]]))
    visit.import_file(export)
    expect(visit.page.get_by_text("4 chats read.")).to_be_visible()
    visit.page.keyboard.press("Escape")
    expect(visit.page.locator(".chatrow")).to_have_count(4)
    for k in range(4):
        visit.page.locator(".chatrow a").nth(k).click()
        expect(visit.answers).to_have_count(3)
        assert is_harmless(visit)
    visit.palette("onerror")  # hits in titles and texts, with their matches marked
    expect(visit.page.get_by_role("option").first).to_be_visible()
    assert is_harmless(visit)


def test_a_hostile_file_that_is_no_export_is_refused_as_text(visit: Visit, tmp_path: Path) -> None:
    file = tmp_path / "<img src=x onerror=window.hit=1>.json"
    file.write_text("<img src=x onerror=window.hit=1>")
    visit.import_file(file)
    expect(visit.page.get_by_role("dialog").locator(".verdict.bad")).to_be_visible()
    assert is_harmless(visit)


def test_hostile_words_that_the_model_streams_are_text(visit: Visit) -> None:
    visit.set_sampling({**SHORT, "max_tokens": 200})
    visit.palette("JSON schema")
    visit.page.keyboard.press("Enter")
    schema = visit.page.get_by_role("complementary").locator("textarea")
    schema.fill(json.dumps({"const": HOSTILE[0] + HOSTILE[1] + HOSTILE[4]}))
    visit.button("Use schema").click()
    visit.ask("<img src=x onerror=window.hit=1>")  # which makes the title, too
    visit.wait_for_end()
    expect(visit.answer.locator(".prose")).to_contain_text("onerror=window.hit=1")
    expect(visit.page.locator("h1")).to_contain_text("onerror")
    visit.button("Probabilities").first.click()
    visit.answer.locator(".t").nth(3).click()
    expect(visit.page.get_by_role("dialog", name="Probabilities")).to_be_visible()
    assert is_harmless(visit)
