"""Inside a checkout Python imports the installed package, although it finds the sources first."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("rfp", "rnvm", "structures", "bench")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """Return a copy of the sources in which nothing is compiled."""
    folder = tmp_path_factory.mktemp("checkout")
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
    return folder


def run(
    *arguments: str, cwd: Path, python: str | Path = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, *arguments]
    return subprocess.run(
        command, cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, timeout=50
    )


def origin(name: str) -> str:
    """Return the path from which the environment imports the module."""
    text = f"import {name} as m; print(m.__file__)"
    return subprocess.check_output([sys.executable, "-I", "-c", text], text=True).strip()


@pytest.mark.parametrize(
    "name",
    [
        "rfp",
        "rfp.store.client.client",
        "rfp.cli",
        "rnvm",
        "rnvm.backend.backend",
        "structures",
        "structures.queue",
        "bench",
        "bench.cli",
    ],
)
def test_the_installed_module_is_imported(name, checkout):
    result = run("-c", f"import {name} as m; print(m.__file__)", cwd=checkout)
    assert (result.returncode, result.stdout.strip()) == (0, origin(name)), result.stderr


@pytest.mark.parametrize("first", PACKAGES)
def test_no_module_of_the_checkout_stays_imported(first, checkout):
    paths = "[m.__name__ for m in (rfp, rnvm, structures) if any(map(inside, m.__path__))]"
    text = (
        f"import {first}, rfp, rnvm, structures, bench.cli, sys\n"
        "from rfp import Client, connect\n"
        f"inside = lambda path: (path or '').startswith({str(checkout)!r})\n"
        "modules = sys.modules.items()\n"
        "print([n for n, m in modules if inside(getattr(m, '__file__', None))])\n"
        f"print({paths})"
    )
    result = run("-c", text, cwd=checkout)
    assert (result.returncode, result.stdout) == (0, "[]\n[]\n"), result.stderr


def test_the_five_lines_of_readme_work(checkout):
    blocks = re.findall(r"```(?:pycon|python)\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    block = next(each for each in blocks if "rfp.Server" in each)
    examples = doctest.DocTestParser().get_examples(block)
    lines = "".join(example.source for example in examples) if examples else block
    result = run("-c", lines, cwd=checkout)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", ["rfp.cli", "rnvm.cli"])
def test_a_module_can_be_run(module, checkout):
    result = run("-m", module, "--help", cwd=checkout)
    assert result.returncode == 0, result.stderr
    assert "Usage" in result.stdout


def test_a_script_in_the_checkout_finds_the_installed_package(checkout):
    script = checkout / "example.py"
    script.write_text("import structures, rfp\nprint(rfp.__file__)")
    result = run(str(script), cwd=checkout.parent)
    assert (result.returncode, result.stdout.strip()) == (0, origin("rfp")), result.stderr


def test_python_m_pytest_in_the_checkout_tests_the_installed_package(checkout):
    (checkout / "test_here.py").write_text(
        f"import rfp\ndef test_here():\n    assert rfp.__file__ == {origin('rfp')!r}\n"
    )
    result = run(
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(checkout),
        "test_here.py",
        cwd=checkout,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "import rfp",
        "import rnvm",
        "import structures",
        "import bench.cli",
        "from structures import Queue",
    ],
)
def test_the_error_without_an_installed_package_has_a_hint(statement, checkout, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"  # an environment without packages
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    result = run("-c", statement, cwd=checkout, python=python)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith(
        f"ImportError: {checkout}/rfp contains the sources of rfp, which are not compiled there"
    )
    assert f"run `make demo` in {checkout} and start .venv/bin/python" in last


def test_the_error_names_the_environment_of_make(checkout, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    made = checkout / ".venv" / "bin" / "python"
    made.parent.mkdir(parents=True)
    try:
        made.symlink_to(sys.executable)
        result = run("-c", "import rfp", cwd=checkout, python=tmp_path / "venv" / "bin" / "python")
    finally:
        shutil.rmtree(checkout / ".venv")
    assert result.stderr.splitlines()[-1].endswith(f"has no installed package: start {made}")


def test_another_checkout_on_the_path_is_not_imported_as_the_installed_package(checkout, tmp_path):
    shutil.copytree(checkout / "rfp", tmp_path / "rfp")
    result = run("-c", "import rfp; print(rfp.__file__)", cwd=checkout, PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stdout.strip()) == (0, origin("rfp")), result.stderr
