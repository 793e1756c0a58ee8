"""The page in a browser, before a real server: what a reader does, from the first question on."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from browsing import LONG, SECONDS, SHORT, Visit, serving, visiting
from playwright.sync_api import Browser, expect

CHINESE = {"locale": "zh-CN"}


def test_a_new_user_sees_words_grow_stops_edits_and_has_both_versions(visit: Visit) -> None:
    visit.set_sampling(LONG)
    visit.ask("Tell me of the sea")
    visit.wait_for_words(20)
    first = visit.text()
    visit.wait_for_words(len(first) + 20)
    assert visit.text().startswith(first[:10])
    visit.button("Stop").click()
    visit.wait_for_end()
    expect(visit.answer.get_by_text("Stopped by you")).to_be_visible()
    stopped = visit.text()

    visit.set_sampling(SHORT)
    visit.questions.first.hover()
    visit.questions.first.get_by_role("button", name="Edit").click()
    visit.page.get_by_role("textbox", name="Edit").fill("Tell me of the hill")
    visit.button("Send as new branch").click()
    visit.wait_for_end()
    assert visit.text() != stopped
    expect(visit.questions.first.locator(".branch")).to_contain_text("2/2")
    visit.questions.first.get_by_role("button", name="Earlier version").click()
    expect(visit.questions.first.locator(".q")).to_have_text("Tell me of the sea")
    assert visit.text() == stopped


def test_an_answer_goes_on_through_a_reload_and_its_figures_are_kept(visit: Visit) -> None:
    visit.set_sampling({**LONG, "max_tokens": 400})
    visit.ask("Once upon a time")
    visit.wait_for_words(40)
    before = visit.text()
    visit.page.reload()
    visit.wait_for_words(len(before) + 20)
    assert visit.text().startswith(before[:20])
    visit.wait_for_end()
    expect(visit.answer.locator(".note dd").first).to_have_text("400")
    text = visit.text()
    visit.page.reload()
    visit.wait_for_words(20)
    assert visit.text() == text


def test_a_shaded_token_shows_its_alternatives_and_one_is_taken_as_a_branch(visit: Visit) -> None:
    visit.set_sampling(SHORT)
    visit.ask("Which way")
    visit.wait_for_end()
    height = visit.answer.locator(".prose").bounding_box()
    visit.button("Probabilities").first.click()
    tokens = visit.answer.locator(".t")
    expect(tokens.first).to_be_visible()
    assert visit.answer.locator(".t.p3").count() > 0  # a random model is sure of nothing
    shaded = visit.answer.locator(".prose").bounding_box()
    assert height
    assert shaded
    assert abs(height["height"] - shaded["height"]) < 0.2
    popover = visit.page.get_by_role("dialog", name="Probabilities")
    go_on = popover.get_by_role("button", name="Continue from here")
    for place in range(tokens.count()):  # to one with a choice that the settings allow
        tokens.nth(place).click()
        expect(popover.get_by_role("option")).not_to_have_count(0)
        if go_on.is_enabled():
            break
        visit.page.keyboard.press("Escape")
    popover.get_by_role("button", name="Layers").click()
    expect(popover).to_contain_text("Looked at")
    numbers = [int(text) for text in popover.locator(".lens li > :first-child").all_inner_texts()]
    assert numbers == list(range(len(numbers), 0, -1))
    popover.get_by_role("button", name="Choices").click()
    go_on.click()
    expect(visit.answer.locator(".branch")).to_contain_text("2/2")
    visit.wait_for_end()


def test_an_answer_that_is_replayed_with_its_seed_is_the_same(visit: Visit) -> None:
    visit.set_sampling(SHORT)
    visit.ask("Again")
    visit.wait_for_end()
    visit.answer.get_by_role("button", name="Replay").click()
    expect(visit.answer.get_by_role("button", name="Same seed, same text")).to_be_visible()


def test_the_prompt_is_shown_as_the_model_read_it(visit: Visit) -> None:
    visit.set_sampling(SHORT)
    visit.ask("Show me")
    visit.wait_for_end()
    visit.button("Prompt").click()
    drawer = visit.page.get_by_role("complementary", name="Prompt, as the model read it")
    expect(drawer.locator(".chips .ct").first).to_have_text("<|begin|>")
    expect(drawer.locator(".chips")).to_contain_text(["Show"])
    drawer.locator(".chips").first.press("ArrowRight")
    expect(drawer.get_by_role("status").first).to_have_text(re.compile("Token 0, bytes 3c 7c"))


def test_two_tabs_show_the_same_answer_while_it_is_written(visit: Visit) -> None:
    visit.set_sampling(LONG)
    visit.ask("In two tabs")
    visit.wait_for_words(20)
    other = Visit(visit.context.new_page(), visit.context, visit.url, visit.faults)
    other.page.goto(visit.page.url)
    other.wait_for_words(20)
    expect(other.page.locator(".chatrow .live")).to_have_count(1)
    other.button("Stop").click()
    visit.wait_for_end()
    other.wait_for_end()
    assert visit.text() == other.text()


def test_chats_are_found_renamed_pinned_and_deleted_with_a_way_back(visit: Visit) -> None:
    visit.set_sampling(SHORT)
    visit.ask("A llama at sea")
    visit.wait_for_end()
    visit.palette("llama at")
    expect(visit.page.get_by_role("option").locator("mark").first).to_have_text("llama at")
    visit.page.keyboard.press("Escape")
    visit.page.keyboard.press("F2")
    visit.page.keyboard.type("Voyages")
    visit.page.keyboard.press("Enter")
    row = visit.page.locator(".chatrow")
    expect(row).to_have_text("Voyages")
    row.hover()
    row.get_by_role("button").click()
    visit.page.get_by_role("menuitem", name="Pin").click()
    expect(visit.page.locator(".list h2")).to_have_text("Pinned")
    row.hover()
    row.get_by_role("button").click()
    visit.page.get_by_role("menuitem", name="Delete").click()
    expect(row).to_have_count(0)
    visit.button("Undo").click()
    expect(row).to_have_text("Voyages")


def test_enter_that_belongs_to_an_input_method_sends_nothing(visit: Visit) -> None:
    visit.field.fill("你")
    visit.field.evaluate(
        "field => field.dispatchEvent(new KeyboardEvent('keydown',"
        " {key: 'Enter', isComposing: true, bubbles: true, cancelable: true}))"
    )
    visit.field.evaluate(
        "field => field.dispatchEvent(new KeyboardEvent('keydown',"
        " {key: 'Enter', keyCode: 229, bubbles: true, cancelable: true}))"
    )
    expect(visit.answers).to_have_count(0)
    expect(visit.field).to_have_value("你")


def test_a_question_whose_answer_was_deleted_can_be_answered(visit: Visit) -> None:
    visit.set_sampling(SHORT)
    visit.ask("Twice")
    visit.wait_for_end()
    visit.answer.get_by_role("button", name="More").click()
    visit.page.get_by_role("menuitem", name="Delete").click()
    expect(visit.answers).to_have_count(0)
    visit.button("Answer this").click()
    visit.wait_for_end()
    assert visit.text()
    expect(visit.button("Answer this")).to_have_count(0)


def test_an_answer_that_is_stopped_keeps_its_figures(visit: Visit) -> None:
    visit.set_sampling(LONG)
    visit.ask("Not long")
    visit.wait_for_words(40)
    visit.button("Stop").click()
    visit.wait_for_end()
    written, speed = (visit.answer.locator(".note dd").nth(place) for place in range(2))
    expect(speed).to_have_text(re.compile(r"^[1-9][\d,.]* tok/s$"))  # drawn a few times a second
    assert int(written.inner_text()) > 5


def test_what_the_server_refuses_names_what_to_change(visit: Visit) -> None:
    visit.palette("Tools")
    visit.page.keyboard.press("Enter")
    drawer = visit.page.get_by_role("complementary", name="Tools")
    drawer.locator("textarea").fill('[{"name": "f", "parameters": {"type": "object"}}]')
    visit.button("Use tools").click()
    visit.ask("Call it")  # the tests' template has no tools
    expect(visit.answer.locator(".fault")).to_contain_text("chat template")
    visit.answer.locator(".fault").get_by_role("button", name="Tools").click()
    expect(drawer).to_be_visible()
    drawer.get_by_role("button", name="Use none").click()
    visit.answer.get_by_role("button", name="Regenerate").click()
    visit.wait_for_words()
    visit.button("Stop").click()
    expect(visit.answer.locator(".fault")).to_have_count(0)


def test_a_draft_survives_a_reload(visit: Visit) -> None:
    visit.field.fill("Half a thought")
    visit.page.reload()
    expect(visit.field).to_have_value("Half a thought")


def test_the_view_stays_where_the_reader_has_scrolled_to(visit: Visit) -> None:
    visit.set_sampling(LONG)
    visit.ask("A long one")
    visit.wait_for_words(3000)
    visit.page.mouse.move(700, 400)
    visit.page.mouse.wheel(0, -600)
    visit.page.wait_for_timeout(200)
    top = "document.querySelector('.scroll').scrollTop"
    stays = visit.page.evaluate(top)
    length = len(visit.text())
    visit.wait_for_words(length + 200)
    assert visit.page.evaluate(top) == stays
    visit.button("Latest").click()
    expect(visit.button("Latest")).to_be_hidden()
    visit.button("Stop").click()


def test_what_is_no_export_is_refused_in_words(visit: Visit, tmp_path: Path) -> None:
    noise = tmp_path / "noise.json"
    noise.write_bytes(b"\x00\xff not an export")
    visit.import_file(noise)
    expect(visit.page.get_by_role("dialog").locator(".verdict.bad")).to_be_visible()
    expect(visit.page.locator(".chatrow")).to_have_count(0)


def test_a_server_that_is_killed_and_comes_back_loses_nothing(
    browser: Browser, writer: Path
) -> None:
    with serving(writer) as (process, url), visiting(browser, url) as visit:
        port = int(url.rsplit(":", 1)[1])
        visit.open()
        visit.set_sampling(LONG)
        visit.ask("Until it is gone")
        visit.wait_for_words(20)
        process.kill()
        expect(visit.page.get_by_text("The server is gone.")).to_be_visible()
        visit.field.fill("Still typing")
        assert len(visit.text()) >= 20
        with serving(writer, port) as (_, again):
            while httpx.get(f"{again}/health").status_code != 200:
                pass
            expect(visit.page.get_by_text("The server is gone.")).to_have_count(0, timeout=SECONDS)
            expect(visit.field).to_have_value("Still typing")
            visit.wait_for_end()
            visit.answer.get_by_role("button", name="Continue").click()
            visit.wait_for_words(len(visit.text()) + 20)


@pytest.mark.parametrize("visit", [CHINESE], indirect=True)
def test_the_browsers_language_is_the_pages(visit: Visit) -> None:
    assert visit.page.locator("html").get_attribute("lang") == "zh-Hans"
    expect(visit.page.get_by_role("heading", name="问它，也看懂它。")).to_be_visible()
    visit.page.keyboard.press("Control+k")
    expect(visit.page.get_by_role("option", name="概率")).to_be_visible()
    assert visit.axe() == []
