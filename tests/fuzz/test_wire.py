"""The wire format's checks under a fuzzer.

The fuzzer is libFuzzer if clang is installed, otherwise pseudo-random inputs with gcc's
sanitizers.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SOURCE = pathlib.Path(__file__).with_name("fuzz_wire.c")
FLAGS = ["-g", "-O1", "-std=gnu11", f"-I{ROOT}", str(SOURCE)]


def compiled(tmp_path: pathlib.Path, compiler: str, *options: str) -> str:
    target = str(tmp_path / "fuzz_wire")
    done = subprocess.run(
        [compiler, *options, *FLAGS, "-o", target], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return target


def test_no_input_makes_the_checks_read_beyond_their_memory_or_accept_a_torn_message(tmp_path):
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "the package was compiled without a compiler on the PATH: apt-get install gcc"
    target = compiled(
        tmp_path,
        compiler,
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-DSTANDALONE",
    )
    done = subprocess.run([target, "200000"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "200000 inputs" in done.stdout


@pytest.mark.long(30)
def test_no_input_of_a_coverage_guided_fuzzer_breaks_the_checks(tmp_path):
    clang = shutil.which("clang") or shutil.which("clang-14") or shutil.which("clang-16")
    if clang is None:
        # Without clang the inputs are not guided by coverage; ten times the random inputs are the
        # best substitute.
        target = compiled(
            tmp_path, shutil.which("gcc") or "cc", "-fsanitize=address,undefined", "-DSTANDALONE"
        )
        command = [target, "2000000"]
    else:
        target = compiled(
            tmp_path, clang, "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"
        )
        command = [target, "-max_total_time=20", "-max_len=2400", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
