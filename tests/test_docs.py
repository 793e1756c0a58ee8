"""README and the pages in docs/ say what is so: of commands, options, files and names there are.

The site is built where mkdocs is installed; everything else is read off the sources of the pages.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from command_line import SOURCE

import cullama
from cullama.checkpoint.gguf_file import SUPPORTED_TYPES
from cullama.checkpoint.splittings import SPLITTINGS
from cullama.cli import COMMANDS
from cullama.cli.chat.commands import ARGUMENTS
from cullama.model.families import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in DOCS.rglob("*.md")}
README = (ROOT / "README.md").read_text()
PROJECT = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "kernels/README.md")
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

HAS_MKDOCS = all(importlib.util.find_spec(name) for name in ("mkdocs", "material", "mkdocstrings"))
SECONDS = 60  # for the site; it takes three

SECTIONS = ("Synopsis", "Description", "Options", "Exit codes", "Examples", "Environment")

FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
FILE = re.compile(r"`((?:src|kernels|tests|scripts|examples)/[\w./-]+)`")

# Options that pages name of other programs, and a mistake that one shows.
OTHERS = {
    "--tasks",
    "--no-index",
    "--find-links",
    "--strict",
    # of curl, docker and systemctl
    *("--fail", "--header", "--file", "--tag", "--build-arg", "--rm", "--publish", "--env"),
    *("--volume", "--gpus", "--profile", "--detach", "--wait", "--now"),
}
MISSPELLED = {"--temprature"}
# What a page tells people to write, and what is built.
TO_BE_WRITTEN = {"tests/operators/test_gelu_mul.py", "kernels/gelu_mul.cu"}
TO_BE_WRITTEN |= {"src/cullama/server/web"}


def module(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


HOOKS = module("docs_hooks", DOCS / "hooks.py")


def commands() -> dict[str, click.Command]:
    """Return every command by its name, `bench serve` included."""
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = import_module(f"cullama.cli.{name}").command
        inner = getattr(command, "commands", {})
        found |= {name: command, **{f"{name} {key}": value for key, value in inner.items()}}
    return found


def options_of(command: click.Command) -> set[str]:
    spelled = [name for it in command.params for name in (*it.opts, *it.secondary_opts)]
    return {name for name in spelled if name.startswith("--")} | {"--help"}


ALL_OPTIONS = {"--version"}.union(*map(options_of, commands().values()))


def code_blocks(language: str) -> list[Any]:
    return [
        pytest.param(body, id=f"{page}-{number}")
        for page, text in PAGES.items()
        for number, (_, kind, body) in enumerate(FENCED.findall(text))
        if kind == language
    ]


# --- the site


@pytest.mark.skipif(not HAS_MKDOCS, reason="mkdocs is not installed: `make docs` brings it")
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={"PATH": "", "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        html = page.read_text()
        assert not re.findall(r"<(?:script|img|iframe|source)[^>]*src=\"(?:https?:)?//[^>]*", html)
        assert not re.findall(r"<link[^>]*href=\"(?:https?:)?//[^>]*", html)
        assert "<!-- options" not in html
    for page in pages:
        assert 'data-md-component="search"' in page.read_text()
        assert "assets/search.js" in page.read_text()
    assert (tmp_path / "search/search_index.js").stat().st_size > 10_000
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text())


# --- pages


def in_nav(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        for inner in entry.values():
            yield from in_nav(inner)
    else:
        for inner in entry:
            yield from in_nav(inner)


def test_every_page_is_in_the_navigation_once() -> None:
    assert sorted(in_nav(CONFIG["nav"])) == sorted(PAGES)


@pytest.mark.parametrize("name", commands())
def test_every_command_has_a_page_with_all_sections(name: str) -> None:
    text = PAGES[f"commands/{name.replace(' ', '-')}.md"]
    assert text.startswith(f"# cullama {name}\n")
    assert f"<!-- synopsis: {name} -->" in text
    assert f"<!-- options: {name} -->" in text
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    for section in SECTIONS:
        assert any(heading.startswith(section) for heading in headings), section


def slug(heading: str) -> str:
    """Return the anchor that Python-Markdown's toc makes of a heading."""
    plain = re.sub(r"[`*_]", "", heading)
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def anchors(page: str) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", PAGES[page], re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in LINK.findall(FENCED.sub("", PAGES[page])):
        assert not link.startswith(("http:", "//")), link
        if link.startswith("https:"):
            continue
        path, _, anchor = link.partition("#")
        target = (DOCS / page).parent.joinpath(path).resolve() if path else DOCS / page
        name = target.relative_to(DOCS).as_posix()
        assert name in PAGES or (target.suffix == ".png" and target.is_file()), link
        assert not anchor or anchor in anchors(name), link


