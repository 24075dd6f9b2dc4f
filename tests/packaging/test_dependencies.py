"""A module is importable with the packages that `pip install` brings, and with no others."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
PACKAGES = ("rfp", "rnvm", "structures", "bench")
# Modules that an extra brings for themselves alone: each says so, and nothing else imports it.
NEEDS_EXTRA = {
    "rfp/codec/numpy.py": {"numpy"},
    "rnvm/coordinator/zookeeper.py": {"kazoo"},
}


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the packages that are imported together with a module, except for type checkers."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        for each in ast.walk(node) if not isinstance(node, ast.FunctionDef) else ():
            if isinstance(each, ast.Import):
                yield from (name.name.partition(".")[0] for name in each.names)
            elif isinstance(each, ast.ImportFrom) and not each.level and each.module:
                yield each.module.partition(".")[0]


def declared() -> set[str]:
    """Return the packages on which the distribution depends."""
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(r"^dependencies = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return set(re.findall(r'"([A-Za-z0-9_]+)', found[1]))


def test_modules_import_only_declared_dependencies() -> None:
    known = {*sys.stdlib_module_names, *PACKAGES, *declared()}
    assert "click" in declared()
    unknown = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = str(path.relative_to(ROOT))
            names = {*imported(ast.parse(path.read_text()))}
            if names - known - NEEDS_EXTRA.get(name, set()):
                unknown[name] = names - known
    assert unknown == {}


def test_an_undeclared_import_is_found() -> None:
    text = """
import os, yaml.nodes
from typing_extensions import Self
if TYPE_CHECKING:
    import pandas
def lazily():
    import redis
"""
    assert {*imported(ast.parse(text))} == {"os", "yaml", "typing_extensions"}
