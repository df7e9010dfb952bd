"""How the house is built: no circular imports, small modules and functions, every room says what it is for."""

from __future__ import annotations

import ast
from pathlib import Path

import grimp
import pytest

import layerhouse

ROOT = Path(layerhouse.__file__).parent
ROOMS = ("ingest", "warehouse", "queries", "terminal")
MAX_MODULE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS, MAX_MODULES = 450, 60, 7, 20
REGISTRIES = {"ingest/checkpoint/layouts", "ingest/results"}
"""Rooms that grow by a module a format."""
PUBLIC_CALLS = {("__init__.py", "ingest")}
"""Functions whose keywords are the interface to users."""

MODULES = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))]


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def strongly_connected(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of two and more modules of which each imports each other, directly or not: modules that are left when those
    without imports or importers are taken away, again and again."""
    left = {module: set(imported) & edges.keys() for module, imported in edges.items()}
    while True:
        importers = {imported for targets in left.values() for imported in targets}
        ends = {module for module, targets in left.items() if not targets or module not in importers}
        if not ends:
            return [sorted(left)] if left else []
        left = {module: targets - ends for module, targets in left.items() if module not in ends}


def test_no_import_goes_in_a_circle_not_even_one_inside_a_function_or_for_types():
    graph = grimp.build_graph("layerhouse", include_external_packages=False, exclude_type_checking_imports=False)
    modules = {
        name for name in graph.modules if not name.startswith(("layerhouse.tests", "layerhouse.bench", "layerhouse.docs"))
    }
    edges = {name: {*graph.find_modules_directly_imported_by(name)} & modules for name in modules}
    assert len(modules) > 100
    assert strongly_connected(edges) == []


def test_a_circle_would_be_found():
    assert strongly_connected({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == [["a", "b", "c"]]


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_modules_and_functions_are_short(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert {name: lines for name, lines in long.items() if lines > MAX_FUNCTION_LINES} == {}
    many = {node.name: len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]) for node in functions}
    allowed = {name for where, name in PUBLIC_CALLS if where == place(path)}
    assert {name: count for name, count in many.items() if count > MAX_PARAMETERS and name not in allowed} == {}


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES} - {ROOT}), ids=place)
def test_every_room_says_what_it_is_for_and_is_no_crowd(folder):
    tree = ast.parse((folder / "__init__.py").read_text("utf-8"))
    assert ast.get_docstring(tree)
    if place(folder) not in REGISTRIES:
        assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= MAX_MODULES
