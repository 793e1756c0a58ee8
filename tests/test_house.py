"""`scripts/house.py`, which measures the structure of the source."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "house.py"


@pytest.fixture(scope="module")
def house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def write_package(house: ModuleType, folder: Path, **files: str) -> list[Any]:
    """Modules `cullama.a`, `cullama.room.b` … for files `a`, `room__b` …"""
    for name, text in files.items():
        path = folder / "cullama" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [house.Module(path) for path in sorted(folder.rglob("*.py"))]


def test_a_group_that_imports_in_a_ring_is_one_circle(house: ModuleType) -> None:
    graph = {"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": [], "e": ["a"]}
    assert house.circles(graph) == [["a", "b", "c"]]


def test_a_diamond_is_no_circle(house: ModuleType) -> None:
    assert house.circles({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}) == []


def test_floors_are_the_longest_chain_of_imports(house: ModuleType) -> None:
    assert house.floors({"a": ["b", "c"], "b": ["d"], "c": [], "d": ["c"]}) == 4


def test_imports_for_types_and_inside_functions_count(
    house: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house, "SOURCE", tmp_path)
    modules = write_package(
        house,
        tmp_path,
        a="if TYPE_CHECKING:\n    from .room.b import B\n",
        room__b="def f():\n    from .. import a\n    from . import c\n",
        room__c="import json\n",
    )
    known = {module.name for module in modules}
    found = {module.name: module.imports(known) for module in modules}
    assert found == {
        "cullama.a": {"cullama.room.b"},
        "cullama.room.b": {"cullama.a", "cullama.room.c"},
        "cullama.room.c": set(),
    }
    assert house.circles(house.room_graph(modules, found)) == [["a", "room"]]


def test_private_functions_are_counted_where_one_place_calls_them(
    house: ModuleType, tmp_path: Path
) -> None:
    text = """
def _once(): ...
def _twice(): ...
def _in_a_table(): ...
def _never(): ...
def public(): return _once(), _twice(), _twice(), TABLE["a"]()
TABLE = {"a": _in_a_table}
"""
    [module] = write_package(house, tmp_path, a=text)
    assert [function.name for function in house.called_once(module)] == ["_once"]


def test_a_parameter_without_a_type_lowers_the_typed_share(
    house: ModuleType, tmp_path: Path
) -> None:
    [module] = write_package(house, tmp_path, a="def f(self, x: int, y) -> None: ...\n")
    assert house.typed_share(module.functions) == pytest.approx(2 / 3)


def test_a_measure_is_broken_beyond_its_bound(house: ModuleType) -> None:
    assert house.Measure("most", 3, 2).is_broken
    assert not house.Measure("most", 2, 2).is_broken
    assert house.Measure("least", 1, 2, is_floor=True).is_broken
    assert not house.Measure("free", 1).is_broken
