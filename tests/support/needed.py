"""Programs and packages of other projects that a test needs.

Elsewhere a test without them is skipped, with the reason. With CI set, as `.ci/run` sets it, the
test fails: a run that nobody reads must not pass because something was not installed.
"""

from __future__ import annotations

import importlib
import os
import shutil
from typing import Any, NoReturn

import pytest


def absent(reason: str) -> NoReturn:
    """End the test, because something that it needs is not installed."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (CI is set: no test may be skipped for this)", pytrace=False)
    pytest.skip(reason)


def program(name: str) -> None:
    """Return if the program is on the PATH."""
    if shutil.which(name) is None:
        absent(f"{name} is not installed")


def module(name: str) -> Any:
    """Return a module of a package that an extra of pyproject.toml installs."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        absent(f"cannot import {name}: {error}")
