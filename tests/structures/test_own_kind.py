"""The structure that docs/rnvm-structures.md shows compiles as the page says, and works."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from .backends import backend

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "rnvm-structures.md"

COMPILER = os.environ.get("CC", "cc").split()
PROGRAM = """
import sys, rnvm
from counter import Counter
with rnvm.connect(sys.argv[1]) as fe:
    visits = Counter(fe, "visits")
    print(visits.add(3), visits.add(-1), visits.value)
    visits.check()
"""


def test_the_example_of_a_structure_compiles_and_counts(tmp_path: Path) -> None:
    example = PAGE.read_text().partition("```cython\n")[2].partition("```")[0]
    (tmp_path / "counter.pyx").write_text(example)
    unsanitized = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    for command in (
        [sys.executable, "-m", "cython", "-3", "-I", ROOT, "counter.pyx"],
        [*COMPILER, "-shared", "-fPIC", "-O0", "-I", ROOT, "-I", sysconfig.get_path("include"),
         "counter.c", "-o", "counter.so"],
    ):  # fmt: skip
        subprocess.run(command, cwd=tmp_path, env=unsanitized, check=True)
    with backend("8MiB") as served:
        found = subprocess.run(
            [sys.executable, "-c", "import sys; sys.path.insert(0, '')" + PROGRAM, served.address],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert found.stdout == "3 2 2\n"
