"""The distribution: these packages and no more, each extension with its stub, built by pip."""

import importlib
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import machinery, metadata
from pathlib import Path, PurePosixPath

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
PACKAGES = {"rfp", "rnvm", "structures", "bench"}
VERBS = ("rfp/_verbs", "rfp/fabric/verbs/")
SCRIPTS = {"rfp", "rnvm", "rfp-ycsb", "rfp-experiments"}


@pytest.fixture(scope="module")
def installed() -> list[PurePosixPath]:
    """Return the files of the installed distribution: its wheel, and the commands made by pip."""
    distribution = metadata.distribution("rfp-rnvm")
    files = distribution.files or []
    if any("editable" in str(file) for file in files):
        pytest.skip(
            "an editable install: its wheel holds only a hook; `make test` checks a real one"
        )
    return [PurePosixPath(file) for file in files if file.suffix != ".pyc"]


def test_the_wheel_contains_only_the_packages(installed):
    tops = {file.parts[0] for file in installed if file.parts[0] != ".."}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert {file.name for file in installed if file.parts[0] == ".."} == SCRIPTS


def test_the_wheel_contains_no_tests_and_no_c_sources_that_it_does_not_compile(installed):
    assert [
        str(file)
        for file in installed
        if file.suffix in {".pyx", ".c", ".h"} or "tests" in file.parts
    ] == ["bench/experiments/pmdk_maps.c"]


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
    """Catches a file that is missing in its folder's meson.build."""
    compiled = machinery.EXTENSION_SUFFIXES[0]
    expected = {
        str(file.relative_to(ROOT)).replace(".pyx", compiled)
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.suffix in {".py", ".pyi", ".pyx", ".pxd"}
    }
    missing = sorted(expected - {str(file) for file in installed})
    assert missing == []


def test_the_rdma_provider_links_no_library_so_that_it_imports_anywhere(installed):
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
def test_every_package_is_marked_as_typed(installed, package):
    assert PurePosixPath(package, "py.typed") in installed


def test_the_wheel_contains_the_patent_notice_and_the_licences(installed):
    licences = {file.name for file in installed if "licenses" in file.parts}
    assert licences == {"LICENSE", "PATENTS.md", "LICENSE.xxhash", "LICENSE.rdma-core"}


@pytest.mark.long(300)
@pytest.mark.timeout(900)
def test_a_plain_pip_install_from_the_sdist_works(tmp_path, monkeypatch):
    """pip alone packs, unpacks and compiles a committed tree, with the tools that it fetches."""
    # pip would take packages of this environment for those of the new one.
    monkeypatch.delenv("PYTHONPATH", raising=False)
    clone = tmp_path / "clone"
    # Committed here: this tree may be without its history.
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
