"""What a user gets: these packages and nothing else, each extension with its stub, from a plain `pip install .`."""

import importlib
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import machinery, metadata
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"rfp", "rnvm", "structures", "bench"}
VERBS = ("rfp/_verbs", "rfp/fabric/verbs/")
SCRIPTS = {"rfp", "rnvm", "rfp-ycsb", "rfp-experiments"}


@pytest.fixture(scope="module")
def installed() -> list[PurePosixPath]:
    """The files of the installed distribution: of its wheel, and the commands that pip made."""
    distribution = metadata.distribution("rfp-rnvm")
    files = distribution.files or []
    if any("editable" in str(file) for file in files):
        pytest.skip(
            "an editable install: its wheel holds only a hook; `make test` looks at a real one"
        )
    return [PurePosixPath(file) for file in files if file.suffix != ".pyc"]


def test_the_wheel_holds_the_packages_and_nothing_else(installed):
    tops = {file.parts[0] for file in installed if file.parts[0] != ".."}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert {file.name for file in installed if file.parts[0] == ".."} == SCRIPTS


def test_the_wheel_leaves_tests_and_c_sources_out(installed):
    assert [
        str(file)
        for file in installed
        if file.suffix in {".pyx", ".c", ".h"} or "tests" in file.parts
    ] == []


def test_every_extension_that_python_code_can_use_has_a_stub(installed):
    without = []
    for file in installed:
        if (
            file.suffix == ".so"
            and file.with_name(file.name.split(".")[0] + ".pyi") not in installed
        ):
            name = ".".join([*file.parts[:-1], file.name.split(".")[0]])
            module = importlib.import_module(name)
            own = [
                key
                for key, value in vars(module).items()
                if getattr(value, "__module__", None) == name
            ]
            without += [f"{name}: {', '.join(own)}"] if own else []
    assert without == []


def test_every_source_is_in_the_wheel(installed):
    """Catches a file that nobody put into its folder's meson.build."""
    compiled = machinery.EXTENSION_SUFFIXES[0]
    expected = {
        str(file.relative_to(ROOT)).replace(".pyx", compiled)
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.suffix in {".py", ".pyi", ".pyx", ".pxd"}
    }
    missing = sorted(expected - {str(file) for file in installed})
    assert missing == []


def test_the_rdma_provider_links_nothing_so_that_it_imports_anywhere(installed):
    """Every build contains it; libibverbs is loaded when an rdma:// address needs it."""
    built = [file for file in installed if str(file).startswith(VERBS) and file.suffix == ".so"]
    assert built
    for file in built:
        path = metadata.distribution("rfp-rnvm").locate_file(file)
        needed = subprocess.run(
            ["readelf", "-d", path], capture_output=True, text=True, check=True
        ).stdout
        libraries = set(re.findall(r"NEEDED.*\[(.*)\]", needed))
        assert not {
            name
            for name in libraries
            if not name.startswith(
                ("libc.", "libdl.", "ld-", "libpthread.", "libasan.", "libubsan.")
            )
        }


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_every_package_says_that_it_is_typed(installed, package):
    assert PurePosixPath(package, "py.typed") in installed


def test_the_patent_notice_and_the_licences_travel_with_it(installed):
    licences = {file.name for file in installed if "licenses" in file.parts}
    assert licences == {"LICENSE", "PATENTS.md", "LICENSE.xxhash", "LICENSE.rdma-core"}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_plain_pip_install_from_the_sdist_works(tmp_path, monkeypatch):
    """A committed tree, packed, unpacked and compiled by pip alone, with the tools that pip fetches."""
    monkeypatch.delenv(
        "PYTHONPATH", raising=False
    )  # pip would take what we have for what the new environment has
    clone = tmp_path / "clone"
    # Committed here: this tree may have come without its history.
    shutil.copytree(
        ROOT, clone, ignore=shutil.ignore_patterns(".git", ".venv*", "build", "out", "*.so")
    )
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        ["commit", "--quiet", "--message", "all"],
    ):
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *command],
            cwd=clone,
            check=True,
        )
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "-q", "install", "build"], check=True)
    subprocess.run(
        [python, "-m", "build", "-q", "--sdist", "--outdir", tmp_path, clone], check=True
    )
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("rfp/fabric/fabric.pyx") for name in archive.getnames())
    shutil.rmtree(clone)
    subprocess.run([python, "-m", "pip", "-q", "install", sdist], check=True)
    where = subprocess.check_output(
        [python, "-I", "-c", "import rfp.fabric.fabric as m; print(m.__file__)"],
        cwd=tmp_path,
        text=True,
    )
    assert where.startswith(str(environment))
