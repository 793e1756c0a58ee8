"""`cullama models`: lists exactly what is cached, and removes exactly what is named."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cullama.cli import run
from cullama.cli.models import ago, in_words, table
from cullama.hub import DEFAULT_MODEL, resolve_model
from cullama.hub.cached import CachedModel

LLAMA = '{"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}'
WHOLE = {"config.json": LLAMA, "tokenizer.json": "{}", "tokenizer_config.json": "{}"}
SINGLE = "model.safetensors"
MAIN, OLD = "a" * 40, "b" * 40


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds both caches: `hub` and `cullama`."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("CULLAMA_CACHE", str(tmp_path / "cullama"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.fixture
def cached(caches: Path) -> Callable[..., Path]:
    """Put a revision of a repository into the hub's cache; equal contents share their bytes."""

    def put(name: str, files: dict[str, str], ref: str | None = "main", commit: str = MAIN) -> Path:
        folder = caches / "hub" / f"models--{name.replace('/', '--')}"
        for file, text in files.items():
            blob, path = (
                folder / "blobs" / str(abs(hash(text))),
                folder / "snapshots" / commit / file,
            )
            for each in (blob, path):
                each.parent.mkdir(parents=True, exist_ok=True)
            blob.write_text(text)
            path.symlink_to(os.path.relpath(blob, path.parent))
        (folder / "refs").mkdir(exist_ok=True)
        if ref:
            (folder / "refs" / ref).write_text(commit)
        return folder

    return put


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """What `cullama models` says with --json."""

    def call(*arguments: str) -> Any:
        assert run(["models", "--json", *arguments]) == 0
        return json.loads(capsys.readouterr().out)

    return call


@pytest.fixture
def listed(told: Callable[..., Any]) -> Callable[[], dict[str, Any]]:
    return lambda: {model["name"]: model for model in told()["models"]}


def fill(caches: Path, cached: Callable[..., Path]) -> None:
    """One of each kind."""
    cached("owner/folder", {**WHOLE, "model.safetensors": "x" * 1000})
    cached(
        "owner/gguf", {"m-Q4_K_M.gguf": "y" * 500, "big/m-Q8_0.gguf": "z" * 700, "README.md": "r"}
    )
    cached(
        "owner/bert", {"config.json": '{"architectures": ["BertModel"]}', "model.safetensors": ""}
    )
    cached("owner/part", {"config.json": LLAMA})
    default = caches / "cullama" / "models" / DEFAULT_MODEL.file_name
    converted = caches / "cullama" / "converted" / "abc.weights"
    for path, size in ((default, 300), (converted, 4000)):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(size))


