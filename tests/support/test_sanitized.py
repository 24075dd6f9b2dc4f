"""scripts/with-sanitizers fails on a report of any process, even of one that exits with 0."""

import subprocess
import sys
from pathlib import Path

import pytest

SANITIZED = Path(__file__).parents[2] / "scripts" / "with-sanitizers"
FAULTS = {
    "heap-buffer-overflow": "char *p = malloc(8); p[n * 8] = 1; return p[0];",
    "signed integer overflow": "n += 2147483647; return n > 0;",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_report_of_a_child_fails_a_run_that_passed(tmp_path, fault):
    source = tmp_path / "fault.c"
    source.write_text(f"#include <stdlib.h>\nint fault(int n) {{ {FAULTS[fault]} }}\n")
    library = tmp_path / "fault.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-fsanitize=address,undefined", "-o", library, source],
        check=True,
    )
    program = f'import ctypes; ctypes.CDLL("{library}").fault(1)'
    child = f"{sys.executable} -c '{program}' 2>/dev/null; exit 0"
    run = subprocess.run([SANITIZED, "sh", "-c", child], capture_output=True, text=True, timeout=30)
    assert run.returncode == 1
    assert fault in run.stdout


def test_a_clean_run_keeps_its_status(tmp_path):
    assert subprocess.run([SANITIZED, "true"], timeout=30).returncode == 0
    assert subprocess.run([SANITIZED, "sh", "-c", "exit 7"], timeout=30).returncode == 7
