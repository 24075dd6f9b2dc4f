"""Every module imports only from its own layer or below, and production code no test double."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
PACKAGES = ("rfp", "rnvm", "structures", "bench")
# From the bottom up.  Names on one line are siblings, which may not import each other.  A name
# covers a folder and everything in it, except the parts that a longer name covers.  The order of
# the lines is total, so there is no cycle between layers.
LAYERS = """
    rfp.vendor
    rfp.core            rfp.errors
    rfp.units           rfp.codec
    rfp.address
    rfp.fabric.fabric   rfp.fabric.memory_limits
    rfp.fabric.shm
    rfp.fabric.verbs
    rfp._verbs
    rfp.fabric
    rfp.control
    rfp.protocol
    rfp.protocol.client rfp.protocol.server
    rfp.store
    rfp.store.client    rfp.store.server        rfp.rpc
    rfp.tools
    rfp.server          rfp.connecting
    rfp.aio
    rfp
    rfp.cli
    rnvm.format
    rnvm.sizes          rnvm.coordinator
    rnvm.group
    rnvm.media
    rnvm.pool
    rnvm.replication
    rnvm.pools
    rnvm.frontend
    rnvm.backend        rnvm.check              rnvm.connecting     rnvm.sleeper
    rnvm.aio            rnvm.mirror
    rnvm.group.admin    rnvm.group.driver
    rnvm
    rnvm.cli
    structures
    bench
    rfp.testing
    rnvm.testing
    structures.testing
"""
LEVEL = {
    name: level for level, names in enumerate(LAYERS.strip().splitlines()) for name in names.split()
}
TESTING = {name for name in LEVEL if name.endswith(".testing")}

SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".h"}
CYTHON = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<module>[\w.]+)[ \t]+c?import\s+(?P<names>\([^()]*\)|[^\n#]*)"
    r"|c?import[ \t]+(?P<modules>[\w., \t]+?)[ \t]*(?:#.*)?$)",
    re.MULTILINE,
)
INCLUDE = re.compile(r"""(?:cdef extern from|#include)\s+["'](?P<path>[\w./]+)["']""")


def sources(root: Path) -> list[Path]:
    files = sorted(file for package in PACKAGES for file in (root / package).rglob("*"))
    return [file for file in files if file.suffix in SUFFIXES]


def module_of(file: Path, root: Path) -> str:
    path = file.relative_to(root).with_suffix("")
    return ".".join(path.parts[:-1] if path.name == "__init__" else path.parts)


def first_names(text: str) -> list[str]:
    """Return the imported names of `a, b as c`, with or without parentheses and comments."""
    return [name.split()[0] for name in re.sub(r"#.*|[()\\]", "", text).split(",") if name.strip()]


def imports_of(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (module, imported names) of every import, include and cimport of a file.

    Imports inside functions count too.
    """
    text = file.read_text()
    if file.suffix in {".py", ".pyi"}:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                yield from ((alias.name, []) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]
            elif isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
                name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                if name == "import_module" and node.args and isinstance(node.args[0], ast.Constant):
                    yield str(node.args[0].value), []
        return
    for match in INCLUDE.finditer(text):
        path = Path(match["path"])
        yield ".".join(path.with_suffix("").parts), []
    if file.suffix != ".h":
        # Examples and prose in docstrings do not import.
        for match in CYTHON.finditer(re.sub(r'("""|\'\'\')(?s:.*?)\1', "", text)):
            if match["module"]:
                yield match["module"], first_names(match["names"])
            else:
                yield from ((name, []) for name in first_names(match["modules"]))


def layer_of(module: str) -> str | None:
    parts = module.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((name for name in prefixes if name in LEVEL), None)


