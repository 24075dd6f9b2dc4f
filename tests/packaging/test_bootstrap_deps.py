"""scripts/bootstrap-deps names missing packages, and installs them for root on Debian."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

NEED = Path(__file__).parents[2] / "scripts" / "bootstrap-deps"


class Machine:
    """A folder of commands that represents a machine's PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("bash", "env", "sed", "cat", "ln"):
            self.have(name, Path(shutil.which(name) or name))
        self.have("python3", Path(sys.executable))
        self.command("cc", "cat >/dev/null")
        self.command("id", "echo 1000")

    def have(self, name: str, target: Path) -> None:
        (self.folder / name).symlink_to(target)

    def command(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def lack(self, *names: str) -> None:
        for name in names:
            (self.folder / name).unlink()

    def need(
        self, python: str = "python3", purpose: str = "build", **variables: str
    ) -> subprocess.CompletedProcess:
        environment = (
            {key: value for key, value in os.environ.items() if key != "CC"}
            | {"PATH": str(self.folder)}
            | variables
        )
        return subprocess.run(
            [NEED, purpose, python], env=environment, capture_output=True, text=True, timeout=30
        )


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path / "bin")


def put_python(machine, *, prefix="/usr", old=False, venv=True, headers=True):
    """Put a python3 with these properties on the machine.

    It answers the questions of scripts/bootstrap-deps as such a Python would.
    """
    machine.lack("python3")
    answers = {
        "sys.exit(sys.version_info": "exit 1" if old else "exit 0",
        "print(sys.base_prefix)": f"echo {prefix}",
        'print("python%d': "echo python3.11",
        "import ensurepip, venv": "exit 0" if venv else "exit 1",
        "sysconfig": f"echo {machine.folder if headers else '/nowhere'}",
        "-V": "echo Python 3.9.2",
    }
    (machine.folder / "Python.h").touch()
    cases = "\n".join(f"  *{key!r}*) {answer} ;;" for key, answer in answers.items())
    machine.command("python3", f'case "$*" in\n{cases}\n  *) exit 3 ;;\nesac')


def test_a_complete_machine_is_not_changed(machine):
    run = machine.need()
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("lacking", "packages"),
    [(["cc"], "gcc libc6-dev"), (["python3"], "python3 python3-venv python3-dev")],
)
def test_the_error_has_the_command_that_installs_the_missing_packages(machine, lacking, packages):
    machine.lack(*lacking)
    machine.command("apt-get", "exit 9")
    run = machine.need()
    assert run.returncode == 1
    assert f"sudo apt-get install --no-install-recommends {packages}\n" in run.stderr


def test_the_missing_programs_are_named_on_other_systems_than_debian(machine):
    machine.lack("cc")
    run = machine.need()
    assert run.returncode == 1
    assert "a C compiler" in run.stderr
    assert "Fedora" in run.stderr


def test_the_missing_packages_are_installed_for_root_on_debian(machine, tmp_path):
    machine.lack("cc")
    machine.command("id", "echo 0")
    program = machine.folder / "program"
    machine.command("program", "cat >/dev/null")
    install = f"ln -s {program} {machine.folder}/cc"
    machine.command(
        "apt-get", f'echo "$@" >> {tmp_path}/log; [ "$1" = update ] || {{ {install}; }}'
    )
    run = machine.need()
    assert run.returncode == 0
    assert (tmp_path / "log").read_text().splitlines() == [
        "update -qq",
        "install --no-install-recommends gcc libc6-dev -qq -y",
    ]


def test_comparisons_run_without_missing_peers_and_name_them(machine):
    machine.command("memcached", "exit 0")
    machine.command("apt-get", "exit 9")
    run = machine.need(purpose="peers")
    assert run.returncode == 0
    assert "Missing on this machine: Redis.\n" in run.stderr
    assert "install --no-install-recommends redis-server\n" in run.stderr
    machine.command("id", "echo 0")
    assert machine.need(purpose="peers").returncode == 0, (
        "the exit status must be 0 even if installing them fails"
    )


def test_the_suite_runs_without_missing_coordinators_and_names_them(machine, tmp_path):
    machine.command("uname", "echo aarch64")
    machine.command("java", "exit 0")
    machine.command("setpriv", "exit 0")
    machine.command("apt-get", "exit 9")
    run = machine.need(purpose="coordinators", JAVA_LIBRARIES=str(tmp_path))
    assert run.returncode == 0
    assert "Missing on this machine: etcd, ZooKeeper.\n" in run.stderr
    assert "install --no-install-recommends etcd-server libzookeeper-java\n" in run.stderr
    machine.command("uname", "echo x86_64")
    (tmp_path / "zookeeper.jar").touch()
    run = machine.need(purpose="coordinators", JAVA_LIBRARIES=str(tmp_path))
    assert (run.returncode, run.stderr) == (0, "")


