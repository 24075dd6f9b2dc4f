"""scripts/cython-once runs Cython once for builds of several kinds, and again after a change."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

SCRIPT = Path(__file__).parents[2] / "scripts" / "cython-once"
# Writes its arguments and the source as the C file, and counts its runs.
FAKE = """#!/bin/bash
echo run >> "$RUNS"
while [ $# -gt 0 ]; do
  case $1 in -o) out=$2; shift ;; *.pyx) source=$1 ;; esac; shift
done
grep -q broken "$source" && exit 3
{ echo "C of"; cat "$source"; } > "$out"
printf '%s: \\\\\\n  ../../rfp/a.pxd\\n' "$out" > "$out.dep"
"""


class Project:
    """A folder with the script, a source, and two environments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scripts").mkdir()
        shutil.copy(SCRIPT, folder / "scripts")
        (folder / "rfp").mkdir()
        (folder / "rfp" / "a.pyx").write_text("first\n")
        (folder / "rfp" / "a.pxd").write_text("declared\n")
        for venv in (".venv", ".venv-sanitize"):
            self.install(venv, "3.1.0")

    def install(self, venv: str, version: str) -> None:
        shutil.rmtree(self.folder / venv, ignore_errors=True)
        (self.folder / venv / f"lib/python3.11/site-packages/cython-{version}.dist-info").mkdir(
            parents=True
        )
        cython = self.folder / venv / "bin" / "cython"
        cython.parent.mkdir()
        cython.write_text(FAKE)
        cython.chmod(0o755)

    def build(self, kind: str, venv: str = ".venv", *options: str, status: int = 0) -> str:
        """Compile the source in the folder of a kind of builds; return the C file."""
        folder = self.folder / "build" / kind
        folder.mkdir(parents=True, exist_ok=True)
        out = "a.p/a.c"
        (folder / "a.p").mkdir(exist_ok=True)
        run = subprocess.run(
            [self.folder / "scripts/cython-once", self.folder / venv / "bin/cython", "-M", *options,
             "../../rfp/a.pyx", "-o", out],
            cwd=folder,
            env={**os.environ, "RUNS": str(self.folder / "runs")},
            timeout=30,
        )  # fmt: skip
        assert run.returncode == status
        if status:
            return ""
        (target, *others) = (folder / "a.p/a.c.dep").read_text().replace("\\\n", "").split()
        assert (target, others[-1]) == (f"{out}:", "../../rfp/a.pxd")
        return (folder / out).read_text()

    def runs(self) -> int:
        return len((self.folder / "runs").read_text().split())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_builds_of_two_kinds_run_cython_once(project: Project) -> None:
    assert (
        project.build("release") == project.build("sanitize", ".venv-sanitize") == "C of\nfirst\n"
    )
    assert project.runs() == 1


def test_a_changed_source_declaration_option_or_cython_is_compiled_again(project: Project) -> None:
    project.build("release")
    (project.folder / "rfp/a.pyx").write_text("second\n")
    assert project.build("release") == "C of\nsecond\n"
    assert project.runs() == 2
    (project.folder / "rfp/a.pxd").write_text("declared otherwise\n")
    project.build("release")
    assert project.runs() == 3
    project.build("release", ".venv", "--fast-fail")
    assert project.runs() == 4
    project.install(".venv-sanitize", "3.2.0")
    project.build("sanitize", ".venv-sanitize", "--fast-fail")
    assert project.runs() == 5
    assert len(list((project.folder / "build/cython/rfp.a.pyx").iterdir())) == 1


def test_a_failure_is_that_of_cython_and_is_not_kept(project: Project) -> None:
    (project.folder / "rfp/a.pyx").write_text("broken\n")
    project.build("release", status=3)
    project.build("release", status=3)
    assert project.runs() == 2


def test_a_cython_of_unknown_version_always_runs(project: Project) -> None:
    shutil.rmtree(project.folder / ".venv/lib")
    project.build("release")
    project.build("sanitize")
    assert project.runs() == 2