def violations(root: Path) -> list[str]:
    files = sources(root)
    modules = {module_of(file, root) for file in files}
    found = []
    for file in files:
        importer = module_of(file, root)
        own = layer_of(importer)
        for module, names in imports_of(file):
            where = f"{file.relative_to(root)} imports {module}"
            if module.startswith("."):
                found.append(f"{where}: not by its whole name")
            if module.split(".")[0] not in PACKAGES:
                continue
            targets = {f"{module}.{name}" for name in names} & modules
            if not names or len(targets) < len(set(names)):
                targets.add(module)
            for each in sorted(targets):
                layer = layer_of(each)
                if own is None or layer is None:
                    unknown = importer if own is None else each
                    found.append(f"{where}: no layer is stated for {unknown}")
                elif layer in TESTING and own not in TESTING:
                    found.append(f"{where}: a test double in production code")
                elif layer != own and LEVEL[layer] >= LEVEL[own]:
                    side = "above" if LEVEL[layer] > LEVEL[own] else "beside"
                    found.append(f"{where}: {layer} is {side} {own}")
    return found


def test_no_module_imports_a_layer_above_its_own() -> None:
    assert violations(ROOT) == []


def test_every_stated_layer_exists() -> None:
    layers = {layer_of(module_of(file, ROOT)) for file in sources(ROOT)}
    assert set(LEVEL) - layers == set()


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("rfp/core/clock.py", "from rfp.fabric import provider", "rfp.fabric is above rfp.core"),
        ("rfp/core/clock.py", "def f():\n    import rfp.server", "rfp.server is above rfp.core"),
        ("rfp/fabric/shm/region.pyx", "def f():\n    from rfp.fabric.verbs import device",
         "rfp.fabric.verbs is above rfp.fabric.shm"),
        ("rfp/fabric/fabric.pxd", "from rfp.protocol cimport (wire as w,\n    wire)",
         "rfp.protocol is above rfp.fabric.fabric"),
        ("rfp/fabric/fabric.pyx", "cimport rfp.protocol.wire as wire",
         "rfp.protocol is above rfp.fabric.fabric"),
        ("rfp/core/hash.h", '#include "rnvm/format/layout.h"', "rnvm.format is above rfp.core"),
        ("rnvm/format/layout.pxd", 'cdef extern from "structures/layout.h" nogil:',
         "structures is above rnvm.format"),
        ("rfp/store/client/client.pyi", "from rfp.store.server.partition import Partition",
         "rfp.store.server is beside rfp.store.client"),
        ("rfp/units.py", 'importlib.import_module("rfp.address")',
         "rfp.address is above rfp.units"),
        ("rnvm/check/check.py", "from rnvm.testing import log_driver",
         "a test double in production code"),
        ("rfp/control/tcp.py", "from . import frame", "not by its whole name"),
        ("rfp/core/clock.py", "import rfp", "rfp is above rfp.core"),
    ],
)  # fmt: skip
def test_an_import_that_points_upwards_is_found(
    tmp_path: Path, path: str, text: str, expected: str
) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
    for module in ("rfp/fabric/provider", "rfp/fabric/verbs/device", "rfp/protocol/wire",
                   "rnvm/testing/log_driver"):  # fmt: skip
        (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / module).with_suffix(".py").touch()
    planted = tmp_path / path
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(text + "\n")
    (found,) = violations(tmp_path)
    assert found.startswith(path)
    assert found.endswith(expected)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("rfp/fabric/shm/region.pyx",
         ('"""\nfrom rfp.server import Server\n"""\n'
          "from rfp.fabric.fabric cimport region  # import rfp.cli")),
        ("rnvm/testing/harness.py",
         "from rfp.testing import litmus\nfrom rnvm.testing import other\nimport rnvm"),
        ("rfp/cli/serve.py", "import rfp\nfrom rfp import errors\nimport click"),
    ],
)  # fmt: skip
def test_an_import_that_points_downwards_or_within_a_layer_is_not_a_violation(
    tmp_path: Path, path: str, text: str
) -> None:
    planted = tmp_path / path
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(text + "\n")
    assert violations(tmp_path) == []
