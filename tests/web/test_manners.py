"""Keys, devices and assistive technology: the page without a mouse, and in its many looks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import LONG, SHORT, Visit
from playwright.sync_api import expect

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def press(visit: Visit, *keys: str) -> None:
    for key in keys:
        visit.page.keyboard.press(key)


def leave_field(visit: Visit) -> None:
    visit.page.evaluate("document.activeElement.blur()")


def test_a_chat_is_written_by_keys_alone(visit: Visit) -> None:
    visit.set_sampling(LONG)
    leave_field(visit)
    press(visit, "/")
    expect(visit.field).to_be_focused()
    visit.page.keyboard.type("By keys")
    press(visit, "Shift+Enter")
    visit.page.keyboard.type("alone")
    press(visit, "Enter")
    expect(visit.questions.first.locator(".q")).to_have_text("By keys\nalone")
    visit.wait_for_words(20)
    press(visit, "Escape")  # stops
    expect(visit.answer.get_by_text("Stopped by you")).to_be_visible()
    visit.wait_for_end()
    visit.set_sampling(SHORT)
    visit.field.focus()
    press(visit, "ArrowUp", "Control+a")  # edits the last question
    visit.page.keyboard.type("Again")
    press(visit, "Enter")
    expect(visit.questions.first.locator(".q")).to_have_text("Again")
    visit.wait_for_end()
    leave_field(visit)
    press(visit, "r")
    expect(visit.answer.locator(".branch")).to_contain_text("2/2")
    visit.wait_for_end()
    leave_field(visit)
    press(visit, "[")
    expect(visit.answer.locator(".branch")).to_contain_text("1/2")
    press(visit, "]")
    expect(visit.answer.locator(".branch")).to_contain_text("2/2")
    press(visit, "k", "k")
    expect(visit.questions.first).to_be_focused()
    press(visit, "j")
    expect(visit.answer).to_be_focused()
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    press(visit, "c")
    copied = visit.page.evaluate("navigator.clipboard.readText()")
    assert copied.strip()
    assert copied.split() == visit.text().split()
    press(visit, "Control+Shift+O")
    expect(visit.page.get_by_role("heading", name="Ask, and look inside.")).to_be_visible()
    expect(visit.field).to_be_focused()


def test_lenses_alternatives_and_lists_are_reached_by_keys(visit: Visit) -> None:
    visit.set_sampling({**SHORT, "temperature": 2})
    visit.ask("Look")
    visit.wait_for_end()
    leave_field(visit)
    press(visit, "p")
    visit.answer.locator(".t").first.focus()
    press(visit, "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown")
    popover = visit.page.get_by_role("dialog", name="Probabilities")
    expect(popover).to_be_visible()
    press(visit, "Escape")
    expect(popover).to_have_count(0)
    expect(visit.answer.locator(".t").nth(1)).to_be_focused()
    press(visit, "ArrowDown")
    expect(popover).to_be_visible()
    if popover.get_by_role("button", name="Continue from here").is_enabled():
        press(visit, "Enter")
        expect(visit.answer.locator(".branch")).to_contain_text("2/2")
        visit.wait_for_end()
    else:
        press(visit, "Escape")
    leave_field(visit)
    press(visit, "p")
    expect(visit.page.locator(".lensline")).to_have_count(0)
    for key, name in {"x": "Prompt, as the model read it", "s": "Sampling"}.items():
        press(visit, key)
        expect(visit.page.get_by_role("complementary", name=name)).to_be_visible()
        press(visit, "Escape")
        expect(visit.page.get_by_role("complementary", name=name)).to_have_count(0)
    press(visit, "e")
    expect(visit.page.get_by_role("heading", name="Engine", level=1)).to_be_visible()
    press(visit, "Escape", "?")
    expect(visit.page.get_by_role("dialog", name="Keys")).to_be_visible()
    press(visit, "Escape", "F2")
    visit.page.keyboard.type("Renamed")
    press(visit, "Enter")
    expect(visit.page.locator("h1")).to_have_text("Renamed")
    visit.palette("renam")
    press(visit, "ArrowDown", "ArrowUp", "Enter")
    expect(visit.page.get_by_role("combobox")).to_have_count(0)
    visit.palette("settings")
    press(visit, "Enter")
    settings = visit.page.get_by_role("dialog", name="Settings")
    settings.get_by_role("switch", name="Single-key shortcuts").focus()
    press(visit, "Space", "Escape")
    leave_field(visit)
    press(visit, "s")
    expect(visit.page.get_by_role("complementary", name="Sampling")).to_have_count(0)


@pytest.mark.parametrize(
    "visit", [{"forced_colors": "active"}], ids=["forced colours"], indirect=True
)
def test_in_forced_colours_shades_are_underlines(visit: Visit) -> None:
    visit.set_sampling(SHORT)
    visit.ask("Contrast")
    visit.wait_for_end()
    visit.button("Probabilities").first.click()
    token = visit.answer.locator(".t.p3").first
    expect(token).to_have_css("text-decoration-line", "underline")
    expect(token).to_have_css("text-decoration-thickness", "4px")
    expect(visit.page.locator(".legend .t:not([class*=p])")).to_have_css(
        "text-decoration-line", "none"
    )


# 200 % of a window of 1,440 x 900 pixels.
@pytest.mark.parametrize(
    "visit",
    [{"viewport": {"width": 720, "height": 450}, "device_scale_factor": 2}, PHONE],
    ids=["zoomed", "phone"],
    indirect=True,
)
def test_small_windows_have_everything_and_scroll_in_one_direction(visit: Visit) -> None:
    visit.field.fill("A narrow column " + "x" * 200)
    visit.button("Send").click()
    visit.wait_for_words(10)
    visit.button("Stop").click()
    visit.wait_for_end()
    wide = "document.documentElement.scrollWidth - innerWidth"
    assert visit.page.evaluate(wide) <= 0
    visit.button("Chats").first.click()
    expect(visit.page.locator(".chatrow")).to_be_visible()
    visit.page.keyboard.press("Escape")
    visit.button("More").first.click()
    box = visit.page.get_by_role("menu").bounding_box()
    size = visit.page.viewport_size
    assert box
    assert size
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= size["width"]
    assert box["y"] + box["height"] <= size["height"]
    assert visit.page.evaluate(wide) <= 0


@pytest.mark.parametrize("visit", [PHONE], ids=["phone"], indirect=True)
def test_on_touch_enter_is_a_new_line_and_targets_are_large(visit: Visit) -> None:
    visit.field.tap()
    visit.page.keyboard.type("One")
    press(visit, "Enter")
    expect(visit.field).to_have_value("One\n")
    expect(visit.answers).to_have_count(0)
    visit.button("Send").tap()
    visit.wait_for_words(10)
    visit.button("Stop").tap()
    visit.wait_for_end()
    visit.questions.first.locator(".q").tap()
    expect(visit.questions.first.get_by_role("button", name="Edit")).to_be_visible()
    small = visit.page.locator("button:visible").evaluate_all(
        "all => all.filter(each => each.offsetHeight < 24 || each.offsetWidth < 24)"
        ".map(each => each.outerHTML.slice(0, 100))"
    )
    assert small == []


def test_turns_have_the_direction_of_their_text(visit: Visit) -> None:
    visit.set_sampling(SHORT)
    visit.ask("مرحبا يا لاما")
    visit.wait_for_end()
    expect(visit.questions.first.locator(".q")).to_have_css("direction", "rtl")
    expect(visit.page.locator("h1")).to_have_css("direction", "rtl")
    expect(visit.answer.locator(".prose")).to_have_css("direction", "ltr")


def test_nothing_moves_where_less_motion_is_asked_for(visit: Visit) -> None:
    visit.set_sampling(LONG)
    visit.ask("Be still")
    visit.wait_for_words(10)
    moving = visit.page.evaluate(
        "document.getAnimations().filter(each => each.playState === 'running').length"
    )
    assert moving == 0


# --- axe ----------------------------------------------------------------------------------------


def by_command(words: str) -> Callable[[Visit], None]:
    def reach(visit: Visit) -> None:
        visit.palette(visit.words.get(words, words))
        press(visit, "Enter")

    return reach


def edit(visit: Visit) -> None:
    visit.field.focus()
    press(visit, "ArrowUp")
    expect(visit.page.locator(".edit textarea")).to_be_focused()


def alternatives(visit: Visit) -> None:
    visit.page.locator(".lens").first.click()
    visit.answer.locator(".t").last.click()
    expect(visit.page.locator(".pop")).to_be_visible()


# Each is left by Escape.
READ: dict[str, Callable[[Visit], None]] = {
    "edit": edit,
    "menu": lambda visit: visit.page.locator(".bar [aria-haspopup=menu]").click(),
    "palette": lambda visit: visit.palette(""),
    **{
        name: by_command(name)
        for name in ("settings", "keys", "prompt", "sampling", "schema", "tools", "engine")
    },
    "probabilities": alternatives,
}


MARKDOWN = "# Head\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nx = 1\n```\n\n$$x^2$$"
CALL = {"id": "call-1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
IMPORTED: dict[str, list[dict[str, Any]]] = {
    "called": [CALLS],
    "answered": [CALLS, {"role": "tool", "tool_call_id": "call-1", "content": "[1]"}],
    "rendered": [{"role": "assistant", "content": MARKDOWN, "reasoning_content": "Because."}],
}


def imported(visit: Visit, folder: Path) -> Iterator[str]:
    """Bring chats in, and go through them."""
    chats = [
        {"title": name, "messages": [{"role": "user", "content": "q"}, *turns]}
        for name, turns in IMPORTED.items()
    ]
    export = folder / "chats.json"
    export.write_text(json.dumps(chats))
    by_command("settings")(visit)
    visit.page.locator("input[type=file]").set_input_files(export)
    expect(visit.page.locator(".verdict.ok")).to_be_visible()
    yield "import"
    press(visit, "Escape")
    for name in IMPORTED:
        visit.palette(name)
        expect(visit.page.get_by_role("option").first).to_contain_text(name)
        press(visit, "Enter")
        expect(visit.page.locator(".bar h1")).to_have_text(name)
        yield name


def states(visit: Visit, folder: Path) -> Iterator[str]:
    """Bring the page to each state that one server has to offer; yields its name."""
    yield "empty"
    visit.field.fill("Look at all")
    visit.page.locator(".go").click()
    visit.wait_for_words(10)
    yield "streaming"
    visit.page.locator(".go").click()
    expect(visit.page.locator(".cutline")).to_be_visible()
    visit.page.locator(".answer[aria-busy=false]").wait_for()
    yield "cut"
    for name, reach in READ.items():
        reach(visit)
        visit.page.wait_for_timeout(100)
        yield name
        press(visit, "Escape", "Escape")
    yield from imported(visit, folder)
    visit.palette(visit.words.get("delete", "delete"))
    press(visit, "Enter")
    expect(visit.page.locator(".toast")).to_be_visible()
    yield "deleted"
    if visit.page.locator(".bar .narrow").is_visible():
        visit.page.locator(".bar .narrow").click()
        yield "nav"


LOOKS: dict[str, dict[str, Any]] = {"wide": {}, "phone": PHONE, "zh": {"locale": "zh-CN"}}


@pytest.mark.parametrize("visit", LOOKS.values(), ids=LOOKS.keys(), indirect=True)
def test_axe_finds_nothing_by_day_and_by_night(visit: Visit, tmp_path: Path) -> None:
    found: dict[str, list[str]] = {}
    for name in states(visit, tmp_path):
        found[name] = visit.axe()
        visit.page.emulate_media(color_scheme="dark")
        found[f"{name}, dark"] = visit.axe("color-contrast")  # all else is the same
        visit.page.emulate_media(color_scheme="light")
    assert {name: lines for name, lines in found.items() if lines} == {}
