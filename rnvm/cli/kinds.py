"""`--with`: modules that define kinds of structures, and the names of these kinds."""

from __future__ import annotations

import importlib
from typing import Any

import click

from rfp.errors import InvalidArgument
from rnvm.frontend.structure import kinds

WITH = click.option("--with", "modules", multiple=True, default=("structures",), show_default=True,
                    help="Python module that defines kinds of structures; repeatable.")  # fmt: skip


def load(modules: tuple[str, ...]) -> None:
    """Import these modules."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InvalidArgument(
                f"cannot import --with {module}: {error}", hint="give a module on the Python path"
            ) from None


def with_kind_name(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a naming entry with the name of its kind, the class; None if no module defines it."""
    known = kinds.get(entry["kind"])
    name = known.cls.__name__ if known else None
    found: dict[str, Any] = {}
    for key, value in entry.items():
        found[key] = value
        if key == "kind":
            found["kind_name"] = name
    return found
