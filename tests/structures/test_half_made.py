"""Objects whose __init__ never ran: every call raises an exception, and does not crash Python."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys

import pytest
from structure_kinds import KINDS

import rnvm
import structures
from rfp.errors import WrongType

from .backends import backend

CALLS = """
import contextlib, copy, importlib, pickle, sys
cls = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
with contextlib.suppress(TypeError):
    half = cls.__new__(cls)
    for call in (copy.copy, copy.deepcopy, pickle.dumps, repr, len, bool, list):
        with contextlib.suppress(Exception):
            call(half)
    for name in set(dir(cls)) - {"__class__", "__init_subclass__", "__new__", "__subclasshook__"}:
        print(name, flush=True)
        with contextlib.suppress(Exception):
            found = getattr(half, name)
            one = ((), (None,), (1,), (b"x",), ("x",))
            more = ((1, 1), (b"x", b"x"), (0, b"x"), (0, 0, 0), (None, None, None))
            for arguments in one + more:
                with contextlib.suppress(Exception):
                    found(*arguments)
"""


def compiled() -> list[tuple[str, str]]:
    found = []
    for package in (rnvm, structures):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if "cli" in module.name:
                continue
            loaded = importlib.import_module(module.name)
            if str(loaded.__file__).endswith(".so"):
                found += [
                    (module.name, name)
                    for name, cls in vars(loaded).items()
                    if inspect.isclass(cls) and cls.__module__ == module.name
                ]
    return found


def test_the_modules_have_classes_to_try() -> None:
    assert ("structures.queue", "Queue") in compiled() and (
        "rnvm.frontend.frontend",
        "FrontEnd",
    ) in compiled()


@pytest.mark.every_case
@pytest.mark.parametrize(("module", "name"), compiled())
def test_an_object_without_init_only_raises_exceptions(module: str, name: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CALLS, module, name],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, f"after {ran.stdout.split()[-1:]}: {ran.stderr}"


def test_pickling_or_copying_a_handle_is_refused_with_a_hint() -> None:
    with backend("8MiB") as served, rnvm.connect(served.address) as fe:
        handles = [
            fe,
            *(kind(fe, kind.__name__) for kind in KINDS),
        ]
        for handle in handles:
            for call in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(WrongType, match="cannot be copied or pickled"):
                    call(handle)
