"""The notebooks run from end to end, in a kernel as people have it, with the tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import gpu
import nbformat
import pytest
from command_line import SOURCE
from nbclient import NotebookClient

from cullama.cuda.compiler import NoCudaCompilerError, fetched_nvrtc, find_compiler

WriteModel: TypeAlias = Callable[..., Path]
Cell: TypeAlias = Any

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NAMES = ["1_first_steps", "2_inside_one_token", "3_batch_and_compare", "4_write_a_kernel"]

# <|user|> says who speaks; an answer ends as texts do.
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'assistant' %}{{ message.content }}<|end|>"
    "{% else %}<|user|>{{ message.role }}: {{ message.content }}<|end|>{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, write_model: WriteModel, tokenizer_file: Path
) -> Path:
    """The tiny model with a chat template, and with room for prompts that its tokenizer, which
    knows few words, makes long."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_model(folder, tokenizer=tokenizer_file, max_position_embeddings=4096)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


def read(name: str) -> Any:
    return nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)


def code_cells(notebook: Any) -> list[Cell]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def run(name: str, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """Run a notebook, and return its cells with their outputs."""
    settings = {
        "PYTHONPATH": str(SOURCE),
        "CUDA_VISIBLE_DEVICES": "",
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    notebook = read(name)
    (parameters,) = (
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())
    )
    assert parameters.source.startswith("MODEL = None")
    parameters.source = f"MODEL = {str(model)!r}"
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(folder)}}).execute()
    return code_cells(notebook)


def output(cells: list[Cell], beginning: str) -> str:
    """Return what the cell with this code printed, or its last value."""
    (cell,) = (cell for cell in cells if beginning in cell.source)
    parts = [each.get("text") or each["data"]["text/plain"] for each in cell.outputs]
    return "".join(part for part in parts if not part.startswith("generated "))  # a slow list's bar


def pages(cells: list[Cell]) -> list[str]:
    shown = (output["data"] for cell in cells for output in cell.outputs if "data" in output)
    return [data["text/html"] for data in shown if "text/html" in data]


def test_first_steps(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = run("1_first_steps", model, tmp_path, monkeypatch)
    assert output(cells, "again[0] == again[1]") == "True"
    assert output(cells, "break  # enough").endswith("'cancelled'")
    assert "tokens of prompt" in output(cells, "reply.cached_tokens")
    assert output(cells, "except cullama.CullamaError").startswith("this LLM was closed")
    assert len(pages(cells)) == 3


def test_inside_one_token(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = run("2_inside_one_token", model, tmp_path, monkeypatch)
    assert "layer 0 · silu_mul" in output(cells, "detail=True")
    assert output(cells, "np.array_equal") == "True"
    assert output(cells, "country, last =").count("layer") == 2
    assert len(pages(cells)) == 4


def test_batch_and_compare(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = run("3_batch_and_compare", model, tmp_path, monkeypatch)
    assert output(cells, "one.text == other.text") == "8"
    assert "60 tokens in 32 steps" in output(cells, "lengths = [4, 8, 16, 32]")
    cached = output(cells, "rules = ").split("tokens, ")[1:]
    assert [int(line.split()[0]) > 0 for line in cached] == [False, True, True]
    assert output(cells, "exact.diff").startswith("identical")
    assert len(pages(cells)) == 1


def test_write_a_kernel(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.require_emulated()
    try:
        find_compiler(fetched_nvrtc())
    except NoCudaCompilerError as error:
        pytest.skip(str(error))
    cells = run("4_write_a_kernel", model, tmp_path, monkeypatch)
    assert output(cells, "naive = kernel").startswith("rms_norm_f32__naive: right in rms_norm")
    assert "predicted for h200" in output(cells, "first = llm")
    assert "error: race between threads" in output(cells, "racing = kernel")
    assert output(cells, 'replace("rms_norm", racing)').endswith("the old kernel stays\n")
    assert output(cells, "vectorised = kernel").startswith("rms_norm_f32__vectorised: right in")
    assert float(output(cells, "fast = llm").split(" × as fast as")[0].splitlines()[-1]) > 1.5
    assert "the same story: True" in output(cells, "again == story")


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_kept_as_they_are_written(name: str) -> None:
    """No outputs, no name of a machine, no cell that is longer than a screen."""
    text = (EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8")
    nbformat.validate(json.loads(text))
    for cell in read(name).cells:
        assert len(cell.source.splitlines()) <= 24
    for cell in code_cells(read(name)):
        assert cell.outputs == []
        assert cell.execution_count is None
    assert "/home" not in text
    assert "/tmp" not in text


def test_every_notebook_is_tested() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.ipynb")) == NAMES
