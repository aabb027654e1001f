"""The layout: rooms are layers, there is no import circle, registered names resolve, files stay small.

Who may import whom stands in `pyproject.toml`, in the words of import-linter, which `make lint` runs too.
"""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

from orchestrator.search.space_file import load_space
from trainables import TRAINABLES
from trainables.data.datasets import DATASETS
from trainables.data.sets.description import SetDescription
from trainables.models.catalogue.registry import FAMILIES

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("orchestrator", "trainables")
MODULES = sorted(path for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))
SPACES = sorted((PROJECT / "search_spaces").glob("*.yaml"))
REGISTERED = {
    **TRAINABLES,
    **DATASETS,
    **{f"family {name}": family.loader for name, family in FAMILIES.items() if family.loader},
}
MAX_LINES = 400


def _shown(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def test_no_module_imports_itself_by_a_detour() -> None:
    """Imports inside functions count: what only they keep apart is still one knot."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    order = TopologicalSorter(
        {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    )
    try:
        order.prepare()
    except CycleError as error:
        pytest.fail(f"an import circle: {' -> '.join(error.args[1])}")


def test_no_room_imports_a_room_above_it() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MODULES, ids=_shown)
def test_an_import_inside_a_function_says_why(path: Path) -> None:
    """A comment on the import or above it, one for the whole module, or the docstring of a whole room."""
    text, room = path.read_text(), path.with_name("__init__.py").read_text()
    if "# Imports inside functions: " in text or "Heavy imports live inside" in room:
        return
    lines = text.splitlines()
    silent = [number for number in _local_imports(ast.parse(text)) if not _says_why(lines, number)]
    assert not silent, f"no comment on or above the import in lines {silent}"


def _local_imports(tree: ast.Module) -> Iterator[int]:
    """Yields the first line of each run of imports inside a function."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for block in ast.walk(function):
            for name in ("body", "orelse", "finalbody"):
                statements = getattr(block, name, None)
                before: ast.stmt | None = None
                for statement in statements if isinstance(statements, list) else ():
                    is_import = isinstance(statement, ast.Import | ast.ImportFrom)
                    if is_import and not isinstance(before, ast.Import | ast.ImportFrom):
                        yield statement.lineno
                    before = statement


def _says_why(lines: list[str], number: int) -> bool:
    """Says whether a comment stands on a line (counted from 1) or on the line above it."""
    return "#" in lines[number - 1] or lines[number - 2].lstrip().startswith("#")


@pytest.mark.parametrize("name", REGISTERED)
def test_a_registered_name_resolves(name: str) -> None:
    module, _, function = REGISTERED[name].partition(":")
    found = getattr(importlib.import_module(module), function)
    assert isinstance(found, SetDescription) or callable(found)


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "search_spaces").glob("*.yaml")), ids=lambda path: path.stem
)
def test_a_search_space_validates(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLIP_ORCHESTRATOR_HOME", os.fspath(tmp_path))
    assert load_space(path, []).name == path.stem


@pytest.mark.parametrize("path", MODULES, ids=_shown)
def test_a_file_is_about_one_thing(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES
