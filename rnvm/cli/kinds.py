"""`--module`: import modules that define kinds of structures."""

from __future__ import annotations

import importlib

import click

from rfp.errors import InvalidArgument

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
