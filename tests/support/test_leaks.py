"""The leak check names each kind of resource, and the conftest ends and repeats runs."""

import mmap
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import leaks
import pytest
from slower import SLOWER

pytestmark = pytest.mark.pure

CONFTEST = Path(__file__).parents[1] / "conftest.py"


def test_an_open_descriptor_is_named():
    before = leaks.inventory()
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        assert leaks.left_behind(before, seconds=0) == [f"descriptor {fd} -> /dev/null"]
    finally:
        os.close(fd)
    assert leaks.left_behind(before, seconds=0) == []


def test_a_listening_socket_is_named_with_its_path_and_so_is_its_file():
    path = os.environ["XDG_RUNTIME_DIR"] + "/listener"
    before = leaks.inventory()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        left = leaks.left_behind(before, seconds=0)
    assert len(left) == 2
    assert left[0].endswith(f"a Unix socket {path}")
    assert left[1] == "runtime file listener"
    os.unlink(path)


def test_a_shared_memory_file_of_this_run_is_named_and_one_of_another_run_is_not():
    before = leaks.inventory()
    with (
        tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as ours,
        tempfile.TemporaryDirectory(dir="/dev/shm") as others,
    ):
        for folder in (ours, others):
            Path(folder, "pool").touch()
        assert leaks.left_behind(before, seconds=0) == [
            f"shared-memory file {Path(ours).name}/pool"
        ]
    assert leaks.left_behind(before, seconds=0) == []


def test_a_mapping_is_counted_even_when_its_descriptor_is_closed():
    before = leaks.inventory()
    fd = os.memfd_create("rfp-region")
    os.ftruncate(fd, 8192)
    region = mmap.mmap(fd, 8192)
    grown = leaks.inventory()
    again = mmap.mmap(fd, 4096)
    os.close(fd)
    # mmap keeps a duplicate of the descriptor for each mapping.
    first = [line for line in leaks.left_behind(before, seconds=0) if "mapped" in line]
    second = [line for line in leaks.left_behind(grown, seconds=0) if "mapped" in line]
    region.close()
    again.close()
    assert first[0].startswith("12288 bytes mapped of /memfd:rfp-region")
    assert second[0].startswith("4096 bytes mapped of /memfd:rfp-region")


def test_a_thread_has_some_seconds_to_end_and_is_named_if_it_does_not():
    before = leaks.inventory()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, args=(30,))
    thread.start()
    left = leaks.left_behind(before, seconds=0)
    threading.Timer(0.05, stop.set).start()
    settled = leaks.left_behind(before, seconds=10)
    thread.join()
    assert [line.split()[:2] for line in left] == [["thread", str(thread.native_id)]]
    assert settled == []


def test_a_child_process_is_named():
    before = leaks.inventory()
    with subprocess.Popen(["sleep", "30"]) as child:
        left = [line for line in leaks.left_behind(before, seconds=0) if "process" in line]
        child.kill()
    assert left
    assert str(child.pid) in left[0]


@pytest.fixture
def suite(tmp_path):
    """Run pytest on a test file of the given text, under this conftest."""
    shutil.copy(CONFTEST, tmp_path)
    support = Path(leaks.__file__).parent

    # A run that hangs leaves its private folders. They are in tmp_path, which pytest removes.
    environment = {**os.environ, "TMPDIR": str(tmp_path), "TESTS_MEMORY": str(tmp_path)}

    def run(text, *options):
        (tmp_path / "test_it.py").write_text(text)
        (tmp_path / "pytest.ini").write_text(
            "[pytest]\naddopts = --import-mode=importlib\n"
            f"pythonpath = {support}\ntimeout = 60\nmarkers =\n  long\n  every_case\n"
        )
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--settle=0.1",
            *options,
        ]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50
        )

    return run


def test_a_test_that_leaks_fails_and_the_next_one_does_not(suite):
    run = suite("import os\ndef test_leaks(): os.dup(0)\ndef test_does_not(): pass\n")
    assert run.returncode == 1
    assert "the test left behind: descriptor" in run.stdout
    assert "2 passed, 2 errors" in run.stdout  # one error of the test, one of the session


# PyDLL holds the GIL while it sleeps, so no signal handler and no other Python thread can run.
HANGING = f"""import ctypes, pytest
@pytest.mark.timeout({1.5 - 15 * SLOWER})
def test_hangs(): ctypes.PyDLL(None).sleep(40)
"""


def test_a_hang_in_c_ends_the_run_with_a_stack(suite):
    run = suite(HANGING)
    assert run.returncode == 1
    assert "test_hangs" in run.stderr


def test_a_run_that_hangs_leaves_only_the_folders_in_its_tmpdir(suite, tmp_path):
    suite(HANGING)
    assert len(list(tmp_path.glob("rfp-tests-*"))) == 2  # its private folder, and that for pools


def test_a_printed_seed_repeats_a_run(suite):
    text = "def test_draws(rng): raise SystemError(rng.random())\n"
    outputs = [suite(text, f"--seed={seed}").stdout for seed in (7, 7, 8)]
    drawn = [next(line for line in output.splitlines() if "E  " in line) for output in outputs]
    assert "seed: 7 " in outputs[0]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_tests_that_a_time_limit_leaves_out_are_counted_and_named(suite):
    text = "\n".join(f"def test_{n}(): pass" for n in range(3))
    run = suite(text, "--seconds=-1", "-rs", "-v")
    assert "3 skipped" in run.stdout
    assert "SKIPPED [3]" in run.stdout
    assert all(f"test_it.py::test_{n} SKIPPED" in run.stdout for n in range(3))


def test_a_test_starts_only_if_its_time_is_left_and_can_end_with_the_run(suite):
    run = suite(
        "import pytest, time\n"
        "@pytest.mark.long(100)\n"
        "def test_longer(): pass\n"
        "def test_shorter(run_ends): assert 0 < run_ends - time.monotonic() < 50\n",
        "--seconds=50",
    )
    assert run.returncode == 0, run.stdout
    assert "1 passed, 1 skipped" in run.stdout


@pytest.mark.parametrize(("cases", "counts"), [("one", (4, 8)), ("all", (12, 0))])
def test_cases_of_each_test_can_be_drawn_and_all_of_those_that_run_different_code(
    suite, cases, counts
):
    run = suite(
        "import pytest\n"
        "@pytest.mark.parametrize('n', range(9))\n"
        "def test_alike(n): print('drawn', n)\n"
        "@pytest.mark.every_case\n"
        "@pytest.mark.parametrize('n', range(3))\n"
        "def test_different(n): pass\n",
        f"--cases={cases}",
    )
    passed, left_out = counts
    assert f"{passed} passed" in run.stdout
    assert (f"{left_out} deselected" in run.stdout) == (left_out > 0)


def test_each_test_draws_from_a_seed_of_its_own(seed, rng):
    assert rng.random() == random.Random(seed).random()
