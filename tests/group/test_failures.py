"""What a group does if a medium, a mirror, the coordinator or an operator fails it.

A row of the table in docs/groups.md for each test.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from polling import until

import rnvm
from rfp.errors import NotFound, NotReplicated, OutcomeUnknown, StorageFailed
from rnvm import pools
from rnvm.cli import main
from rnvm.group import admin
from rnvm.group.driver import GroupMember
from rnvm.testing.sample_structure import Sample
from tests.frontend.processes import Process

from .groups import MEMBER as MEMBER_THAT_PRINTS
from .groups import (
    SOON,
    check_ledger,
    in_sync,
    member,
    primary_of,
    state_of,
    until_in_sync,
    until_primary,
    writer,
)

# Prints its troubles.  A call of the coordinator may take 1 s; it reads the state twice a second.
# SIGUSR1: it keeps the GIL, as C code does that does not release it, until a byte is written to a
# FIFO beside the pool.
MEMBER = """
import ctypes, functools, os, signal, sys, time, rnvm
from rnvm.group import driver
from rnvm.group.member import SECOND_NS, Times
path, group, name, address, patience = sys.argv[1:]
def hold(*_):
    fifo = os.open(path + ".hold", os.O_RDWR)
    print("held", flush=True)
    ctypes.PyDLL(None).read(fifo, ctypes.create_string_buffer(1), 1)
    print("released", flush=True)