def files_under(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


# ---------------------------------------------------------------------------------------- the list


def test_an_empty_cache_is_reported(
    caches: Path, capsys: pytest.CaptureFixture[str], told: Callable[..., Any]
) -> None:
    assert run(["models"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "cullama pull" in err
    assert told() == {"models": []}


def test_every_model_has_name_kind_size_and_path(
    caches: Path, cached: Callable[..., Path], listed: Callable[[], dict[str, Any]]
) -> None:
    fill(caches, cached)
    found = {name: (model["kind"], model["size"]) for name, model in listed().items()}
    whole = 1000 + len(LLAMA) + len("{}")  # the two equal files are stored once
    assert found == {
        "default": ("GGUF Q4_1", 300),
        "converted": ("1 weights file", 4000),
        "owner/bert": ("safetensors", len('{"architectures": ["BertModel"]}')),
        "owner/folder": ("safetensors BF16", whole),
        "owner/gguf:Q4_K_M": ("GGUF Q4_K_M", 500),
        "owner/gguf:Q8_0": ("GGUF Q8_0", 700),
        "owner/part": ("safetensors BF16", len(LLAMA)),
    }


def test_models_that_cannot_be_run_are_marked(
    caches: Path, cached: Callable[..., Path], listed: Callable[[], dict[str, Any]]
) -> None:
    fill(caches, cached)
    cached("owner/gptq", {**WHOLE, "model.safetensors": "w"})
    config = (
        '{"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "gptq"}}'
    )
    cached("owner/gptq2", {**WHOLE, "config.json": config, "model.safetensors": "w"})
    cached("owner/adapter", {"adapter_config.json": "{}", "adapter_model.safetensors": "w"})
    cached("owner/pickle", {"config.json": LLAMA, "pytorch_model.bin": "w"})
    cached("owner/by-type", {**WHOLE, "config.json": '{"model_type": "llama"}', SINGLE: "w"})
    problems = {name: model["problem"] for name, model in listed().items() if model["problem"]}
    assert problems == {
        "owner/bert": "BertModel: an encoder",
        "owner/part": "incomplete",
        "owner/gptq2": "GPTQ weights",
        "owner/adapter": "a LoRA adapter",
        "owner/pickle": "pickles, which can run code and are never opened",
    }


@pytest.mark.parametrize("text", ["", "[]", "{", '{"architectures": 3}', '{"architectures": []}'])
def test_an_unreadable_config_is_a_problem_and_no_error(
    caches: Path, cached: Callable[..., Path], listed: Callable[[], dict[str, Any]], text: str
) -> None:
    cached("owner/odd", {"config.json": text})
    assert listed()["owner/odd"]["problem"]


NESTED = '{"config_groups": ' * 980 + "1" + "}" * 980


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (
            f'{{"architectures": ["LlamaForCausalLM"], "quantization_config": {NESTED}}}',
            "a damaged config.json",
        ),
        ('{"architectures": ["\\u001b[31mX"]}', r"\x1b[31mX: not supported"),
        (f'{{"architectures": ["{"X" * 10_000}"]}}', f"{'X' * 37}...{'X' * 38}: not supported"),
    ],
)
def test_a_hostile_config_is_listed_like_any_other(
    caches: Path,
    cached: Callable[..., Path],
    listed: Callable[[], dict[str, Any]],
    config: str,
    problem: str,
) -> None:
    cached("owner/odd", {**WHOLE, "config.json": config, SINGLE: "w"})
    assert listed()["owner/odd"]["problem"] == problem


def test_names_are_those_that_the_model_option_takes(
    caches: Path, cached: Callable[..., Path], listed: Callable[[], dict[str, Any]]
) -> None:
    fill(caches, cached)
    cached("owner/folder", {**WHOLE, "model.safetensors": "old"}, "v1", OLD)
    cached("owner/gguf", {"m-Q4_K_M.gguf": "y" * 500}, None, OLD)
    models = listed()
    assert {"owner/folder@v1", f"owner/gguf:Q4_K_M@{OLD[:12]}"} <= models.keys()
    for name, model in models.items():
        if "/" in name and model["problem"] is None:
            assert str(resolve_model(name)) == model["path"]


def test_an_interrupted_download_counts_what_it_takes(
    cached: Callable[..., Path], listed: Callable[[], dict[str, Any]]
) -> None:
    folder = cached("owner/part", {"config.json": LLAMA})
    (folder / "blobs" / "c0ffee.incomplete").write_bytes(bytes(5000))
    assert listed()["owner/part"]["size"] == 5000 + len(LLAMA)


def test_the_table_is_whole_in_a_pipe(
    caches: Path, cached: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    fill(caches, cached)
    long = "owner/" + "long-" * 30 + "name"
    cached(long, {"m-Q4_0.gguf": "x"})
    assert run(["models"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["name", "size", "kind", "used", "note"]
    assert [line.split()[0] for line in lines[1:]] == [
        *("default", "converted", "owner/bert", "owner/folder", "owner/gguf:Q4_K_M"),
        *("owner/gguf:Q8_0", f"{long}:Q4_0", "owner/part"),
    ]
    assert not any(line.endswith(" ") for line in lines)
    assert str(caches / "hub") in err


MODELS = [
    CachedModel("owner/name", "safetensors BF16", 1_234_567_890, time.time(), Path(), None),
    CachedModel("owner/other:Q4_0", "GGUF Q4_0", 12, 0.0, Path(), "incomplete"),
]


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (None, "name size kind used note"),
        (90, "name size kind used note"),
        (65, "name size kind note"),
        (50, "name size note"),
        (30, "name size"),
        (5, "name size"),
    ],
)
def test_a_narrow_terminal_gets_fewer_columns_and_whole_names(
    width: int | None, columns: str
) -> None:
    lines = table(MODELS, width)
    assert " ".join(lines[0].split()) == columns
    assert lines[1].startswith("owner/name ")
    assert lines[2].startswith("owner/other:Q4_0 ")
    if width and width > 5:
        assert max(map(len, lines)) <= width


def test_sizes_and_ages_are_in_words() -> None:
    sizes = [in_words(size) for size in (0, 999, 1000, 98_362_432, 1_500_000_000)]
    assert sizes == ["0 B", "999 B", "1.0 kB", "98.4 MB", "1.5 GB"]
    ages = [ago(time.time() - seconds) for seconds in (0, -5, 61, 7300, 86401, 800 * 86400)]
    assert ages == ["now", "now", "1 minute ago", "2 hours ago", "1 day ago", "2 years ago"]


# ---------------------------------------------------------------------------------------- removing


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("default", "cullama/models"),
        ("converted", "cullama/converted"),
        ("owner/folder", "hub/models--owner--folder"),
        ("owner/part", "hub/models--owner--part"),
        ("owner/gguf", "hub/models--owner--gguf"),
    ],
)
def test_a_model_is_removed_and_nothing_else(
    caches: Path, cached: Callable[..., Path], told: Callable[..., Any], name: str, gone: str
) -> None:
    fill(caches, cached)
    before = files_under(caches)
    size = sum(
        path.stat().st_size
        for path in (caches / gone).rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    assert told("--yes", "--remove", name) == {"removed": [{"name": name, "freed": size}]}
    assert files_under(caches) == {file for file in before if not file.startswith(f"{gone}/")}


def test_one_gguf_file_is_removed_with_its_bytes(
    caches: Path, cached: Callable[..., Path], told: Callable[..., Any]
) -> None:
    fill(caches, cached)
    before = files_under(caches)
    removed = told("-y", "--remove", "owner/gguf:Q8_0")
    assert removed == {"removed": [{"name": "owner/gguf:Q8_0", "freed": 700}]}
    gone = before - files_under(caches)
    assert {file.rpartition("models--owner--gguf/")[2].partition("/")[0] for file in gone} == {
        "snapshots",
        "blobs",
    }
    assert len(gone) == 2


PARTS = {f"m-Q8_0-0000{number}-of-00003.gguf": str(number) * 100 for number in (1, 2, 3)}


def test_a_split_model_is_one_line_and_removed_with_all_its_parts(
    caches: Path,
    cached: Callable[..., Path],
    listed: Callable[[], dict[str, Any]],
    told: Callable[..., Any],
) -> None:
    folder = cached("owner/split", {**PARTS, "README.md": "r"})
    [model] = [model for name, model in listed().items() if name.startswith("owner/split")]
    assert (model["name"], model["size"], model["problem"]) == ("owner/split:Q8_0", 300, None)
    assert model["path"].endswith("m-Q8_0-00001-of-00003.gguf")
    assert told("--remove", "owner/split:Q8_0", "--yes") == {
        "removed": [{"name": "owner/split:Q8_0", "freed": 300}]
    }
    assert {Path(file).name for file in files_under(folder / "snapshots")} == {"README.md"}
    assert len(files_under(folder / "blobs")) == 1


def test_a_split_model_of_which_a_part_is_missing_is_incomplete_and_can_be_removed(
    caches: Path,
    cached: Callable[..., Path],
    listed: Callable[[], dict[str, Any]],
    told: Callable[..., Any],
) -> None:
    cached("owner/split", {name: text for name, text in PARTS.items() if "00002-of" not in name})
    assert listed()["owner/split:Q8_0"]["problem"] == "incomplete"
    assert told("--remove", "owner/split:Q8_0", "--yes")["removed"][0]["freed"] == 200


def test_bytes_that_another_revision_has_too_stay(
    caches: Path, cached: Callable[..., Path], told: Callable[..., Any]
) -> None:
    for ref, commit in (("main", MAIN), ("v1", OLD)):
        cached("owner/gguf", {"m-Q4_0.gguf": "y" * 500}, ref, commit)
    assert told("-y", "--remove", "owner/gguf:Q4_0")["removed"][0]["freed"] == 0
    assert resolve_model("owner/gguf:Q4_0@v1").read_text() == "y" * 500
    assert told("-y", "--remove", "owner/gguf:Q4_0@v1")["removed"][0]["freed"] == 500


def test_one_revision_is_removed_and_the_other_stays(
    caches: Path, cached: Callable[..., Path], told: Callable[..., Any]
) -> None:
    cached("owner/folder", {**WHOLE, "model.safetensors": "new"})
    cached("owner/folder", {**WHOLE, "model.safetensors": "older"}, "v1", OLD)
    assert told("-y", "--remove", "owner/folder@v1")["removed"][0]["freed"] == len("older")
    assert (resolve_model("owner/folder") / "model.safetensors").read_text() == "new"
    assert not list(caches.rglob("refs/v1"))


def test_several_are_removed_together_or_not_at_all(
    caches: Path, cached: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    fill(caches, cached)
    before = files_under(caches)
    assert run(["models", "-y", "--remove", "default", "--remove", "owner/nothing"]) == 1
    assert files_under(caches) == before
    assert run(["models", "-y", "--remove", "default", "--remove", "converted"]) == 0
    out, _ = capsys.readouterr()
    assert out == "removed default: 300 B\nremoved converted: 4.0 kB\n"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("owner/foldr", "did you mean owner/folder?"),
        ("defualt", "did you mean default?"),
        ("owner/gguf:Q8", "did you mean owner/gguf:Q8_0?"),
        ("owner/folder@v9", "did you mean owner/folder?"),
        ("/etc/passwd", "`cullama models` lists"),
        ("../../x", "`cullama models` lists"),
        ("", "`cullama models` lists"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(
    caches: Path,
    cached: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    name: str,
    hint: str,
) -> None:
    fill(caches, cached)
    before = files_under(caches)
    assert run(["models", "-y", "--remove", name]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"cullama: no model {name!r} is cached; ")
    assert hint in err
    assert files_under(caches) == before


@pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 1)])
def test_it_asks_before_it_removes(
    caches: Path, cached: Callable[..., Path], monkeypatch: Any, answer: bool, code: int
) -> None:
    asked: list[str] = []
    fill(caches, cached)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)

    def confirm(text: str, err: bool) -> bool:
        asked.append(text)
        return answer

    monkeypatch.setattr("click.confirm", confirm)
    before = files_under(caches)
    assert run(["models", "--remove", "converted"]) == code
    assert asked == ["Remove converted (4.0 kB)?"]
    assert (files_under(caches) == before) == (not answer)


def test_without_a_terminal_to_ask_on_it_needs_yes(
    caches: Path, cached: Callable[..., Path], cullama_command: Any
) -> None:
    fill(caches, cached)
    variables = ("HF_HUB_CACHE", "CULLAMA_CACHE")
    places = {variable: os.environ[variable] for variable in variables}
    ended = cullama_command("models", "--remove", "converted", environment=places)
    assert (ended.code, ended.out) == (2, "")
    assert "--yes" in ended.err
    ended = cullama_command("models", "--remove", "converted", "--yes", environment=places)
    assert ended == (0, "removed converted: 4.0 kB\n", "")


def test_a_folder_that_cannot_be_deleted_is_named(
    caches: Path, cached: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    fill(caches, cached)
    monkeypatch.setattr("shutil.rmtree", refuse)
    assert run(["models", "-y", "--remove", "owner/folder"]) == 1
    assert "cannot remove owner/folder: Permission denied" in capsys.readouterr().err
