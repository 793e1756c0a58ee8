"""The page in long use: long chats, large files, several tabs, lost connections and storage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browsing import LONG, SECONDS, SHORT, Visit, visiting
from playwright.sync_api import Browser, expect

TURNS = 120
ANSWER = """Point {k} is **bold**, with `code`, and $x_{k}$:

- a list

| a | b |
|---|--:|
| {k} | 2 |

```python
print({k})
```
"""
# Counts what changes: in the last answer, and in all others.
WATCH_TURNS = """() => {
  window.changes = {last: 0, others: 0};
  const last = [...document.querySelectorAll('.answer')].at(-1);
  new MutationObserver(all => {
    for (const {target} of all) changes[last.contains(target) ? 'last' : 'others'] += 1;
  }).observe(document.querySelector('.scroll'),
    {subtree: true, childList: true, characterData: true, attributes: true});
}"""
WATCH_SHIFTS = """() => {
  window.shifts = 0;
  new PerformanceObserver(list => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) shifts += entry.value;
  }).observe({type: 'layout-shift'});
}"""


def long_chat(folder: Path, turns: int = TURNS) -> Path:
    """Write a file with one long chat."""
    messages = [
        {"role": role, "content": ANSWER.format(k=k) if role == "assistant" else f"Point {k}?"}
        for k in range(turns // 2)
        for role in ("user", "assistant")
    ]
    path = folder / "long.json"
    path.write_text(json.dumps([{"title": "Long", "messages": messages}]))
    return path


def open_long_chat(visit: Visit, folder: Path) -> None:
    visit.import_file(long_chat(folder))
    expect(visit.page.get_by_text("1 chat read.")).to_be_visible()
    visit.page.keyboard.press("Escape")
    visit.page.locator(".chatrow a").first.click()
    expect(visit.answers).to_have_count(TURNS // 2)
    # Those out of sight are rendered while nothing else is done.
    expect(visit.page.locator(".prose.plaintext")).to_have_count(0)


def test_a_key_changes_no_turn(visit: Visit, tmp_path: Path) -> None:
    open_long_chat(visit, tmp_path)
    visit.page.evaluate(WATCH_TURNS)
    visit.field.click()
    visit.page.keyboard.type("What is the next point of all these?")
    assert visit.page.evaluate("changes") == {"last": 0, "others": 0}


def test_a_stream_changes_the_last_answer_alone_and_moves_nothing(visit: Visit) -> None:
    visit.set_sampling(SHORT)
    visit.ask("First")
    visit.wait_for_end()
    visit.set_sampling({**LONG, "max_tokens": 300})
    visit.ask("And then?")
    expect(visit.page.locator(".answer.last .prose.writing")).to_be_visible(timeout=SECONDS)
    visit.page.evaluate(WATCH_TURNS)
    visit.page.evaluate(WATCH_SHIFTS)
    visit.wait_for_words(250)
    # A figure beside the text that gets a digit more is a shift of 0.00005.
    assert visit.page.evaluate("shifts") < 0.0003
    visit.wait_for_end()
    changes = visit.page.evaluate("changes")
    assert changes["last"] > 0
    assert changes["others"] == 0


def test_what_is_selected_in_a_growing_answer_stays_selected(visit: Visit) -> None:
    visit.set_sampling(LONG)
    visit.ask("Select it")
    visit.wait_for_words(60)
    chosen = visit.page.evaluate("""() => {
      const text = document.createTreeWalker(
        document.querySelector('.answer .prose'), NodeFilter.SHOW_TEXT).nextNode();
      getSelection().setBaseAndExtent(text, 3, text, 20);
      return String(getSelection());
    }""")
    visit.wait_for_words(len(visit.text()) + 200)
    assert visit.page.evaluate("String(getSelection())") == chosen
    visit.button("Stop").click()


def test_what_is_read_stays_in_place_as_turns_above_it_are_laid_out(
    visit: Visit, tmp_path: Path
) -> None:
    open_long_chat(visit, tmp_path)
    place = """() => {
      const box = document.querySelector('.scroll').getBoundingClientRect();
      const turn = [...document.querySelectorAll('.turn')].find(
        each => each.getBoundingClientRect().bottom > box.top + 200);
      window.read ??= turn;
      return read.getBoundingClientRect().top;
    }"""
    visit.page.mouse.move(700, 400)
    for _ in range(8):
        before = visit.page.evaluate(f"delete window.read, ({place})()")
        visit.page.mouse.wheel(0, -500)
        visit.page.wait_for_timeout(120)
        moved = visit.page.evaluate(place) - before
        assert moved == pytest.approx(500, abs=2)


def test_turns_far_away_are_found_by_the_browsers_search_and_by_keys(
    visit: Visit, tmp_path: Path
) -> None:
    open_long_chat(visit, tmp_path)
    assert visit.page.evaluate("find('Point 3 is', false, true)")
    visit.page.evaluate("getSelection().anchorNode.parentElement.scrollIntoView()")
    visit.page.wait_for_timeout(300)
    inside = """() => {
      const found = getSelection().getRangeAt(0).getBoundingClientRect();
      const box = document.querySelector('.scroll').getBoundingClientRect();
      return found.height > 0 && found.top >= box.top && found.bottom <= box.bottom;
    }"""
    assert visit.page.evaluate(inside)
    visit.page.locator(".scroll").focus()
    visit.page.keyboard.press("k")
    expect(visit.page.locator(".turn:focus")).to_be_in_viewport()


def test_a_large_file_is_read_in_one_tab_and_seen_in_another(visit: Visit, tmp_path: Path) -> None:
    other = Visit(visit.context.new_page(), visit.context, visit.url, visit.faults)
    other.open()
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for k in range(60):
            words = f"{k} " + "many words " * 1000
            messages = [
                {"role": role, "content": words} for _ in range(4) for role in ("user", "assistant")
            ]
            file.write(json.dumps({"title": f"Large {k}", "messages": messages}) + "\n")
    half = path.read_text()[: path.stat().st_size // 2]
    path.write_text(half)
    visit.import_file(path)
    expect(visit.page.get_by_text("30 chats read. 1 was damaged")).to_be_visible()
    for each in (visit, other):
        each.page.keyboard.press("Escape")
        each.palette("Large 29")
        expect(each.page.get_by_role("option").first).to_contain_text("Large 29")
        each.page.keyboard.press("Enter")
        expect(each.questions).to_have_count(4)


def test_a_chat_is_renamed_and_deleted_in_one_tab_while_another_writes_in_it(visit: Visit) -> None:
    visit.set_sampling(LONG)
    visit.ask("Written in one")
    visit.wait_for_words(20)
    other = Visit(visit.context.new_page(), visit.context, visit.url, visit.faults)
    other.page.goto(visit.page.url)
    other.wait_for_words(20)
    other.page.keyboard.press("F2")
    other.page.keyboard.press("Control+a")
    other.page.keyboard.type("Renamed in two")
    other.page.keyboard.press("Enter")
    expect(visit.page.get_by_role("heading", name="Renamed in two")).to_be_visible()
    visit.wait_for_words(len(visit.text()) + 40)
    visit.field.fill("typed while it is deleted")
    other.page.locator(".chatrow").first.hover()
    other.page.locator(".chatrow button").first.click()
    other.page.get_by_role("menuitem", name="Delete").click()
    expect(visit.page.locator(".chatrow")).to_have_count(0)
    other.button("Undo").click()
    expect(visit.page.locator(".chatrow")).to_contain_text(["Renamed in two"])
    expect(visit.answers).to_have_count(1)
    visit.wait_for_words(60)
    visit.wait_for_end()
    other.wait_for_end()
    assert visit.text() == other.text()


def test_a_stream_goes_on_after_the_network_was_away(visit: Visit) -> None:
    visit.set_sampling({**LONG, "max_tokens": 500})
    visit.ask("Through the tunnel")
    visit.wait_for_words(20)
    network = visit.context.new_cdp_session(visit.page)
    network.send("Network.enable")
    away = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    network.send("Network.emulateNetworkConditions", away)
    visit.page.wait_for_timeout(1500)
    network.send("Network.emulateNetworkConditions", {**away, "offline": False})
    visit.wait_for_end()
    expect(visit.answer.locator(".note dd").first).to_have_text("500")


def test_a_phone_that_slept_has_the_whole_answer_when_it_wakes_up(visit: Visit) -> None:
    visit.set_sampling({**LONG, "max_tokens": 500})
    visit.ask("Asleep")
    visit.wait_for_words(20)
    phone = visit.context.new_cdp_session(visit.page)
    phone.send("Page.setWebLifecycleState", {"state": "frozen"})
    visit.page.wait_for_timeout(2000)
    phone.send("Page.setWebLifecycleState", {"state": "active"})
    visit.wait_for_end()
    expect(visit.answer.locator(".note dd").first).to_have_text("500")


def test_without_storage_the_page_says_so_and_answers(browser: Browser, url: str) -> None:
    with visiting(browser, url) as visit:
        visit.page.add_init_script(
            "indexedDB.open = () => { throw new DOMException('no', 'SecurityError') }"
        )
        visit.open()
        visit.set_sampling(SHORT)
        visit.ask("Kept in the tab")
        visit.wait_for_end()
        assert visit.text()
        expect(visit.page.locator(".banner")).to_be_visible()
