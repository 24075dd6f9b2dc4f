"""`rnvm serve` of a group's members, and the commands that refuse a member's pool."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from polling import until

import rnvm
from rnvm import pools
from rnvm.cli import main
from rnvm.group import admin
from rnvm.testing.sample_structure import Sample

from .groups import SOON, in_sync, until_in_sync, until_primary

RNVM = [sys.executable, "-m", "rnvm.cli"]
HOST = socket.gethostname().split(".")[0]


def run(*arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == status, (arguments, done.output)
    return done.output


def refused(path: Path | str) -> str:
    """Return what `rnvm serve` of this pool prints.  In its own process: it catches signals."""
    done = subprocess.run([*RNVM, "serve", path], capture_output=True, text=True, timeout=SOON)
    assert done.returncode == 1, done
    return done.stderr


class Command:
    """A command that runs until a signal ends it; its output goes to a file."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.out = open(folder / f"output-{len(list(folder.iterdir()))}", "w+b")  # noqa: SIM115
        self.running = subprocess.Popen([*RNVM, *arguments], stdout=self.out, stderr=self.out)

    def printed(self) -> str:
        return os.pread(self.out.fileno(), 1 << 20, 0).decode()

    def until(self, text: str) -> None:
        def found() -> bool:
            if text in self.printed():
                return True
            assert self.running.poll() is None, self.printed()
            return False

        try:
            until(found, SOON)
        except AssertionError:
            raise AssertionError(f"no {text!r} in {self.printed()!r}") from None

    def terminate(self) -> None:
        self.running.send_signal(signal.SIGTERM)
        assert self.running.wait(SOON) == 0, self.printed()
        assert self.printed().endswith("stopped\n")


@contextlib.contextmanager
def command(folder: Path, *arguments: str) -> Iterator[Command]:
    made = Command(folder, *arguments)
    try:
        yield made
    finally:
        made.running.kill()
        made.running.wait()
        made.out.close()


def test_the_commands_of_the_guide(address: str, folder: Path, tmp_path: Path) -> None:
    one, other = str(folder / "a.pool"), str(folder / "b.pool")
    service, _, name = address.rpartition("/")
    run("create", one, "--size", "4MiB", "--assume-persistent")
    run("group", "create", address, "--pool", one, "--member", HOST, "--min-mirrors", "0")
    with (
        command(tmp_path, "serve", one, "--group", address) as a,
        command(
            tmp_path, "serve", other, "--group", name, "--coordinator", service, "--member", "b"
        ) as b,
    ):
        a.until(f"member {HOST} of group {name}, pid {a.running.pid}")
        a.until(f"primary of epoch 2 at shm://{one}.socket")
        b.until("mirror, in sync")
        shown = json.loads(run("group", "status", address, "--json"))
        assert [each["member"] for each in shown["state"]["in_sync"]] == [HOST, "b"]
        assert "1 in sync, at least 0 required" in run("status", address)
        with rnvm.connect(address, timeout=SOON) as fe:
            sample = Sample(fe, "s")
            assert sample.add(1) == 1
            a.terminate()
            b.until(f"primary of epoch 3 at shm://{other}.socket")
            assert sample.add(1) == 2
        assert in_sync(address) == ["b"]
        b.terminate()
        assert len(b.printed().splitlines()) < 12, "it printed roles that did not last"
    assert "belongs to a group" in refused(other)
    with command(tmp_path, "serve", other, "--leave-group") as alone:
        alone.until("serving")
        with rnvm.connect(other, timeout=SOON) as fe:
            assert Sample(fe, "s").numbers()[0] == 2
        alone.terminate()


def test_a_member_whose_pool_is_removed_exits_with_status_3(
    group: str, folder: Path, tmp_path: Path
) -> None:
    one, other = str(folder / "a.pool"), str(folder / "b.pool")
    with (
        command(tmp_path, "serve", one, "--group", group, "--member", "a") as a,
        command(tmp_path, "serve", other, "--group", group, "--member", "b"),
        rnvm.connect(group, timeout=SOON) as fe,
    ):
        sample = Sample(fe, "s")
        assert sample.add(1) == 1
        until_in_sync(group, "a", "b")
        os.unlink(one)
        assert a.running.wait(SOON) == 3
        assert "has ended: the pool's medium failed or its file was removed\n" in a.printed()
        until_primary(group, "b")
        assert sample.add(1) == 2


def test_a_member_says_once_what_it_waits_for(address: str, folder: Path, tmp_path: Path) -> None:
    with command(
        tmp_path, "serve", str(folder / "b.pool"), "--group", address, "--member", "b"
    ) as b:
        b.until("has no state at")
        pools.create(folder / "a.pool", "4MiB", assume_persistent=True)
        admin.create_group(address, folder / "a.pool", member="a", min_mirrors=0)
        b.until("waiting for a primary: only a may be opened")
        assert len(b.printed().splitlines()) == 3
        b.terminate()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--group=etcd://localhost:1/g", "--min-mirrors=1"], "rnvm group create"),
        (["--group=etcd://localhost:1/g", "--leave-group"], "not both"),
        (["--coordinator=etcd://localhost:1"], "--coordinator has no meaning without --group"),
        (["--member=a"], "--member has no meaning without --group"),
    ],
    ids=["min mirrors", "leave", "coordinator", "member"],
)
def test_options_that_would_be_ignored_are_refused(
    tmp_path: Path, options: list[str], reason: str
) -> None:
    path = tmp_path / "a.pool"
    assert reason in run("serve", str(path), *options, status=2)
    assert not path.exists()


@pytest.mark.parametrize("service", ["etcd"], indirect=True)
def test_the_pool_of_a_member_is_refused_by_other_commands(group: str, folder: Path) -> None:
    path = folder / "a.pool"
    before = path.read_bytes()
    for act in (
        lambda: run("recover", str(path), status=1),
        lambda: run("check", "--repair", str(path), status=1),
        lambda: refused(path),
    ):
        said = act()
        assert "the pool belongs to a group, as member a" in said
        assert "rnvm serve --leave-group" in said
        assert path.read_bytes() == before
