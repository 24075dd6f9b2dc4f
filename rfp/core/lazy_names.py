"""Names of a package that are imported at their first use, to keep its own import cheap."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_names(package: str, owners: dict[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package.

    Args:
        package: name of the package.
        owners: the module that defines each name.

    Cost:
        At the first use of a name the import of its module; afterwards the name is an ordinary
        attribute.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in owners:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(owners[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__
