"""Importing a package loads no module that takes long and that few programs need."""

import json
import subprocess
import sys

import pytest

# Each takes milliseconds, itself or by its own imports.
HEAVY = {
    "asyncio", "base64", "ctypes", "dataclasses", "decimal", "email", "hmac", "importlib.metadata",
    "inspect", "ipaddress", "json", "logging", "logging.handlers", "multiprocessing", "numpy",
    "pathlib", "pickle", "random", "secrets", "ssl", "subprocess",
    "tempfile", "traceback", "unittest", "urllib.parse",
}  # fmt: skip


def loaded(statements: str) -> set[str]:
    """Return the modules that an interpreter has loaded after these statements.

    Modules that it loads at its own start do not count.
    """
    text = (
        "import sys; before = set(sys.modules)\n"
        f"{statements}\nprint(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", text], capture_output=True, text=True, timeout=50
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


@pytest.mark.parametrize("package", ["rfp", "rnvm", "structures"])
def test_an_import_loads_no_heavy_module(package):
    modules = loaded(f"import {package}")
    assert package in modules
    assert sorted(modules & HEAVY) == []


@pytest.mark.parametrize("package", ["rfp", "rnvm"])
def test_an_import_loads_no_extension_module(package):
    """Extension modules are loaded with the first name that needs them."""
    text = (
        f"import {package}, sys\n"
        "files = [getattr(module, '__file__', None) or '' for module in sys.modules.values()]\n"
        f"print([file for file in files if file.endswith('.so') and '/{package}/' in file])"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", text], capture_output=True, text=True, timeout=50, check=True
    )
    assert run.stdout.strip() == "[]"


def test_a_client_loads_no_module_of_the_server():
    modules = loaded("import rfp; rfp.connect")
    assert (
        sorted(
            name for name in modules if name.startswith(("rfp.protocol.server", "rfp.store.server"))
        )
        == []
    )


def test_a_session_over_shared_memory_loads_no_module_that_only_networks_need():
    modules = loaded(
        "import rfp\n"
        "with rfp.Server(memory='16MiB') as server, rfp.connect(server.address) as kv:\n"
        "    kv.put(b'k', b'v')\n"
        "    assert kv.get(b'k') == b'v'\n"
    )
    assert (
        sorted(modules & {"ssl", "hmac", "secrets", "asyncio", "rfp.control.tcp", "rfp._verbs"})
        == []
    )


@pytest.mark.parametrize("package", ["rfp", "rnvm", "structures"])
def test_every_public_name_is_listed_and_can_be_imported(package):
    text = (
        f"import {package} as p, json\n"
        "listed = set(p.__all__) <= set(dir(p))\n"
        "from " + package + " import *\n"
        "public = [name in globals() for name in p.__all__]\n"
        "print(json.dumps([listed, all(public), hasattr(p, 'nothing_of_this_name')]))"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", text], capture_output=True, text=True, timeout=50
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [True, True, False]