@pytest.mark.parametrize("page", PAGES)
def test_every_file_named_is_there(page: str) -> None:
    missing = {name for name in FILE.findall(PAGES[page]) if not (ROOT / name).exists()}
    assert missing <= TO_BE_WRITTEN


# --- README and what lies beside it

PATH_ROW = re.compile(r"^\| \[(?P<name>\S+)\]\((?P<path>\S+)\) \| (?P<lines>\d+) \|", re.MULTILINE)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_evening_path_has_about_the_lines_it_states() -> None:
    rows = list(PATH_ROW.finditer(README))
    assert len(rows) >= 10
    for row in rows:
        lines = len((ROOT / row["path"]).read_text().splitlines())
        assert lines == pytest.approx(int(row["lines"]), rel=0.25, abs=10), row["path"]


@pytest.mark.parametrize("name", PROJECT)
def test_links_of_the_project_s_pages_lead_somewhere(name: str) -> None:
    for link in LINK.findall(FENCED.sub("", (ROOT / name).read_text())):
        assert link.startswith("https:") or (ROOT / name).parent.joinpath(link).exists(), link


@pytest.mark.parametrize("name", PROJECT)
def test_every_file_named_in_the_project_s_pages_is_there(name: str) -> None:
    named = {it for it in FILE.findall((ROOT / name).read_text()) if "NAME" not in it}
    missing = {it for it in named if not (ROOT / it).exists()}
    assert not missing


def test_python_in_the_readme_compiles() -> None:
    blocks = [body for _, kind, body in FENCED.findall(README) if kind == "python"]
    assert len(blocks) >= 2
    for body in blocks:
        compile(body, "README.md", "exec")


def test_command_lines_in_the_readme_are_understood() -> None:
    known = commands()
    lines = re.findall(r"^cullama ([a-z].*)$", README, re.MULTILINE)
    assert len(lines) >= 5
    for line in (re.sub(r"\s+# .*", "", line) for line in lines):
        words = line.split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        assert name in known, line
        assert set(OPTION.findall(line)) <= options_of(known[name]), line


TARGET = re.compile(r"(?<![\w-])make ([a-z][a-z-]*)")
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", [*PROJECT, *(f"docs/{name}" for name in PAGES)])
def test_every_make_target_named_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    code = "\n".join([*re.findall(r"`([^`\n]+)`", text), *(m[2] for m in FENCED.findall(text))])
    assert set(TARGET.findall(code)) <= TARGETS


def test_every_room_is_in_the_layout() -> None:
    table = PAGES["code/layout.md"]
    rooms = [
        f"{path.name}/" if path.is_dir() else path.name
        for path in (SOURCE / "cullama").iterdir()
        if (path / "__init__.py").exists() or (path.suffix == ".py" and path.stem[0] != "_")
    ]
    missing = [room for room in rooms if f"`{room}`" not in table]
    assert not missing


# --- options


def test_every_option_is_on_the_page_of_its_command() -> None:
    for name, command in commands().items():
        page = HOOKS.on_page_markdown(f"# x\n\n<!-- options: {name} -->\n")
        for option in options_of(command) - {"--help"}:
            assert option in page, (name, option)