def test_the_speed_table_also_uses_the_example_maps_of_pmdk(machine, tmp_path):
    for name in ("memcached", "redis-server"):
        machine.command(name, "exit 0")
    machine.command("apt-get", "exit 9")
    run = machine.need(purpose="bench", PMDK_ROOT=str(tmp_path))
    assert run.returncode == 0
    assert "Missing on this machine: PMDK's example maps.\n" in run.stderr
    assert "install --no-install-recommends libpmemobj-dev\n" in run.stderr
    examples = tmp_path / "usr/share/doc/libpmemobj-dev/examples/map"
    examples.mkdir(parents=True)
    (examples / "map.h").touch()
    assert machine.need(purpose="bench", PMDK_ROOT=str(tmp_path)).stderr == ""


def test_an_installation_that_does_not_help_is_an_error(machine):
    machine.lack("cc")
    machine.command("id", "echo 0")
    machine.command("apt-get", "exit 0")
    run = machine.need()
    assert run.returncode == 1
    assert "still missing after the installation" in run.stderr


def test_a_debian_python_needs_the_packages_of_its_own_version(machine):
    put_python(machine, venv=False, headers=False)
    machine.command("apt-get", "exit 9")
    run = machine.need()
    assert run.returncode == 1
    assert "install --no-install-recommends python3.11-venv python3.11-dev\n" in run.stderr


def test_another_python_without_headers_is_refused_with_a_hint(machine):
    put_python(machine, prefix="/opt/python", headers=False)
    run = machine.need()
    assert run.returncode == 1
    assert "/opt/python/bin/python3.11 was built without its C headers" in run.stderr
    assert "PYTHON=/usr/bin/python3" in run.stderr


def test_an_old_python_is_refused(machine):
    put_python(machine, old=True)
    run = machine.need()
    assert run.returncode == 1
    assert "Python 3.9.2; Python 3.10 or newer is needed" in run.stderr


def test_a_missing_python_is_named(machine):
    run = machine.need("python3.99")
    assert run.returncode == 1
    assert "PYTHON=python3.99: command not found" in run.stderr


@pytest.fixture
def host(machine):
    """Return a computer for scripts/softroce with all commands, and the files of this computer."""
    for name in (
        "qemu-system-x86_64",
        "cpio",
        "modprobe",
        "ip",
        "rdma",
        "setpriv",
        "ndctl",
        "mkfs.ext4",
        "ibv_devinfo",
        "busybox",
    ):
        machine.command(name, "exit 0")
    machine.command("uname", "echo x86_64")
    machine.command("ldd", "exit 1")
    machine.have("grep", Path(shutil.which("grep") or "grep"))
    machine.command("apt-get", "exit 9")
    return machine


def advised_packages(run):
    """Return the packages that the user is advised to install."""
    line = next(
        (
            line
            for line in run.stderr.splitlines()
            if "sudo apt-get install" in line or " && sudo apt-get" in line
        ),
        "",
    )
    return set(line.rpartition("--no-install-recommends ")[2].split())


def test_the_missing_programs_of_the_soft_roce_machine_are_named(host):
    before = advised_packages(host.need("", "softroce"))
    host.lack("qemu-system-x86_64", "cpio")
    run = host.need("", "softroce")
    assert run.returncode == 1
    assert advised_packages(run) - before == {"qemu-system-x86", "cpio"}
    assert "Missing on this machine: qemu-system-x86_64, cpio" in run.stderr


def test_a_busybox_that_needs_libraries_does_not_suffice(host):
    before = advised_packages(host.need("", "softroce"))
    host.command("ldd", "echo 'libc.so.6 => /lib/libc.so.6'")
    assert advised_packages(host.need("", "softroce")) - before == {"busybox-static"}


def test_the_soft_roce_machine_is_refused_on_another_architecture(host):
    host.command("uname", "echo aarch64")
    run = host.need("", "softroce")
    assert run.returncode == 1
    assert "needs an x86-64 computer" in run.stderr


def test_a_missing_compiler_is_named(machine):
    run = machine.need(CC="no-such-compiler -O2")
    assert run.returncode == 1
    assert run.stderr == "CC=no-such-compiler -O2: command not found\n"


def test_a_broken_compiler_is_distinguished_from_a_missing_one(machine):
    machine.command("broken", "cat >/dev/null; exit 1")
    assert (
        machine.need(CC="broken").stderr == "CC=broken: this compiler cannot compile a C program\n"
    )


def test_a_package_with_several_missing_programs_is_named_once(machine):
    machine.command("uname", "echo x86_64")
    machine.command("apt-get", "exit 9")
    run = machine.need(purpose="softroce")
    command = next(line for line in run.stderr.splitlines() if "sudo apt-get install" in line)
    assert command.split().count("iproute2") == 1


def test_the_packages_of_the_tests_are_those_of_the_coordinators_and_of_the_benchmarks(
    machine, tmp_path
):
    run = machine.need(
        purpose="tests", JAVA_LIBRARIES=str(tmp_path), PMDK_ROOT=str(tmp_path / "none")
    )
    assert run.returncode == 0
    for name in ("libzookeeper-java", "redis-server", "memcached", "libpmemobj-dev"):
        assert name in run.stderr
