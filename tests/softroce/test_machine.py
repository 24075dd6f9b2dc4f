"""The environment of a command in the machine, and the results that are returned from it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from vm import kernel
from vm.job import Job
from vm.machine import Machine, MachineError
from vm.pmem import parse

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


def test_output_and_errors_are_returned_unchanged_with_the_exit_status(softroce, tmp_path):
    data = os.urandom(4 << 20)
    (tmp_path / "data").write_bytes(data)
    script = 'cat data; pwd >&2; echo "$GREETING" >&2; echo reopened > /dev/stderr; exit 7'
    run = softroce("--", "bash", "-c", script, GREETING="two\nlines")
    assert hashlib.sha256(run.stdout).digest() == hashlib.sha256(data).digest()
    assert run.stderr.decode() == f"{tmp_path}\ntwo\nlines\nreopened\n"
    assert run.returncode == 7


def test_a_killed_command_has_a_shells_exit_status(softroce):
    run = softroce("--", "bash", "-c", "kill -9 $$")
    assert (run.returncode, run.stdout, run.stderr) == (137, b"", b"")


def test_a_command_that_hangs_is_ended_with_all_its_processes(softroce):
    run = softroce(
        "--timeout",
        10,
        "--",
        "bash",
        "-c",
        "trap '' INT; echo begun; sleep 1000 & wait; sleep 1000",
    )
    assert (run.returncode, run.stdout) == (137, b"begun\n")
    assert run.stderr.endswith(b"softroce: the command timed out after 10 s and was killed\n")


def test_the_machine_has_a_soft_roce_device_with_two_addresses(softroce):
    run = softroce("--", "ibv_devinfo", "-v", "-d", "rxe0")
    assert run.returncode == 0, run.stderr
    for fact in (
        b"PORT_ACTIVE",
        b"active_mtu:\t\t4096",
        b"::ffff:10.0.0.1, RoCE v2",
        b"::ffff:10.0.0.2, RoCE v2",
    ):
        assert fact in run.stdout


def test_the_projects_interpreter_runs_and_imports_the_project(softroce):
    run = softroce(
        "--",
        "python",
        "-c",
        "import rfp, sys; print(sys.prefix, rfp.__file__)",
        PYTHONPATH=os.environ.get("PYTHONPATH", ""),
    )
    assert run.returncode == 0, run.stderr
    prefix, file = run.stdout.decode().split()
    assert prefix == os.environ.get("VIRTUAL_ENV", str(ROOT / ".venv"))
    assert Path(file).is_relative_to(prefix) or Path(file).is_relative_to(ROOT)


def test_an_ordinary_user_can_write_to_writable_folders_and_lock_memory_up_to_the_limit(
    softroce, tmp_path
):
    (tmp_path / "kept").mkdir(mode=0o777)
    (tmp_path / "kept").chmod(0o777)
    script = "id -u; ulimit -l; touch kept/yes && ls kept; touch /root/no"
    run = softroce("--rw", tmp_path / "kept", "--user", "--", "bash", "-c", script)
    assert run.stdout.decode().split() == ["65534", "8192", "yes"]
    assert b"/root/no': Permission denied" in run.stderr
    assert run.returncode == 1
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["yes"]


def test_files_written_to_other_folders_are_discarded(softroce, tmp_path):
    run = softroce("--", "bash", "-c", "touch here /etc/there && ls -d here /etc/there")
    assert run.stdout.decode().split() == ["/etc/there", "here"]
    assert list(tmp_path.iterdir()) == []
    assert not Path("/etc/there").exists()


def test_a_guest_that_panics_is_a_failure_of_the_machine(softroce):
    run = softroce("--", "bash", "-c", "echo c > /proc/sysrq-trigger; sleep 100")
    assert run.returncode == 125
    assert b"softroce: the machine exited before the command" in run.stderr
    assert b"Kernel Offset: disabled" in run.stderr  # the last line of a kernel


def test_persistent_memory_survives_a_killed_machine(tmp_path):
    """A number is made durable and then printed; the machine is killed.

    The next machine reads no smaller number.
    """
    count = (
        "import mmap, os\n"
        "fd = os.open('/mnt/pmem0/n', os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 4096)\n"
        "memory = mmap.mmap(fd, 4096)\n"
        "for n in range(1, 1 << 30):\n"
        "    memory[:8] = n.to_bytes(8, 'little'); memory.flush(); print(n, flush=True)\n"
    )
    read = (
        "print(int.from_bytes(open('/mnt/pmem0/n', 'rb').read(8), 'little'),"
        " os.path.exists('/dev/dax1.0'))"
    )
    images = [f"{tmp_path}/file.img:64MiB", f"{tmp_path}/device.img:64MiB:devdax"]
    output, errors = bytearray(), bytearray()

    def machine(script):
        cache = Path.home() / ".cache" / "softroce"
        job = Job(["/usr/bin/python3", "-c", script], pmem=[parse(image) for image in images])
        return Machine(job, kernel.find(Path("/boot")), cache, output.extend, errors.extend, cpus=1)

    async def until_killed():
        machine_ = machine(count)

        def on_output(data):
            output.extend(data)
            if output.count(b"\n") >= 50:
                machine_.kill()

        machine_.out = on_output
        await machine_.run()

    with pytest.raises(MachineError, match="exited before the command"):
        asyncio.run(until_killed())
    last = int(output[: output.rindex(b"\n")].split()[-1])
    output.clear()
    assert asyncio.run(machine("import os; " + read).run()) == 0, errors
    found, device = output.split()
    assert last >= 50
    assert int(found) >= last
    assert device == b"True"


def test_a_machine_ends_if_its_launcher_is_killed(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [
        sys.executable,
        ROOT / "scripts" / "softroce",
        "--",
        "bash",
        "-c",
        "echo up; sleep 1000",
    ]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout.readline() == b"up\n"
        machines = _children(launcher.pid)
        assert len(machines) == 1
        launcher.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{machines[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{machines[0]}").exists()


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
