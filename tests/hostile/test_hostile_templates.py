"""F6: a chat template can neither escape its sandbox nor exhaust the machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from template_attacks import CANARY, INJECTIONS, RESOURCES
from templates_soak import (
    MUCH,
    SLOW,
    Outcome,
    Tally,
    attack,
    attack_damaged,
    damage_figure,
    injection_figure,
    resource_figure,
)

from cullama.chat.template import ChatTemplate
from cullama.errors import ChatTemplateError

SEED = 20_240_726


@pytest.fixture(scope="module")
def injections() -> list[Outcome]:
    return attack("injections")


@pytest.fixture(scope="module")
def resources() -> list[Outcome]:
    return attack("resources")


def test_no_template_escapes_the_sandbox(injections: list[Outcome]) -> None:
    assert len(injections) >= 60
    assert [it for it in injections if it.has_escaped] == []


def test_most_attacks_are_refused_by_name_and_the_others_print_nothing(
    injections: list[Outcome],
) -> None:
    assert all(it.is_named for it in injections)
    harmless = [it for it in injections if not it.is_refused]
    assert {it.message for it in harmless} <= {""}
    assert len(harmless) <= 3


def test_the_same_templates_escape_from_plain_jinja2() -> None:
    """So the attacks are some, and what watches them sees it when one succeeds."""
    escaped = [it for it in attack("plain") if it.traces or it.touched or it.canary]
    assert len(escaped) >= 100
    assert {it.name for it in escaped if it.canary} >= {"lipsum", "cycler", "joiner", "undefined"}
    assert CANARY in INJECTIONS["lipsum"]


def test_no_template_exceeds_its_time_and_memory(resources: list[Outcome]) -> None:
    assert len(resources) >= 30
    assert [it.name for it in resources if not it.is_refused] == []
    assert {it.name: it.seconds for it in resources if it.seconds > SLOW} == {}
    assert max(it.grown for it in resources) <= MUCH


def test_the_error_names_the_template(resources: list[Outcome]) -> None:
    assert [it.message for it in resources if not it.is_named] == []
    assert all("use another with --template FILE" in it.message for it in resources)
    assert all(len(it.message) < 600 and it.message.isprintable() for it in resources)


def test_compiling_an_attack_runs_none_of_it() -> None:
    """jinja2 would compute constants while it compiles, before the limits apply."""
    for name in ("a text, repeated", "a power", "center by filter", "a range"):
        template = ChatTemplate(RESOURCES[name], "somewhere")
        assert template._compiled is not None


def test_the_budget_grows_with_the_conversation() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content * 8 }}{% endfor %}", "somewhere")
    small, large = ({"role": "user", "content": "a" * size} for size in (10, 4_000_000))
    assert len(template.render([large])) == 32_000_000
    with pytest.raises(ChatTemplateError, match="somewhere: the template asks for more time or"):
        ChatTemplate("{{ 'a' * 32000000 }}", "somewhere").render([small])


def test_special_tokens_of_the_checkpoint_do_not_raise_the_budget() -> None:
    names = {"bos_token": "a" * 4_000_000}
    template = ChatTemplate("{% for i in range(8) %}{{ bos_token }}{% endfor %}", "here", names)
    with pytest.raises(ChatTemplateError, match="asks for more time or memory"):
        template.render([{"role": "user", "content": "Hi"}])


def test_damaged_templates_are_refused_or_rendered() -> None:
    tally = attack_damaged(300, SEED)
    assert tally.complaints == []
    assert 0 < tally.rendered < tally.count  # else the damage is too little or too much


def test_the_figures_say_what_was_reached(
    injections: list[Outcome], resources: list[Outcome]
) -> None:
    rows = [injection_figure(injections), resource_figure(resources), damage_figure(Tally(2, 1))]
    assert all(row.name.startswith("F6 ") and row.is_met for row in rows)
    assert f"{len(INJECTIONS)} payloads, 0 escapes" in rows[0].reached
    assert f"{len(RESOURCES)} attacks, 0 not refused" in rows[1].reached


ESCAPES: dict[str, dict[str, Any]] = {
    "another error": {"outcome": "escaped: MemoryError"},
    "a file opened": {"touched": ["open ('/etc/passwd',)"]},
    "an object printed": {"traces": ["<class"]},
    "a file made": {"canary": True},
}


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_goal_is_missed_when_one_template_escapes(escape: str, injections: list[Outcome]) -> None:
    escaped = replace(injections[0], **ESCAPES[escape])
    row = injection_figure([*injections[1:], escaped])
    assert not row.is_met
    assert "1 escapes" in row.reached


@pytest.mark.parametrize(
    "change", [{"outcome": "printed"}, {"message": "a"}, {"seconds": 1.1}, {"grown": MUCH + 1}]
)
def test_a_goal_is_missed_when_one_attack_works(
    change: dict[str, Any], resources: list[Outcome]
) -> None:
    assert not resource_figure([*resources[1:], replace(resources[0], **change)]).is_met
