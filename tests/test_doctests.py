"""Every example runs: those of Python's and Cython's docstrings, and those of the pages."""

from __future__ import annotations

import doctest
import gc
import importlib
import importlib.util
import inspect
import pkgutil
import re
import types
from collections.abc import Mapping
from pathlib import Path

import pytest

import rfp
import rnvm
import structures

ROOT = Path(__file__).parents[1]
PACKAGES = ("rfp", "rnvm", "structures", "bench")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules() -> list[str]:
    names = list(PACKAGES)
    for package in PACKAGES:
        folders = importlib.util.find_spec(package).submodule_search_locations
        names += [module.name for module in pkgutil.walk_packages(folders, package + ".")]
    return [name for name in names if not name.endswith("__main__")]


def pages() -> list[Path]:
    every = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in every if re.search(r"^>>> ", page.read_text(), re.MULTILINE)]


@pytest.fixture
def names(tmp_path):
    """Names for examples: a client of an empty store, a front-end of a pool without structures."""
    with rfp.Server(memory="16MiB") as server, rfp.connect(server.address) as kv:
        with (
            rnvm.Backend(tmp_path / "pool", size="32MiB", assume_persistent=True) as backend,
            rnvm.connect(backend.address) as fe,
        ):
            yield {
                "kv": kv,
                "server": server,
                "rfp": rfp,
                "fe": fe,
                "rnvm": rnvm,
                "structures": structures,
            }


def examples(module: types.ModuleType, names: Mapping[str, object]) -> list[doctest.DocTest]:
    """Find a module's examples by a walk: doctest's finder skips methods of Cython's classes."""
    found: dict[int, doctest.DocTest] = {}

    def walk(thing: object, name: str) -> None:
        doc = getattr(thing, "__doc__", None)
        if isinstance(doc, str) and ">>>" in doc:
            found[id(thing)] = doctest.DocTestParser().get_doctest(
                doc, {**names, **vars(module)}, name, None, None
            )
        if not (inspect.isclass(thing) or inspect.ismodule(thing)):
            return
        for key, value in vars(thing).items():
            value = getattr(value, "__func__", value)  # of a class method or a static one
            described = (
                inspect.isclass(value)
                or inspect.isroutine(value)
                or inspect.isdatadescriptor(value)
            )
            if described and getattr(value, "__module__", module.__name__) == module.__name__:
                walk(value, f"{name}.{key}")

    walk(module, module.__name__)
    return list(found.values())


@pytest.mark.every_case
@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module_give_their_output(name, names):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for example in examples(module, names):
        runner.run(example)
        gc.collect()
        for left in names["fe"].names():
            names["fe"].drop(left)  # each example begins with an empty pool
    assert runner.failures == 0  # the runner has printed the differences
    if name == "rfp.errors":
        assert runner.tries > 0  # the walk finds examples


@pytest.mark.every_case
@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_the_examples_of_a_page_give_their_output(page):
    failures, tries = doctest.testfile(str(page), module_relative=False, optionflags=FLAGS)
    assert tries > 0
    assert failures == 0
