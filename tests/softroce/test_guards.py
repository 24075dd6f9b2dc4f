"""A machine that hangs, dies or never starts is distinguished from a command that fails.

Programs replace QEMU here: no machine boots.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from vm import initramfs
from vm.errors import MachineError
from vm.job import Job
from vm.kernel import Kernel
from vm.machine import Machine

pytestmark = pytest.mark.pure


class Bench:
    """A folder in which a script replaces QEMU.

    $control, $out and $err are its ports, $folder is the job's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out, self.err = bytearray(), bytearray()

    def qemu(self, script: str) -> None:
        ports = """for each; do case $each in
            file,id=*) name=${each#file,id=}; declare "${name%%,*}=${each#*path=}" ;;
            file:*) folder=${each#file:} folder=${folder%/console} ;;
        esac; done"""
        path = self.folder / "qemu-system-x86_64"
        path.write_text(f"#!/bin/bash\necho started >> {self.folder}/starts\n{ports}\n{script}\n")
        path.chmod(0o755)

    def machine(self, *, boot_seconds: float = 30, **job: object) -> Machine:
        (self.folder / "vmlinuz").write_bytes(bytes(1024))
        kernel = Kernel("1", self.folder / "vmlinuz")
        return Machine(
            Job(**{"command": ["true"], **job}),
            kernel,
            self.folder,
            self.out.extend,
            self.err.extend,
            boot_seconds=boot_seconds,
        )

    def run(self, **options: object) -> int:
        return asyncio.run(self.machine(**options).run())

    @property
    def starts(self) -> int:
        return len((self.folder / "starts").read_text().splitlines())


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(initramfs, "build", lambda release, target: target.touch())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return Bench(tmp_path)


def test_the_guests_output_errors_and_status_are_returned(bench):
    bench.qemu("echo ready > $control; echo one > $out; echo two > $err; echo status 42 > $control")
    assert bench.run() == 42
    assert (bytes(bench.out), bytes(bench.err)) == (b"one\n", b"two\n")


def test_a_machine_that_hangs_before_the_command_is_started_again(bench):
    bench.qemu(
        f"[ $(wc -l < {bench.folder}/starts) = 3 ] || exec sleep 100\n"
        "echo ready > $control; echo status 0 > $control"
    )
    assert bench.run(boot_seconds=1) == 0
    assert bench.starts == 3


def test_the_error_of_a_machine_that_never_boots_has_the_last_lines_of_its_kernel(bench):
    bench.qemu("echo stuck here > $folder/console; exec sleep 100")
    with pytest.raises(MachineError, match=r"did not boot in 1\.2 s\n  stuck here"):
        bench.run(boot_seconds=0.3)
    for seconds in (b"0.3", b"0.6", b"1.2"):
        assert bench.err.count(b"did not boot in %s s\n  stuck here" % seconds) == 1
    assert bench.starts == 3


def test_a_machine_is_not_started_again_once_its_command_may_have_begun(bench):
    bench.qemu("echo ready > $control; echo Kernel panic > $folder/console")
    with pytest.raises(MachineError, match="exited before the command\n  Kernel panic"):
        bench.run()
    assert bench.starts == 1


def test_the_errors_of_qemu_are_shown(bench):
    bench.qemu("echo cannot allocate memory >&2; exit 1")
    with pytest.raises(MachineError, match="cannot allocate memory"):
        bench.run()
    assert bench.starts == 1


def test_devices_that_cannot_be_set_up_are_a_failure_of_the_machine(bench):
    bench.qemu("echo no such module > $err; echo failed > $control")
    with pytest.raises(MachineError, match="cannot set up the machine's devices"):
        bench.run()
    assert bytes(bench.err) == b"no such module\n"


def test_a_guest_that_exceeds_its_limit_is_killed(bench, monkeypatch):
    monkeypatch.setattr("vm.machine.GRACE_SECONDS", 0.2)
    bench.qemu("echo ready > $control; exec sleep 100")
    with pytest.raises(MachineError, match="hung and was killed"):
        bench.run(limit=0.2)


def test_a_power_failure_ends_the_machine_at_once(bench):
    bench.qemu("echo ready > $control; echo begun > $out; exec sleep 100")

    async def story():
        machine = bench.machine()
        machine.out = lambda data: machine.kill()
        await machine.run()

    with pytest.raises(MachineError, match="exited before the command"):
        asyncio.run(story())


def test_a_sink_that_fails_ends_the_machine(bench):
    bench.qemu("echo ready > $control; echo begun > $out; exec sleep 100")
    machine = bench.machine()

    def gone(data):
        raise BrokenPipeError

    machine.out = gone
    with pytest.raises(BrokenPipeError):
        asyncio.run(machine.run())


def test_no_files_of_a_job_are_left(bench):
    bench.qemu("echo ready > $control; echo status 0 > $control")
    before = set(bench.folder.iterdir())
    bench.run()
    assert {path.name for path in set(bench.folder.iterdir()) - before} == {"starts", "vmlinuz"}


def test_the_next_job_removes_the_files_of_a_killed_launcher(bench):
    text = (
        "import os, sys, tempfile; from pathlib import Path; from vm.job import Job\n"
        "with Job(['true']).folder() as folder: print(folder, flush=True); sys.stdin.read()"
    )
    scripts = Path(initramfs.__file__).parents[1]
    environment = {**os.environ, "TMPDIR": str(bench.folder), "PYTHONPATH": str(scripts)}
    with subprocess.Popen(
        [sys.executable, "-c", text], env=environment, stdin=-1, stdout=-1, text=True
    ) as launcher:
        left = Path(launcher.stdout.readline().strip())
        long_ago = time.time() - 3600
        os.utime(left, (long_ago, long_ago))
        with Job(["true"]).folder():
            assert left.exists()  # in use, however old
        launcher.kill()
    with Job(["true"]).folder():
        assert not left.exists()


def test_a_missing_writable_folder_is_refused(tmp_path):
    with pytest.raises(MachineError, match="nowhere: the folder does not exist"):
        Job(["true"], shares=[tmp_path / "nowhere"])


def test_the_command_gets_words_variables_and_folder_exactly(tmp_path):
    words = ["it's", 'a "b"', "$HOME", "two\nlines", "", "*", "--"]
    variables = {
        "PLAIN": "1",
        "HARD": "it's\n$HOME `x` \\",
        "BASH_FUNC_f%%": "() { :; }",
        "PATH": os.environ["PATH"],
    }
    folder = tmp_path / "a folder; with $this"
    folder.mkdir()
    show = (
        "import json, os, sys; env = os.environ\n"
        "print(json.dumps([sys.argv[1:], env['HARD'], env['PLAIN'], os.getcwd()]))"
    )
    job = Job([sys.executable, "-c", show, *words], directory=folder, environment=variables)
    with job.folder() as place:
        output = subprocess.run(
            ["bash", place / "command"], env={}, capture_output=True, check=True
        ).stdout
    assert json.loads(output) == [words, variables["HARD"], "1", str(folder)]