@pytest.mark.parametrize("page", PAGES)
def test_every_option_named_exists(page: str) -> None:
    text = PAGES[page]
    unknown = set(OPTION.findall(text)) - ALL_OPTIONS - OTHERS - MISSPELLED
    # gpu/README.md speaks of a script, whose options it lists.
    assert not unknown or page == "gpu/README.md"


def command_lines() -> Iterator[tuple[str, str]]:
    """Yield the page and the line of every call of cullama in a block of code."""
    for page, text in PAGES.items():
        for _, kind, body in FENCED.findall(text):
            if kind not in ("sh", "text", "console"):
                continue
            for line in body.splitlines():
                found = re.search(
                    r"^(?:\$ )?(?:\w+=\S+ )*(?:.*\| ?)?cullama (?P<rest>[a-z].*)", line
                )
                if found and (kind == "sh" or line.startswith("$ ")):
                    yield page, re.sub(r"\s+# .*", "", found["rest"])


def test_command_lines_are_understood() -> None:
    """Each line of the examples: its command exists, and takes its options."""
    known, lines = commands(), list(command_lines())
    assert len(lines) > 50
    for page, line in lines:
        words = line.split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        assert name in known, (page, line)
        wrong = set(OPTION.findall(line)) - options_of(known[name])
        assert wrong <= MISSPELLED, (page, line)


# --- names


def test_every_public_name_is_in_the_reference() -> None:
    named = set(re.findall(r"^::: (\S+)$", "\n".join(PAGES.values()), re.MULTILINE))
    for name in cullama.__all__:
        home = f"{getattr(cullama, name).__module__}.{name}"
        is_error = (
            home.startswith("cullama.errors.")
            and "<!-- error_classes -->" in PAGES["library/errors.md"]
        )
        assert {f"cullama.{name}", home} & named or is_error, name


def test_every_name_in_the_reference_exists() -> None:
    for name in re.findall(r"^::: (\S+)$", "\n".join(PAGES.values()), re.MULTILINE):
        module, _, last = name.rpartition(".")
        is_attribute = hasattr(import_module(module), last)
        assert is_attribute or importlib.util.find_spec(name) is not None, name


def test_what_is_said_in_a_conversation_exists() -> None:
    text = FENCED.sub("", PAGES["commands/chat.md"])
    said = set(re.findall(r"`(/[a-z]+)\b[^/`]*`", text))
    assert said
    assert said <= set(ARGUMENTS)
    assert all(name in HOOKS.on_page_markdown("<!-- conversation -->") for name in ARGUMENTS)


@pytest.mark.parametrize("name", [*FAMILIES, *SUPPORTED_TYPES, *SPLITTINGS])
def test_everything_that_runs_is_on_the_page_of_models(name: str) -> None:
    assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", FENCED.sub("", PAGES["models.md"]))


def test_the_page_of_settings_is_what_the_program_judges_files_by() -> None:
    path = ROOT / "scripts" / "make_settings_page.py"
    script = module("settings_page", path)
    assert script.page(PAGES["settings.md"]) == PAGES["settings.md"], f"run {path}"


def test_every_environment_variable_read_is_explained() -> None:
    read = set()
    for path in (SOURCE / "cullama").rglob("*.py"):
        read |= set(re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", path.read_text()))
    assert "CULLAMA_CACHE" in read
    missing = {name for name in read if f"`{name}`" not in PAGES["commands/index.md"]}
    assert not missing


# --- snippets


@pytest.mark.parametrize("body", code_blocks("python"))
def test_python_compiles(body: str) -> None:
    compile(body, "a page", "exec")


def test_a_page_asks_the_program_only_for_what_it_knows() -> None:
    for page, text in PAGES.items():
        left = [line for line in HOOKS.on_page_markdown(text).splitlines() if "<!-- " in line]
        assert not left, (page, left)
