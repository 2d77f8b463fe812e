"""The structure of the source: no circles of imports, short files and functions, no folder that hides a function."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import grimp
import pytest

PACKAGES = ("sciml", "sciml_rod", "sciml_pdes", "sciml_cryoem")
LONGEST_FILE, LONGEST_FUNCTION = 400, 60

allowed: set[str] = set()
"""Circles that may still stand. Empty it, and never fill it again."""

long: set[str] = set()
"""Files and functions that may still be longer. Likewise."""

SHARED_ENTRY = re.compile(r"^ {4}\w+(, \w+)+: |^ {4,8}\S.*\. [a-z_0-9]+(, [a-z_0-9]+)*: ")

Edges = Mapping[str, set[str]]


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    """All imports: those at the top, those inside functions, and those for type checkers alone."""
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=False, cache_dir=None)


def circles(edges: Edges) -> list[str]:
    """The strongly connected components of more than one node, each as the sorted names of its nodes."""
    reach = {node: _reachable(edges, node) for node in edges}
    found = {frozenset([node, *(n for n in reach[node] if node in reach.get(n, ()))]) for node in edges}
    return sorted(" ".join(sorted(circle)) for circle in found if len(circle) > 1)


def _reachable(edges: Edges, start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        new = edges.get(waiting.pop(), set()) - seen
        seen |= new
        waiting += new
    return seen


def _siblings(graph: grimp.ImportGraph, parent: str) -> Edges:
    """Imports between the children of a package, each with all that is below it."""
    children = graph.find_children(parent)
    edges: dict[str, set[str]] = {}
    for child in children:
        below = {child, *graph.find_descendants(child)}
        imported = set().union(*(graph.find_modules_directly_imported_by(module) for module in below))
        edges[child] = {other for other in children - {child} if any(_within(name, other) for name in imported)}
    return edges


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == ["a b c"]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_modules_do_not_import_each_other_in_circles(imports: grimp.ImportGraph) -> None:
    found = circles({module: imports.find_modules_directly_imported_by(module) for module in imports.modules})
    assert [circle for circle in found if circle not in allowed] == []


def test_sibling_packages_do_not_import_each_other_in_circles(imports: grimp.ImportGraph) -> None:
    parents = sorted(module for module in imports.modules if imports.find_children(module))
    found = {circle for parent in parents for circle in circles(_siblings(imports, parent))}
    assert sorted(found - allowed) == []


def _sources(root: Path) -> list[Path]:
    folders = [root / "sciml", *sorted((root / "problems").glob("sciml_*"))]
    return [file for folder in folders for file in sorted(folder.rglob("*.py"))]


def _functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_files_and_functions_are_short(root: Path) -> None:
    files, functions = {}, {}
    for file in _sources(root):
        name = str(file.relative_to(root))
        files[name] = len(file.read_text(encoding="utf-8").splitlines())
        for node in _functions(file):
            functions[f"{name}:{node.name}"] = (node.end_lineno or node.lineno) - node.lineno + 1
    assert len(files) > 100
    too_long = {name: lines for name, lines in files.items() if lines > LONGEST_FILE}
    too_long |= {name: lines for name, lines in functions.items() if lines > LONGEST_FUNCTION}
    assert {name: lines for name, lines in too_long.items() if name not in long} == {}


def test_no_folder_hides_a_function(root: Path) -> None:
    """`sciml.loop.solve` beside a folder `solve` would name either, by the order of imports."""
    files = _sources(root)
    bodies = [ast.parse(file.read_text(encoding="utf-8")).body for file in files]
    functions = {node.name for body in bodies for node in body if isinstance(node, ast.FunctionDef)}
    folders = {parent.name for file in files for parent in file.relative_to(root).parents if parent.name}
    assert sorted(folders & functions) == []


def test_every_entry_of_a_docstring_has_its_own_line(root: Path) -> None:
    """Documentation tools give what follows on a line, or in `a, b: ...`, to the first name."""
    wrong = []
    for file in _sources(root):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef | ast.FunctionDef):
                continue
            lines = (ast.get_docstring(node) or "").splitlines()
            wrong += [f"{file.relative_to(root)}: {line.strip()}" for line in lines if SHARED_ENTRY.search(line)]
    assert wrong == []
