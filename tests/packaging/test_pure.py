"""Test modules marked `pure`, which the sanitizers leave out, use no compiled module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"


def marked() -> list[Path]:
    """Return the test modules whose `pytestmark` is, or contains, the mark."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for statement in ast.parse(path.read_text()).body:
            if isinstance(statement, ast.Assign) and "pytest.mark.pure" in ast.unparse(statement):
                found.append(path)
    return found


def file_of(module: str) -> Path | None:
    """Return the source of a module of this project or of the tests."""
    place = ROOT.joinpath(*module.split("."))
    if (place / "__init__.py").exists():
        return place / "__init__.py"
    for path in (place.with_suffix(".pyx"), place.with_suffix(".py"), SUPPORT / f"{module}.py"):
        if path.exists():
            return path
    return None


def imported(path: Path) -> Iterator[Path]:
    """Yield the modules of this project that a module names in its imports.

    The __init__ of a package is one of them only if the import takes a name from it: importing it
    executes nothing that the other tests do not execute.
    """
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [(each.name, "") for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [(base, each.name) for each in node.names]
        else:
            continue
        for module, name in names:
            found = file_of(f"{module}.{name}") if name else None
            found = found or file_of(module)
            if found is not None:
                yield found


def compiled_below(path: Path) -> list[str]:
    """Return the way from a module to a compiled one by imports; an empty list if there is none."""
    ways, todo = {path: [path]}, [path]
    for each in todo:
        for found in imported(each):
            if found in ways:
                continue
            ways[found] = [*ways[each], found]
            if found.suffix == ".pyx":
                return [str(step.relative_to(ROOT)) for step in ways[found]]
            todo.append(found)
    return []


@pytest.mark.parametrize("path", marked(), ids=lambda path: str(path.relative_to(ROOT / "tests")))
def test_a_test_that_the_sanitizers_leave_out_imports_nothing_compiled(path: Path) -> None:
    assert compiled_below(path) == []


def test_a_way_to_a_compiled_module_is_found(tmp_path: Path) -> None:
    assert len(marked()) > 15
    assert compiled_below(ROOT / "tests/structures/test_kills.py")