signal.signal(signal.SIGUSR1, hold)
driver.open_coordinator = functools.partial(driver.open_coordinator, timeout=1)
with rnvm.GroupMember(path, group=group, member=name, address=address,
                      mirror_patience=float(patience),
                      times=Times(poll=SECOND_NS // 2)) as member:
    said = ""
    while True:
        time.sleep(0.02)
        if member.trouble != said:
            said = member.trouble
            print(said or "no trouble", flush=True)
"""


@contextlib.contextmanager
def telling(folder: Path, group: str, name: str, patience: float = 1.0) -> Iterator[Process]:
    """Run a member that prints its troubles."""
    address = f"shm://{folder}/{name}.socket"
    with Process(MEMBER, folder / f"{name}.pool", group, name, address, patience) as process:
        yield process


def numbers(group: str) -> int:
    with rnvm.connect(group, timeout=SOON) as fe:
        return Sample(fe, "s").numbers()[0]


def is_quiet(process: Process, seconds: float) -> bool:
    """Return whether a process prints nothing for so long."""
    before = process.printed()
    time.sleep(seconds)
    return process.printed() == before


def mirrors_of_the_primary(group: str) -> int | None:
    """Return how many mirrors in sync the primary counts."""
    done = CliRunner().invoke(main, ["status", group, "--json"])
    if done.exit_code:
        return None
    return int(json.loads(done.output)["pool"]["replication"]["in_sync"])


def known(act: Callable[[], int]) -> int:
    """Return the answer, also if the failure made the outcome of a first call unknown."""
    with contextlib.suppress(OutcomeUnknown):
        return act()
    return act()


# Media


def with_write_ahead(group: str, path: Path) -> None:
    """Create a group whose copies may be on a disk."""
    pools.create(path, "8MiB", write_ahead="1MiB", assume_persistent=True)
    admin.create_group(group, path, member="a", min_mirrors=0)


def test_a_primary_whose_medium_fails_gives_the_group_to_its_mirror(
    address: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pool"
    with_write_ahead(address, path)
    sent = []
    change = GroupMember._do_change
    monkeypatch.setattr(
        GroupMember,
        "_do_change",
        lambda self, action: (sent.append(action.new), change(self, action))[1],
    )
    with (
        GroupMember(path, group=address, member="a") as a,
        member(folder, address, "b"),
        rnvm.connect(address, timeout=SOON) as fe,
    ):
        sample = Sample(fe, "s")
        assert sample.add(1) == 1
        until_in_sync(address, "a", "b")
        assert a._backend is not None
        a._backend.pool.medium.break_sync(5)
        assert known(lambda: sample.add(1)) in (2, 3)
        until(lambda: a.failed, SOON)
        assert isinstance(a.error, StorageFailed)
        assert "medium failed" in str(a.error)
        # So b may be elected at once, and does not wait until a is missing.
        assert (sent[-1].primary, [each.member for each in sent[-1].in_sync]) == (None, ["b"])
        assert primary_of(address) == "b"
        assert in_sync(address) == ["b"]


def test_a_mirror_whose_medium_fails_ends_and_is_removed(
    address: str, folder: Path, tmp_path: Path
) -> None:
    group = address
    with_write_ahead(group, folder / "a.pool")
    with (
        member(folder, group, "a"),
        rnvm.connect(group, timeout=SOON) as fe,
        GroupMember(tmp_path / "b.pool", group=group, member="b") as b,
    ):
        sample = Sample(fe, "s")
        assert sample.add(1) == 1
        until_in_sync(group, "a", "b")
        assert b._mirror is not None
        assert b._mirror._file.medium is not None
        b._mirror._file.medium.break_sync(5)
        assert sample.add(1) == 2
        until(lambda: b.failed, SOON)
        assert isinstance(b.error, StorageFailed)
        assert "medium failed" in str(b.error)
        until_in_sync(group, "a")
        assert sample.add(1) == 3


# Winners

# A winner that stays between the recovery of its pool and its first answer, as long as a file is
# there.
PAUSING = """
import os, sys, time
from rnvm.backend import backend
serve = backend.PoolService
def pause(*args, **options):
    print("recovered", flush=True)
    while os.path.exists(sys.argv[1] + ".pause"):
        time.sleep(0.01)
    return serve(*args, **options)
backend.PoolService = pause
"""


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "stopped"])
def test_a_winner_that_does_not_get_to_serve_is_succeeded(
    group: str, folder: Path, killed: bool
) -> None:
    paused = folder / "b.pool.pause"
    paused.touch()
    arguments = folder / "b.pool", group, "b", f"shm://{folder}/b.socket"
    with member(folder, group, "a") as a, Process(PAUSING + MEMBER_THAT_PRINTS, *arguments) as b:
        with rnvm.connect(group, timeout=SOON) as fe:
            sample = Sample(fe, "s")
            assert sample.add(1) == 1
            until_in_sync(group, "a", "b")
            a.kill()
            until(lambda: b"recovered" in b.printed(), SOON)
            assert (primary_of(group), in_sync(group)) == ("b", ["a", "b"])
            b.kill() if killed else b.stop()
            with member(folder, group, "a"):
                until_primary(group, "a")
                assert known(lambda: sample.add(1)) in (2, 3)
                counted = sample.numbers()[0]
                if not killed:
                    paused.unlink()
                    b.signal(signal.SIGCONT)
                    until_in_sync(group, "a", "b")
                    assert b"primary" not in b.printed()
                assert sample.numbers()[0] == counted


# Mirrors


def test_a_mirror_that_falls_behind_is_removed_and_joins_again(group: str, folder: Path) -> None:
    with member(folder, group, "a"), member(folder, group, "b") as b, writer(group) as writing:
        until_in_sync(group, "a", "b")
        writing.wait_for(10)
        b.stop()
        until_in_sync(group, "a")
        writing.wait_for(10)
        b.signal(signal.SIGCONT)
        until_in_sync(group, "a", "b")
        check_ledger(group, writing)


def test_with_too_few_mirrors_an_open_front_end_does_not_write(
    address: str, pool: Callable[[str], str], folder: Path
) -> None:
    admin.create_group(address, pool("a"), member="a", min_mirrors=1)
    with member(folder, address, "a"), member(folder, address, "b") as b:
        with rnvm.connect(address, timeout=SOON) as fe:
            sample = Sample(fe, "s")
            acked = sample.add(1)
            b.kill()
            until_in_sync(address, "a")
            until(lambda: mirrors_of_the_primary(address) == 0, SOON)  # a moment later
            with pytest.raises(NotReplicated):
                sample.add(1)
            with member(folder, address, "b"):
                until_in_sync(address, "a", "b")

                def added() -> int:
                    # The state lists a mirror a moment before its primary counts it.
                    with contextlib.suppress(NotReplicated):
                        return sample.add(1)
                    return 0

                assert until(added, SOON) == acked + 1, "nothing was written before"


# The coordinator


def test_without_the_coordinator_work_goes_on_and_only_the_set_waits(
    own_service, pool: Callable[[str], str], folder: Path
) -> None:
    group = own_service.address("orders")
    admin.create_group(group, pool("a"), member="a", min_mirrors=0)
    with telling(folder, group, "a") as a, telling(folder, group, "b") as b:
        with writer(group) as writing:
            writing.wait_for(10)
            until_in_sync(group, "a", "b")
            epoch = state_of(group).epoch
            with own_service.frozen(0):
                frozen = time.monotonic()
                lines = len(a.printed().splitlines())
                while time.monotonic() < frozen + 3:  # longer than each lease
                    writing.wait_for(20)

                def says_so() -> bool:
                    said = b"\n".join(a.printed().splitlines()[lines:])
                    return any(word in said for word in (b"coordinat", b"etcd", b"ZooKeeper"))

                until(says_so, SOON)
                b.kill()
                until(
                    lambda: is_quiet(writing, 1.2), SOON
                )  # longer than the patience with a mirror
            writing.wait_for(10)
            until_in_sync(group, "a")
            assert state_of(group).epoch == epoch
            check_ledger(group, writing)


# Python


def test_a_primary_serves_while_its_process_holds_the_gil(group: str, folder: Path) -> None:
    fifo = folder / "a.pool.hold"
    os.mkfifo(fifo)
    with telling(folder, group, "a") as a, member(folder, group, "b"):
        with rnvm.connect(group, timeout=SOON) as fe:
            sample = Sample(fe, "s")
            assert sample.add(1) == 1
            until_in_sync(group, "a", "b")
            state = state_of(group)
            a.signal(signal.SIGUSR1)
            until(lambda: b"held" in a.printed(), SOON)
            began, count = time.monotonic(), 1
            while count <= 20 or time.monotonic() < began + 2.4:  # longer than each lease
                count += 1
                assert sample.add(1) == count
                assert sample.numbers()[0] == count
            assert b"released" not in a.printed()
            fifo.write_bytes(b"!")
            until(lambda: b"released" in a.printed(), SOON)
            assert sample.add(1) == count + 1
            assert state_of(group) == state, "neither of both was removed"


# What was promised less


def test_a_structure_that_was_lost_in_a_failover_is_not_found(group: str, folder: Path) -> None:
    with telling(folder, group, "a", patience=30) as a:
        with (
            rnvm.connect(group, timeout=SOON) as fe,
            # Of the least promise: while b is stopped, it does not wait for the primary's time.
            rnvm.connect(group, timeout=SOON, durability="volatile") as maker,
            rnvm.connect(group, timeout=SOON, durability="volatile") as user,
        ):
            kept = Sample(fe, "kept")
            assert kept.add(1) == 1
            with member(folder, group, "b") as b:
                until_in_sync(group, "a", "b")
                b.stop()
                Sample(maker, "lost")
                lost = Sample(user, "lost", create=False)
                # First a: it must not find that b is gone.
                a.kill()
                b.kill()
            with member(folder, group, "b"):
                until_primary(group, "b")
                with pytest.raises(NotFound):
                    lost.numbers()
                with pytest.raises(NotFound):
                    lost.add(1)
                assert kept.add(1) == 2
                assert Sample(fe, "lost").add(1) == 1, "it can be made again"
