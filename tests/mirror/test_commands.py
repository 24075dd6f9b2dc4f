"""`rnvm mirror`, `rnvm backup` and `rnvm status`, as docs/groups.md uses them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

import rnvm
from rnvm import pools
from rnvm.media import identity
from rnvm.testing.sample_structure import Sample
from tests.frontend.processes import address_of

from .copies import MEMORY, numbers, open_primary, two_paths

RNVM = [sys.executable, "-m", "rnvm.cli"]


def run(*arguments: str, status: int = 0) -> str:
    done = subprocess.run([*RNVM, *arguments], capture_output=True, text=True, timeout=50)
    assert done.returncode == status, (arguments, done.stdout, done.stderr)
    return done.stdout + done.stderr


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a command that runs until a signal ends it, in order."""
    command = subprocess.Popen([*RNVM, *arguments], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    try:
        yield command
        command.send_signal(signal.SIGTERM)
        assert command.stdout.read().endswith("stopped\n")
        assert command.wait(20) == 0
    finally:
        command.kill()
        command.wait()
        command.stdout.close()


def lines_until(command: subprocess.Popen[str], text: str) -> None:
    assert command.stdout is not None
    while text not in (line := command.stdout.readline()):
        assert line, f"it ended without {text!r}"


def test_a_pool_is_mirrored_backed_up_and_its_copy_served() -> None:
    with two_paths() as (path, copy):
        backup = copy + ".backup"
        run("create", path, "--size", "8MiB", "--assume-persistent")
        with running("serve", path, "--min-mirrors", "1", "--mirror-patience", "60") as primary:
            lines_until(primary, "serving")
            with running("mirror", copy, "--of", path, "--name", "second") as mirror:
                lines_until(mirror, "in sync")
                with rnvm.connect(path, durability="replicated", timeout=20) as fe:
                    assert Sample(fe, "s").add(1) == 1
                shown = run("status", path)
                assert "second" in shown
                assert "1 in sync, at least 1 required" in shown
                about = json.loads(run("status", path, "--json"))
                assert about["mirrors"][0]["state"] == "in sync"
                assert about["pool"]["replication"]["in_sync"] == 1
                run("backup", backup, "--of", path)
        assert "whole" in run("info", copy)
        assert "whole" not in run("info", backup)
        for each in (copy, backup):
            assert "sound" in run("check", each)
            assert numbers(each) == (1, 1)
        with running("serve", copy) as promoted:
            lines_until(promoted, "serving")
            with rnvm.connect(copy, timeout=20) as fe:
                assert Sample(fe, "s").add(1) == 2


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a command that ends by itself, or is killed; all that it prints is its output."""
    with subprocess.Popen(
        [*RNVM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as command:
        try:
            yield command
        finally:
            command.kill()


def test_a_mirror_prints_what_it_waits_for_and_exits_with_status_3_without_its_file() -> None:
    with two_paths() as (path, copy), started("mirror", copy, "--of", address_of(path)) as mirror:
        lines_until(mirror, "waiting for the back-end: ")
        for _ in range(2):
            with open_primary(path, address=address_of(path)):
                lines_until(mirror, "in sync, epoch ")
            lines_until(mirror, "waiting for the back-end: ")
        with open_primary(path, address=address_of(path)):
            lines_until(mirror, "in sync, epoch ")
            os.unlink(copy)
            lines_until(mirror, "the copy's file was removed or replaced")
            assert mirror.wait(20) == 3


def test_the_status_is_printed_again_after_each_interval() -> None:
    with two_paths() as (path, _), open_primary(path) as backend:
        with started("status", backend.address, "--interval", "10ms") as status:
            for _ in range(3):
                lines_until(status, "address")


@pytest.mark.parametrize("command", ["mirror", "backup"])
def test_what_cannot_be_copied_is_refused_with_the_way_out(command: str) -> None:
    with two_paths() as (path, copy), rnvm.Backend(path, "8MiB", assume_persistent=True) as backend:
        with open(copy, "w") as file:
            file.write("not a pool")
        text = run(command, copy, "--of", backend.address, status=1)
        assert "neither a pool nor empty" in text
        assert "give another path" in text
        assert os.path.getsize(copy) == 10


def test_a_backup_of_a_back_end_that_does_not_run_fails_at_once() -> None:
    with two_paths() as (path, copy):
        run("create", path, "--size", "8MiB", "--assume-persistent")
        run("backup", copy, "--of", path, status=3)
        run("status", path, status=3)
        assert not os.path.exists(copy)
        assert MEMORY in copy


def test_a_pool_keeps_its_identity_if_its_command_cannot_be() -> None:
    with two_paths() as (path, _):
        run("create", path, "--size", "8MiB", "--assume-persistent")
        with pools.claim(path) as claimed, contextlib.closing(claimed.raw()) as medium:
            identity.write(medium, state="whole", identity=b"i" * 16, group=b"g" * 16, member="a")
        run("serve", path, "--leave-group", "--group", "etcd://localhost:1/g", status=2)
        with pools.view(path) as (view, _):
            found = identity.read(view)
        assert found is not None
        assert found["member"] == "a"
