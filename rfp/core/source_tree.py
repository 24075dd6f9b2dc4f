"""The sources of a package that Python finds in a checkout before the installed package.

Python searches the current folder, or that of the script, first.  In a checkout it contains the
sources, while the extension modules are compiled elsewhere and installed.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

SOURCES_MARK = "meson.build"  # a file that only folders of sources contain


def import_installed(name: str) -> None:
    """Import the installed package in place of the sources that were found under its name.

    None of the sources stays imported: a module of one version next to an extension module of
    another could do anything.

    Raises:
        ImportError: this environment has no installed package; the message says how to get it.
    """
    sources = sys.modules[name].__path__[0]
    for folder in sys.path:
        spec = PathFinder.find_spec(name, [folder])
        if spec is None or spec.origin is None or spec.loader is None:
            continue
        if not os.path.exists(os.path.join(os.path.dirname(spec.origin), SOURCES_MARK)):
            break
    else:
        raise ImportError(
            f"{sources} contains the sources of {name}, which are not compiled there, and "
            f"{_advice(sources)}"
        )
    for module in [each for each in sys.modules if each == name or each.startswith(name + ".")]:
        del sys.modules[module]
    package = module_from_spec(spec)
    sys.modules[name] = package  # the object that the import statement returns
    spec.loader.exec_module(package)


def _advice(sources: str) -> str:
    checkout = os.path.dirname(os.path.abspath(sources))
    python = os.path.join(checkout, ".venv", "bin", "python")
    advice = f"{sys.executable} has no installed package: "
    if os.path.exists(python) and not os.path.samefile(sys.prefix, os.path.join(checkout, ".venv")):
        return f"{advice}start {python}"
    return (
        f"{advice}run `make demo` in {checkout} and start .venv/bin/python, or install it with "
        f"`pip install {checkout}`"
    )
